"""Images of several channels that are no colours: how the channels are named, and which files hold them.

A case names its first file under "image", by which everything knows it. All of its files are under :data:`FILES`. Where
a case does not list them, as when a server gives a path, they are found by their names (:func:`beside`).
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.utils import ImageMetaKey
from PIL import Image

from ..errors import InputError, counted
from ..networks.fields import MOST_CHANNELS, RUN
from .affines import TOLERANCE, apart
from .names import IMAGE_SUFFIXES, PICTURE_SUFFIXES, stem_of
from .nifti import FULL_SCALE, fourth_axis, has_fourth_axis
from .picture_files import FORMATS

FILES = "channel_files"  # of a case: a file for each channel, in their order; of metadata: the same as JSON
SHOWN = "shown_file"  # of an image's metadata: the file of the first channel that was taken, where each has a file
LONGEST_NAME = 60  # of a channel
LIKELY_CHANNELS = 8  # in files named by numbers; more are numbers of images


def case_of(image: str | Path | Sequence[str | Path]) -> dict[str, Any]:
    """A case with an image of one file, or of a file for each channel."""
    if isinstance(image, str | Path):
        return {"image": str(image)}
    files = [str(file) for file in image]
    return {"image": files[0], FILES: files} if len(files) > 1 else {"image": files[0]}


def stated_names(entry: Any, cases: Sequence[Mapping[str, Any]], colours: bool, source: Path) -> tuple[str, ...]:
    """Names of the channels of a dataset's images; none where an image is grey or in colour. ``entry`` is the
    "channel_names" or "modality" of a `dataset.json`, and ``colours`` says whether it names red, green and blue.
    Errors name ``source``."""
    if isinstance(entry, Mapping):
        numbered = all(str(key).isdecimal() for key in entry)
        entry = [entry[key] for key in (sorted(entry, key=int) if numbered else entry)]
    names = [str(name).strip() for name in entry] if isinstance(entry, list | tuple) else []
    numbers = [len(case.get(FILES, ("",))) for case in cases]
    odd = next((case for case, number in zip(cases, numbers, strict=True) if number != numbers[0]), None)
    if odd is not None:
        raise InputError(
            f"{source}: the image {odd['image']} has {counted(len(odd.get(FILES, ('',))), 'file')} where that of "
            f"{cases[0]['image']} has {numbers[0]}; list a file for each channel of every image"
        )
    several = numbers[0] if cases else 1
    if several == 1 and (len(names) < 2 or (colours and len(names) == 3)):
        return ()
    if several > 1 and len(names) > 1 and len(names) != several:
        raise InputError(
            f"{source}: names the {len(names)} channels {', '.join(names)}, and an image has {several} files, as that "
            f"of {cases[0]['image']}; name as many"
        )
    if several > 1 and len(names) < 2:
        names = [f"channel {i}" for i in range(several)]
    if len({name.casefold() for name in names}) < len(names):
        names = [f"{name} {i}" for i, name in enumerate(names)]
    for name in names:
        if not name or len(name) > LONGEST_NAME or not name.isprintable() or RUN.match(name):
            raise InputError(
                f"{source}: the channel {name[:80]!r} has no name that can be used; names have 1 to {LONGEST_NAME} "
                "characters that print, and begin with none of $, @ and %"
            )
    if len(names) > MOST_CHANNELS:
        raise InputError(
            f"{source}: has {len(names)} channels; up to {MOST_CHANNELS} are taken: choose by key channels"
        )
    return tuple(names)


def taken(names: Sequence[str], channels: Sequence[int] | None = None) -> list[str] | None:
    """Names of the channels that enter a network, those that the key ``channels`` takes of ``names``; ``None`` where
    they are one, or colours."""
    if channels is None:
        return list(names) or None
    if not names or len(channels) < 2 or len({*channels}) < len(channels):
        return None
    if max(channels) >= len(names):
        raise InputError(f"key channels is {list(channels)}, and there are 0 to {len(names) - 1}: {', '.join(names)}")
    return [names[i] for i in channels]


def with_files_taken(case: Mapping[str, Any], channels: Sequence[int] | None) -> dict[str, Any]:
    """A case with the files of the channels alone that the key ``channels`` takes, as far as they are there."""
    files = case.get(FILES)
    if files is None or channels is None:
        return dict(case)
    return {**case, FILES: [files[i] for i in channels if i < len(files)]}


def kinds_taken(kinds: str | Sequence[str], channels: Sequence[int] | None = None) -> str | list[str]:
    """What the numbers of the channels are that enter a network, of a dataset's ``intensity``; one word where they are
    all alike."""
    if isinstance(kinds, str) or channels is None:
        return kinds if isinstance(kinds, str) else list(kinds)
    if max(channels) >= len(kinds):
        raise InputError(f"key channels is {list(channels)}, and the dataset has the channels 0 to {len(kinds) - 1}")
    chosen = [kinds[i] for i in channels]
    return chosen if len({*chosen}) > 1 else chosen[0]


def refuse_others(
    names: Sequence[str], channels: Sequence[int] | None, wanted: Sequence[str] | None, source: Path
) -> None:
    """Refuse data whose channels are not those that an adapter takes, ``wanted``: ``None`` is grey or colours. Data
    whose channels are not stated pass, and each file tells."""
    found = taken(names, channels)
    if names and found != (None if wanted is None else list(wanted)) and not (wanted is None and channels):
        raise InputError(
            f"{source}: its images have the channels {', '.join(found or names)}, and the adapter takes "
            f"{', '.join(wanted or ['grey images or colours'])}, in this order: give such images, or choose by the key "
            "channels"
        )


def beside(path: Path, names: Sequence[str], numbers: Sequence[int] | None = None) -> list[Path] | None:
    """The files of all channels of an image, of which any is given: `a_0000`, `a_0001`, as nnU-Net names them, or
    `a_T1`, `a_FLAIR`, by the channels' names. ``None`` where the file has no such name. ``numbers`` of the channels
    are given where these are not all that there are. An error names a missing file."""
    stem = stem_of(path)
    known = sorted(names, key=len, reverse=True)
    by_name = next((m for n in known if (m := re.fullmatch(rf"(.+?[_. -]){re.escape(n)}", stem, re.IGNORECASE))), None)
    if by_name is not None:
        wanted = [by_name[1] + name for name in names]
    elif by_number := re.fullmatch(r"(.+)_\d{4}", stem):
        wanted = [f"{by_number[1]}_{number:04d}" for number in numbers or range(len(names))]
    else:
        return None
    suffix = path.name[len(stem) :]
    here = {file.name.casefold(): file for file in path.parent.iterdir()}
    found = []
    for name, want in zip(names, wanted, strict=True):
        file = next((here[f] for s in (suffix, *IMAGE_SUFFIXES) if (f := f"{want}{s}".casefold()) in here), None)
        if file is None:
            raise InputError(
                f"{path.parent / (want + suffix)}: no such file, and it would hold the channel {name} of {path.name}; "
                f"copy it there (an image has the channels {', '.join(names)})"
            )
        found.append(file)
    return found


def files_of(case: Mapping[str, Any], names: Sequence[str] | None, numbers: Sequence[int] | None = None) -> list[str]:
    """The files of a case's image as far as they are there."""
    if FILES in case or names is None:
        return list(case.get(FILES, [case["image"]]))
    try:
        return [str(file) for file in beside(Path(case["image"]), names, numbers) or [case["image"]]]
    except (InputError, OSError):
        return [case["image"]]


