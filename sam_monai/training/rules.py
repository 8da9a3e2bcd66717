"""The rules by which a training is planned: each is a function that says why, and where its number comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..data.fingerprint import Fingerprint, LabelPrint
from .handlers import validation_interval
from .mirror import chosen_mirror
from .room import FEW, FULL, VALIDATIONS, Room

SIZES = (64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024)  # pixels, candidates for image_size
SEEN = 16.0  # pixels, four cells of LiteMedSAM's embedding: a structure of fewer is not told from its neighbours
APART = 6.0  # pixels: of structures that lie apart, which are known by their surroundings too
ENOUGH = 8.0  # pixels, two cells: a size at which structures have so many is worth some steps
CROWDED = 0.5  # structures in a patch anywhere in the picture: as many, and each patch is full of examples
THICK = 2.0  # pixels: a thinner structure is lost between those of the mask
LEAST = {2: 128, 3: 96}  # pixels: less is not wanted, as SAM's features are those of larger images
SQUARE = {2: 128, 3: 64}  # pixels: up to here FEW steps are enough; and the smallest side of a patch
FINER = 2.0  # times as many pixels as the file has; more of them hold nothing new
STEPS = 300  # that a size above SQUARE must leave: with fewer, what it shows is not learnt
IMAGES = 1200  # pictures that these steps must show: smaller images seen more often teach more
PATCH_HOLDS = 0.5  # of its side may be a structure, so that its surroundings are in the patch too
PATCH_THIN = 1 / 8  # of its side may be the thickness of a longer one, which is known by a piece of it, as a vessel is
LARGER = 3.0  # times as large as in whole slices are structures in patches of shrunk ones: less is not worth patches
MANY = {4: 200, 2: 300}  # steps of so many cases: with fewer, more and smaller ones taught more, in the same time
SMALL_BATCH = 2  # cases in the smallest of such steps; of whole pictures it has one
LONGER_MINUTES = (15, 20, 30, 45, 60, 90, 120, 180, 240)  # that a plan names where a larger image needs more
HARDLY = 2 / 3  # of SEEN or THICK: whole slices that show more are better than patches of shrunk ones


def wanted_size(data: Fingerprint) -> int:
    """The size at which every label's structures are recognised in whole slices: :data:`SEEN` pixels across and
    :data:`THICK` pixels thick.

    Not below :data:`LEAST`, as SAM was trained on larger images, and not so large that a slice is only blown up. In the
    same time 96 px were better than 64 on one of three sets of volumes, and as good on the others.
    """
    seen = max([LEAST[data.spatial_dims], *(needed_by(label, data) for label in data.labels)])
    return next_size(min(seen, max(SIZES[0], FINER * data.side)))


def needed_by(label: LabelPrint, data: Fingerprint, across: float = SEEN) -> float:
    """The size, in pixels, at which a label's structures are so many pixels across, and :data:`THICK` thick."""
    return data.side * max(across / max(1.0, label.extent), THICK / max(1.0, label.thickness))


def crowded(label: LabelPrint, patch: int) -> bool:
    """Whether patches anywhere in the pictures hold :data:`CROWDED` of a label's structures or more, in the mean."""
    return label.share * patch**2 / max(1.0, label.extent * label.thickness) >= CROWDED


def next_size(pixels: float) -> int:
    return next((size for size in SIZES if size >= pixels), SIZES[-1])


def affordable_size(room: Room, scale: str, largest: int) -> int:
    """The largest size, up to that of the base weights, that fits the memory and leaves :data:`STEPS` steps in the
    budget, or :data:`FEW` up to :data:`SQUARE`; the smallest of all where none does; or the size that is given.

    Of volumes, whose step shows two slices of each, the :data:`STEPS` may be of :data:`SMALL_BATCH` cases: 96 px in
    these were much better than 64 px in steps of four on one of three sets, in the same time, and as good on two.

    Of pictures the steps must show :data:`IMAGES`. The size at which structures are :data:`ENOUGH` pixels across, so
    that they are seen at all, is worth fewer: on a CPU :data:`STEPS` of one picture (docs/evidence.md)."""
    if room.given_size is not None:
        return room.given_size
    small = room if room.smallest is None else replace(room, batch=min(room.batch, room.smallest), timed=room.batch)
    pictures = room.data.spatial_dims == 2 and room.given_steps is None

    def affordable(size: int) -> bool:
        if size <= SQUARE[room.data.spatial_dims]:
            return room.steps(size, scale) >= FEW
        steps = small.steps(size, scale)
        return steps >= STEPS and (not pictures or steps * small.batch >= IMAGES)

    seen = next_size(max((needed_by(label, room.data, ENOUGH) for label in room.data.labels), default=0.0))
    worth = pictures and scale == "whole" and not room.on_gpu and room.steps(seen, scale) * room.batch >= STEPS
    sizes = [size for size in SIZES if size <= largest and room.fits(size)]
    return max((size for size in sizes if affordable(size) or worth and size == seen), default=SIZES[0])


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


