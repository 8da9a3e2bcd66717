"""Writing masks as files: NIfTI, DICOM SEG or PNG. They arrive on the grid of their image's file (file_grid.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from PIL import Image
from tqdm.auto import tqdm

from ..data.dataset import is_picture
from ..data.dicom_seg import check_source, segmentation_file
from ..data.dicom_series import is_dicom
from ..data.names import MARK, CaseNames
from ..data.nifti import on_source
from ..errors import InputError, warn_once
from ..networks.base import AdaptedSAM
from ..networks.regions import Regions
from ..prompts.prompt_files import prompts_beside
from ..prompts.schema import corrects, read_objects
from .outputs import Outputs
from .probabilities import ENDS, KEY, save_probabilities


class SaveMasks:
    """Writes the label map of every case of an evaluator's run, in the grid of its image's file.

    Volumes become ``<case>_seg.nii.gz`` with both affines of a NIfTI image, or, from DICOM, one ``<case>_seg.dcm`` that
    refers to its series. Frames have a fourth axis, as in their image. Pictures become ``<case>_seg.png`` with the
    label's number, or that of an object, as grey value. A file is whole or not there. Probabilities of a case, if it
    has any, become ``<case>_prob.nii.gz``. Where no DICOM SEG can be made for a series, that is said before the network
    runs, and the mask becomes NIfTI.

    Args:
        folder: where they go.
        mask_format: ``"nifti"`` or ``"dicom_seg"``.
        network: says the labels and the method, for DICOM.
        prompted: tells of an image's path whether it has prompts that the network answers.
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
        self.network, self.has_prompts = network, prompted
        self.refused: dict[str, str] = {}
        """Why there is no DICOM SEG of an image, by its path."""
        self.saved: set[str] = set()
        """Paths of the images whose masks this run has written."""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self.saved.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        if self.dicom:
            engine.add_event_handler(Events.ITERATION_STARTED, self.check)

    def check(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        for source in batch["image"].meta["filename_or_obj"]:
            if self.suffix(batch["image"].ndim - 2, source) == ".dcm":
                try:
                    check_source(source, self.meanings(source, 1), self.algorithm(), self.regions)
                except InputError as error:
                    self.keep_as_nifti(source, error)
            elif batch["image"].ndim == 5 and not is_dicom(source):
                warn_once("mask_format dicom_seg is for DICOM: masks of other volumes are NIfTI")

    def keep_as_nifti(self, source: str, error: InputError) -> None:
        self.refused[source] = f"{error}. Its mask is kept as NIfTI"
        tqdm.write(self.refused[source])

    @property
    def regions(self) -> Regions | None:
        return getattr(self.network, "regions", None)

    def prompted(self, file: Path) -> bool:
        """Whether an image's mask holds the objects of prompts, and not the labels."""
        return self.has_prompts(file) and not corrects(prompts_beside(file))

    def algorithm(self) -> str:
        return f"sam_monai {self.network.method}" if self.network is not None else "sam_monai"

    def __call__(self, engine: Engine) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        cases: Any = engine.state.output
        for case in cases:
            source = case["image"].meta["filename_or_obj"]
            if source in self.saved:
                raise InputError(
                    f"{source}: two cases of this run are of the same file, and their masks would have the same name: "
                    "segment whole volumes, or give each part a filename_or_obj of its own"
                )
            self.saved.add(source)
            tqdm.write(f"mask: {self.save(case['pred'], source)}")
            if KEY in case:
                path = self.probabilities(source)
                with Outputs(self.folder).writing(path, source) as part:
                    save_probabilities(case[KEY], case["pred"].affine.cpu().numpy(), source, part)
            else:
                Outputs(self.folder).remove(self.probabilities(source), source)

    def save(self, mask: MetaTensor, source: str) -> Path:
        """Write one label map (1, *spatial) of an image's file or folder, or one of T frames (T, *spatial).

        Raises:
            InputError: it holds other numbers than those of labels, or a picture's has several channels.
        """
        array = (mask[0] if len(mask) == 1 else mask.moveaxis(0, -1)).cpu().numpy()
        fractions = array.dtype.kind == "f" and bool((array != array.round()).any())
        if fractions or array.min(initial=0) < 0 or (mask.ndim == 3 and len(mask) > 1):
            raise InputError(
                f"the mask of {source} is no label map: it has several channels, fractions, or numbers below "
                "0. Make one of logits by ToFileGridd, or by AsDiscrete with argmax"
            )
        array = array.astype(np.uint8 if mask.max() < 256 else np.uint16)
        affine, content = mask.affine.cpu().numpy(), b""
        if self.suffix(mask.ndim - 1, source) == ".dcm":
            try:
                labels = self.meanings(source, int(array.max()))
                content = segmentation_file(array, affine, source, labels, self.algorithm(), self.regions)
            except InputError as error:
                self.keep_as_nifti(source, error)
        path = self.folder / f"{self.names(source)}{MARK}{self.suffix(mask.ndim - 1, source)}"
        with Outputs(self.folder).writing(path, source) as part:
            if path.suffix == ".dcm":
                part.write_bytes(content)
            elif path.suffix == ".png":
                Image.fromarray(array).save(part)
            else:
                nib.save(on_source(array, affine, source), part)
        for other in {".dcm", ".nii.gz"} - {path.name.removeprefix(f"{Path(self.names(source)).name}{MARK}")}:
            Outputs(self.folder).remove(self.folder / f"{self.names(source)}{MARK}{other}", source)
        return path

    def probabilities(self, source: str) -> Path:
        """The file of an image's probabilities, where they are kept."""
        return self.folder / f"{self.names(source)}{ENDS}"

    def meanings(self, source: str, most: int) -> Sequence[str]:
        """Names of a mask's values from 1 on, of which ``most`` is the largest. An object of prompts has a number, and
        the label that it was said to be."""
        if self.network is not None and not self.prompted(Path(source)):
            return self.network.labels
        names = [f"object {i}" for i in range(1, max(1, most) + 1)]
        if self.network is not None:
            with suppress(InputError):  # which the run itself tells
                objects = read_objects(prompts_beside(source), 2 if is_picture(source) else 3)
                said = [one.get("label") for one in objects][: len(names)]
                names[: len(said)] = [f"{a}, {b}" if b else a for a, b in zip(names, said, strict=False)]
        return names

    def suffix(self, spatial_dims: int, source: str) -> str:
        if spatial_dims == 2:
            return ".png"
        seg = self.dicom and self.network is not None and source not in self.refused and is_dicom(source)
        return ".dcm" if seg else ".nii.gz"
