"""Many studies, one after the other: what is done is not done again, and a broken one does not stop the rest."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Transform
from tqdm.auto import tqdm

from ..backbones.weights import content_hash
from ..data.channels import files_of
from ..data.instances import KEY as INSTANCES
from ..data.made import Written, is_output
from ..data.names import MARK
from ..distributed import gathered
from ..errors import InputError, counted, printable, several, told
from ..files import check_writable
from ..locks import locked
from ..networks.adapter_files import in_short, load_adapter, read_training
from ..networks.fields import plain
from ..networks.identity import from_tensor
from ..networks.medsa import NO_PROMPTS
from ..networks.regions import values_in_words
from ..prompts.prompt_files import name_unused, prompts_beside
from ..training.cases import content, known_cases
from .masks import SaveMasks
from .outputs import RUN, Outputs, picture_file
from .pipeline import refuse_replaced
from .probabilities import KEY
from .quality import CERTAINTY, by_label
from .quality import KEY as GUESS
from .records import PROMPTED, SEEN, Record, by_depth, cause_of, fingerprint, named, of_prompts, read_record, voxels


class Studies:
    """Runs an evaluator on every image of a list, and keeps a record of each in ``<folder>/manifest/<case>.json``.

    Images in folders within that of the list have their results in folders of the same names.

    A study is skipped if its record says that the same adapter segmented it with the same settings, its image is
    unchanged and its mask is still there. An interrupted run therefore continues where it stopped. Under ``torchrun``
    each process takes its share of the studies. At the end ``<folder>/report.html`` shows them all, and
    ``<folder>/studies.csv`` lists them.

    Results of this package that lie among the images, such as masks of an earlier run, are not segmented.

    Args:
        evaluator: segments, and its handlers write.
        cases: with the key "image", as of :func:`sam_monai.data.images_to_segment`.
        transform: prepares a case.
        masks: the evaluator's handler that writes masks.
        adapter: its file.
        settings: whatever else decides what a mask is like, with ``preparation``; must fit into JSON.
        report: writes ``report.html``, as :func:`sam_monai.results.html_report.studies_report` does.
        passed_over: files and folders that looked like images and were left out, each with the reason. They are
            reported like studies that failed.
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
        passed_over: Sequence[tuple[str | Path, str]] = (),
    ) -> None:
        self.evaluator, self.transform, self.masks = evaluator, transform, masks
        self.outputs, self.folder = Outputs(masks.folder), masks.folder / "manifest"
        masks.names.top = getattr(cases, "top", None)
        self.report_file, self.table_file = masks.folder / "report.html", masks.folder / "studies.csv"
        self.preparation: Mapping[str, Any] = settings["preparation"]
        self.spatial_dims: int = self.preparation["spatial_dims"]
        self.write_report = report
        self.raised: Exception | None = None
        # With a handler ignite ends a run in order, and the next one can start.
        evaluator.add_event_handler(Events.EXCEPTION_RAISED, self.keep)
        # One that does not fit is refused here once, and not with every study.
        state = load_adapter(getattr(evaluator.network, "module", evaluator.network), adapter)
        trained = from_tensor(state["identity"])["preprocessing"]
        theirs = trained.get("regions")
        if values_in_words(theirs) != (ours := values_in_words(self.preparation.get("regions"))):
            raise InputError(
                f"{adapter}: its labels have {values_in_words(theirs)}, and the key regions says {ours}: "
                "leave the key out, or use the configurations of this version"
            )
        self.validated, self.about = (read_training(adapter) or {}).get(GUESS), in_short(adapter)
        self.trained_on = known_cases(adapter)[0]
        self.adapter = adapter
        self.made_by = plain({"adapter": content_hash(state), **settings, **by_depth(evaluator.network)})
        self.cases: list[Mapping[str, Any]] = []
        known: dict[Path, Written] = {}
        self.passed_over = [(str(path), why) for path, why in passed_over]
        for case in cases:
            why_not = is_output(case["image"], known)
            if why_not is None:
                self.cases.append(case)
            elif why_not:
                self.passed_over.append((case["image"], why_not))
        own = len(cases) - len(self.cases)
        if own:
            print(f"{own} of {len(cases)} images are results of this package and are not segmented", flush=True)
        if cases and not self.cases:
            raise InputError(f"{Path(cases[0]['image']).parent}: holds results of this package and no other image")

    def run(self) -> list[Record]:
        """Segment what is not done.

        Returns:
            The records of this process's studies, in their order.

        Raises:
            InputError: before the work, if the folder cannot be written, another process writes to it, or something
                else would be replaced; after the work, naming the images that were not segmented.
        """
        check_writable(self.masks.folder, "output_dir")
        check_writable(self.folder, "output_dir")
        rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        with locked(self.masks.folder, "segmenting") if rank == 0 else nullcontext():  # the others belong to it
            self.name_cases()
            mine = self.cases[rank::processes]
            records = [self.done(case) for case in mine]
            todo = [case for case, record in zip(mine, records, strict=True) if record is None]
            self.outputs.check(claim for case in todo for claim in self.claims(case["image"]))
            self.outputs.check([(self.report_file, RUN), (self.table_file, RUN)])
            self.tell_prompts(todo)
            if len(todo) < len(mine):
                print(f"{len(mine) - len(todo)} of {len(mine)} studies are done already: {self.folder}", flush=True)
            bar, told = tqdm(total=len(todo), desc="segmenting", unit="study"), False
            for i, case in enumerate(mine):
                if records[i] is None:
                    record = records[i] = self.segment(case)
                    bar.update()
                    more = bar.total - bar.n
                    if not told and more and not record["error"]:  # one that cannot be read takes no time
                        told, each = True, timedelta(seconds=round(record["seconds"]))
                        tqdm.write(f"a study took {each}; {more} more take about {more * each}")
            bar.close()
            return self.finish([record for record in records if record is not None], rank, processes)

    def tell_prompts(self, cases: Sequence[Mapping[str, Any]]) -> None:
        """Say how many images are segmented by prompts, and which files of prompts belong to no image. Refuse those for
        an adapter that takes none."""
        images = {Path(case["image"]) for case in cases}
        if used := sorted(filter(self.masks.has_prompts, images)):
            if not getattr(getattr(self.evaluator.network, "module", self.evaluator.network), "prompted", True):
                raise InputError(f"{prompts_beside(used[0])}: {NO_PROMPTS}")
            print(f"prompts found for {len(used)} of {counted(len(images), 'image')}", flush=True)
        files = {file: Path(case["image"]) for case in self.cases for file in map(Path, self.files(case))}
        name_unused({*files.values()}, {file: image for file, image in files.items() if file != image})

    def finish(self, records: list[Record], rank: int, processes: int) -> list[Record]:
        """Write the report and say what was not segmented."""
        lines = [named(record) for record in records if record["error"]]
        together = processes > 1 and "MASTER_ADDR" in os.environ
        if together:  # torchrun stops all processes where one fails, so none may before all are done
            if not dist.is_initialized():
                dist.init_process_group("gloo", timeout=timedelta(days=30))
            lines = gathered(lines)
        if rank == 0:
            lines += [f"{path}: not segmented, {reason}" for path, reason in self.passed_over]
        number = len(self.cases) + len(self.passed_over)
        said = [f"{len(lines)} of {number} studies could not be segmented:", *lines] if lines else []
        try:
            if rank == 0 or not together:
                print(f"report: {self.report()}", flush=True)
        except InputError as error:  # a full disk, most likely, which is no study
            said.append(f"the report is missing: {error}")
        if said:
            if rank == 0:
                raise several(said)
            if not together:
                print(f"error: {told(several(said))}", file=sys.stderr, flush=True)
        return records

    def name_cases(self) -> None:
        """Give every case its name: a name that another image has in this folder stays that image's own."""
        for file in sorted(self.folder.rglob("*.json")):
            record = read_record(file)
            if record is not None:
                name = file.relative_to(self.folder).with_suffix("").as_posix()
                self.masks.names.files.setdefault(name, Path(record["image"]))
        for case in self.cases:  # all of them, so that every process gives an image the same name
            self.masks.names(case["image"])

    def claims(self, image: str) -> list[tuple[Path, str]]:
        """The files that a study will write."""
        folder, name = self.masks.folder, self.masks.names(image)
        mask = folder / f"{name}{MARK}{self.masks.suffix(self.spatial_dims, image)}"
        more = [self.masks.probabilities(image)] if self.made_by.get(KEY) else []
        paths = (mask, *more, picture_file(folder, name, self.spatial_dims), self.path(image))
        return [(path, image) for path in paths]

    def keep(self, engine: Engine, error: Exception) -> None:
        self.raised = error

    def segment(self, case: Mapping[str, Any]) -> Record:
        started = time.perf_counter()
        record: Record = {"image": case["image"], "made by": self.made_by, "error": ""}
        try:
            state = self.state(case)
            if self.masks.has_prompts(Path(case["image"])):  # before the image is read: a mistake takes no time then
                record |= of_prompts(case["image"], self.spatial_dims)
            self.evaluator.data_loader = DataLoader(Dataset([case], self.transform), batch_size=1)
            self.evaluator.state.epoch_length = 1
            self.raised = None
            self.evaluator.run()
            if self.raised is not None:
                raise self.raised
            refuse_replaced(self.adapter, self.made_by["adapter"])
            output: Any = self.evaluator.state.output
            mask = output[0]["pred"]
            name = self.masks.names(case["image"])
            if self.numbers_objects(case["image"]):
                record["objects"] = int(mask.max())
                mask = mask.clamp(max=1)
            frames = len(mask) if mask.ndim == 4 else 1
            counts = voxels(mask, self.preparation.get("regions"))
            record |= {
                "state": state,
                "mask": f"{name}{MARK}{self.masks.suffix(mask.ndim - 1, case['image'])}",
                "voxels": counts
                if frames == 1
                else {value: count / frames for value, count in counts.items()},  # the mean
            }
            if mask.ndim == 4:
                each = float(np.prod(np.linalg.norm(np.asarray(mask.affine)[:3, :3], axis=0))) / 1000
                record["millilitres"] = {value: count * each for value, count in record["voxels"].items()}
            record |= {key: found for key in (GUESS, CERTAINTY) if (found := by_label(output[0], key))}
            record |= {SEEN: True} if self.trained_on and content(case["image"]) in self.trained_on else {}
            record["error"] = self.masks.refused.get(case["image"], "")
        except Exception as error:  # one study, whatever is wrong with it, must not stop the rest
            record["error"] = cause_of(error)
            self.remove_older(case["image"])
        record["seconds"] = round(time.perf_counter() - started, 2)
        try:
            text = json.dumps(record, indent=4, ensure_ascii=False) + "\n"
            self.outputs.write(text, self.path(case["image"]), case["image"])
        except InputError as error:  # a full disk, perhaps for this moment only
            record["error"] = "; ".join(filter(None, [record["error"], f"its record is missing: {error}"]))
        if record["error"] and len(self.cases) > 1:  # of a single study the end of the run tells it
            tqdm.write(printable(named(record)))
        return record

    def remove_older(self, image: str) -> None:
        """What an earlier run, by another adapter perhaps, left of an image that could not be segmented now."""
        name, folder = self.masks.names(image), self.masks.folder
        files = [folder / f"{name}{MARK}{suffix}" for suffix in (".nii.gz", ".dcm", ".png")]
        for file in (*files, self.masks.probabilities(image), picture_file(folder, name, self.spatial_dims)):
            self.outputs.remove(file, image)

    def report(self) -> Path:
        """Write ``report.html`` of all studies with a record, those of other processes too."""
        found = [read_record(self.path(case["image"])) for case in self.cases]
        records = [record for record in found if record is not None]
        images = [record["image"] for record in records]
        pictures = {i: picture_file(self.masks.folder, self.masks.names(i), self.spatial_dims) for i in images}
        most = {r["image"]: max([r.get(PROMPTED, 0), *map(int, r.get("voxels", {}))]) for r in records}
        labels = {image: self.masks.meanings(image, number) for image, number in most.items()}
        labels |= {image: labels[image][:1] for image in labels if self.numbers_objects(image)}
        records += [{"image": path, "error": f"not segmented, {reason}"} for path, reason in self.passed_over]
        data = "" if (top := self.masks.names.top) is None else top.name
        said = {"data": data, **self.made_by, "Adapter": self.about}
        return self.write_report(records, labels, pictures, said, self.report_file, self.validated)

    def numbers_objects(self, image: str) -> bool:
        """Whether the mask's values are objects of one label."""
        return self.preparation.get(INSTANCES, False) and not self.masks.prompted(Path(image))

    def path(self, image: str) -> Path:
        return self.folder / f"{self.masks.names(image)}.json"

    def files(self, case: Mapping[str, Any]) -> list[str]:
        """All files of a case."""
        return files_of(case, self.preparation.get("channel_names"), self.preparation.get("channels"))

    def state(self, case: Mapping[str, Any]) -> list[int]:
        """By which it is seen whether a case's files, or the prompts beside the one that is named, have changed."""
        return fingerprint(*self.files(case), prompts=prompts_beside(case["image"]))

    def done(self, case: Mapping[str, Any]) -> Record | None:
        """The record of a case that needs no more work."""
        image = case["image"]
        record = read_record(self.path(image))
        if record is None or record["image"] != image or record.get("made by") != self.made_by or record["error"]:
            return None
        try:
            unchanged = record["state"] == self.state(case)
        except (OSError, ValueError):
            return None
        files = [self.masks.folder / record["mask"]]
        files += [self.masks.probabilities(image)] if self.made_by.get(KEY) else []
        return record if unchanged and all(file.is_file() for file in files) else None
