"""Hooks by which a network's state dict is its adapter alone, and an adapter that does not fit is refused.

They are plain functions, so that a copied or pickled network runs its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError, shown, warn_once
from . import identity
from .fields import PREPARATION, absent, plain
from .regions import values_in_words, with_sets

if TYPE_CHECKING:
    from .base import AdaptedSAM

# What an adapter and its network agree in.
BOUND = ("base", "resize", "image_size", "depth_attention", "channel_names", "labels")
# And in what their images are, where both say so: what a server sends is of other sites' images.
IMAGES = ("spatial_dims", "intensity", "ct_window", "spacing", "scale", "image_channels", "instances",
          "frames_together")  # fmt: skip
UNTOLD = ("image_channels", "modality")  # which are compared where both say something
COARSEST = "coarsest"  # an orientation that each volume decides


REMEDY = "Freeze them again: for each name, p of named_parameters(): p.requires_grad_(name in network.state_dict())"


def told_of_thawed(names: Sequence[str]) -> str:
    return f"{shown(names, 3)} would be trained and belong to the base, so no adapter holds them"


def keep_adapter_only(network: AdaptedSAM, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    if held := network.thawed():
        warn_once(f"{told_of_thawed(held)}. {REMEDY}")
    for name in network.frozen_keys:
        state.pop(prefix + name, None)
    versions = getattr(state, "_metadata", {})  # an entry a module: more bytes than a small adapter's numbers
    for name, _ in network.backbone.named_modules(prefix="backbone"):
        if name not in network.adapted_modules:
            versions.pop(prefix + name, None)


def of_wrapper(state: Mapping[str, Any]) -> str:
    """A hint where a state dict is that of a wrapper about the network."""
    first = next((name for name in ("_orig_mod.", "module.") if f"{name}identity" in state), None)
    of = {"_orig_mod.": "torch.compile", "module.": "DataParallel"}
    return f" (its names begin with {first}: save the state_dict of the network that {of[first]} got)" if first else ""


def check_identity(network: AdaptedSAM, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Refuse an adapter of another base, method, or set of labels, one whose numbers are not finite, and one that has
    not the tensors of this network's own; take over what this network was not told. Torch would say of other tensors
    what only its authors understand, or with ``strict=False`` nothing."""
    if prefix + "identity" not in state:
        raise InputError(
            f"this is not an adapter of sam_monai: it has no identity{of_wrapper(state)}. {type(network).__name__} "
            "loads what its own state_dict gave; base weights are given by the key `checkpoint`"
        )
    theirs, ours = identity.from_tensor(state[prefix + "identity"]), network.describe()
    if theirs["method"] != ours["method"]:
        raise InputError(
            f"the adapter is one of {theirs['method']} and this network is {ours['method']}: load it into a network of "
            f"{theirs['method']}, or name that method's bundle"
        )
    for key in (*BOUND, *network.own):
        if theirs.get(key) == ours[key] or not network.told.get(key, True):
            continue
        if key == "base":
            was, now = (f"{r['backbone']} (weights {r['base'][:12]})" for r in (theirs, ours))
        elif key in ("labels", "channel_names"):
            was, now = (", ".join(r[key] or ["grey or colours"]) for r in (theirs, ours))
        else:
            was, now = theirs[key], ours[key]
        raise InputError(
            f"the adapter was made for {key} {was}; this network has {key} {now}: give both the same, "
            "or leave the key out"
        )
    was, now = theirs["preprocessing"], plain(ours["preprocessing"]) if network.told["preprocessing"] else {}
    refuse_other_images(was, now)
    old, new = was.get("regions"), now.get("regions")  # adapters without the key are older than regions
    if now and values_in_words(new) not in map(values_in_words, (old, old and with_sets(old, new))):
        raise InputError(
            f"the adapter was made for labels with {values_in_words(old)}, and here they have {values_in_words(new)} "
            "(regions in dataset.json): give both the same"
        )
    for name, tensor in state.items():
        if name.startswith(prefix) and tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(f"the adapter holds NaN or infinite numbers, in {name}: train it again, or load another")
    before, kept = network.describe(), {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.adopt(theirs)
    for name in kept.keys() - network.state_dict().keys():  # MONAI fills an adapter up with what this network had
        if (given := state.get(prefix + name)) is not None and torch.equal(given.to(kept[name].device), kept[name]):
            del state[prefix + name]
    try:
        check_tensors(network, state, prefix)
    except InputError:
        restore(network, before, kept)
        raise
    # An average over several sites comes as floats, which a copy into uint8 would round down.
    state[prefix + "identity"] = identity.to_tensor(theirs)


def restore(network: AdaptedSAM, record: dict[str, Any], state: Mapping[str, Tensor]) -> None:
    """Make a network again what it was before it became another that :func:`check_tensors` then refused."""
    network.adopt(record)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name != "identity":
                tensor.copy_(state[name])
    network.identity = state["identity"]


def check_tensors(network: AdaptedSAM, state: Mapping[str, Tensor], prefix: str) -> None:
    """Refuse an adapter that has not the tensors of its network."""
    ours, given = network.state_dict(prefix=prefix), {name for name in state if name.startswith(prefix)}
    changed = "the file is damaged or was changed by hand"
    for names, what in ((ours.keys() - given, "lacks"), (given - ours.keys(), "has what no such adapter has,")):
        if names:
            raise InputError(f"the adapter {what} {shown(sorted(names), 3)}: {changed}")
    for name, tensor in ours.items():
        was, now = tuple(state[name].shape), tuple(tensor.shape)
        if tensor.is_floating_point() and not state[name].is_floating_point():
            raise InputError(f"the adapter holds {state[name].dtype} in {name}, where fractions belong: {changed}")
        if was != now:
            raise InputError(
                f"size mismatch for {name}: the adapter has {was} and the network that its record describes {now}; "
                f"{changed}"
            )


def refuse_other_images(was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare how images are prepared here, ``now``, with what an adapter's record says of its training, ``was``. What
    either of them lacks is not compared.

    Warns of what may be right for other files: another plane where training left it to each volume, other channels, for
    these are counted in a file, and another modality, for headers may be wrong. Refuses other differences.
    """
    was = {**absent(PREPARATION), **was} if was else was  # an older adapter's record lacks what came later
    for key in (*IMAGES, "orientation", "channels", "modality"):
        unknown = key not in was or key not in now or (key in UNTOLD and None in (was[key], now[key]))
        if unknown or was[key] == now[key] or (key == "orientation" and was.get("spatial_dims") == 2):
            continue
        said = f"the adapter was made for images prepared with {key} {was[key]}, and here {key} is {now[key]}"
        if key in ("channels", "modality") or (key == "orientation" and COARSEST in (was[key], now[key])):
            warn_once(f"{said}: masks are likely to be wrong, unless these files really differ in this")
        else:
            raise InputError(f"{said}: give both the same")


def forgive_missing_base(network: AdaptedSAM, incompatible: Any) -> None:
    """The base's weights are not part of an adapter."""
    missing = incompatible.missing_keys
    missing[:] = [name for name in missing if name[name.rfind("backbone.") :] not in network.frozen_keys]
