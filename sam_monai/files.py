"""Files that are whole or not there, whoever else writes and whatever fails on the way."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)
STALE = 3600.0  # seconds after which a part was left by a process that was killed


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """The path of a new file beside ``path``, to be written within; it then takes the place of ``path`` in one step.

    A kill leaves the previous file whole. Each call has a name of its own, so two processes may write the same file:
    the last one to finish wins, and no reader finds half of one. Whatever fails, the part written so far is removed.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    suffix = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix  # writers go by it
    ours = f".{hashlib.sha256(path.name.encode()).hexdigest()[:12]}."  # a name's own length might leave no room
    part = path.with_name(f"{ours}{uuid.uuid4().hex[:12]}{suffix}")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for left in path.parent.glob(f"{ours}*"):
                with suppress(FileNotFoundError):  # another process has just finished it
                    if time.time() - left.stat().st_mtime > STALE:
                        left.unlink()
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError as error:
            raise cannot_write(path, error, part) from error
        except Exception as error:  # torch and safetensors raise their own where the disk is full
            refuse_full(path, error, part)
            raise
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError, part: Path | None = None) -> InputError:
    """The error for people of a file or folder that cannot be written, and what to do about it."""
    if error.errno in FULL:
        folder = next(folder for folder in (path, *path.parents) if folder.is_dir())
        files = [] if part is None else [file for file in (part, *part.rglob("*")) if file.is_file()]
        done = sum(file.stat().st_size for file in files)
        free = shutil.disk_usage(folder).free
        return InputError(
            f"{path}: the disk is full, {free / 2**20:.0f} MB are left and more than {done / 2**20:.0f} MB are needed; "
            "make room and run the same command again. What was there before is unchanged"
        )
    return InputError(f"{path}: cannot be written ({error.strerror or error}); name another folder or mend its rights")


def refuse_full(path: Path, error: Exception, part: Path) -> None:
    """Raise the error for people where a full disk is behind another one, of whatever kind."""
    full = isinstance(error, OSError) and error.errno in FULL
    if full or (part.exists() and shutil.disk_usage(part.parent).free < 2**20):
        raise cannot_write(path, OSError(errno.ENOSPC, "the disk is full"), part) from error


def check_writable(folder: str | Path, name: str) -> None:
    """Find out before the work whether files can be written to a folder, which is made if it is not there. ``name`` is
    the key that says which folder, for the message."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".") as probe:  # a name that no file here has
            probe.write(b"0")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written, so the key {name} needs another folder ({error})") from error


def save_aside(obj: Any, path: Path) -> None:
    """``torch.save`` through :func:`aside`."""
    import torch

    with aside(path) as part:
        torch.save(obj, part)


def write_aside(content: str | bytes, path: Path) -> None:
    """Text in UTF-8, or bytes, through :func:`aside`."""
    with aside(path) as part:
        part.write_bytes(as_bytes(content) if isinstance(content, str) else content)


def as_bytes(text: str) -> bytes:
    """UTF-8. What a file's name holds that is no UTF-8 is escaped, as JSON reads it again."""
    return text.encode(errors="backslashreplace")


def write_json(content: Any, path: Path) -> None:
    """JSON through :func:`aside`, in ASCII: MONAI reads configurations in the encoding of the system."""
    write_aside(json.dumps(content, indent=4) + "\n", path)


def parse_json(text: str) -> Any:
    """What JSON says. A ValueError also for a key that is there twice, of which Python would take the last value."""

    def one_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r:.80} is there twice")
        return found

    return json.loads(text, object_pairs_hook=one_of_each)


def from_home(path: str | Path) -> str:
    """A path that may begin with ``~/``, as a shell leaves it behind ``--key=``. A name such as ``~old`` is a name."""
    return os.path.expanduser(path) if re.match(r"~($|[/\\])", str(path)) else str(path)


def refuse_existing(*paths: Path) -> None:
    """Refuse to write where a file is, whatever it holds."""
    for path in paths:
        if os.path.lexists(path):
            raise InputError(f"{path} is there already and stays as it is: name another file, or move it away")
