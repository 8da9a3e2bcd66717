"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def aside(path: Path) -> Iterator[IO[bytes]]:
    """A file to write under another name, then renamed: a kill leaves the previous file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def save_aside(obj: Any, path: Path) -> None:
    """``torch.save`` under another name, then renamed: a kill leaves the previous file."""
    import torch

    with aside(path) as file:
        torch.save(obj, file)
