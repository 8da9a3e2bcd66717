"""Loading of one case, upright and channel first, whatever the file format; what cannot be right is refused here."""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey

from ..errors import InputError
from ..networks.regions import Regions
from . import channels as channel_files
from .dicom import FRAME
from .dicom_seg import is_segmentation, read_segmentation
from .frames import frames_of
from .grids import on_grid_of
from .instances import HIGHEST, objects_of
from .label_values import as_label
from .mask_folders import is_mask_folder, masks_in
from .nifti import TIME_POINTS, has_fourth_axis
from .overlaps import label_map, values_of
from .picture_files import image_picture, label_picture
from .reading import read_file
from .stated_labels import check_stated_labels
from .unlabelled import KEY, NAME, UNLABELLED


class LoadCased(MapTransform):
    """Load the image and label files of a case as float32 MetaTensors, (C, H, W) or (C, H, W, D).

    Rows and columns of a picture are the file's rows and columns as a viewer shows them: EXIF orientation is applied,
    axes are not swapped. Volumes keep their file's axes (i, j, k) and affine. 16-bit values are kept. A DICOM series is
    a folder or any file of it, see :mod:`sam_monai.data.dicom`. A DICOM SEG is read as a label on its image's grid.
    A mask for each label, in a folder, a channel or a segment, is read as one label map
    (:mod:`sam_monai.data.overlaps`).
    A label volume that is its image's grid but for the order and direction of the axes is turned.
    An image has 1 or 3 channels, or those that are named, in one file or in a file for each
    (:mod:`sam_monai.data.channels`). A label has one channel of whole numbers 0..L; a {0, 255} mask with L = 1 is read
    as {0, 1}. A case with the key "ignore", the value L + 1, gets :data:`~sam_monai.data.unlabelled.UNLABELLED` there.

    Training, evaluation, inference and servers load through here, so this is where every file is checked.

    Args:
        keys: keys that hold paths. "label" is read as a label, every other key as an image.
        labels: names or number of the foreground labels; not needed without the key "label".
        channels: channels of the file to take for an image, as indices from 0: [0] picks, [0, 0, 0] repeats.
        channel_names: of the channels that an image then has, where they are several and no colours.
        regions: the values of each label where they are several, see :mod:`sam_monai.networks.regions`.
        frames: whether the fourth dimension of a file is time, and each frame an image (:mod:`sam_monai.data.frames`).
        instances: whether a label numbers the objects of one label (:mod:`sam_monai.data.instances`).
        allow_missing_keys: leave out keys that a case does not have.

    Raises:
        InputError: at the call, where a file is missing, unreadable or does not fit: values that are not finite, an
            image of one value, an affine that is no place, a label on another grid, a missing channel. One line, with
            the remedy.

    Example:
        >>> from sam_monai.data import demo_dataset, read_dataset
        >>> dataset = read_dataset(demo_dataset())
        >>> case = LoadCased(("image", "label"), labels=dataset.labels)(dataset.training[0])
        >>> tuple(case["image"].shape), sorted(case["label"].unique().tolist())
        ((1, 145, 179, 16), [0.0, 1.0, 2.0])
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "label"),
        labels: Sequence[str] | int | None = None,
        channels: Sequence[int] | None = None,
        allow_missing_keys: bool = False,
        channel_names: Sequence[str] | None = None,
        regions: Regions | None = None,
        frames: bool = False,
        instances: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if "label" in self.keys and labels is None:
            raise ValueError('LoadCased: give `labels`, the names or the number of the labels, to load the key "label"')
        self.labels = labels if isinstance(labels, int) or labels is None else len(labels)
        self.regions = regions
        if regions is not None:
            self.labels = max(map(max, regions))
        self.names = None if isinstance(labels, int) or labels is None else tuple(labels)
        self.channels = None if channels is None else [int(c) for c in channels]
        self.channel_names = None if channel_names is None else tuple(channel_names)
        lengths = (1, 3) if self.channel_names is None else (len(self.channel_names),)
        if self.channels is not None and (len(self.channels) not in lengths or min(self.channels) < 0):
            raise InputError(
                f"key channels is {self.channels}; give {' or '.join(map(str, lengths))} indices from 0, as in [0] or "
                "[0, 1, 2]; other numbers where dataset.json names the channels"
            )
        self.frames, self.instances = frames, instances
        self._read = functools.partial(read_file, frames=frames)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        ignored = case.pop(KEY, None)
        for key in self.key_iterator(case):
            if key == "label":
                case[key] = self._label(str(case[key]), case, str(data.get("image")), ignored)
            else:
                case[key] = self._image(str(case[key]), case.pop(channel_files.FILES, None))
        return case

    def _label(self, path: str, case: Mapping[Hashable, Any], image_path: str, ignored: int | None) -> Any:
        names = self.names if ignored is None or self.names is None else (*self.names, NAME)
        number = (self.labels or 0) + (ignored is not None)
        masks, files = self.masks(path, case, names, self.regions is not None)
        if files:
            first = next(masks)
            values = values_of(len(self.names or ()), self.regions, ignored)
            label = MetaTensor(label_map(itertools.chain([first], masks), values, files), meta=dict(first.meta))
            label.meta[ImageMetaKey.FILENAME_OR_OBJ] = path
        else:
            segmented = is_segmentation(path)
            label = self._read_segmentation(path, case, names) if segmented else self._read(path, label_picture)
            label = as_label(label, HIGHEST if self.instances else number, path)
            if self.names is not None and self.regions is None:
                check_stated_labels(path, self.names, label)
        if self.instances:
            if ignored is not None:
                raise InputError(
                    f"{path}: may hold unlabelled voxels, which the key instances would number as an object; take the "
                    "label ignore out of dataset.json and of the files, or leave the key out"
                )
            label = objects_of(label, path)
        if ignored is not None:
            if ignored != number:
                raise InputError(f"{path}: unlabelled voxels have the value {ignored} where {number} is next")
            label = label.masked_fill(label == ignored, UNLABELLED)
        return on_grid_of(label, case.get("image"), path, image_path)

    def masks(
        self, path: str, case: Mapping[Hashable, Any], names: Sequence[str] | None, every: bool = True
    ) -> tuple[Iterator[Any], list[str]]:
        """Masks (1, *spatial) of a case's labels where each label has one, and what errors call them; none where they
        are a label map. ``every``: whether segments of a DICOM SEG are read apart too, as they may overlap."""
        if is_mask_folder(path):
            return masks_in(path, names, lambda file: as_label(self._read(file, label_picture), 1, file))
        if every and names and is_segmentation(path):
            if not isinstance(case.get("image"), MetaTensor | None):
                case = {
                    **case,
                    "image": self._read(str(case["image"]), image_picture),
                }  # once for all segments
            called = [f"{path} (segment {name})" for name in names]
            return (self._read_segmentation(path, case, names, i) for i in range(1, len(names) + 1)), called
        if names and not self.frames and has_fourth_axis(path):  # else it is time
            label = self._read(path, label_picture)
            if len(label) == len(names) > 1:
                called = [f"{path} (channel {i}, {name})" for i, name in enumerate(names)]
                return (as_label(label[i : i + 1], 1, file) for i, file in enumerate(called)), called
        return iter(()), []

    def _image(self, path: str, files: Sequence[str] | None) -> torch.Tensor:
        """The image of a file, or of a file for each channel."""
        names, every = self.channel_names, files
        if files is None:
            image = self._read(path, image_picture)
            if (frames := frames_of(image)) > 1:
                if names is not None or self.channels is not None:
                    raise InputError(
                        f"{path}: has {frames} frames, and the keys channels and channel_names choose among channels; "
                        "frames have one channel: leave those keys out, or take an adapter for images of one channel"
                    )
                for i, frame in enumerate(image):
                    _accepted(frame, f"{path} (frame {i + 1} of {frames})")
                return image
            if names is None:
                return _accepted(self._pick(image, path), path)
            if len(image) > 1:
                beside = _complete(path, names, self.channels) or []
                if any(channel_files.holds_one(one) for one in beside if str(one) != str(path)):
                    raise InputError(
                        f"{path}: holds {len(image)} channels, and the files beside it are named as if each held one; "
                        "rename them"
                    )
                image = self._pick(image, path)
                for name, channel in zip(names, image, strict=True):
                    _accepted(channel, f"{path} (channel {name})")
                return image
            files = list(map(str, channel_files.beside(Path(path), names, self.channels) or ()))
            if not files:
                raise InputError(
                    f"{path}: has 1 channel where {len(names)} are needed, {', '.join(names)}; give one file of them "
                    "all, or a file for each, named CASE_0000, CASE_0001 or CASE_NAME, or list them in dataset.json"
                )
        elif self.channels is not None:
            if max(self.channels) >= len(files):
                raise InputError(f"{path}: has {len(files)} files; correct key channels, {self.channels}")
            files = [files[i] for i in self.channels]
        if len(files) != len(names or (self.channels or [0])) or (names is None and len({*files}) > 1):
            wanted = f"{len(names)} channels, {', '.join(names)}" if names else "images of one channel or of colours"
            raise InputError(
                f"{path}: has {len(files)} channel files where {wanted} are taken; choose by key channels, as in [0]"
            )
        images = [_accepted(self._read(file, image_picture), file) for file in files]
        whole = channel_files.joined(images, files, path)
        whole.meta[channel_files.FILES] = json.dumps(list(every or files))  # a list would not survive a batch
        return whole

    def _read_segmentation(
        self, path: str, case: Mapping[Hashable, Any], names: Sequence[str] | None, only: int | None = None
    ) -> MetaTensor:
        image = case.get("image")
        if not isinstance(image, MetaTensor):
            if image is None:
                raise InputError(f"{path}: is a DICOM SEG, which is read on its image's grid; name the image too")
            image = self._read(str(image), image_picture)
        affine = np.asarray(image.affine)
        mask = read_segmentation(path, affine, image.shape[1:], names, str(image.meta.get(FRAME, "")), only)
        return MetaTensor(torch.as_tensor(mask[None].astype(np.float32)), affine, {ImageMetaKey.FILENAME_OR_OBJ: path})

    def _pick(self, image: MetaTensor, path: str) -> torch.Tensor:
        found, names = image.shape[0], self.channel_names
        if self.channels is not None:
            if max(self.channels) >= found:
                has = f"has channels 0 to {found - 1}" if found > 1 else "has one channel, 0"
                raise InputError(
                    f"{path}: {has}, and the key channels, given or the adapter's, takes {self.channels}: correct it, "
                    "or give files of all channels, or one for each, named CASE_0000, CASE_0001"
                )
            return image[self.channels]
        if names is not None:
            if found != len(names):
                raise InputError(
                    f"{path}: has {found} channels where {len(names)} are needed, {', '.join(names)}; pick with key "
                    "channels"
                )
            return image
        times = image.meta.get(TIME_POINTS, 1)
        if times > 1:
            raise InputError(
                f"{path}: has {times} time points (or scans) along its fourth dimension, and those are no channels; "
                "give the key frames True if each is a volume to segment, or pick with key channels, as in [0]; if "
                'they are channels, name them in dataset.json: "channel_names": {"0": "T1", "1": "T2"}'
            )
        if found not in (1, 3):
            raise InputError(
                f"{path}: has {found} channels where 1 or 3 are needed; pick with key channels, "
                f"as in {'[0, 1, 2]' if found > 3 else '[0]'}, or name them in dataset.json: "
                '"channel_names": {"0": "T1", "1": "T2"}'
            )
        return image


def _complete(path: str, names: Sequence[str], numbers: Sequence[int] | None) -> list[Path] | None:
    """The files of all channels, if they lie beside each other."""
    try:
        return None if os.path.isdir(path) else channel_files.beside(Path(path), names, numbers)
    except InputError:
        return None


def _accepted(image: Any, path: str) -> Any:
    """The image, if a network can see anything in it."""
    low, high = (value.item() for value in torch.aminmax(image))
    if not np.isfinite([low, high]).all():
        raise InputError(f"{path}: holds NaN or infinite intensities; replace them by a number, such as that of air")
    if high - low <= 1e-5 * max(abs(low), abs(high)):  # what is left of one value where numbers are rounded
        raise InputError(f"{path}: every intensity is {low:g}; export it again or remove the case")
    return image
