"""Patches or whole slices, and what patches are like."""

from __future__ import annotations

import math
from dataclasses import replace

from ..data.fingerprint import Fingerprint, LabelPrint, rounded
from .room import Room
from .sizes import SEEN, SIZES, SQUARE, THICK, affordable_size, enough_steps, needed_by

APART = 6.0  # pixels: of structures that lie apart, which are known by their surroundings too
CROWDED = 0.5  # structures in a patch anywhere in the picture: as many, and each patch is full of examples
CELL = 4.0  # pixels, one cell of LiteMedSAM's embedding: so thick are thin structures that fill the picture, as vessels
PATCH_HOLDS = 0.5  # of its side may be a structure, so that its surroundings are in the patch too
PATCH_THIN = 1 / 8  # of its side may be the thickness of a longer one, which is known by a piece of it, as a vessel is
LARGER = 3.0  # times as large as in whole slices are structures in patches of shrunk ones: less is not worth patches
HARDLY = 2 / 3  # of SEEN or THICK: whole slices that show more are better than patches of shrunk ones


def chosen_scale(room: Room, largest: int, advise: bool = True) -> tuple[str, str]:
    """Patches where whole slices would shrink structures too much and patches show them whole; else whole slices.

    Where a patch does not hold the largest structure, slices are shrunk until it does (:func:`spacing_of_patches`).
    That is for large pictures of small structures: ones that whole slices :data:`HARDLY` show, and that are then
    :data:`LARGER` times as large. ``advise``: where the time does not allow patches, name one in which they would be
    planned, if there is any.
    """
    data, size, patch = room.data, affordable_size(room, "whole", largest), patch_size(room, largest)
    shrunk = resampled(room, spacing_of_patches(room, patch))
    smallest, needed = least_shown(data, shrunk.data, patch)
    if smallest is None or min(needed, data.side) <= size:
        return "whole", "every label is large enough in whole slices"
    if room.whole_only:
        return "whole", "an object is followed through a volume in whole slices"
    wide, thick = (n * size / data.side for n in (smallest.extent, smallest.thickness))
    shown = f"in a whole slice of {size} px, {smallest.name} is {rounded(wide)} px across and {rounded(thick)} px thick"
    widest = max(data.labels, key=lambda label: shrinking(label, patch))
    hardly = HARDLY * needed_by(smallest, data) > size and shrunk.data.side > LARGER * size
    if shrinking(widest, patch) > 1 and (shrunk is room or not hardly):
        return (
            "whole",
            f"{shown}, but a patch of {patch} px does not hold {widest.name}, which is {widest.large:.0f} px",
        )
    if room.given_steps is not None or shrunk.steps(patch, "patch") >= enough_steps(room):
        return "patch", shown
    needed = enough_steps(room) * room.step(patch, "patch") + shrunk.validation(patch, "patch")
    minutes = math.ceil((room.spent + 2 * needed) / 60)
    if advise and chosen_scale(room.within(minutes), largest, advise=False)[0] == "patch":
        return "whole", f"{shown}; patches would be better, and take longer: try --minutes {minutes}"
    return "whole", f"{shown}; patches take too long"


def least_shown(data: Fingerprint, shrunk: Fingerprint, patch: int) -> tuple[LabelPrint | None, float]:
    """The label that needs the largest whole slices, and their size in pixels. ``shrunk``: the data as patches show it.

    Structures that lie apart need fewer pixels than :func:`crowded` ones: caries of 6 and of 9 pixels in whole slices
    ended at 0.40 and 0.50, and at 0.36 to 0.39 in patches; nuclei of 9 pixels at 0.95 and 0.97 in the same time. Thin
    structures need fewer where they are no network (:func:`is_network`): a skull of 2 pixels in whole slices ended at
    0.32, and at 0.23 in patches; vessels of 2.5 pixels at 0.74 and 0.79.
    """
    needed = []
    for label, seen in zip(data.labels, shrunk.labels, strict=True):
        across, thick = SEEN if crowded(seen, patch) else APART, CELL if is_network(seen, patch) else THICK
        needed.append(needed_by(label, data, across, thick))
    return max(zip(data.labels, needed, strict=True), key=lambda one: one[1], default=(None, 0.0))


def crowded(label: LabelPrint, patch: int) -> bool:
    """Whether patches anywhere in the pictures hold :data:`CROWDED` of a label's structures or more, in the mean."""
    return label.share * patch**2 / max(1.0, label.extent * label.thickness) >= CROWDED


def is_network(label: LabelPrint, patch: int) -> bool:
    """Whether patches anywhere hold as much of a thin structure as would cross one from side to side, in the mean."""
    return label.share * patch >= label.thickness


def shrinking(label: LabelPrint, patch: int) -> float:
    """How many pixels of the file have to become one, along each axis, that a patch shows the label's structures whole,
    with their surroundings, or as thin ones. A patch that shows a part of a large structure does not tell what it is: a
    U-Net trained on such patches lost 0.1 to 0.4 Dice."""
    return max(1.0, min(label.large / (PATCH_HOLDS * patch), label.thickness / (PATCH_THIN * patch)))


def spacing_of_patches(room: Room, patch: int) -> list[float] | None:
    """The spacing at which a patch holds every label's structures, where that is coarser than the files' own."""
    times = math.ceil(10 * max((shrinking(label, patch) for label in room.data.labels), default=1.0)) / 10
    if times == 1 or room.given_spacing:
        return None
    return [float(f"{times * mm:.4g}") for mm in (room.data.spacing or (1.0, 1.0))[:2]] + list(room.data.spacing[2:])


def resampled(room: Room, spacing: list[float] | None) -> Room:
    return room if spacing is None else replace(room, data=room.data.resampled(spacing))


def patch_size(room: Room, largest: int) -> int:
    """The smallest patch that holds every structure as it is in the file, or, where none that the budget allows does,
    the smallest in which shrunk slices show every label well; else the largest."""
    most = room.given_size or max(SQUARE[2], affordable_size(room, "patch", largest))
    labels, sizes = room.data.labels, [size for size in SIZES if min(SQUARE[2], most) <= size <= most]
    times = {size: max((shrinking(label, size) for label in labels), default=1.0) for size in sizes}
    shown = min((min(label.extent / SEEN, label.thickness / THICK) for label in labels), default=1.0)
    for limit in (1.0, shown):
        if (size := next((size for size in sizes if times[size] <= limit), None)) is not None:
            return room.given_size or size
    return most
