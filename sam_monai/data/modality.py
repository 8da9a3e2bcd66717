"""Which modality images say they are of: by DICOM's codes in their headers, or else by the words of a dataset."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import warn_once
from ..networks.fields import CODE
from .channels import FILES, with_files_taken
from .dicom_series import is_dicom, no_image, read_header

WORDS = {  # by code; of these alone can one contradict another
    "CT": r"ct|cta|cbct|[cn]ect|computed",
    "MR": r"f?mr\w*|t[12]\w*|flair|pdw?|dwi|adc|dti|swi|dce|bold|magnetic",
    "PT": r"pet|pt|suv\w*|fdg|positron",
    "NM": r"spect|scintigra\w*",
    "US": r"us|ultraso\w*|sonogra\w*|echocardiogra\w*",
    "DX": r"dx|cr|xray|ray|cxr|radiogra\w*",
    "MG": r"mg|mammogra\w*",
    "ES": r"\w*endoscop\w*|colonoscop\w*|gastroscop\w*|laparoscop\w*",
    "OP": r"fundus",
    "OPT": r"opt|oct",
    "SM": r"histo\w*|wsi",
}
SAME = {"CR": "DX", "DR": "DX", "RG": "DX", "ST": "NM"}  # which nobody keeps apart


def codes_in(entry: Any) -> tuple[str, ...]:
    """DICOM's codes for what a dataset's "modality" or "channel_names" names; none for words that are not known."""
    texts = entry.values() if isinstance(entry, Mapping) else entry if isinstance(entry, list | tuple) else [entry]
    words = {word for text in texts for word in re.findall(r"[a-z0-9]+", str(text).lower())}
    return tuple(code for code, known in WORDS.items() if any(re.fullmatch(known, word) for word in words))


def modality_of(
    cases: Sequence[Mapping[str, Any]],
    stated: Sequence[str] = (),
    channels: Sequence[int] | None = None,
    names: Sequence[str] = (),
) -> list[str] | None:
    """The key ``modality``: codes of all modalities of the training's images; ``None`` where nothing says any. Images
    that are no DICOM are of the modalities in their dataset's words, ``stated``. Where the key ``channels`` takes some
    of the channels with these ``names``, the others do not count.

    Warns of DICOM whose header contradicts the dataset.
    """
    found: set[str] = set()
    if channels is not None and names:
        stated = codes_in([names[i] for i in channels if i < len(names)]) or stated
    for case in cases:
        files = with_files_taken(case, channels).get(FILES) or [case.get("image")]
        codes = {code for file in files if isinstance(file, str | Path) and (code := code_of(Path(file)))}
        for code in codes:
            if contradicts(code, stated):
                warn_once(
                    f"{case['image']} says that it is {code}, and its dataset that it is {', '.join(stated)}: correct "
                    "the one that is wrong"
                )
        found |= codes or {*stated}
    return sorted(found) or None


def code_of(path: Path) -> str:
    """The code in a DICOM file, or in the first image of a folder; nothing where there is none."""
    with suppress(Exception):  # pydicom raises many kinds, and such a file is refused where it is loaded
        for file in sorted(path.iterdir()) if os.path.isdir(path) else [path]:
            if is_dicom(file) and not os.path.isdir(file) and not no_image(header := read_header(file)):
                code = str(header.get("Modality") or "")
                return code if re.fullmatch(CODE, code) else ""
    return ""


def contradicts(code: str, others: Iterable[str]) -> bool:
    """Whether an image of one modality is surely of none of others: all of them must be known."""
    families = {SAME.get(other, other) for other in others}
    family = SAME.get(code, code)
    return family in WORDS and bool(families) and families <= WORDS.keys() and family not in families
