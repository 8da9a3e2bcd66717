"""What a bundle's folder says: its labels, its trained adapter, and how that wants its images."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from .backbones.weights import read_state
from .data.dicom import is_dicom
from .data.dicom_seg import write_segmentation
from .data.names import CaseNames
from .errors import InputError
from .networks import identity
from .networks.base import AdaptedSAM


def read_adapter(path: str | Path) -> dict[str, Tensor]:
    """An adapter's state dict.

    Raises:
        InputError: no such file, a damaged one, or one that is not an adapter.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no trained adapter at {path}: run the bundle's train.json first")
    state = read_state(path)
    if "identity" not in state:
        raise InputError(f"{path} is not an adapter of sam_monai: it has no identity")
    return state


def load_network(adapter: str | Path, checkpoint: str | Path | None = None) -> AdaptedSAM:
    """The network that an adapter was made for, with the adapter loaded.

    Args:
        adapter: its file.
        checkpoint: file of the base weights, if not in the cache folder.

    Raises:
        InputError: as :func:`read_adapter`, or base weights that are missing or others than the adapter's.
    """
    from . import PTSAM, SSAM, MedSA

    state = read_adapter(adapter)
    record = identity.from_tensor(state["identity"])
    network_type = {network.method: network for network in (SSAM, PTSAM, MedSA)}[record["method"]]
    settings = set(network_type.bound) - {"method", "base", "resize", "labels"}
    network = network_type(record["backbone"], checkpoint, **{key: record[key] for key in settings})
    network.load_state_dict(state)
    return network


def read_metadata(bundle_root: str | Path) -> dict[str, Any]:
    """The bundle's metadata.json."""
    path = Path(bundle_root) / "configs" / "metadata.json"
    if not path.is_file():
        raise InputError(f"{path} is missing: bundle_root must be the bundle's folder")
    return json.loads(path.read_text(encoding="utf-8"))


def record(bundle_root: str | Path, adapter: str | Path) -> dict[str, Any]:
    """What inference must know of the adapter before it is loaded: the adapter's own record where it is trained, else
    what metadata.json says of the bundle as it is shipped."""
    metadata = read_metadata(bundle_root)
    shipped = metadata["adapter"] | {"labels": metadata_labels(metadata)}
    if not Path(adapter).is_file():
        return shipped
    trained = identity.from_tensor(read_adapter(adapter)["identity"])
    # An adapter that was not trained by a bundle says nothing of its images.
    return trained | {"preprocessing": shipped["preprocessing"] | trained["preprocessing"]}


def metadata_labels(metadata: dict[str, Any]) -> list[str]:
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    return [channels[str(i)] for i in range(1, len(channels))]


def update_metadata(bundle_root: str | Path, adapter: str | Path | None = None) -> Path:
    """Bring metadata.json up to date with the trained adapter: labels, channels, sizes and preparation of images."""
    root = Path(bundle_root)
    metadata = read_metadata(root)
    adapter = Path(adapter) if adapter is not None else root / "models" / "model.pt"
    read_adapter(adapter)
    ours = record(root, adapter)
    names = ["background", *ours["labels"]]
    pred = metadata["network_data_format"]["outputs"]["pred"]
    pred["num_channels"] = len(names)
    pred["channel_def"] = {str(i): name for i, name in enumerate(names)}
    listed = ", ".join(f"{i} {name}" for i, name in enumerate(names))
    metadata["label_classes"], metadata["pred_classes"] = f"label map: {listed}", f"logits: {listed}"
    dims = ours["preprocessing"]["spatial_dims"]
    shape = [ours["image_size"]] * 2 + [8] * (dims - 2)
    image = metadata["network_data_format"]["inputs"]["image"]
    for tensor in (pred, image):
        tensor["spatial_shape"] = shape
    intensity = ours["preprocessing"]["intensity"]
    image["modality"] = {"ct": "CT", "mr": "MR", "picture": "RGB"}[intensity]
    image["num_channels"] = 3 if intensity == "picture" else 1
    image["channel_def"] = {str(i): name for i, name in enumerate(("red", "green", "blue"))}
    if intensity != "picture":
        image["channel_def"] = {"0": "image"}
    metadata["data_type"] = "nifti" if dims == 3 else "png"
    metadata["adapter"] = {k: ours[k] for k in metadata["adapter"]}
    path = root / "configs" / "metadata.json"
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(metadata, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


class LoadAdapter:
    """Loads an adapter when an evaluator starts."""

    def __init__(self, path: str | Path, network: nn.Module) -> None:
        self.path, self.network = path, network

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        network = getattr(self.network, "module", self.network)
        network.load_state_dict(read_adapter(self.path))


class SaveMasks:
    """Writes the label map of every case of an evaluator's run, in the grid of its image's file.

    Volumes become ``<case>_seg.nii.gz`` with the image's affine or, from DICOM, one ``<case>_seg.dcm`` that refers to
    its series; pictures ``<case>_seg.png`` with the label's number as grey value. A file is whole or not there.

    Args:
        folder: where they go.
        mask_format: ``"nifti"`` or ``"dicom_seg"``.
        network: says the labels and the method, for DICOM.
        prompted: tells of an image's path whether its mask holds the objects of prompts, and not the labels.
    """

    def __init__(
        self,
        folder: str | Path,
        mask_format: str = "nifti",
        network: AdaptedSAM | None = None,
        prompted: Callable[[Path], bool] = lambda file: False,
    ) -> None:
        if mask_format not in ("nifti", "dicom_seg"):
            raise InputError(f"the key mask_format is 'nifti' or 'dicom_seg', not {mask_format!r}")
        self.folder, self.names, self.dicom = Path(folder), CaseNames(), mask_format == "dicom_seg"
        self.network, self.prompted = network, prompted

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        cases: Any = engine.state.output
        for case in cases:
            tqdm.write(f"mask: {self.save(case['pred'], case['image'].meta['filename_or_obj'])}")

    def save(self, mask: MetaTensor, source: str) -> Path:
        """Write one label map (1, *spatial) of an image's file or folder."""
        path = self.folder / f"{self.names(source)}_seg{self.suffix(mask, source)}"
        part = path.with_name(f".{path.name}")
        array = mask[0].cpu().numpy().astype(np.uint8 if mask.max() < 256 else np.uint16)
        if path.suffix == ".dcm" and self.network is not None:
            labels = self.meanings(source, int(array.max()))
            write_segmentation(
                array, mask.affine.cpu().numpy(), source, labels, path, f"sam_monai {self.network.method}"
            )
            return path
        if path.suffix == ".png":
            Image.fromarray(array).save(part)
        else:
            nib.save(nib.Nifti1Image(array, mask.affine.cpu().numpy()), part)
        os.replace(part, path)
        return path

    def meanings(self, source: str, most: int) -> Sequence[str]:
        """Names of a mask's values from 1 on, of which ``most`` is the largest."""
        if self.network is None or self.prompted(Path(source)):
            return [f"object {i}" for i in range(1, max(1, most) + 1)]
        return self.network.labels

    def suffix(self, mask: MetaTensor, source: str) -> str:
        if mask.ndim == 3:
            return ".png"
        return ".dcm" if self.dicom and is_dicom(source) else ".nii.gz"
