"""What a dataset is like: sizes, spacings, and how frequent, large and thin its labels are. Plans are made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage

from ..networks.regions import Regions
from .frames import InLine, frames_of
from .slicing import ToSlices, sides_axis

GRID = 16  # cells by which places in a picture are compared
ENOUGH = 5  # cases whose places are compared; those of fewer are alike by chance
BLUR = 1.5  # cells: places need not be the same to be alike
SLICES = 4  # of a volume, at most, in which a label is measured
CASES = 24  # training cases, evenly spread, in which labels are measured, beside some of those that hold a rare one


VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # of (..., rows, columns), all that keep a square
    "sideways": lambda x: x[..., ::-1],
    "upside down": lambda x: x[..., ::-1, :],
    "by 180°": lambda x: x[..., ::-1, ::-1],
    "by 90°": lambda x: np.rot90(x, 1, (-2, -1)),
    "by 270°": lambda x: np.rot90(x, 3, (-2, -1)),
    "transposed": lambda x: x.swapaxes(-2, -1),
    "transposed by 180°": lambda x: x[..., ::-1, ::-1].swapaxes(-2, -1),
}


@dataclass(frozen=True)
class LabelPrint:
    """A label in the slices that show it. Lengths are in pixels of the files, in the plane of the slices.

    A structure is a connected piece. One number stands for the structures of a slice: that of the structure to which a
    pixel of the label belongs in the middle, so crumbs do not count. All are medians over slices but ``large``. Where
    cases differ in size, lengths are those in a slice of the median size, but ``large``.
    """

    name: str
    share: float
    """Of the slice's pixels."""
    extent: float
    """Longer side of the box around a structure."""
    large: float
    """The same, which nine of ten slices stay below: what a patch has to hold."""
    thickness: float
    """Of a disc its diameter, of a band its width, of a tree of bands less than that of the thickest place."""
    moved: Mapping[str, float] = field(default_factory=dict)
    """By the names of :data:`VIEWS`: how much less alike the places of the label are in two cases, from 0 to 1, when
    one of the two is mirrored or turned. Of volumes only what is mirrored from the patient's one side to the other."""


@dataclass(frozen=True)
class Fingerprint:
    """Of the training cases, their slices turned as the network will see them."""

    training: int
    validation: int
    spatial_dims: int
    channels: int
    shape: tuple[int, ...]
    """The median (rows, columns[, slices])."""
    spacing: tuple[float, ...]
    """The median, millimetres; empty for pictures."""
    labels: tuple[LabelPrint, ...]
    """Those that a measured case holds."""
    seconds: float
    """To open a case, in the mean."""
    files: float = 2.0
    """Of a case, in the mean: its image's and its masks'."""

    def resampled(self, spacing: Sequence[float]) -> Fingerprint:
        """The same at another spacing: in mm for volumes, in pixels of the files for pictures."""
        times = [new / old for new, old in zip(spacing, self.spacing or (1.0, 1.0), strict=True)]
        shape = tuple(max(1, round(n / factor)) for n, factor in zip(self.shape, times, strict=True))
        plane = (times[0] * times[1]) ** 0.5
        labels = tuple(
            replace(one, extent=one.extent / plane, large=one.large / plane, thickness=one.thickness / plane)
            for one in self.labels
        )
        return replace(self, shape=shape, spacing=tuple(spacing) if self.spacing else (), labels=labels)

    @property
    def side(self) -> int:
        """The longer side of a slice in pixels."""
        return max(self.shape[:2])

    @property
    def slices(self) -> int:
        """Of a volume; 1 for pictures."""
        return self.shape[2] if self.spatial_dims == 3 else 1

    def __str__(self) -> str:
        kind = {1: "grey", 3: "colour"}.get(self.channels, f"{self.channels} channels")
        what = "pictures" if self.spatial_dims == 2 else "volumes"
        text = f"{self.training} training, {self.validation} validation {what}, {kind}, about "
        text += " x ".join(map(str, self.shape)) + (" px" if self.spatial_dims == 2 else " voxels")
        if self.spacing:
            text += " of " + " x ".join(f"{value:.3g}" for value in self.spacing) + " mm"
        if self.labels:
            thin = min(self.labels, key=lambda label: label.thickness)
            text += f"; thinnest label: {thin.name}, {rounded(thin.thickness)} px thick"
            text += f" ({rounded(thin.thickness * self.spacing[0])} mm)" if self.spacing else ""
        return text


