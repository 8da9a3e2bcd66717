"""Short names for cases, for files and tables, of which no two can be mistaken for each other."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
IMAGE_SUFFIXES = PICTURE_SUFFIXES + VOLUME_SUFFIXES
# Files that nobody takes for an image: text, records, what systems leave behind, and the data beside .mhd.
OTHER_SUFFIXES = (
    ".txt", ".md", ".rst", ".json", ".csv", ".tsv", ".xml", ".html", ".htm", ".pdf", ".log", ".yaml", ".yml", ".py",
    ".sh", ".ini", ".inf", ".db", ".bval", ".bvec", ".raw", ".raw.gz", ".zraw", ".pt", ".exe",
)  # fmt: skip
SYSTEMS = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information", "#recycle", "@eaDir", "lost+found")
MARK = "_seg"  # what is added to a case's name in the name of its mask
LONGEST = 180  # bytes: file systems take 255, and suffixes are added
RESERVED = r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?"  # on Windows, whatever the suffix
SUFFIXES = sorted((*VOLUME_SUFFIXES, *PICTURE_SUFFIXES, ".dcm"), key=len, reverse=True)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that a system or a program keeps for itself, such as what was thrown away."""
    return name.startswith(".") or name in SYSTEMS


class CaseNames:
    """Names files by what is left without a known suffix, and longer where that is taken by another file.

    Two files never have the same name, nor names that differ in case or in Unicode's form alone, which some file
    systems take for the same. No name ends in :data:`MARK`, so the mask of one case never has the name of another.

    The tree of the folder ``top`` is kept: a picture or volume in a folder within it has a name like ``folder/stem``.
    DICOM is named by its series.
    """

    def __init__(self) -> None:
        self.top: Path | None = None
        self.files: dict[str, Path] = {}
        """Whom a name belongs to. Names from an earlier run may be added before the first call."""
        self._names: dict[Path, str] = {}
        self._taken: set[str] = set()

    def __call__(self, file: str | Path) -> str:
        """The name of a file; always the same for the same file."""
        file = Path(file)
        if len(self._names) != len(self.files):  # some were added
            for name, owner in self.files.items():
                self._names.setdefault(owner, name)
                self._taken.add(folded(name))
        if file not in self._names:
            tree = _tree(file, self.top)
            name = next(tree + name for name in _candidates(file) if self._free(name, tree))
            self.files[name], self._names[file] = file, name
            self._taken.add(folded(name))
        return self._names[file]

    def _free(self, name: str, tree: str) -> bool:
        """Whether a name is a good one that no file in the same folder has."""
        good = name.strip(". ") and name.isprintable() and len(name.encode(errors="replace")) <= LONGEST
        good = good and not re.fullmatch(RESERVED, name, re.IGNORECASE)
        return bool(good) and not name.casefold().endswith(MARK) and folded(tree + name) not in self._taken


def told_apart(files: Sequence[str | Path], among: Sequence[str | Path] = ()) -> list[str]:
    """Names of files, each with as many of the folders above as tell all of them, and those ``among`` which they are,
    apart: where each case has a folder, its image is called like all others."""
    parts = {Path(file).parts for file in (*files, *among)}
    longest = max(map(len, parts), default=1)
    length = next((n for n in range(1, longest) if len({each[-n:] for each in parts}) == len(parts)), longest)
    return [Path(*Path(file).parts[-length:]).as_posix() for file in files]


def stem_of(file: Path) -> str:
    """A file's name without a known suffix."""
    suffix = next((s for s in SUFFIXES if file.name.lower().endswith(s)), "")
    return file.name[: len(file.name) - len(suffix)]


def _tree(file: Path, top: Path | None) -> str:
    """The folders between ``top`` and a picture or volume, with a slash at the end."""
    if top is None or top not in file.parent.parents:
        return ""
    tree = f"{file.parent.relative_to(top).as_posix()}/"
    return tree if tree.isprintable() and file.name.lower().endswith(IMAGE_SUFFIXES) else ""


def _candidates(file: Path) -> Iterator[str]:
    stem = stem_of(file)
    yield from (stem, f"{file.parent.name}_{stem}", file.name)
    digest = hashlib.sha256(str(file).encode(errors="surrogateescape")).hexdigest()
    short = "".join(c for c in stem if c.isprintable()).encode(errors="replace")[: LONGEST - 20].decode(errors="ignore")
    yield from (f"{short}-{digest[:length]}" for length in (8, 12))


def folded(name: str) -> str:
    """A name without what some systems, and people, do not see: capitals, and Unicode's forms of one letter."""
    return unicodedata.normalize("NFKC", name).casefold()
