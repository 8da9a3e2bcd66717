"""The rules by which a training is planned: each is a function that says why, and where its number comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..data.fingerprint import rounded
from .handlers import validation_interval
from .mirror import chosen_mirror
from .patches import PATCH_HOLDS, PATCH_THIN, chosen_scale, patch_size, resampled, spacing_of_patches
from .room import FEW, FULL, VALIDATIONS, Room
from .sizes import FINER, SMALL_BATCH, SQUARE, STEPS, affordable_size, next_size, wanted_size

MANY = {4: 200, 3: 200, 2: 300}  # steps of so many cases: with fewer, more and smaller ones taught more
LONGER_MINUTES = (15, 20, 30, 45, 60, 90, 120, 180, 240)  # that a plan names where a larger image needs more


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
    step = f"a step of {room.batch} case{'s' * (room.batch != 1)} takes {rounded(room.step(size, scale))} s here"
    if scale == "whole" and size == wanted == largest and room.costs(size).encode:
        step += "; the frozen encoder was trained on images of this size"
    wanted, needed = min(wanted, largest), wanted
    if size < wanted and room.given_steps is not None:
        return size, f"{step}; {wanted} {'needs more steps' if room.given_steps < STEPS else 'does not fit the memory'}"
    if size < wanted:
        more = room.epochs(wanted, scale)
        why = f"{step}; {wanted} would leave {more} visit{'s' * (more != 1)} of a case in the budget"
        longer = (m for m in LONGER_MINUTES if 60 * m > 1.2 * (room.budget + room.spent))
        minutes = next((m for m in longer if size_within(room, m, scale, largest) >= wanted), None)
        return size, why if minutes is None else f"{why}: try --minutes {minutes}"
    if size < needed:
        return size, f"{step}; the labels ask for {needed}, but more than {largest} is not planned"
    return size, step


def size_within(room: Room, minutes: int, scale: str, largest: int) -> int:
    return affordable_size(room.within(minutes), scale, largest)


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
        room = replace(room, batch=(room.batch + 1) // 2, timed=room.timed or room.batch)
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
        kept, free = room.kept(size, scale), room.free
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
    needed = math.ceil(max(1.2 * budget, 1.2 * least + 2 * room.validation(size, scale)) / 60)
    fitting = room.steps(size, scale)
    if fitting >= room.visit:
        few = f"; only {steps} steps fit, which are too few: try --minutes {needed}" if steps < FEW else ""
        return f"{in_time(budget)} in all, validation included{few}"
    cases = fitting * room.batch
    fewer = f", or --train_cases {cases}" if cases >= FEW else ""
    one = budget + room.late(size, scale, room.visit)
    longer = f"one visit of each and a validation take {one / 60:.1f} minutes, more than {budget / 60:.3g}"
    return f"{longer}: give about --minutes {needed}{fewer}"


def in_time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
