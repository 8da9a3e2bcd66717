"""The images of a folder that are segmented, and what else lies there, with the reason why it is not."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, counted, printable
from ..files import from_home
from .channels import FILES, case_of, in_folders, one_of_each, refuse_others, stated_names
from .dataset import dataset_of
from .dataset_json import stated_kind
from .dicom_series import Series, is_dicom, is_dicom_picture, is_localiser, sort_folder
from .folders import understand
from .made import Written, holds_outputs_alone, is_output
from .names import IMAGE_SUFFIXES, OTHER_SUFFIXES, VOLUME_SUFFIXES, is_hidden

OTHER_NAMES = ("dicomdir", "license", "readme")

logger = logging.getLogger(__name__)


class Images(list[dict[str, Any]]):
    """Cases with the key "image", an absolute path, and the files of its channels where these are listed, as of
    :func:`images_to_segment`."""

    def __init__(
        self,
        cases: Sequence[Path | dict[str, Any]],
        passed_over: list[tuple[Path, str]] | None = None,
        top: Path | None = None,
    ) -> None:
        super().__init__(case if isinstance(case, dict) else case_of(case) for case in cases)
        self.passed_over = [(str(path), reason) for path, reason in passed_over or []]
        """What lies in the folder and is not among the cases: a path and the reason."""
        self.top = top
        """The folder whose tree the results keep, see :class:`sam_monai.data.names.CaseNames`."""


def images_to_segment(
    source: str | Path,
    seed: int = 0,
    spatial_dims: int = 2,
    channel_names: Sequence[str] | None = None,
    channels: Sequence[int] | None = None,
) -> Images:
    """List the images to run a network on, as dicts with the key "image" and an absolute path.

    Args:
        source: a folder or list of cases that :func:`read_dataset` knows (its test images and those without a label
            or, where there are none, its validation images); a folder of images (pictures in it, volumes in it and in
            all folders within, and the DICOM series there, each told by its folder or, where that holds several, by a
            file); or one image file.
        seed: that of `read_dataset`, for a dataset without `validation` and `test`.
        channel_names: what the network takes, for images of several channels. The files of one image are put together
            by their names (:func:`sam_monai.data.channels.beside`).
        channels: the key.
        spatial_dims: with 3, DICOM pictures without a place in the patient, such as dose reports, are passed over.

    Returns:
        The list. Its ``passed_over`` holds whatever else lies there and may be an image, with the reason: DICOM that
        cannot be read, a series that lies in several folders, files of an unknown type, pictures in folders within,
        images of which a channel is missing.

    Raises:
        InputError: nothing there, or nothing in it that looks like an image; or a dataset whose channels are others.

    Example:
        >>> from sam_monai.data import demo_dataset
        >>> [Path(case["image"]).name for case in images_to_segment(demo_dataset())]
        ['test_1.nii.gz']
    """
    if not isinstance(source, str | Path) or not str(source):
        raise InputError(f"the key dataset_dir is {source!r}; give the path of a folder or of an image")
    path = Path(os.path.abspath(from_home(source)))
    if os.path.isfile(path) and path.suffix.lower() not in (".json", ".csv"):
        given_alone = list(channels or ()) == [0]  # whatever its name says
        return Images((not given_alone and _chosen([path], channel_names, channels)[0]) or [path])
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file or folder; give an image, a folder of images or a dataset folder")
    if (known := understand(path, beside=False)) is not None:
        if not known.how:
            dataset = dataset_of(known, seed=seed, overlaps=False)
            refuse_others(dataset.channels, channels, channel_names, known.source)
            part = "test" if dataset.test else "validation"
            chosen = dataset.test or dataset.validation
            logger.info("%s: the %d images of its %s are segmented", path, len(chosen), part)
            return Images([case_of(case.get(FILES, case["image"])) for case in chosen])
        cases = known.to_segment()
        if not cases:
            raise InputError(
                f"{path}: every image in it has a label, so it is for training; to segment them, give the folder that "
                "holds only the images"
            )
        modality = known.content["modality"]
        colours = stated_kind(modality, known.source) == "picture"
        names = stated_names(modality, cases, colours, known.source)
        refuse_others(names, channels, channel_names, known.source)
        logger.info("%s: %s. Its test images are segmented or, if it has none, its validation images", path, known.how)
        return Images(cases, top=known.source if known.tree else None)
    images: list[Path] = []
    found: list[Series] = []
    passed_over: list[tuple[Path, str]] = []
    for folder, reason in folders_in(path):
        try:
            series, unfit = sort_folder(folder)
            files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
        except OSError as error:
            reason = f"the folder cannot be read ({error.strerror})"
        if reason:
            passed_over.append((folder, reason))
            continue
        found += series
        passed_over += [(file, why) for file, why in unfit if file.name.lower() not in OTHER_NAMES]
        for file in files:
            why_not = _why_not(file, folder == path, unfit)
            if why_not:
                passed_over.append((file, why_not))
            elif why_not is None:
                images.append(file)
    halves = _in_several_folders(found)
    passed_over += halves.values()
    for one in found:
        if one.path in halves:
            continue
        if spatial_dims == 3 and is_dicom_picture(one.files[0]):
            passed_over.append(
                (one.files[0], "it is a picture without a place in the patient (a capture, a dose report)")
            )
        elif spatial_dims == 3 and is_localiser(one.files[0]):
            passed_over.append((one.path, "it is a localiser; to segment it, give the path of one of its files"))
        else:
            images.append(one.path)
    known_results: dict[Path, Written] = {}
    if channel_names is not None:
        results = {image for image in images if is_output(image, known_results) == ""}
        images, lacking = in_folders([image for image in images if image not in results], channel_names, channels)
        images, passed_over = [*images, *sorted(results)], passed_over + lacking  # whoever segments counts the results
    cases, lacking = _chosen(images, channel_names, channels)
    passed_over += lacking
    passed_over = _together([(x, why) for x, why in passed_over if not holds_outputs_alone(x, known_results)])
    for file, reason in passed_over:
        logger.warning("%s: not segmented, %s", printable(str(file)), printable(reason))
    if not cases:
        known = " ".join(IMAGE_SUFFIXES)
        left = "".join(f"\n  {file}: {reason}" for file, reason in passed_over[:10])
        raise InputError(
            f"{path}: holds no image; put files there that end in one of {known}, DICOM series, or a dataset.json{left}"
        )
    return Images(cases, passed_over, path)


def _chosen(
    images: Sequence[Path], names: Sequence[str] | None, channels: Sequence[int] | None
) -> tuple[Sequence[Path | dict[str, Any]], list[tuple[Path, str]]]:
    """Of a file for each channel those of the one that is taken; [0, 0, 0] is a grey image as colours."""
    if names is not None or channels is None or len({*channels}) > 1 or (len(channels) > 1 and channels[0] == 0):
        return images, []
    cases, lacking, others = one_of_each(images, channels[0])
    if others:
        logger.warning(
            "%s: %s such as %s, taken for other channels of images by the number in their names, will not be "
            "segmented, for the adapter takes channel %d (the first is 0); rename those that are images of their own",
            others[0].parent, counted(len(others), "file"), others[0].name, channels[0],
        )  # fmt: skip
    return cases, lacking


def folders_in(top: Path) -> Iterator[tuple[Path, str]]:
    """A folder and all folders within but hidden ones, through links too, each once, in order of their paths; with the
    reason where one cannot be entered."""
    seen: set[str] = set()
    reasons: dict[str, str] = {}
    found: list[Path] = []

    def note(error: OSError) -> None:
        reasons[str(error.filename)] = f"the folder cannot be read ({error.strerror})"

    for folder, within, _ in os.walk(top, followlinks=True, onerror=note):
        real = os.path.realpath(folder)
        if real in seen:
            within.clear()
            continue
        seen.add(real)
        within[:] = [name for name in within if not is_hidden(name)]
        within.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))  # a link comes second
        found.append(Path(folder))
    found += [Path(folder) for folder in reasons if Path(folder) not in found]
    yield from ((folder, reasons.get(str(folder), "")) for folder in sorted(found))


def _why_not(file: Path, at_top: bool, unfit: list[tuple[Path, str]]) -> str | None:
    """Nothing for what is no image or was seen as DICOM, ``None`` for an image to segment, else why it is not one."""
    name = file.name.lower()
    if os.path.isdir(file) or file in dict(unfit):
        return ""
    if not os.path.isfile(file):
        return "it is a link to nothing, or no ordinary file"
    if name.endswith(IMAGE_SUFFIXES):
        within = "it lies in a folder within; name that folder to segment its pictures"
        return None if at_top or name.endswith(VOLUME_SUFFIXES) else within
    if is_dicom(file) or name.endswith(OTHER_SUFFIXES) or name.partition(".")[0] in OTHER_NAMES:
        return ""
    return f"its name ends in none of {' '.join(IMAGE_SUFFIXES)}, and it is no DICOM file"


def _together(passed_over: list[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """One entry for many files of a folder, such as the slices of a series."""
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path, reason in sorted(set(passed_over)):
        groups[path.parent, reason].append(path)
    few = [(path, reason) for (_, reason), paths in groups.items() if len(paths) < 3 for path in paths]
    many = [
        (folder, f"{len(paths)} files such as {paths[0].name}: {reason}")
        for (folder, reason), paths in groups.items()
        if len(paths) > 2
    ]
    return sorted([*few, *many])


def _in_several_folders(found: list[Series]) -> dict[Path, tuple[Path, str]]:
    """Series of which several folders hold other slices each, by the path of each part; copies are no parts."""
    parts: dict[tuple, list[Series]] = defaultdict(list)
    for one in found:
        if one.key and one.key[0]:
            parts[one.key].append(one)
    named: dict[Path, tuple[Path, str]] = {}
    for members in parts.values():
        if len({one.places for one in members}) > 1:
            where = ", ".join(f"{one.files[0].parent} ({len(one.files)} files)" for one in members)
            reason = f"its series ({members[0].description}) lies in several folders: {where}; copy them into one"
            named |= {one.path: (members[0].path, reason) for one in members}
    return named
