"""Makes fingerprints of datasets and costs of machines, and plans from them."""

from __future__ import annotations

import dataclasses

from sam_monai.data.fingerprint import Fingerprint, LabelPrint
from sam_monai.training.machine import Cost, Costs
from sam_monai.training.room import Room
from sam_monai.training.rules import rules


def data(
    side: int = 512, *labels: tuple[float, float], dims: int = 2, training: int = 16, thick: float = 0
) -> Fingerprint:
    """A dataset whose labels have structures of these extents, in the median and the largest, half as thick."""
    prints = tuple(LabelPrint(f"label {i}", 0.1, e, large, thick or e / 2) for i, (e, large) in enumerate(labels))
    shape, spacing = ((side, side), ()) if dims == 2 else ((side, side, 40), (1.0, 1.0, 3.0))
    return Fingerprint(training, 4, dims, 1, shape, spacing, prints, 0.1)


def machine(step: float = 1.0, kept: float = 1e9) -> Costs:
    """A machine that takes so many seconds for a step of 128 px."""
    return Costs(lambda size: Cost(size, step * (size / 128) ** 2, 0.1 * step * (size / 128) ** 2, kept), (64, 128))


def frozen(encode: float = 1.0) -> Costs:
    """A machine on which the encoder is frozen, and takes so many times 0.02 s for an image of 128 px."""
    return Costs(lambda size: dataclasses.replace(c := machine(0.2)(size), encode=encode * c.answer), (64, 128))


def planned(data: Fingerprint, costs: Costs, minutes: float = 15, free: float = 1e11, **asked) -> dict:
    given = {"given_size": asked.get("image_size"), "mirror": asked.get("mirror")}
    given |= {"given_interval": asked.get("val_interval")}
    room = Room(data, costs, 60 * minutes, 4, free=int(free), **given)
    values, why = rules(room, asked, 256, 60 * minutes)
    assert why.keys() == {key for key, value in values.items() if value is not None} and all(why.values())
    return values


def seconds(data: Fingerprint, costs: Costs, plan: dict) -> float:
    room = Room(data if plan["spacing"] is None else data.resampled(plan["spacing"]), costs, 0, 4)
    validation = room.validation(plan["image_size"], plan["scale"])
    number = round(plan["epochs"] / plan["val_interval"])
    batch, step = plan["batch_size"], costs(plan["image_size"]).step
    return plan["epochs"] * -(-data.training // batch) * step * batch / 4 + number * validation


LARGE, SMALL, THIN, MIXED = ((200, 300),), ((30, 32),), ((200, 400), (12, 30)), ((20, 40), (30, 50))
