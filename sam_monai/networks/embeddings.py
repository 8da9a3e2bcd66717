"""Image embeddings of a frozen encoder, computed once: kept in memory, and on disk across runs."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..backbones.weights import weights_folder

OURS = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]{32}\.part|\.safetensors)")  # names of files that may be deleted
FORMAT = "1"  # of an entry; another number makes every entry anew
ADMITTED = 1 / 16  # of new entries, where memory is full
RECENT = 86400.0  # seconds; files used within them are deleted last
COUNT_EVERY = 64  # writes between two looks at the folder's size

logger = logging.getLogger(__name__)


def default_folder() -> Path:
    """Where embeddings are kept: in the cache folder, beside the weights."""
    return weights_folder().parent / "embeddings"


class EmbeddingCache:
    """Embeddings under a hash of the very pixels that enter the network and of all else that they depend on: the
    encoder's code, the base weights' hash, the image size, the resize rule and the precision. What is not exactly the
    same image prepared in the same way finds nothing.

    Entries are files of one slice each, written aside and renamed, so several processes may share a folder, and several
    threads a cache. One that cannot be read is made again. Where the folder cannot be written, memory alone serves.

    Training passes over its data again and again. Where those are larger than the room, dropping what was used longest
    ago would drop every entry just before its turn. So full memory mostly keeps what it has, and a new entry takes the
    place of any other; on disk any file may leave, those not used for a day first.

    Args:
        folder: of the files; made when the first is written. ``None``: memory alone.
        disk_bytes: room on disk.
        memory_bytes: room in memory.
    """

    def __init__(
        self, folder: str | Path | None = None, disk_bytes: int = 20 * 2**30, memory_bytes: int = 4 * 2**30
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.disk_bytes, self.memory_bytes = disk_bytes, memory_bytes
        self.entries: dict[str, Tensor] = {}
        self.held = self.writes = 0
        self.lock, self.random = threading.Lock(), random.Random(0)  # of its own: seeds of a training stay theirs

    def __reduce__(self) -> tuple[Any, ...]:
        # A copied or pickled network shares the folder, and takes no gigabytes along.
        return type(self), (self.folder, self.disk_bytes, self.memory_bytes)

    def encode(self, slices: Tensor, base: Hashable, encoder: Callable[[Tensor], Tensor]) -> Tensor:
        """Embeddings (N, 256, h, w) of slices (N, C, H, W). If any is unknown, all enter the encoder: the last bits of
        a slice's depend on how many there are, and a training that was killed meanwhile goes on as if it was not.

        Args:
            slices: as the network gets them.
            base: all that the embedding depends on besides the slice, the code that makes it included.
            encoder: (n, C, H, W) -> (n, 256, h, w), called at most once.
        """
        keys = [self.key(part, base) for part in slices]
        found = {key: embedding for key in keys if (embedding := self.find(key)) is not None}
        places = {key: i for i, key in enumerate(keys)}
        if len(found) < len(places):
            for key, embedding in zip(places, encoder(slices[list(places.values())]).detach(), strict=True):
                if key not in found:
                    found[key] = embedding.cpu().contiguous()
                    self.keep(key, found[key])
                    self.write(key, found[key])
        return torch.stack([found[key] for key in keys]).to(slices.device)

    @staticmethod
    def key(part: Tensor, base: Hashable) -> str:
        part = part[:1] if part.stride(0) == 0 else part  # grey, repeated
        pixels = part.detach().cpu().contiguous()
        about = repr((FORMAT, base, tuple(part.shape), pixels.dtype)).encode()
        return hashlib.sha256(about + pixels.view(torch.uint8).numpy().tobytes()).hexdigest()

    def find(self, key: str) -> Tensor | None:
        known = self.entries.get(key)
        if known is not None:
            return known
        if self.folder is None:
            return None
        path = self.path(key)
        try:
            embedding = load_file(path)["embedding"].clone()
        except (OSError, SafetensorError, KeyError):
            return None
        with suppress(OSError):  # a folder that may only be read
            os.utime(path)
        self.keep(key, embedding)
        return embedding

    def keep(self, key: str, embedding: Tensor) -> None:
        with self.lock:
            full = self.held + embedding.nbytes > self.memory_bytes
            if key in self.entries or (full and self.random.random() > ADMITTED):
                return
            while self.entries and self.held + embedding.nbytes > self.memory_bytes:
                self.held -= self.entries.pop(self.random.choice(list(self.entries))).nbytes
            if self.held + embedding.nbytes <= self.memory_bytes:
                self.entries[key] = embedding
                self.held += embedding.nbytes

    def path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}.safetensors"

    def write(self, key: str, embedding: Tensor) -> None:
        if self.folder is None:
            return
        path = self.path(key)
        part = path.with_name(f"{key}.{uuid.uuid4().hex}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({"embedding": embedding}, part)
            os.replace(part, path)
            if self.writes % COUNT_EVERY == 0:
                self.make_room()
            self.writes += 1
        except (OSError, SafetensorError) as error:
            if part.is_file():
                part.unlink()
            logger.warning("%s: embeddings cannot be kept there (%s); they are kept in memory", self.folder, error)
            self.folder = None

    def make_room(self) -> None:
        """Delete files where the folder holds more than it may, down to nine tenths of that."""
        assert self.folder is not None
        files = []
        for file in os.scandir(self.folder):
            if not OURS.fullmatch(file.name):
                continue
            try:
                status = file.stat()
                recent = time.time() - status.st_mtime < RECENT
                files.append((recent, self.random.random(), status.st_size, file.path))
            except FileNotFoundError:  # another process was faster
                continue
        total = sum(size for *_, size, _ in files)
        if total <= self.disk_bytes:
            return
        for *_, size, path in sorted(files):
            if total <= 0.9 * self.disk_bytes:
                break
            Path(path).unlink(missing_ok=True)
            total -= size
