"""The parts of a `dataset.json`, each read and checked."""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import parse_json
from ..networks.fields import RUN
from .channels import FILES, case_of
from .modality import WORDS, code_of
from .names import PICTURE_SUFFIXES, folded
from .unlabelled import NAME, is_ignored

LONGEST_NAME = 200  # of a label
# How the value 0 is called, in the languages of those who label. Anything else is a structure that would be lost.
BACKGROUND = re.compile(
    r"|0|.*back ?ground.*|bg|none|nothing|null|others?|rest|void|empty|outside|exterior|air|unknown|unassigned|"
    r"(no|clear|un|not)[ _-]?(label|labell?ed|class|segmented)|hintergrund|(arriere|arrière)-plan|fond|fondo|sfondo|"
    r"achtergrond|фон|背景|배경"
)

_COLOURS = r"rgb|r|g|b|red|green|blue|colou?r|photo\w*|picture|\w*scop[iy]\w*"
_INTENSITY_WORDS = {
    "ct": WORDS["CT"],
    "mr": WORDS["MR"],
    "picture": "|".join([_COLOURS, *(WORDS[code] for code in ("ES", "OP", "SM"))]),
}


class NotParsed(InputError):
    """A file that does not hold the JSON, or the table, that is looked for."""


def parse(file: Path, kind: type = dict) -> Any:
    """The object, or the list where ``kind`` is that, of a JSON file."""
    try:
        content = parse_json(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as e:
        raise NotParsed(f"{file}: broken JSON at line {e.lineno}, column {e.colno}: {e.msg}; correct it") from e
    except (OSError, UnicodeDecodeError) as e:
        raise NotParsed(f"{file}: cannot be read ({e}); save it as a UTF-8 text file") from e
    except RecursionError as e:
        raise NotParsed(f"{file}: is nested too deep; write a plain list of cases") from e
    except ValueError as e:  # a key twice, a number of thousands of digits
        raise NotParsed(f"{file}: cannot be read ({e}); correct it") from e
    if not isinstance(content, kind):
        shape = 'one JSON object, {"labels": ..., "training": [...]}' if kind is dict else "one JSON list"
        raise NotParsed(f"{file}: must hold {shape}")
    return content


def labels_of(entry: Any, file: Path) -> tuple[str, ...]:
    remedy = 'write "labels": {"0": "background", "1": "first label", "2": "second label"}'
    if not isinstance(entry, dict) or not entry:
        raise InputError(f'{file}: the key "labels" is missing or no object; {remedy}')
    if all(isinstance(v, int) and not isinstance(v, bool) for v in entry.values()):
        names = {value: name for name, value in entry.items()}
    elif all(isinstance(v, str) and k.strip().isdecimal() and len(k) < 9 for k, v in entry.items()):
        names = {int(k): v for k, v in entry.items()}
    else:
        raise InputError(f'{file}: "labels" does not give each label a whole number and a name; {remedy}')
    if len(names) < len(entry) or sorted(names) != list(range(len(names))) or len(names) < 2:
        found = ", ".join(str(k)[:20] for k in sorted(names)[:20])
        raise InputError(
            f'{file}: "labels" has the values {found}; they must be 0 (the background), 1, 2, ... '
            f"without a gap, in the label files too; {remedy}"
        )
    foreground = tuple(names[value].strip() for value in range(1, len(names)))
    odd = [name for name in foreground if len(name) > LONGEST_NAME or not name.isprintable()]
    if odd:
        raise InputError(
            f"{file}: the label {odd[0][:50]!r}... is not a valid name; give up to {LONGEST_NAME} printable characters"
        )
    if acted_upon := [name for name in foreground if RUN.match(name)]:
        raise InputError(
            f"{file}: the label {acted_upon[0]!r} is one that a configuration would run or look up, like those "
            "that begin with $, @ or %; rename it"
        )
    if not BACKGROUND.fullmatch(folded(names[0].strip())):
        raise InputError(
            f'{file}: "labels" gives the value 0 to {names[0][:50]!r}, and 0 is the background, which is not learned; '
            "if that is a structure, number the labels from 1 on, in the label files too, else call it background: "
            f"{remedy}"
        )
    background, *others = (folded(names[value].strip()) for value in range(len(names)))
    if "" in others or len({background, *others}) <= len(foreground):
        raise InputError(f'{file}: "labels" has an empty name or the same name twice; give each label its own name')
    if any(map(is_ignored, foreground[:-1])) or all(map(is_ignored, foreground)):
        raise InputError(
            f'{file}: "labels" gives unlabelled voxels, "{NAME}", a value that is not the highest of several; '
            "number the labels 1, 2, ... and give it the next value"
        )
    return foreground


def cases_of(content: dict[str, Any], key: str, file: Path, wanted: tuple[str, ...]) -> list[dict]:
    entries = content.get(key) or []
    shape = " and ".join(f'"{k}"' for k in wanted)
    if not isinstance(entries, list):
        raise InputError(f'{file}: "{key}" must be a list of objects with {shape}')
    cases = []
    for number, entry in enumerate(entries):
        if wanted == ("image",) and isinstance(entry, str):
            entry = {"image": entry}
        if not isinstance(entry, dict) or not all(_is_path(entry.get(k), k == "image") for k in wanted):
            raise InputError(
                f'{file}: entry {number} of "{key}" is {reprlib.repr(entry)}; '
                f"it must give {shape} as paths relative to the folder (a list of them for an image of several files)"
            )
        image = [entry["image"]] if isinstance(entry["image"], str) else entry["image"]
        paths = case_of([located(file.parent, one) for one in image])
        paths |= {k: located(file.parent, entry[k]) for k in wanted if k != "image"}
        if len({*paths.get(FILES, [])}) < len(paths.get(FILES, [])):
            raise InputError(
                f'{file}: entry {number} of "{key}" lists a file of its image twice; list each channel once'
            )
        cases.append({**paths, "fold": entry["fold"]} if "label" in wanted and "fold" in entry else paths)
    return cases


def located(folder: Path, path: str) -> str:
    """The absolute path of a file that a list names, perhaps as Windows does."""
    found = os.path.abspath(folder / path)
    other = os.path.abspath(folder / path.replace("\\", "/"))
    return other if not os.path.exists(found) and os.path.exists(other) else found


def _is_path(value: object, or_several: bool = False) -> bool:
    if or_several and isinstance(value, list):
        return bool(value) and all(map(_is_path, value))
    try:
        return isinstance(value, str) and bool(value) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False


def intensities_of(names: Sequence[str], usual: Sequence[str]) -> str | list[str]:
    """What the numbers of each of an image's channels are, by their names, or else as is ``usual`` for each; one word
    where they are all alike."""
    kinds = [_kind([name]) or other for name, other in zip(names, usual, strict=True)]
    return kinds if len({*kinds}) > 1 else kinds[0]


def unstated(entry: Any) -> str:
    """Why the kind of an image's numbers is not known from the "modality"."""
    return f"modality {str(entry)[:200]} says neither CT, MR nor RGB" if entry else "no list says CT, MR or RGB"


def stated_kind(entry: Any, file: Path) -> str | None:
    """The kind of numbers that a "modality" names, if it is one."""
    texts = list(entry.values()) if isinstance(entry, dict) else entry if isinstance(entry, list) else [entry or ""]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f'{file}: "modality" must name each channel, as in {{"0": "CT"}} or {{"0": "RGB"}}')
    return _kind(texts)


def usual_intensity(image: str) -> str:
    """What the numbers of an image are where nothing says it."""
    if image.lower().endswith(PICTURE_SUFFIXES):
        return "picture"
    return "ct" if code_of(Path(image)) == "CT" else "mr"


def _kind(texts: Iterable[str]) -> str | None:
    words = {word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower())}
    kinds = {kind for kind, known in _INTENSITY_WORDS.items() for word in words if re.fullmatch(known, word)}
    return kinds.pop() if len(kinds) == 1 else None