def chosen_scale(room: Room, largest: int, advise: bool = True) -> tuple[str, str]:
    """Patches where whole slices would shrink structures too much and patches show them whole; else whole slices.

    Structures that lie apart need fewer pixels in whole slices than :func:`crowded` ones: caries of 6 and of 9 pixels
    in whole slices ended at 0.40 and 0.50, and at 0.36 to 0.39 in patches; nuclei of 9 pixels at 0.95 and 0.97 in the
    same time (docs/evidence.md).

    Where a patch does not hold the largest structure, slices are shrunk until it does (:func:`spacing_of_patches`).
    That is for large pictures of small structures: ones that whole slices :data:`HARDLY` show, and that are then
    :data:`LARGER` times as large. ``advise``: where the time does not allow patches, name one in which they would be
    planned, if there is any.
    """
    data, size, patch = room.data, affordable_size(room, "whole", largest), patch_size(room, largest)
    shrunk = resampled(room, spacing_of_patches(room, patch))
    across = [SEEN if crowded(label, patch) else APART for label in shrunk.data.labels]
    needed = {one.name: needed_by(one, data, least) for one, least in zip(data.labels, across, strict=True)}
    smallest = max(data.labels, key=lambda label: needed[label.name], default=None)
    if smallest is None or min(needed[smallest.name], data.side) <= size:
        return "whole", "every label is large enough in whole slices"
    if room.whole_only:
        return "whole", "an object is followed through a volume in whole slices"
    wide, thick = (n * size / data.side for n in (smallest.extent, smallest.thickness))
    shown = f"in a whole slice of {size} px, {smallest.name} is {wide:.2g} px across and {thick:.2g} px thick"
    widest = max(shrunk.data.labels, key=lambda label: shrinking(label, patch))
    hardly = HARDLY * needed_by(smallest, data) > size and shrunk.data.side > LARGER * size
    if shrinking(widest, patch) > 1 or shrunk is not room and not hardly:
        held = f"does not hold {widest.name}, which is {widest.large * data.side / shrunk.data.side:.0f} px"
        return "whole", f"{shown}, but a patch of {patch} px {held}"
    if room.given_steps is not None or shrunk.steps(patch, "patch") >= FEW:
        return "patch", shown
    minutes = math.ceil((FEW * room.step(patch, "patch") + shrunk.validation(patch, "patch")) / 30)
    if advise and chosen_scale(replace(room, budget=60.0 * minutes), largest, advise=False)[0] == "patch":
        shown += f"; patches would be better, and take longer: try --minutes {minutes}"
    return "whole", shown


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


def chosen_size(room: Room, scale: str, largest: int) -> tuple[int, str]:
    """What is wanted, as far as the budget goes. A patch is as large as twice its largest structure, within
    :data:`SQUARE` and what the budget allows. An encoder that stays frozen knows images of the size on which it was
    trained, and each of them enters it only once: whole slices of that size are wanted."""
    most = affordable_size(room, scale, largest)
    if scale == "whole" and room.costs(largest).encode:
        wanted = next_size(min(largest, FINER * room.data.side))
    elif scale == "whole":
        wanted = wanted_size(room.data)
    else:
        held = [label.large for label in room.data.labels if label.thickness > PATCH_THIN * SQUARE[2]]
        wanted = next_size(max([SQUARE[2], *(extent / PATCH_HOLDS for extent in held)]))
        most = max(most, SQUARE[2])
    size = min(wanted, most, largest)
    step = f"a step of {room.batch} case{'s' * (room.batch != 1)} takes {room.step(size, scale):.2g} s here"
    if scale == "whole" and size == wanted == largest and room.costs(size).encode:
        step += "; the frozen encoder was trained on images of this size"
    if size < wanted and room.given_steps is not None:
        return size, f"{step}; {wanted} {'needs more steps' if room.given_steps < STEPS else 'does not fit the memory'}"
    if size < wanted:
        more = room.epochs(min(wanted, largest), scale)
        why = f"{step}; {wanted} would leave {more} visit{'s' * (more != 1)} of a case in the budget"
        longer = (m for m in LONGER_MINUTES if 60 * m > 1.2 * room.budget)
        minutes = next((m for m in longer if size_within(room, m, scale, largest) >= min(wanted, largest)), None)
        return size, why if minutes is None else f"{why}: try --minutes {minutes}"
    return size, step


def size_within(room: Room, minutes: int, scale: str, largest: int) -> int:
    return affordable_size(replace(room, budget=60.0 * minutes), scale, largest)


