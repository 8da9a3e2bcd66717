"""Folders that one process has for itself, and files that one process makes at a time."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path

from .errors import InputError
from .files import cannot_write, refuse_full

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed, which serves as well
    fcntl = None

NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # what is written in place must not lie elsewhere; Windows has no such flag
LOCK = ".in_use"  # in a folder that one process has for itself


@contextmanager
def locked(folder: str | Path, work: str) -> Iterator[None]:
    """Have a folder, which is made if it is not there, for one piece of work alone.

    The system itself gives the lock back when the process ends, however it ends: a killed one leaves nothing to clear
    away. Where a file system has no locks, the folder is used without one.

    Args:
        folder: where the work writes.
        work: what is done, for the message that others get, as ``"training"``.

    Raises:
        InputError: another process, or another place in this one, has the folder; or it cannot be written.
    """
    path = Path(folder) / LOCK
    try:
        file = take(path)
    except (BlockingIOError, PermissionError) as error:
        if isinstance(error, PermissionError) and fcntl is not None:
            raise cannot_write(path.parent, error) from error
        raise InputError(
            f"{folder} is in use by {owner(path)}: wait until that ends, or give this run another folder"
        ) from error
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    about = {"process": os.getpid(), "host": socket.gethostname(), "work": work}
    try:
        with suppress(OSError):  # a full disk, which the work itself will name
            os.truncate(file, 0)
            os.write(file, json.dumps(about | {"since": datetime.now().isoformat(" ", "seconds")}).encode())
        yield
    finally:
        if about["process"] == os.getpid():  # and not a forked child that unwinds its parent's work
            held.discard(file)
            if fcntl is None:
                os.close(file)
            with suppress(OSError):
                path.unlink()
            if fcntl is not None:
                os.close(file)  # last, so that nobody takes a file that is about to be removed


@contextmanager
def alone(target: Path, work: str) -> Iterator[Path]:
    """Have the making of a file or folder for one process alone. Gives a folder beside it, hidden and locked."""
    home = target.with_name(f".{target.name[:100]}.part")
    try:
        with locked(home, work):
            yield home
    finally:
        with suppress(OSError):  # another process has it now
            home.rmdir()


@contextmanager
def beside(target: Path, work: str) -> Iterator[Path]:
    """An empty folder beside ``target``, on its file system, for what is to take its place in the end. One process has
    it at a time, as in :func:`locked`; what is in it at the end, or was left there by a process that was killed, is
    removed. So is what a process that was killed in :func:`put_beside` had put beside the target already."""
    with alone(target, work) as home:
        part = home / "part"
        for file in part.glob("*") if not os.path.lexists(target) else ():
            with suppress(FileNotFoundError):
                if file.samefile(twin := target.with_name(file.name)):
                    twin.unlink()
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir()
            yield part
        except InputError:
            raise
        except Exception as error:  # each writer has its own where the disk is full
            refuse_full(target, error, part)
            raise
        finally:
            shutil.rmtree(part, ignore_errors=True)


def put_beside(target: Path, part: Path) -> None:
    """Move the files of :func:`beside` to where ``target`` is to be, that last. The others have both names until then,
    so what a kill leaves of them can be told from the files of others."""
    for file in (file for file in part.iterdir() if file.name != target.name):
        try:
            os.link(file, target.with_name(file.name))
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            os.replace(file, target.with_name(file.name))
    os.replace(part / target.name, target)


def hold(folder: str | Path, work: str) -> None:
    """Have a folder as :func:`locked` does until :func:`release`, or the process ends. To ask again changes nothing.
    Folders that were made for it are removed again if nothing came into them."""
    if (real := os.path.realpath(folder)) not in holds:
        made = [path for path in (Path(real), *Path(real).parents) if not os.path.exists(path)]
        with ExitStack() as stack:
            stack.callback(remove_empty, made)
            stack.enter_context(locked(folder, work))
            holds[real] = stack.pop_all()


def remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def locked_or_held(folder: str | Path, work: str) -> AbstractContextManager[None]:
    """:func:`locked`, unless this process has the folder by :func:`hold` already."""
    return nullcontext() if os.path.realpath(folder) in holds else locked(folder, work)


def release(folder: str | Path) -> None:
    """Give back a folder of :func:`hold`, if it is held."""
    holds.pop(os.path.realpath(folder), ExitStack()).close()


holds: dict[str, ExitStack] = {}
atexit.register(lambda: [release(folder) for folder in list(holds)])


def take(path: Path) -> int:
    """A descriptor of the lock's file; raises BlockingIOError (PermissionError on Windows) where another has it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            path.unlink(missing_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666)
        except FileNotFoundError:  # whoever had it has just removed the folder
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise
        except OSError:  # a file system without locks
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                held.add(file)
                return file
        os.close(file)  # its owner removed it in the meantime


held: set[int] = set()


def let_go() -> None:
    """Worker processes outlive a killed parent for a few seconds and must not keep its locks."""
    while held:
        os.close(held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=let_go)


def owner(path: Path) -> str:
    """Who has a lock, in words."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return "{work} (process {process} on {host}, since {since})".format_map(about)
    except (OSError, ValueError, TypeError, KeyError):  # not written yet, or removed by hand
        return "another process"
