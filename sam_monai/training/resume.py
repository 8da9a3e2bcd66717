"""Reading a training's saved state, and refusing to resume it with other data or settings than it was started with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..backbones.weights import content_hash
from ..errors import InputError
from ..networks.adapter_files import at_temperature, read_adapter, read_training

REMEDY = "start anew with resume false, which moves the files that are here aside"
# Keys that may change: they decide how fast, how long and how exactly is computed, and not what is learnt. Or
# it follows from the cases, which are compared by themselves.
HARMLESS = ("epochs", "val_interval", "device", "num_workers", "amp", "sam_monai", "torch", "pixel_mm")
SHAPE: dict[str, Any] = {
    "network": dict,
    "optimizer": dict,
    "lr_scheduler": dict,
    "best": dict,
    "settings": dict,
    "cases": dict,
    "history": list,
    "epoch": int,
    "iteration": int,
}


def read_resume(path: Path) -> dict[str, Any]:
    """The content of a ``model_resume.pt``."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged archive raises
        raise InputError(
            f"{path}: cannot be resumed from, for it is damaged or no file of a training; {REMEDY}"
        ) from error
    if isinstance(state, Mapping) and "identity" in state and "network" not in state:
        raise InputError(f"{path} is an adapter, and not the state of a training: put that back, or {REMEDY}")
    if not isinstance(state, dict):
        raise InputError(f"{path} holds no state of a training; {REMEDY}")
    wrong = [key for key, kind in SHAPE.items() if not isinstance(state.get(key), kind)]
    if wrong:
        raise InputError(
            f"{path}: {', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} missing or of another kind; it was "
            f"written by an older sam_monai or changed by hand: {REMEDY}"
        )
    if state["epoch"] < 1 or state["iteration"] < 1:
        raise InputError(f"{path}: its epoch is {state['epoch']}; it was changed by hand: {REMEDY}")
    return state


def read_history(adapter: Path, name: str) -> list[dict[str, float]]:
    """Loss and metric of every epoch of the training that left an adapter, and its state beside it; nothing where they
    cannot be read or are another adapter's, for a report has other things to say."""
    try:
        state = read_resume(adapter.parent / name)
        if state.get("adapter") not in (None, content_hash(at_temperature(read_adapter(adapter)))):
            return []
    except InputError:
        return []
    history = state["history"]
    numbers = all(isinstance(x, (int, float)) for epoch in history if isinstance(epoch, dict) for x in epoch.values())
    whole = all(isinstance(epoch, dict) and epoch.keys() >= {"epoch", "loss"} for epoch in history)
    return history if numbers and whole else []


def check_same(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> str:
    """Compare the settings of a training, in the resume file ``path``, with those it is resumed under. Gives the
    harmless differences in words; any other, and fewer epochs, are refused."""
    differing = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    longer = isinstance(old.get("epochs"), int) and isinstance(new.get("epochs"), int) and new["epochs"] > old["epochs"]
    harmless = [key for key in differing if key in HARMLESS and (key != "epochs" or longer)]
    refused = [key for key in differing if key not in harmless]
    if refused:
        listed = "; ".join(f"{key} was {in_words(old.get(key))} and is {in_words(new.get(key))}" for key in refused)
        raise InputError(f"{path} cannot be resumed under other settings: {listed}. Give the old values, or {REMEDY}")
    return ", ".join(f"{key} {in_words(new.get(key))} (was {in_words(old.get(key))})" for key in harmless)


def epochs_of(state: Mapping[str, Any]) -> Any:
    """How many epochs a training was to have in all when its state was saved: those that its clock found to fit."""
    try:
        return state["lr_scheduler"]["lr_lambdas"][0]["changes"][-1][-1]
    except (KeyError, IndexError, TypeError):  # without a clock
        return state["settings"].get("epochs")


def check_same_cases(old: Mapping[str, Any], new: Mapping[str, list[list[str]]], path: Path) -> None:
    """Compare the cases of a training, by the content of their files, with those it is resumed on: by ``"training"``
    and ``"validation"`` a list of name and hashes of each case."""
    said = []
    for part, cases in new.items():
        stored = old.get(part)
        if not isinstance(stored, list) or not all(isinstance(case, list) and case for case in stored):
            raise InputError(f"{path}: its list of {part} cases is not valid, it was changed by hand; {REMEDY}")
        if [case[1:] for case in stored] == [case[1:] for case in cases]:
            continue  # renamed or moved at most
        before, now = ({str(case[0]): case for case in some} for some in (stored, cases))
        changes = {
            "new": [name for name in now if name not in before],
            "missing": [name for name in before if name not in now],
            "changed": [name for name in now if name in before and now[name] != before[name]],
        }
        listed = [f"{kind}: {', '.join(which[:5])}" for kind, which in changes.items() if which]
        said.append(f"the {part} cases have changed ({'; '.join(listed) or 'in another order'})")
    if said:
        raise InputError(f"{path} cannot be resumed on other data: {'; '.join(said)}. Give the old data, or {REMEDY}")


def check_adapter(state: Mapping[str, Any], adapter: Path, path: Path) -> None:
    """Whether the adapter in the folder is the one that the training left there: at the epoch of its state, or in the
    one after it, where a kill came between the two files. Nothing is compared where an older version did not note
    the adapter."""
    expected = state.get("adapter")
    found = content_hash(at_temperature(read_adapter(adapter))) if os.path.lexists(adapter) else ""
    summary = read_training(adapter) if found else None
    if expected and found == expected and not (words := adapter.with_suffix(".safetensors")).exists():
        raise InputError(f"{words} is gone, which says how the adapter beside it was trained: put it back, or {REMEDY}")
    if expected is None or found == expected:
        return
    trained = [case[1] for case in state["cases"].get("training", ())]
    known = (summary or {}).get("training_hashes", [])[: len(trained)]  # behind them, those of an adapter before
    if summary and summary["best_epoch"] == state["epoch"] + 1 and known == trained:
        return
    raise InputError(
        f"{adapter} {'is gone' if not found else 'is not the adapter of this training'}, which {path} goes on with: "
        f"put the right one there, or {REMEDY}"
    )


def load_part(part: Any, state: dict[str, Any], name: str, path: Path) -> None:
    """Load the state of network, optimiser or schedule."""
    remedy = f"{path}: its {name} does not fit this training; {REMEDY}"
    own = part.state_dict()
    if {key: type(value) for key, value in state.items()} != {key: type(value) for key, value in own.items()}:
        raise InputError(remedy)
    options = [dict(group) for group in part.param_groups] if isinstance(part, Optimizer) else []
    try:
        part.load_state_dict(state)  # that of an optimiser brings its options along, of any type
        for group, own_group in zip(getattr(part, "param_groups", ()), options, strict=True):
            group.update({key: value for key, value in own_group.items() if key not in ("params", "lr")})
        held = [(p, x) for p, of_it in getattr(part, "state", {}).items() for x in of_it.values()]
        if any(isinstance(x, Tensor) and x.ndim and x.shape != p.shape for p, x in held):
            raise ValueError("torch does not compare the shapes of an optimiser's state")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # torch says it in many ways
        raise InputError(remedy) from error


def in_words(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else f"{text[:200]} ..."
