"""Trained adapters as files: ``model.pt`` and, beside it, ``model.safetensors``, which says what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from ..backbones.checkpoint_files import read_state
from ..errors import InputError, counted
from ..files import save_aside, write_aside
from . import identity
from .adapter_state import of_wrapper
from .base import AdaptedSAM
from .regions import numbered

LOADED = ("method", "base", "resize", "labels", "temperature")  # of a record, what no constructor takes
BUFFERS = ("identity", "label_vectors")  # in an adapter, and not trained


def read_adapter(path: str | Path) -> dict[str, Tensor]:
    """An adapter's state dict, of a ``.pt`` or a ``.safetensors`` file. One whose record holds what no record of ours
    does is refused."""
    if not Path(path).is_file():
        raise InputError(f"there is no trained adapter at {path}: train one first, or give the path of its file")
    state = read_state(path)
    if "identity" not in state:
        raise InputError(f"{path} is not an adapter of sam_monai: it has no identity{of_wrapper(state)}")
    try:
        identity.from_tensor(state["identity"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return state


def load_adapter(network: AdaptedSAM, path: str | Path) -> dict[str, Tensor]:
    """Load an adapter's file into a network, and give its state dict. Errors name the file."""
    state = read_adapter(path)
    try:
        network.load_state_dict(state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return state


def write_adapter(state: Mapping[str, Tensor], path: Path, training: Mapping[str, Any] | None = None) -> None:
    """Write an adapter twice, each file whole or not there: ``path``, a ``.pt`` as MONAI reads it, and the same tensors
    as ``.safetensors``, whose header holds the adapter's record and the :func:`training_summary`, readable without
    this package."""
    header = {"format": "pt", "identity": json.dumps(identity.from_tensor(state["identity"]), ensure_ascii=False)}
    if training is not None:
        header["training"] = json.dumps(identity.check_training(dict(training)), ensure_ascii=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_aside(safetensors.torch.save(tensors, header), path.with_suffix(".safetensors"))
    save_aside(state, path)  # last: what is there has its words beside it, wherever a kill comes


def training_summary(
    epochs: int, best_epoch: int, validation_dice: float | None, training_cases: int, validation_cases: int
) -> dict[str, Any]:
    """What an adapter's file says of its training, after ``epochs``, of which the adapter is of the ``best_epoch``. A
    Dice that was not measured is ``None``.

    :class:`sam_monai.training.checkpoints.Checkpoints` adds ``dice_by_label``, the numbers among the ``settings``, and
    ``training_hashes`` and ``validation_hashes``, of the content of the images' files, and ``training_voxels``, of what
    the images show, by which an evaluation knows them; a hash tells nothing of a patient.
    """
    from .. import __version__

    return {
        "sam_monai": __version__,
        "epochs": epochs,
        "best_epoch": best_epoch,
        "validation_dice": validation_dice if validation_dice is None or isfinite(validation_dice) else None,
        "training_cases": training_cases,
        "validation_cases": validation_cases,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def read_training(path: str | Path) -> dict[str, Any] | None:
    """The training summary of an adapter, if it has one, or the ``.safetensors`` of equal tensors beside it. The
    temperature may differ: a kill in :func:`note_validation` leaves two."""
    file = Path(path).with_suffix(".safetensors")
    if not file.is_file():
        return None
    if file != Path(path) and differences(*(at_temperature(read_adapter(each)) for each in (path, file))):
        return None
    return header(file).get("training")


def note_validation(path: str | Path, temperature: float, **more: Any) -> None:
    """Write into an adapter's files what came out after its training: the temperature into its record, and the rest
    into the training summary, if it has one."""
    state, training = read_adapter(path), read_training(path)
    calibrated, summary = at_temperature(state, temperature), None if training is None else training | more
    if calibrated is not state or summary != training:
        write_adapter(calibrated, Path(path), summary)


def at_temperature(state: Mapping[str, Tensor], temperature: float = 1.0) -> Mapping[str, Tensor]:
    """An adapter's state with another temperature in its record; its very self where it has that already."""
    record = identity.from_tensor(state["identity"])
    if record["temperature"] == temperature:
        return state
    return {**state, "identity": identity.to_tensor(record | {"temperature": temperature})}


def header(path: Path) -> dict[str, Any]:
    """What is written in words in a ``.safetensors`` file of ours: the record and the training's summary."""
    with safe_open(path, "pt") as file:
        found = file.metadata() or {}
    checks = {"identity": identity.check, "training": identity.check_training}
    try:
        return {key: check(json.loads(found[key])) for key, check in checks.items() if key in found}
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its header cannot be read ({error}); the file was changed by hand") from error


def describe(path: str | Path) -> str:
    """What an adapter is, a line each: method, base, labels, sizes, preparation of images, training."""
    state = read_adapter(path)
    record = identity.from_tensor(state["identity"])
    numbers = sum(tensor.numel() for name, tensor in state.items() if name not in BUFFERS)
    common = {"method", "backbone", "base", "labels", "image_size", "preprocessing"}
    hashes = ("_hashes", "_voxels")
    training = {key: value for key, value in (read_training(path) or {}).items() if not key.endswith(hashes)}
    dice, settings, plan = training.pop("dice_by_label", []), training.pop("settings", {}), training.pop("plan", None)
    plan = {key: value for key, value in (plan or {}).items() if key not in identity.RECKONED}
    guess, errors = training.pop("guess", None), training.pop("calibration_error", None)
    counts = training.pop("missed_by_label", [])
    missed = {label: f"in {n} of {of}" for label, (n, of) in zip(record["labels"], counts, strict=False) if n}
    if guess:
        means = f"{guess['guess']:.3f} on average and Dice {guess['dice']:.3f}"
        training["guessed Dice in validation"] = f"{means}, over {counted(guess['masks'], 'mask')}"
    if errors:
        training["expected calibration error"] = f"{errors[1]:.4f}, and {errors[0]:.4f} without the temperature"
    images = record["preprocessing"]
    rows = {
        "method": record["method"],
        "base": f"{record['backbone']} (weights {record['base'][:12]})",
        "labels": ", ".join(numbered(record["labels"], images.get("regions"), images.get("instances", False))),
        "image size": f"{record['image_size']} px",
        "settings": in_words({key: value for key, value in record.items() if key not in common}),
        "trained parameters": f"{numbers:,}",
        "file": f"{Path(path).stat().st_size:,} bytes",
        "preprocessing": in_words(images) or "not recorded",
        "training": in_words(training) or "not recorded",
        "plan": in_words(plan) or "none",
        "Dice by label": in_words(dict(zip(record["labels"], dice, strict=False)), True) or "not recorded",
        "missed": in_words(missed) or ("no label in any case" if counts else "not recorded"),
        "trained with": in_words(settings) or "not recorded",
    }
    width = max(map(len, rows))
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows.items())


def in_short(path: str | Path) -> dict[str, Any]:
    """What an adapter's file is, and how good it was, in a few words."""
    record, training = identity.from_tensor(read_adapter(path)["identity"]), read_training(path) or {}
    labels = record["labels"][:1] if record["preprocessing"].get("instances") else record["labels"]
    about = {"file": Path(path).name, "method": identity.title_of(record["method"]), "labels": labels}
    if training.get("validation_dice") is not None:
        about["validation Dice"] = (
            f"{training['validation_dice']:.3f} over {counted(training['validation_cases'], 'case')}"
        )
    if training:
        about["trained"] = f"{training['date'][:10]}, on {counted(training['training_cases'], 'case')}"
    return about


def in_words(values: Mapping[str, Any], unknown: bool = False) -> str:
    """What is known, with numbers in four digits, and, if so wanted, what is ``unknown``."""
    known = {key: value for key, value in values.items() if unknown or value is not None}
    short = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in known.items()}
    texts = {key: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for key, v in short.items()}
    return ", ".join(f"{key} {text}" for key, text in texts.items())


def network_of(record: Mapping[str, Any], checkpoint: str | Path | None = None) -> AdaptedSAM:
    """The network that an adapter's record describes, on its base, before the adapter is loaded. ``checkpoint`` is the
    file of the base weights, where the name does not say it."""
    record = identity.check(dict(record))
    options = {key: value for key, value in record.items() if key not in LOADED}
    # Labels as default, for S-SAM would else run its text encoder, whose vectors the adapter brings along.
    return identity.methods()[record["method"]](checkpoint=checkpoint, default_labels=record["labels"], **options)


def load_network(path: str | Path, checkpoint: str | Path | None = None) -> AdaptedSAM:
    """The network that an adapter was made for, with the adapter loaded.

    Raises:
        InputError: as :func:`read_adapter` and :func:`network_of`, or base weights that are not the adapter's.
    """
    network = network_of(identity.from_tensor(read_adapter(path)["identity"]), checkpoint)
    load_adapter(network, path)
    return network


def verify(path: str | Path, network: AdaptedSAM | None = None, checkpoint: str | Path | None = None) -> None:
    """Load an adapter on its base, and compare ``.pt`` and ``.safetensors`` where both are there.

    Args:
        path: of either file.
        network: to load it into; ``None``: the one that its record describes.
        checkpoint: file of the base weights, where their name does not say it.

    Raises:
        InputError: another base, method or set of labels, keys or shapes that do not fit, parameters that are not
            finite, or two files that differ.
    """
    record = identity.from_tensor(read_adapter(path)["identity"])
    network = network or network_of(record, checkpoint)
    load_adapter(network, path)
    odd = [key for key in {**record, **network.describe()} if record.get(key) != network.describe().get(key)]
    if odd:
        raise InputError(f"{path}: the record does not describe the network that it loads into: {', '.join(odd)}")
    pt, twin = Path(path).with_suffix(".pt"), Path(path).with_suffix(".safetensors")
    if pt.is_file() and twin.is_file() and (differing := differences(read_adapter(pt), read_adapter(twin))):
        raise InputError(
            f"{pt} and {twin.name} beside it differ, in {', '.join(differing[:3])}: remove the one that is out of date"
        )
    if twin.is_file() and header(twin).get("identity", record) != record:
        raise InputError(f"{twin}: its header describes another adapter than its tensors; write it again")


def differences(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that two state dicts do not share to the last bit."""
    names = sorted({*one, *other})
    return [name for name in names if name not in one or name not in other or not torch.equal(one[name], other[name])]
