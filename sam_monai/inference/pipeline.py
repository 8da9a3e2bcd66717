"""From files to the network, through it, and back to the grid of each file: for validation, evaluation, inference."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.handlers import from_engine
from monai.inferers import Inferer, SimpleInferer, SlidingWindowInferer
from monai.transforms import (
    Compose,
    FillHolesd,
    KeepLargestConnectedComponentd,
    Transform,
)
from torch import Tensor, nn

from ..backbones.weights import content_hash
from ..data.frames import EachFrame, together
from ..data.preparing import Settings, check_scale, loading, pixel_mm, preparing
from ..data.unlabelled import LeaveOutUnlabelled
from ..errors import InputError, warn_once
from ..networks import identity
from ..networks.adapter_files import load_adapter, read_adapter, read_training
from ..networks.adapter_state import refuse_other_images
from ..networks.fields import plain
from ..networks.regions import Regions, masks_of
from ..networks.slices import MOST_BYTES
from ..prompts.monai_label import AsServerWrites, KeepClicks
from .file_grid import ToFileGridd, ToInstances
from .flips import FlippedInferer
from .probabilities import ToProbabilities
from .records import by_depth
from .slabs import SlabInferer

logger = logging.getLogger(__name__)
OTHER_PIXELS = 3.0  # times as large or as small as in training


def preprocessing(labels: Sequence[str], settings: Settings, adapter: str | Path | None = None) -> Compose:
    """Files to whole images for the network. A label stays as it is in its file: predictions are brought to it.

    Args:
        labels: names of the foreground labels. Without any no label is read: in a request of MONAI Label that key
            holds the name of a segment.
        settings: the section ``preparation`` of a configuration.
        adapter: the file of the adapter that the images are for, where it is trained.
    """
    without_prompts = ""
    if adapter is not None and Path(adapter).is_file():
        record = identity.from_tensor(read_adapter(adapter)["identity"])
        without_prompts = "" if identity.methods()[record["method"]].takes_prompts else record["method"]
        try:
            refuse_other_images(record["preprocessing"], plain(dict(settings)))
        except InputError as error:
            raise InputError(f"{adapter}: {error}") from error
    load = loading(settings, ("image", "label") if labels else ("image",), labels, missing=True)
    return Compose([load, *preparing(settings), KeepClicks(without_prompts)])


def on_one_grid(labels: Sequence[str], settings: Settings) -> Compose:
    """Files to whole images for the network, and their labels on the same grid."""
    keys = ("image", "label")
    return Compose([loading(settings, keys, labels), *preparing(settings, keys)])


def postprocessing(
    preparation: Compose,
    largest_component: bool = False,
    fill_holes: bool = False,
    regions: Regions | None = None,
    probabilities: bool = False,
    temperature: float = 1.0,
    instances: bool = False,
) -> Compose:
    """What the inferer gives to a label map on the grid of the image's own file, and where the reference is not
    annotated, to background as the reference itself.

    Args:
        preparation: the transforms that prepared the image.
        largest_component: keep only the largest connected component of each label.
        fill_holes: fill holes inside a label, but not with what has another one.
        regions: the values of each label where they are several.
        probabilities: keep those of each label too, see :mod:`sam_monai.inference.probabilities`.
        temperature: of the adapter, for these.
        instances: number the objects, see :mod:`sam_monai.data.instances`.

    Raises:
        InputError: components or holes of regions, of which a voxel may belong to several, or of numbered
            objects.
    """
    if (regions is not None or instances) and (largest_component or fill_holes):
        key = "largest_component" if largest_component else "fill_holes"
        what = "many objects" if instances else "labels that are regions (lists of values in dataset.json)"
        raise InputError(f"the key {key} is not for {what}: leave it out")
    steps: list[Transform] = []
    if probabilities:
        steps.append(ToProbabilities(preparation, regions, temperature, instances))
    steps.append(ToInstances(preparation) if instances else ToFileGridd(preparation, regions))
    if largest_component:
        steps.append(EachFrame("pred", KeepLargestConnectedComponentd("pred")))
    if fill_holes:
        steps.append(EachFrame("pred", FillBackgroundd("pred")))
    return Compose([*steps, LeaveOutUnlabelled(), AsServerWrites()])


class FillBackgroundd(FillHolesd):
    """MONAI's, where a label inside another one stays what it is."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        filled = super().__call__(data)
        return {**filled, **{key: torch.where(data[key] > 0, data[key], filled[key]) for key in self.keys}}


def to_compare(regions: Regions | None = None, instances: bool = False) -> Callable[[Any], Any]:
    """Of an evaluator's output what MONAI's metrics compare: predictions and references as label maps, or, of regions,
    as background and a mask for each. Numbered objects are one label."""
    taken = from_engine(["pred", "label"])

    def masks(label_map: Tensor) -> Tensor:
        label_map = together(label_map)
        if instances:
            return label_map.clamp(max=1)
        if regions is None:
            return label_map
        each = masks_of(label_map, len(regions), regions)
        return torch.cat([~each.any(0, keepdim=True), each])

    return lambda output: tuple([masks(one) for one in maps] for maps in taken(output))


