"""Which files this package made, so that none of them is taken for an image or a label."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

LISTS = "written"  # a folder within each folder of results, which lists them
Written = dict[str, dict[str, set[str]]]  # file's name in lower case -> case -> hashes of what was written


def written(folder: Path) -> Written:
    """What :class:`sam_monai.inference.outputs.Outputs` wrote to a folder."""
    listed: Written = {}
    for file in sorted((folder / LISTS).glob("*.jsonl")):
        with suppress(OSError):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    entry = json.loads(line)
                    of = listed.setdefault(entry["file"].casefold(), {})
                    of.setdefault(entry["case"], set()).add(entry["sha256"])
    return listed


def is_output(file: str | Path, known: dict[Path, Written]) -> str | None:
    """Whether a file has the name of a result in its folder or one above. ``None`` if not; "" if it is that result;
    else, where its content is another, the reason why it is taken for no image. ``known`` keeps what :func:`written`
    says of folders."""
    path = Path(file)
    for folder in path.parents:
        if folder not in known:
            known[folder] = written(folder)
        of = known[folder].get(os.path.relpath(path, folder).casefold())
        if of is not None:
            if any(digest(path) in hashes for hashes in of.values()):
                return ""
            return f"has the name of a result of {next(iter(of)) or 'an earlier run'} and has been changed since"
    return None


def digest(path: Path) -> str:
    """SHA-256 of a file; nothing that is listed where it is no file that can be read."""
    if path.is_file():  # and no pipe, which would never end
        with suppress(OSError), path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return "unreadable"
