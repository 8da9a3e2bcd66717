"""Damage to files at random, by a seed: bytes, parts, and values of a structure."""

from __future__ import annotations

import copy
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from sam_monai.errors import input_error_in

EXTREMES = (b"\0" * 8, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\x80\0\0\0", b"\0\0\0\x80")
ODD = (None, True, -1, 0, 1, 2**31, 2**70, 1e308, float("nan"), float("inf"), "", "$__import__('os').abort()", "@x",
       "a" * 300, "é\u202e\0", [], {}, [[]], [None], {"_target_": "os.abort"}, [1, 2, 3], "\ud800")  # fmt: skip
LIMIT = 10  # seconds for one file
STARTED = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn", "socket.connect")
watched: list[str] | None = None


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The same with a few bytes changed, cut, added, moved or made extreme; half of the time near the beginning, where
    headers are."""
    content = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        end = max(1, min(len(content), 600 if rng.random() < 0.5 else len(content)))
        at, size = int(rng.integers(end)), int(rng.integers(1, 17))
        match rng.integers(6):
            case 0 | 1:
                content[at : at + 1] = rng.bytes(1)
            case 2:
                extreme = EXTREMES[rng.integers(len(EXTREMES))]
                content[at : at + len(extreme)] = extreme
            case 3:
                del content[at:]
            case 4:
                content[at:at] = rng.bytes(size)
            case 5:
                other = int(rng.integers(len(content)))
                content[at : at + size] = content[other : other + size]
        if not content:
            break
    return bytes(content)


def changed(value: Any, rng: np.random.Generator) -> Any:
    """The same JSON with one of its values replaced, left out, repeated or wrapped."""
    value = copy.deepcopy(value)
    places = list(nodes(value))
    parent, key = places[rng.integers(len(places))]
    match rng.integers(5):
        case 0:
            del parent[key]
        case 1:
            parent[key] = [parent[key]] * int(rng.integers(1, 4))
        case 2 if isinstance(parent, dict):
            parent[str(ODD[rng.integers(len(ODD))])] = parent.pop(key)
        case _:
            parent[key] = copy.deepcopy(ODD[rng.integers(len(ODD))])
    return value


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from nodes(value[key])


def outcome(read: Callable[[], Any]) -> str:
    """What the user is told of a file that is refused, or nothing where it is read. Any other exception is raised, and
    so is a hang, or whatever starts a program or a connection."""
    global watched
    watched = []
    try:
        with limited():
            read()
            said = ""
    except Exception as error:
        found = input_error_in(error)
        if found is None:
            raise
        said = str(found)
        assert said, "refused without a word"
        assert "\n" not in said.strip("\n") and "Traceback" not in said and len(said) < 3000, said
    started, watched = watched, None
    assert not started, started
    return said


@contextmanager
def limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt(f"took more than {LIMIT} s")  # which no handler of errors takes for one

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def watch(event: str, _: tuple) -> None:
    if watched is not None and event in STARTED:
        watched.append(event)


sys.addaudithook(watch)