def chosen_interval(room: Room, size: int, scale: str, epochs: int, timed: bool = True) -> tuple[float, str]:
    """Six validations, or as many as :data:`VALIDATIONS` of the budget allows."""
    if not timed:
        return validation_interval(epochs), "six validations"
    number, each = room.validations(size, scale), room.validation(size, scale)
    interval = max(1.0, epochs / number)
    why, validations = f"a validation takes {in_time(each)}", number * each
    steps = room.given_steps
    whole = room.budget if steps is None else steps * room.step(size, scale) + validations
    if validations > 2 * VALIDATIONS * whole:
        why += f"; fewer validation cases would {'leave more time to train' if steps is None else 'make it shorter'}: "
        why += "list fewer as `validation` in dataset.json"
    return int(interval) if interval == int(interval) else round(interval, 3), why


def chosen_batch(room: Room, size: int, scale: str) -> tuple[int, str]:
    """Half the cases in a step, and half of these, where the time allows fewer than :data:`MANY` steps of more. A
    smaller step takes a CPU the less time, and a GPU almost as much."""
    few, least = [], 1 if room.data.spatial_dims == 2 and scale == "whole" else SMALL_BATCH
    while not room.on_gpu and room.given_steps is None and least < room.batch in MANY:
        steps = room.steps(size, scale)
        if steps >= MANY[room.batch]:
            break
        few.append(f"{steps} step{'s' * (steps != 1)} of {room.batch}")
        room = replace(room, batch=room.batch // 2, timed=room.timed or room.batch)
    why = "cases in a step" if room.batch > 1 else "one case in a step"
    return room.batch, f"{why}; only {', or '.join(few)} would fit" if few else why


def rules(
    room: Room, asked: Mapping[str, Any], largest: int, budget: float | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Every key in turn, around those that a user gave: values and reasons."""
    why, values = dict.fromkeys(asked, "given"), dict(asked)
    timed = not {"image_size", "epochs"} <= asked.keys()
    values.setdefault("spacing", None)
    if "scale" not in asked:
        values["scale"], why["scale"] = chosen_scale(room, largest)
        if values["scale"] == "patch" and (spacing := spacing_of_patches(room, patch_size(room, largest))):
            values["spacing"], why["spacing"] = spacing, "that a patch holds the largest structures"
            room = resampled(room, spacing)
    scale = values["scale"]
    if "image_size" not in asked:
        values["image_size"], why["image_size"] = chosen_size(room, scale, largest)
    size = values["image_size"]
    if "batch_size" not in asked:
        values["batch_size"], why["batch_size"] = room.batch, "cases in a step"
        if "epochs" not in asked:
            values["batch_size"], why["batch_size"] = chosen_batch(room, size, scale)
        room = replace(room, batch=values["batch_size"], timed=room.batch)
    if "epochs" not in asked:
        values["epochs"] = room.epochs(size, scale)
        many = "s" * (values["epochs"] != 1)
        why["epochs"] = f"visit{many} of each case; {told_length(room, size, scale, budget)}"
    if "mirror" not in asked:
        values["mirror"], why["mirror"] = chosen_mirror(room.data, scale)
    if "val_interval" not in asked:
        values["val_interval"], why["val_interval"] = chosen_interval(room, size, scale, values["epochs"], timed)
    if "checkpointing" not in asked and not timed:
        values["checkpointing"], why["checkpointing"] = False, "not measured, as size and epochs are given"
    elif "checkpointing" not in asked:
        kept, free = room.costs(size).kept, room.free
        values["checkpointing"] = free is not None and kept > FULL * free
        there = "" if free is None else f" of {free / 1e9:.1f} GB free"
        why["checkpointing"] = f"a step keeps about {kept / 1e9:.2g} GB{there}"
    order = ("scale", "spacing", "image_size", "batch_size", "epochs", "mirror", "val_interval", "checkpointing")
    return {key: values[key] for key in order}, {key: why[key] for key in order if key in why}


def told_length(room: Room, size: int, scale: str, budget: float | None) -> str:
    """How long the training will be; where not even one visit of each case fits the budget, or only a few steps, what
    to do."""
    steps = room.epochs(size, scale) * room.visit
    if budget is None:
        rounded = f" (--steps {room.given_steps}, in whole visits)" if steps != room.given_steps else ""
        return f"{steps} steps{rounded}"
    enough = room.visit * math.ceil(max(FEW, room.visit) / room.visit)
    least = budget + room.late(size, scale, enough)
    needed = max(1.2 * budget, 1.2 * least + 2 * room.validation(size, scale)) / 60
    fitting = room.steps(size, scale)
    if fitting >= room.visit:
        few = f"; only {steps} steps fit, which are too few: try --minutes {needed:.0f}" if steps < FEW else ""
        return f"{in_time(budget)} in all, validation included{few}"
    cases = fitting * room.batch
    fewer = f", or --train_cases {cases}" if cases >= FEW else ""
    one = budget + room.late(size, scale, room.visit)
    longer = f"one visit of each and a validation take {one / 60:.1f} minutes, more than {budget / 60:.3g}"
    return f"{longer}: give about --minutes {needed:.0f}{fewer}"


def in_time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