def inferer(
    scale: str,
    image_size: int,
    spatial_dims: int,
    overlap: float,
    average_flips: str = "none",
    keep_logits: bool = False,
) -> Inferer:
    """The image or volume as a whole, or patches of the encoder's size, overlapped and blended.

    Volumes pass in slabs of slices, so memory does not grow with depth, unless ``keep_logits`` keeps all of the
    logits. ``average_flips``: see :class:`FlippedInferer`.
    """
    check_scale(scale)
    found: Inferer = SimpleInferer()
    if scale == "patch":
        size = (image_size, image_size, -1)[:spatial_dims]  # all slices of a slab, of which the network makes parts
        many, shared = 1 if spatial_dims == 3 else 8, (overlap, overlap, 0.0)[:spatial_dims]
        found = SlidingWindowInferer(size, many, shared, mode="gaussian")
    if spatial_dims == 3:
        found = SlabInferer(found, most_bytes=sys.maxsize if keep_logits else MOST_BYTES)
    return found if average_flips == "none" else FlippedInferer(found, average_flips)


def refuse_replaced(path: str | Path, loaded: str) -> None:
    """Refuse to tell what was computed as that of an adapter's file, if that is not the one any more that was loaded,
    whose hash is given."""
    if content_hash(read_adapter(path)) != loaded:
        raise InputError(
            f"{path}: was replaced while images were segmented with it; run the same again, and all of them are "
            "segmented with the one that is there now"
        )


class AdapterCheckpointLoader:
    """Loads an adapter when an evaluator starts. Warns of a volume whose pixels are several times as large or as small
    as those that it was trained on, and of answers averaged over mirrored images where it was trained on none. A file
    that was replaced meanwhile is refused.

    By its name MONAI's federated learning knows it for a loader, and leaves it out to evaluate what a server sent.
    """

    def __init__(self, path: str | Path, network: nn.Module) -> None:
        self.path, self.network = path, network
        self.pixel: float | None = None
        self.loaded = ""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)
        engine.add_event_handler(Events.ITERATION_STARTED, self.check_pixel)
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda _: refuse_replaced(self.path, self.loaded))

    def __call__(self, engine: Engine) -> None:
        self.loaded = content_hash(read_adapter(self.path))
        load_adapter(getattr(self.network, "module", self.network), self.path)
        training = read_training(self.path) or {}
        settings = training.get("settings") or {}
        self.pixel = settings.get("pixel_mm")
        if training.get("quick"):
            warn_once(f"{self.path}: is of a quick run, in which hardly anything is learnt: its masks mean nothing")
        inferer: Any = getattr(engine, "inferer", None)
        flips = getattr(getattr(inferer, "automatic", inferer), "flips", None)
        mirror = "none" if settings.get("augment") is False else training.get("plan", {}).get("mirror", "turns")
        before, now = settings.get("slices_per_batch"), by_depth(self.network).get("slices_per_batch")
        if before and now and before != now:
            warn_once(
                f"{self.path}: was trained with slices_per_batch {before}, and here it is {now}, so slices see others "
                "than in training: give the same"
            )
        pictures = getattr(getattr(self.network, "module", self.network), "preprocessing", {}).get("spatial_dims") == 2
        if flips and (mirror == "none" or (pictures and (mirror, flips) == ("sides", "flips"))):
            how = "without mirrored images" if mirror == "none" else "on images mirrored from left to right alone"
            advice = "leave average_flips out" + " or give sides" * (mirror == "sides")
            warn_once(
                f"{self.path}: was trained {how} (mirror {mirror}), and average_flips is {flips}: masks are likely to "
                f"be worse; {advice}"
            )

    def check_pixel(self, engine: Engine) -> None:
        image = engine.state.batch["image"]  # type: ignore[call-overload, index]
        if not self.pixel or image.ndim != 5 or not isinstance(image, MetaTensor):
            return
        affines = np.asarray(image.affine, float).reshape(-1, 4, 4)
        for affine, file in zip(affines, np.atleast_1d(image.meta["filename_or_obj"]), strict=False):
            found = pixel_mm(np.linalg.norm(affine[:3, :2], axis=0))
            if found and not 1 / OTHER_PIXELS < found / self.pixel < OTHER_PIXELS:
                logger.warning(
                    "%s has pixels of %.3g mm in its slices, and the adapter was trained on about %.3g mm: its mask is "
                    "likely to be wrong. Check the spacing in the file, or take an adapter for such images",
                    file,
                    found,
                    self.pixel,
                )