def files_in(meta: Mapping[Hashable, Any]) -> list[str]:
    """The files of the image that has such metadata, those of channels that were not taken too."""
    return json.loads(meta[FILES]) if FILES in meta else [str(meta[ImageMetaKey.FILENAME_OR_OBJ])]


def joined(images: Sequence[MetaTensor], files: Sequence[str], path: str) -> MetaTensor:
    """One image (C, *spatial) of images of one channel each, a file for each; three equal channels are one. The case is
    known by ``path``."""
    grey: list[torch.Tensor] = []
    first = images[0]
    for image, file in zip(images, files, strict=True):
        if not (image == image[:1]).all():
            raise InputError(
                f"{file}: has {len(image)} channels, and it is one of {len(files)} files of a channel each"
            )
        if image.shape[1:] != first.shape[1:]:
            sizes = [" x ".join(str(n) for n in one.shape[1:]) for one in (image, first)]
            raise InputError(
                f"{file}: is {sizes[0]}, and {files[0]}, another channel of it, is {sizes[1]}; resample it"
            )
        if image.ndim == 4 and (far := apart(first.affine, image.affine, first.shape[1:])) > TOLERANCE:
            raise InputError(
                f"{file}: lies up to {far:.3g} voxels from its other channel {files[0]}; resample it onto that grid"
            )
        grey.append(image[:1].as_tensor())
    whole = MetaTensor(torch.cat(grey), meta=dict(first.meta))
    whole.meta |= {ImageMetaKey.FILENAME_OR_OBJ: path, SHOWN: files[0]}
    if len({image.meta.get(FULL_SCALE) for image in images}) > 1:  # of 8 and of 16 bits: each by its own range
        whole.meta.pop(FULL_SCALE, None)
    return whole


