"""Many studies, one after the other: what is done is not done again, and a broken one does not stop the rest."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Transform
from torch import Tensor
from tqdm.auto import tqdm

from ..backbones.weights import content_hash
from ..data.dicom import is_dicom, series_of
from ..errors import InputError, input_error_in
from ..files import write_json
from ..networks.adapter_files import read_adapter
from ..prompts.requests import prompts_beside
from .masks import SaveMasks


class Studies:
    """Runs an evaluator on every image of a list, and keeps a record of each in ``<folder>/manifest/<case>.json``.

    A study whose record says that it was segmented by the same adapter with the same settings, and whose image is
    unchanged and mask still there, is passed over; so an interrupted run goes on where it stopped. Under ``torchrun``
    each process takes its share of the studies. At the end ``<folder>/report.html`` shows them.

    Args:
        evaluator: segments, and its handlers write.
        cases: with the key "image", as of :func:`sam_monai.data.images_to_segment`.
        transform: prepares a case.
        masks: the evaluator's handler that writes masks.
        adapter: its file.
        settings: whatever else decides what a mask is like; must fit into JSON.
        report: writes ``report.html``, as :func:`sam_monai.results.html_report.studies_report` does.
    """

    def __init__(
        self,
        evaluator: SupervisedEvaluator,
        cases: Sequence[Mapping[str, Any]],
        transform: Transform,
        masks: SaveMasks,
        adapter: str | Path,
        settings: Mapping[str, Any],
        report: Callable[..., Path],
    ) -> None:
        self.evaluator, self.cases, self.transform, self.masks = evaluator, cases, transform, masks
        self.folder = masks.folder / "manifest"
        self.write_report = report
        self.raised: Exception | None = None
        # With a handler ignite ends a run in order, and the next one can start.
        evaluator.add_event_handler(Events.EXCEPTION_RAISED, self.keep)
        made_by = {"adapter": content_hash(read_adapter(adapter)), **settings}
        self.made_by = json.loads(json.dumps(made_by))  # tuples become lists, as in a record that was read
        for file in sorted(self.folder.glob("*.json")):  # a name that another image has here stays its own
            try:
                masks.names.files.setdefault(file.stem, Path(json.loads(file.read_text(encoding="utf-8"))["image"]))
            except (ValueError, KeyError):
                file.unlink()
        for case in cases:  # all of them, so that every process gives an image the same name
            masks.names(case["image"])

    def run(self) -> list[dict[str, Any]]:
        """Segment what is not done.

        Returns:
            The records of this process's studies, in their order.

        Raises:
            InputError: after the others are done, naming the studies that could not be segmented. One of several
            processes prints this instead.
        """
        rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        mine = self.cases[rank::processes]
        records = [self.done(case["image"]) for case in mine]
        already = sum(record is not None for record in records)
        if already:
            print(f"{already} of {len(mine)} studies are done already: {self.folder}", flush=True)
        bar = tqdm(total=len(mine) - already, desc="segmenting", unit="study")
        for i, case in enumerate(mine):
            if records[i] is None:
                records[i] = self.segment(case)
                bar.update()
        bar.close()
        found = [record for record in records if record is not None]
        print(f"report: {self.report()}", flush=True)
        failed = [record for record in found if record["error"]]
        if failed:
            lines = [f"{len(failed)} of {len(mine)} studies could not be segmented:"]
            message = "\n".join(lines + [f"{record['image']}: {record['error']}" for record in failed])
            if processes == 1:
                raise InputError(message)
            print(f"error: {message}", file=sys.stderr, flush=True)  # torchrun stops all where one process fails
        return found

    def keep(self, engine: Engine, error: Exception) -> None:
        self.raised = error

    def segment(self, case: Mapping[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        record: dict[str, Any] = {"image": case["image"], "made by": self.made_by, "error": ""}
        try:
            state = fingerprint(case["image"])
            self.evaluator.data_loader = DataLoader(Dataset([case], self.transform), batch_size=1)
            self.evaluator.state.epoch_length = 1
            self.raised = None
            self.evaluator.run()
            if self.raised is not None:
                raise self.raised
            output: Any = self.evaluator.state.output
            mask = output[0]["pred"]
            name = self.masks.names(case["image"])
            record |= {
                "state": state,
                "mask": f"{name}_seg{self.masks.suffix(mask, case['image'])}",
                "voxels": voxels(mask),
            }
            if mask.ndim == 4:
                each = float(np.prod(np.linalg.norm(np.asarray(mask.affine)[:3, :3], axis=0))) / 1000
                record["millilitres"] = {value: count * each for value, count in record["voxels"].items()}
        except Exception as error:  # one study, whatever is wrong with it, must not stop the rest
            record["error"] = cause_of(error)
            tqdm.write(f"{case['image']}: {record['error']}")
        record["seconds"] = round(time.perf_counter() - started, 2)
        write_json(record, self.path(case["image"]))
        return record

    def report(self) -> Path:
        """Write ``report.html`` of all studies with a record, those of other processes too."""
        files = [self.path(case["image"]) for case in self.cases]
        records = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
        pictures = {r["image"]: self.masks.folder / f"{self.masks.names(r['image'])}.png" for r in records}
        labels = {
            r["image"]: self.masks.meanings(r["image"], max(map(int, r.get("voxels", {})), default=0)) for r in records
        }
        return self.write_report(records, labels, pictures, self.made_by, self.masks.folder / "report.html")

    def path(self, image: str) -> Path:
        return self.folder / f"{self.masks.names(image)}.json"

    def done(self, image: str) -> dict[str, Any] | None:
        """The record of an image that needs no more work."""
        try:
            record = json.loads(self.path(image).read_text(encoding="utf-8"))
            same = record["image"] == image and record["made by"] == self.made_by and not record["error"]
            if same and record["state"] == fingerprint(image) and (self.masks.folder / record["mask"]).is_file():
                return record
        except (OSError, ValueError, KeyError):
            pass
        return None


def fingerprint(image: str | Path) -> list[int]:
    """Files, bytes and time of the last change of an image's file or folder, and of the prompts beside it."""
    path = Path(image)
    files = list(series_of(path).files) if path.is_dir() or is_dicom(path) else [path]
    files += [file for file in [prompts_beside(path)] if file.is_file()]
    states = [file.stat() for file in files]
    return [len(states), sum(s.st_size for s in states), max((s.st_mtime_ns for s in states), default=0)]


def voxels(mask: Tensor) -> dict[str, int]:
    """How many voxels each label has."""
    values, counts = mask.unique(return_counts=True)
    return {str(int(v)): int(n) for v, n in zip(values, counts, strict=True) if v > 0}


def cause_of(error: BaseException) -> str:
    """The message for people, or what Python says."""
    return str(input_error_in(error) or f"{type(error).__name__}: {error}")
