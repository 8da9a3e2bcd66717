"""A label file's numbers: one channel of whole numbers, 0 for the background, or a line that says what else it is."""

from __future__ import annotations

import torch
from monai.data import MetaTensor

from ..errors import InputError, say_once
from .frames import frames_of
from .nifti import TIME_POINTS


def as_label(label: MetaTensor, number: int, path: str) -> torch.Tensor:
    remedy = f"save the label with one channel of whole numbers, 0 for background and 1 to {number} for the labels"
    if label.meta.get("mode") in ("P", "PA"):
        raise InputError(f"{path}: is a palette picture, whose numbers stand for colours; {remedy}")
    if label.meta.get("mode") == "RGB" and bool((label == label[:1]).all()):  # grey that was saved as a picture is
        label = label[:1]  # pyright: ignore[reportAssignmentType]
    if label.shape[0] != frames_of(label):
        hint = "; if they are time points, give the key frames True" if label.meta.get(TIME_POINTS, 1) > 1 else ""
        raise InputError(f"{path}: has {label.shape[0]} channels (a colour mask?); {remedy}{hint}")
    if not torch.isfinite(label).all():
        raise InputError(f"{path}: holds NaN or infinite values; {remedy}")
    # NIfTI files may scale their numbers, which leaves a trace of rounding.
    whole = label.round()
    vanishes = bool(label.any()) and not whole.any()  # a wrong scale makes all labels background
    if vanishes or not (torch.equal(whole, label) or torch.allclose(whole, label, rtol=0, atol=1e-3)):
        raise InputError(f"{path}: holds values that are not whole numbers ({values_in_words(label)}); {remedy}")
    lowest, highest = (value.item() for value in torch.aminmax(whole))
    if lowest >= 0 and highest <= number:
        return whole
    if number == 1 and highest == 255 and ((whole == 0) | (whole == 255)).all():
        say_once("masks with the values 0 and 255 are read as 0 and 1")
        return whole / 255
    hint = "; if they number the objects of one label, give the key instances True" if number == 1 < highest else ""
    hint = "; JPEG changes values, use PNG" if path.lower().endswith((".jpg", ".jpeg")) else hint
    raise InputError(f"{path}: holds the values {values_in_words(label)}, known are 0 to {number}; {remedy}{hint}")


def values_in_words(label: torch.Tensor) -> str:
    shown = [f"{value:g}" for value in torch.unique(label).tolist()]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:3], "...", *shown[-2:]])
