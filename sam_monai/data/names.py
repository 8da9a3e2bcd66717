"""Short names for cases, for files and tables, of which no two are alike."""

from __future__ import annotations

from pathlib import Path

from .dataset import PICTURE_SUFFIXES, VOLUME_SUFFIXES


class CaseNames:
    """Names files by what is left without a known suffix, and longer where that is taken by another file."""

    def __init__(self) -> None:
        self.files: dict[str, Path] = {}

    def __call__(self, file: str | Path) -> str:
        """The name of a file; always the same for the same file."""
        file = Path(file)
        suffixes = sorted((*VOLUME_SUFFIXES, *PICTURE_SUFFIXES, ".dcm"), key=len, reverse=True)
        suffix = next((s for s in suffixes if file.name.lower().endswith(s)), "")
        stem = file.name[: len(file.name) - len(suffix)]
        for name in (stem, f"{file.parent.name}_{stem}", file.name, "_".join(file.parts[1:])):
            if self.files.setdefault(name, file) == file:
                return name
        return stem
