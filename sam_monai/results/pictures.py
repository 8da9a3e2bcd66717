"""Pictures of the cases that an evaluator sees, the worst ones where there is a reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.engine.events import RemovableEventHandle
from monai.data import MetaTensor

from ..data.channels import SHOWN
from ..data.frames import frames_of, fullest
from ..data.instances import KEY as INSTANCES
from ..data.instances import inside_and_border
from ..data.load import LoadCased
from ..data.made import is_output
from ..data.names import CaseNames
from ..distributed import first_process, gathered
from ..inference.outputs import Outputs, picture_file
from ..prompts.prompt_files import prompts_beside
from ..prompts.schema import corrects, read_objects
from .drawing import Row, case_rows, draw_rows, in_words, view
from .metrics import badness, overlap, short


class Pictures:
    """Writes pictures of cases that an evaluator sees: the image, the reference if there is one, the prediction.

    Cases with a reference are drawn at the end of the run, the worst ones. Cases without one are drawn as they come.

    Args:
        labels: names of the foreground labels; a function without arguments where they are known only later.
        folder: where the pictures go, ``<case>.png`` of volumes and ``<case>_picture.png`` of 2D images.
        settings: how the images were prepared (``orientation``, ``channels``) and the labels' ``regions``, see
            :mod:`sam_monai.inference.pipeline`.
        most: cases at most.
        names: of the cases.
        prompted: tells of an image's path whether it has prompts that the network answers.
    """

    def __init__(
        self,
        labels: Any,
        folder: str | Path,
        settings: Mapping[str, Any],
        most: int = 20,
        prompted: Callable[[Path], bool] = lambda file: False,
        names: CaseNames | None = None,
    ) -> None:
        self.has_prompts = prompted
        self.labels = labels if callable(labels) else lambda: labels
        self.folder, self.settings, self.most = Path(folder), settings, most
        channels = settings["channels"]
        if settings.get("channel_names") is not None:
            channels = [(channels or [0])[0]]  # the first that is taken stands for all
        self.load = LoadCased(("image",), (), channels, frames=settings.get("frames", False))
        self.names = names or CaseNames()
        self.written: list[Path] = []
        self.seen: list[tuple[Path, int]] = []  # files with a reference, and their number of dimensions
        self.worst: list[tuple[tuple[float, float], Path, str, list[Row]]] = []

    def attach(self, engine: Engine) -> None:
        self.collect_from(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.draw_worst)

    def collect_from(self, engine: Engine) -> list[RemovableEventHandle]:
        """Without drawing the worst at the end of a run. Removing what is returned ends it."""
        begin = engine.add_event_handler(Events.EPOCH_STARTED, self.begin)
        return [begin, engine.add_event_handler(Events.ITERATION_COMPLETED, self.draw)]

    def begin(self) -> None:
        self.seen.clear()
        self.worst.clear()

    def draw(self, engine: Engine) -> None:
        cases: Any = engine.state.output
        for case in cases:
            file = Path(case["image"].meta["filename_or_obj"])
            if case.get("label") is not None:
                self.seen.append((file, case["pred"].ndim - 1))
                pair = [case[key].clamp(max=1) if self.numbered(file) else case[key] for key in ("pred", "label")]
                bad = badness(overlap(*pair, len(self.labels()), self.settings.get("regions")))
                if sum(other[0] <= bad for other in self.worst) < self.most:
                    self.worst.append((bad, file, *self.rows(case, file)))
                    self.worst = sorted(self.worst, key=by_badness)[: self.most]
            elif first_process() and len(self.written) < self.most:
                self.write(file, case["pred"].ndim - 1, *self.rows(case, file))
            elif first_process():  # one of an earlier run shows another prediction
                old = picture_file(self.folder, self.names(file), case["pred"].ndim - 1)
                Outputs(self.folder).remove(old, file)

    def numbered(self, file: Path) -> bool:
        """Whether the maps of a case number the objects of one label."""
        return self.settings.get(INSTANCES, False) and not self.prompted(file)

    def prompted(self, file: Path) -> bool:
        """Whether a case's mask holds the objects of prompts, and not the labels."""
        return self.has_prompts(file) and not corrects(prompts_beside(file))

    def draw_worst(self) -> None:
        seen, worst = gathered(self.seen), gathered(self.worst)
        if not first_process() or not seen:
            return
        for file, _ in seen:
            self.names(file)  # in their order: which of two cases has the plain name depends on it
        dimensions, distinct = (
            dict(seen),
            {file: (title, rows) for _, file, title, rows in sorted(worst, key=by_badness)},
        )
        drawn = dict(list(distinct.items())[: self.most])
        for file in dimensions.keys() - drawn.keys():  # of an earlier run, with another prediction
            path = picture_file(self.folder, self.names(file), dimensions[file])
            if path.is_file() and is_output(path, {}) == "":
                path.unlink()
        for file, (title, rows) in drawn.items():
            self.write(file, dimensions[file], title, rows)

    def rows(self, case: Mapping[str, Any], file: Path) -> tuple[str, list[Row]]:
        """The heading of a case's picture, and its rows."""
        orientation = self.settings["orientation"]
        shown = case["image"].meta.get(SHOWN)
        load = self.load if shown is None else LoadCased("image")
        image: Any = load({"image": shown or str(file)})["image"]
        maps = {} if case.get("label") is None else {"reference": case["label"]}
        maps = {name: torch.as_tensor(one).cpu() for name, one in {**maps, "prediction": case["pred"]}.items()}
        if self.numbered(file):  # one label, and a gap between objects that touch
            maps = {name: inside_and_border(one, 1) == 1 for name, one in maps.items()}
        number, which = frames_of(image), ""
        if number > 1:
            one = fullest(*maps.values())
            image, maps = image[one], {name: each[one] for name, each in maps.items()}
            which = f", frame {one.stop} of {number}"
        turned = {
            name: view(MetaTensor(np.asarray(one), affine=image.affine), orientation).planes[0]
            for name, one in maps.items()
        }
        size = [float(x) for x in image.pixdim] if image.ndim == 4 else []
        title = f"{short(file.name)}{f'  ({in_words(size)}{which})' if size else ''}"
        asked = read_objects(prompts_beside(file), image.ndim - 1) if self.has_prompts(file) else []
        clicks = [click for one in asked for click in zip(one["points"], one["labels"], strict=True)]
        return title, case_rows(view(image, orientation), turned, clicks=clicks)

    def write(self, file: Path, spatial_dims: int, title: str, rows: list[Row]) -> None:
        path = picture_file(self.folder, self.names(file), spatial_dims)
        labels = self.labels()[:1] if self.numbered(file) else self.labels()
        if self.prompted(file):
            objects = max(int(row.maps["prediction"].max()) for row in rows if row.maps["prediction"] is not None)
            labels = [f"object {i}" for i in range(1, objects + 1)] or ["object"]
        with Outputs(self.folder).writing(path, file) as part:
            draw_rows(rows, labels, title, part, self.settings.get("regions"))
        self.written.append(path)


def by_badness(drawn: tuple[tuple[float, float], Path, str, list[Row]]) -> tuple[tuple[float, float], str]:
    return drawn[0], str(drawn[1])
