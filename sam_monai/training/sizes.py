"""The size of the image that is planned: what the labels' structures need, and what the time and the memory allow."""

from __future__ import annotations

from dataclasses import replace

from ..data.fingerprint import Fingerprint, LabelPrint
from .room import FEW, Room

SIZES = (64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024)  # pixels, candidates for image_size
SEEN = 16.0  # pixels, four cells of LiteMedSAM's embedding: a structure of fewer is not told from its neighbours
ENOUGH = 8.0  # pixels, two cells: a size at which structures have so many is worth some steps
THICK = 2.0  # pixels: a thinner structure is lost between those of the mask
LEAST = {2: 128, 3: 96}  # pixels: less is not wanted, as SAM's features are those of larger images
SQUARE = {2: 128, 3: 64}  # pixels: up to here FEW steps are enough; and the smallest side of a patch
FINER = 2.0  # times as many pixels as the file has; more of them hold nothing new
STEPS = 300  # that a size above SQUARE must leave: with fewer, what it shows is not learnt
LEARNT = 200  # pictures, in small steps, of a size up to SQUARE: fewer pixels, seen more often, taught less
IMAGES = 1200  # pictures that these steps must show: smaller images seen more often teach more
SMALL_BATCH = 2  # cases in the smallest of such steps; of whole pictures it has one


def wanted_size(data: Fingerprint) -> int:
    """The size at which every label's structures are recognised in whole slices: :data:`SEEN` pixels across and
    :data:`THICK` pixels thick.

    Not below :data:`LEAST`, as SAM was trained on larger images, and not so large that a slice is only blown up. In the
    same time 96 px were better than 64 on one of three sets of volumes, and as good on the others.
    """
    seen = max([LEAST[data.spatial_dims], *(needed_by(label, data) for label in data.labels)])
    return next_size(min(seen, max(SIZES[0], FINER * data.side)))


def needed_by(label: LabelPrint, data: Fingerprint, across: float = SEEN, thick: float = THICK) -> float:
    """The size, in pixels, at which a label's structures are so many pixels across, and so many thick."""
    return data.side * max(across / max(1.0, label.extent), thick / max(1.0, label.thickness))


def next_size(pixels: float) -> int:
    return next((size for size in SIZES if size >= pixels), SIZES[-1])


def enough_steps(room: Room) -> float:
    """How many steps of :attr:`Room.batch` cases, of a size up to :data:`SQUARE`, teach something: :data:`FEW`. Of
    pictures on a CPU as many as show :data:`LEARNT` do, since smaller steps are then planned: nuclei of 3 pixels in
    whole slices of 64 px ended at 0.60, and in patches of 128 px at 0.96 (docs/tried.md)."""
    small = room.data.spatial_dims == 2 and not room.on_gpu and room.given_steps is None
    return min(FEW, LEARNT / room.batch) if small else FEW


def affordable_size(room: Room, scale: str, largest: int) -> int:
    """The largest size, up to that of the base weights, that fits the memory and leaves :data:`STEPS` steps in the
    budget, or :data:`FEW` up to :data:`SQUARE`; the smallest of all where none does; or the size that is given.

    Of volumes, whose step shows two slices of each, the :data:`STEPS` may be of :data:`SMALL_BATCH` cases: 96 px in
    these were much better than 64 px in steps of four on one of three sets, in the same time, and as good on two.

    Of pictures the steps must show :data:`IMAGES`. The size at which structures are :data:`ENOUGH` pixels across, so
    that they are seen at all, is worth fewer: on a CPU :data:`STEPS` of one picture (docs/tried.md)."""
    if room.given_size is not None:
        return room.given_size
    small = room if room.smallest is None else replace(room, batch=min(room.batch, room.smallest), timed=room.batch)
    pictures = room.data.spatial_dims == 2 and room.given_steps is None

    def affordable(size: int) -> bool:
        if size <= SQUARE[room.data.spatial_dims]:
            return room.steps(size, scale) >= enough_steps(room)
        steps = small.steps(size, scale)
        return steps >= STEPS and (not pictures or steps * small.batch >= IMAGES)

    seen = next_size(max((needed_by(label, room.data, ENOUGH) for label in room.data.labels), default=0.0))
    worth = pictures and scale == "whole" and not room.on_gpu and room.steps(seen, scale) * room.batch >= STEPS
    sizes = [size for size in SIZES if size <= largest and room.fits(size, scale)]
    return max((size for size in sizes if affordable(size) or worth and size == seen), default=SIZES[0])