@dataclass
class FingerprintTaker:
    """Collects a fingerprint case by case, as the cases are opened for the check anyway.

    Args:
        labels: names of the foreground labels.
        orientation: as the key of the bundles.
        regions: the values of each label where they are several.
    """

    labels: Sequence[str]
    orientation: str
    regions: Regions | None = None
    cases: int = 0
    """How many there will be."""
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    spacings: list[tuple[float, ...]] = field(default_factory=list)
    channels: int = 1
    found: dict[int, list[tuple[float, ...]]] = field(default_factory=dict)
    places: dict[int, list[np.ndarray]] = field(default_factory=dict)

    def add(self, image: MetaTensor, label: MetaTensor) -> None:
        """An image (C, *spatial) and its label map (1, *spatial), or frames of them, on the same grid."""
        turned: Any = label
        if label.ndim == 4:
            turned = ToSlices(self.orientation)(
                MetaTensor(label.as_tensor(), meta={**label.meta, "affine": image.affine})
            )
            self.spacings.append(tuple(float(value) for value in turned.pixdim))
        array = np.asarray(InLine()(turned)[0]).astype(np.int16)
        self.channels = max(self.channels, len(image) // frames_of(image))
        due = len(self.shapes) % max(1, self.cases // CASES) == 0
        self.shapes.append(array.shape)
        if not due and all(len(self.places.get(value, ())) >= ENOUGH for value in range(1, len(self.labels) + 1)):
            return
        volume = np.atleast_3d(array)
        side = max(volume.shape[:2])
        sides = sides_axis(turned) if array.ndim == 3 else 1
        maps, most = [volume], len(self.labels)
        if self.regions is not None:
            maps, most = [np.isin(volume, region).astype(np.int16) for region in self.regions], 1
        for first, one in enumerate(maps, 1):
            for value, box in enumerate(ndimage.find_objects(one, max_label=most), first):
                if box is not None and (due or len(self.places.get(value, ())) < ENOUGH):
                    inside = one[box] == value - first + 1
                    rows = ((*row, side) for row in measures(inside, volume[..., 0].size))
                    self.found.setdefault(value, []).extend(rows)
                    seen = seen_with_sides(inside, box, volume.shape, sides)
                    self.places.setdefault(value, []).append(place_of(seen))

    def result(self, validation: int, seconds: float, files: float = 2.0) -> Fingerprint | None:
        """What was collected; nothing where no case was.

        Args:
            validation: number of validation cases.
            seconds: to open a case.
            files: of a case.
        """
        if not self.shapes:
            return None
        dims = len(self.shapes[0])
        shapes = [shape for shape in self.shapes if len(shape) == dims]
        spacing = tuple(float(x) for x in np.median(self.spacings, 0)) if self.spacings else ()
        shape = tuple(int(n) for n in np.median(shapes, 0))
        prints = []
        for value, name in enumerate(self.labels, 1):
            if value in self.found:
                shares, extents, thicknesses, sides = np.array(self.found[value]).T
                as_usual = max(shape[:2]) / sides
                extent, thickness = (float(np.median(one * as_usual)) for one in (extents, thicknesses))
                large, moved = float(np.quantile(extents, 0.9)), moved_by_views(self.places[value])
                prints.append(LabelPrint(name, float(np.median(shares)), extent, large, thickness, moved))
        return Fingerprint(len(shapes), validation, dims, self.channels, shape, spacing, tuple(prints), seconds, files)


def measures(mask: np.ndarray, pixels: int) -> list[tuple[float, float, float]]:
    """Share, extent and thickness of a label in some of the slices (H, W) that show it, of a mask (H, W, D) within its
    box; ``pixels``: of a whole slice."""
    shown = np.flatnonzero(mask.any((0, 1)))
    rows = []
    for k in shown[np.linspace(0, len(shown) - 1, min(SLICES, len(shown))).round().astype(int)]:
        plane = mask[..., k]
        structures, number = ndimage.label(plane, np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
        every = np.arange(1, number + 1)
        sizes = np.asarray(ndimage.sum(plane, structures, every))
        extents = np.array([max(s.stop - s.start for s in box) for box in ndimage.find_objects(structures)])
        inside = np.asarray(ndimage.distance_transform_edt(np.pad(plane, 1)))[1:-1, 1:-1]
        # Twice the largest depth, but where a structure is thin elsewhere: the mean depth of a disc is a sixth of its
        # diameter, that of a band a quarter of its width.
        depths = (np.asarray(of(inside, structures, every)) for of in (ndimage.maximum, ndimage.mean))
        thick = np.minimum(*(factor * (depth - 0.5) for factor, depth in zip((2, 6), depths, strict=True)))
        rows.append((plane.sum() / pixels, in_the_middle(extents, sizes), in_the_middle(thick, sizes)))
    return rows


def seen_with_sides(mask: np.ndarray, box: Sequence[slice], shape: Sequence[int], sides: int) -> np.ndarray:
    """A mask, given within its box of a volume (H, W, D), as seen where the axis that runs from side to side is the
    columns: how many voxels lie behind each other, (rows, columns)."""
    along = 2 if sides != 2 else 1
    rows, columns = (axis for axis in range(3) if axis != along)
    seen = np.zeros((shape[rows], shape[columns]), np.float32)
    seen[box[rows], box[columns]] = mask.sum(along)
    return seen if sides > 0 else seen.T


def place_of(mask: np.ndarray) -> np.ndarray:
    """Where in a picture (H, W) a label is: a blurred map of few cells, of length 1."""
    cells = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(mask.astype(np.float32))[None], GRID)[0].numpy()
    blurred = ndimage.gaussian_filter(cells, BLUR)
    return blurred / max(float(np.linalg.norm(blurred)), 1e-12)


def moved_by_views(places: Sequence[np.ndarray]) -> dict[str, float]:
    """:attr:`LabelPrint.moved`, of what :func:`place_of` gave for each case that holds a label; nothing of too few."""
    if len(places) < ENOUGH:
        return {}
    maps = np.stack(places)
    others = ~np.eye(len(maps), dtype=bool)

    def alike(views: np.ndarray) -> float:
        each = maps.reshape(len(maps), -1) @ views.reshape(len(maps), -1).T
        return float(each[others].mean())

    return {name: max(0.0, alike(maps) - alike(view(maps))) for name, view in VIEWS.items()}


def rounded(length: float) -> str:
    """To two digits, as in "0.88", "3.6" and "112"."""
    return f"{length:.2g}" if length < 99.5 else f"{length:.0f}"


def in_the_middle(values: np.ndarray, weights: np.ndarray) -> float:
    """The weighted median."""
    order = values.argsort()
    total = weights[order].cumsum()
    return float(values[order][np.searchsorted(total, total[-1] / 2)])
