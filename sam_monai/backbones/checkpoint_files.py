"""Checkpoints: read without running anything that they hold, and put into a module."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .weights import file_sha256

if TYPE_CHECKING:
    from torch import Tensor, nn


def read_state(path: str | Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint by key, on the CPU, contiguous, of the type they were stored in.

    A state dict under ``"model"`` or ``"state_dict"`` is unwrapped; ``"module."`` before every key is taken off.

    Args:
        path: ``.pth``, ``.pt`` or ``.safetensors``. Files that hold more than tensors and plain values are refused.
        sha256: what the file's bytes must hash to.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}: give the path of a checkpoint")
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        raise InputError(f"{path} is not read: weights are .pth, .pt or .safetensors files")
    found = file_sha256(path) if sha256 else None
    if found != sha256:
        raise InputError(
            f"{path} is not the known file: its sha256 is {found} and should be {sha256}. Get the file again; "
            "for weights of your own, name an architecture as the backbone and not these known weights"
        )
    state = _load(path)
    for key in ("model", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state:
        raise InputError(f"{path} holds {type(state).__name__} and no state dict: save the network's state_dict()")
    odd = [str(key) for key, value in state.items() if not (isinstance(key, str) and _is_plain(value))]
    if odd:
        raise InputError(
            f"{path} is no state dict: {', '.join(odd[:3])} {'is' if len(odd) == 1 else 'are'} no plain tensor. "
            'Save the network\'s state_dict(), alone or under the key "model" or "state_dict"'
        )
    prefix = "module." if all(key.startswith("module.") for key in state) else ""
    return {key[len(prefix) :]: value.contiguous() for key, value in state.items()}


def _is_plain(value: object) -> bool:
    """Whether a value is a tensor with all its numbers in memory: not a few that are repeated to any size, as a small
    file can hold them, and not a sparse or quantised one, which no weights here are."""
    import torch
    from torch import Tensor

    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and value.nbytes <= value.untyped_storage().nbytes()
    )


def _load(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        import torch

        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # what a damaged file raises is anything
        said = str(error)
        script = "TorchScript" in said
        if script or (isinstance(error, pickle.UnpicklingError) and "Unsupported operand" not in said):
            thing = re.search(r"GLOBAL (\S+)", said)
            holds = "a TorchScript program" if script else f"Python objects ({thing[1] if thing else 'of some class'})"
            raise InputError(
                f"{path} holds {holds} besides tensors, which could run code on this machine, and is refused: "
                "convert it to .safetensors on a machine where you trust it"
            ) from error
        reason = said.strip().partition("\n")[0][:120]
        raise InputError(
            f"{path} ({path.stat().st_size} bytes) is damaged, cut short or no checkpoint at all: get it again "
            f"({type(error).__name__}: {reason})"
        ) from error


def load_into(module: nn.Module, state: Mapping[str, Tensor], path: str | Path, ignore: Sequence[str] = ()) -> None:
    """Load ``state``, read from ``path``, into ``module``: every key of both, with the same shape. Keys that begin as
    ``ignore`` says may be missing on either side."""
    ours, skipped = module.state_dict(), tuple(ignore)
    theirs = {key: value for key, value in state.items() if not key.startswith(skipped)}
    misfits = {
        "missing": [key for key in ours if key not in theirs and not key.startswith(skipped)],
        "unexpected": [key for key in theirs if key not in ours],
        "of another shape": [
            f"{key} {tuple(value.shape)} for {tuple(ours[key].shape)}"
            for key, value in theirs.items()
            if key in ours and value.shape != ours[key].shape
        ],
    }
    if any(misfits.values()):
        counts = "; ".join(
            f"{len(keys)} {what}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
            for what, keys in misfits.items()
            if keys
        )
        raise InputError(
            f"{path} does not fit this network: it looks like {describe_state(state)}. Name the weights that the file "
            f"holds, or give the file of the weights that are named. Keys: {counts}"
        )
    module.load_state_dict(theirs, strict=not skipped)


def describe_state(state: Mapping[str, Tensor]) -> str:
    """A guess, in a few words, at what network a state dict is of."""

    def has(*beginnings: str) -> bool:
        return any(key.startswith(beginnings) for key in state)

    if any(key.rpartition(".")[2] == "identity" for key in state):
        return "an adapter of sam_monai, which is loaded on top of base weights"
    if (patch := state.get("image_encoder.patch_embed.proj.weight")) is not None:
        name = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}.get(len(patch), "a ViT of a size unknown here")
        return f"{name} (its patch embedding is {len(patch)} wide)"
    if (patch := state.get("image_encoder.patch_embed.seq.0.c.weight")) is not None:
        return f"vit_t (a TinyViT, {'as in LiteMedSAM' if patch.shape[-1] == 1 else 'as in MobileSAM'})"
    if has("image_encoder.trunk.", "memory_encoder.", "memory_attention.", "sam_mask_decoder."):
        return "SAM 2, which is another network"
    if has("vision_encoder."):
        return "a SAM of the transformers library, which names its weights otherwise than segment-anything"
    if has("visual.", "text_projection", "text_model."):
        return "CLIP, which is not a SAM"
    if has("patch_embed.", "blocks."):
        return "an image encoder without SAM's prompt encoder and mask decoder"
    return f"no SAM: no key begins with 'image_encoder.', the first is {next(iter(state), None)!r}"
