"""Images beside their labels, told apart by their names: all in one folder, or a folder for each case."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import InputError, shown
from .dicom_series import is_dicom
from .left_out import is_image, warn_of_unread
from .listed import Case, Listed, entries, listed
from .names import IMAGE_SUFFIXES, is_hidden, stem_of

# Words that an image's name or its label's has more than the other's, at the beginning or at the end.
OF_LABELS, OF_IMAGES = "masks?|seg|segmentation|labels?|gt", "images?|img"
LABEL, IMAGE = (
    re.compile(rf"^({words})([_-]|$|(?=\d))|[._-]({words})$", re.IGNORECASE) for words in (OF_LABELS, OF_IMAGES)
)


def read_beside(folder: Path, channel: int | str | None = None) -> Listed | None:
    """The cases of a folder that holds `a.nii.gz` and `a_seg.nii.gz`, or a folder for each case with an image, or one
    for each channel, and a label; ``None`` where no name is that of a label, or none has an image.

    ``channel`` takes one of several, by its name or by its place among the sorted names.

    Raises:
        InputError: a label without an image, several of one image, or cases of other channels than the first.
    """
    files = _files(folder)
    within = [at for at in sorted(folder.iterdir()) if at.is_dir() and not is_hidden(at.name)]
    if labels := {stem: path for stem, path in files.items() if LABEL.search(stem)}:
        images = {stem: path for stem, path in files.items() if stem not in labels}
        by_name = {name: path for stem, path in images.items() for name in (stem, _without(IMAGE, stem))}
        cases = _pairs(by_name, labels)
        if not cases:
            return None
        paired = {case.image for case in cases}
        cases += [Case(path, None) for path in images.values() if path not in paired]
        if channel is not None:
            raise InputError(f"{folder}: holds one file of each image, so --channel {channel} chooses nothing")
        warn_of_unread(folder, within, [])
        first = next(case for case in cases if case.label is not None)
        return listed(folder, f"images beside their labels, as {first.image.name} beside {_name(first)}", cases)
    return _of_each(folder, within, channel)


def _of_each(folder: Path, within: Sequence[Path], channel: int | str | None) -> Listed | None:
    found: dict[Path, tuple[dict[str, Path], Path]] = {}
    unfit: list[str] = []
    for at in within:
        files = _files(at) or ({} if not any(map(is_image, at.iterdir())) else entries(at))
        labels = {stem: path for stem, path in files.items() if LABEL.search(stem)}
        images = {stem: path for stem, path in files.items() if stem not in labels}
        if is_dicom(at):  # the slices of one image
            images = {at.name: at}
        if len(labels) == 1 and images:
            found[at] = images, *labels.values()
        elif labels or images:
            held = shown(sorted(path.name for path in (*labels.values(), *images.values())), 4)
            unfit.append(f"{at}: one label is needed beside an image, and there is {held}")
    if not found:
        return None
    if loose := [path.name for path in sorted(folder.iterdir()) if is_image(path)]:
        unfit.append(f"{folder}: {loose[0]} lies beside the folders of the cases: move it into one, or away")
    if unfit:
        raise InputError(f"{unfit[0]}; list pairs in a CSV with the columns image and label")
    named = {at: _channels(images) for at, (images, _) in found.items()}
    first, channels = next((at, sorted(names)) for at, names in named.items())
    if odd := next((at for at, names in named.items() if sorted(names) != channels), None):
        raise InputError(
            f"{odd}: has the images {shown(sorted(named[odd]))}, and {first.name} has {shown(channels)}: remove what "
            "is no channel, or list the cases in a CSV"
        )
    form = "a folder for each case, with an image and a label"
    if channel is not None:
        channels = [_chosen(channels, channel, folder)]
        form += f", of which {channels[0]} is taken"
    elif len(channels) > 1:
        form += f", of the channels {', '.join(channels)}"
    cases = []
    for at, (_, label) in found.items():
        image, *others = (named[at][name] for name in channels)
        cases.append(Case(image, label, others=others))
    return listed(folder, form, cases, modality=channels if len(channels) > 1 else "", tree=True)


def _files(folder: Path) -> dict[str, Path]:
    """Images and labels of a folder in which any has a label's name."""
    files = [path for path in folder.iterdir() if path.name.lower().endswith(IMAGE_SUFFIXES)]
    if not any(LABEL.search(stem_of(path)) for path in files):
        return {}
    return {stem: path for stem, path in entries(folder).items() if not os.path.isdir(path)}


def _without(words: re.Pattern[str], stem: str) -> str:
    return words.sub("", stem, count=1)


def _pairs(images: Mapping[str, Path], labels: Mapping[str, Path]) -> list[Case]:
    found: dict[Path, Path] = {}
    lacking = []
    for stem, label in labels.items():
        image = images.get(_without(LABEL, stem))
        if image is None:
            lacking.append(label)
        elif (other := found.setdefault(image, label)) != label:
            raise InputError(f"{label}: {other.name} is a label of {image.name} too; list the pairs in a CSV")
    if found and lacking:
        raise InputError(
            f"{lacking[0]}: no image beside it has this name without the word for a label, as "
            f"{next(iter(found)).name} has; rename it, or list the pairs in a CSV with the columns image and label"
        )
    return [Case(image, label) for image, label in found.items()]


def _channels(images: Mapping[str, Path]) -> dict[str, Path]:
    """Images of one case by what their names do not share; a single one by nothing."""
    shared = len(re.sub(r"[^_. -]*$", "", os.path.commonprefix(list(images))))
    return {stem[shared:] if len(images) > 1 else "": path for stem, path in images.items()}


def _chosen(names: Sequence[str], channel: int | str, folder: Path) -> str:
    if isinstance(channel, int) and channel < len(names):
        return names[channel]
    if channel in names:
        return str(channel)
    raise InputError(f"{folder}: has no channel {channel!r}; there is {shown(names)}, counted from 0")


def _name(case: Case) -> str:
    return "" if case.label is None else case.label.name
