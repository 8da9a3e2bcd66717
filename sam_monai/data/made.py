"""Which files this package made, so that none of them is taken for an image or a label."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

LISTS = "written"  # a folder within each folder of results, which lists them
Written = dict[str, dict[str, set[str]]]  # file's name in lower case -> case -> hashes of what was written


_read: dict[Path, tuple[dict[Path, tuple[int, int]], Written]] = {}  # of a folder: which bytes of its lists, and what


def written(folder: Path) -> Written:
    """What :class:`sam_monai.inference.outputs.Outputs` wrote to a folder. Its lists only grow, and of ten thousand
    results each is asked for: of a list that is known the new lines are read."""
    files = sorted((folder / LISTS).glob("*.jsonl"))
    known, listed = _read.get(folder, ({}, {}))
    if not known.keys() <= {*files} or any(is_another(file, *known[file]) for file in known):
        known, listed = {}, {}
    for file in files:
        with suppress(OSError), file.open("rb") as lines:
            inode, begin = known.get(file, (os.fstat(lines.fileno()).st_ino, 0))
            lines.seek(begin)
            new = lines.read().rpartition(b"\n")[0]  # another process may write the last line
            known[file] = (inode, begin + len(new))
            for line in new.decode(errors="replace").splitlines():
                with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    entry = json.loads(line)
                    of = listed.setdefault(entry["file"].casefold(), {})
                    of.setdefault(entry["case"], set()).add(entry["sha256"])
    _read[folder] = known, listed
    return listed


def is_another(file: Path, inode: int, size: int) -> bool:
    """Whether a list is not the one that was read so far."""
    try:
        found = file.stat()
    except OSError:
        return True
    return found.st_ino != inode or found.st_size < size


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


def holds_outputs_alone(path: Path, known: dict[Path, Written]) -> bool:
    """Whether a file is a result or a list of results, or a folder holds no other files."""
    if path.is_dir():
        try:
            return all(holds_outputs_alone(file, known) for file in path.iterdir() if file.is_file())
        except OSError:  # nobody can read it, so nobody knows
            return False
    return (path.parent.name == LISTS and path.suffix == ".jsonl") or is_output(path, known) == ""


def digest(path: Path) -> str:
    """SHA-256 of a file; nothing that is listed where it is no file that can be read."""
    if path.is_file():  # and no pipe, which would never end
        with suppress(OSError), path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return "unreadable"