def in_folders(
    images: Sequence[Path], names: Sequence[str], numbers: Sequence[int] | None = None
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Images of a folder with the files of one image together: the first file of each, and the reason for those that
    lack a channel and for files of one channel that are named as of an image and are none of ``names``."""
    cases: list[Path] = []
    begun: dict[str, Path] = {}  # how the names of an image's files begin, and the first of them
    unfit: list[tuple[Path, str]] = []
    seen, found = set[Path](), set[Path]()
    for path in images:
        if path in seen:
            continue
        try:
            files = None if os.path.isdir(path) or has_fourth_axis(path) else beside(path, names, numbers)
        except InputError as error:
            reason = str(error)
            if all(reason.partition(":")[0] != other.partition(":")[0] for _, other in unfit):
                unfit.append((path, reason))  # once for each file that is missing
            continue
        first = files[0] if files else path
        if files:
            seen.update(files)
            shared = os.path.commonprefix([str(file.parent / stem_of(file)) for file in files])
            begun[re.sub(r"[^_. -]*$", "", shared)] = first
        if first not in found:  # a file of a channel that is not taken leads to the same image
            cases.append(first)
        found.add(first)
    together = {*begun.values()}
    for path in [path for path in cases if path not in together and holds_one(path)]:
        if image := next((first for start, first in begun.items() if str(path).startswith(start)), None):
            cases.remove(path)
            unfit.append((path, f"it is named as if of the image of {image.name}, which has {', '.join(names)}"))
    return cases, unfit


def one_of_each(images: Sequence[Path], number: int) -> tuple[list[dict[str, Any]], list[tuple[Path, str]], list[Path]]:
    """Images of a folder for a network that takes one channel of several: of files named `a_0000`, `a_0001`, that of
    its ``number``. Gives the cases, those that lack it with the reason, and the files of other channels.

    A file that holds several channels is a case. So are files of more numbers than an image has channels, for those
    number the images, and without the number 0 those of others, for nothing tells them from a grey image.
    """
    stems = Counter(_numbered(path) for path in images)
    cases: dict[Path, dict[str, Any]] = {}
    unfit: list[tuple[Path, str]] = []
    for path in images:
        file = path
        if _numbered(path) and stems[_numbered(path)] <= LIKELY_CHANNELS and holds_one(path):
            try:
                (file,) = beside(path, (f"number {number}",), (number,)) or [path]
            except InputError as error:
                if number > 0:
                    unfit.append((path, str(error)))
                    continue
            else:
                cases[file] = case_of(file) | {FILES: [str(file)] * (number + 1)}  # as if it were in its place
        cases.setdefault(file, case_of(file))
    left = [path for path in images if path not in cases and path not in dict(unfit)]
    return list(cases.values()), unfit, left


def _numbered(path: Path) -> str:
    """The name of an image without the number of a channel; nothing where it has none."""
    found = re.fullmatch(r"(.+)_\d{4}", stem_of(path))
    return str(path.parent / found[1]) if found and not path.is_dir() else ""


def channels_of(path: str | Path) -> int | None:
    """How many channels a picture or a NIfTI file has, as far as its header says it."""
    try:
        if str(path).lower().endswith(PICTURE_SUFFIXES):
            with Image.open(path, formats=FORMATS) as picture:
                return {"L": 1, "RGB": 3, "RGBA": 4}.get(picture.mode)
        return fourth_axis(path)
    except OSError:
        return None


def holds_one(path: Path) -> bool:
    """Whether a file has one channel, as far as its header says it."""
    try:
        if path.name.lower().endswith(PICTURE_SUFFIXES):
            with Image.open(path, formats=FORMATS) as picture:
                return len(picture.getbands()) == 1 and picture.mode != "P"
        return not has_fourth_axis(path)
    except OSError:  # what cannot be read is said where it is loaded
        return False
