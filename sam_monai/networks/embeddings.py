"""Image embeddings of a frozen encoder, computed once: kept in memory, and on disk across runs."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import uuid
from collections import OrderedDict
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
COUNT_EVERY = 64  # writes between two looks at the folder's size

logger = logging.getLogger(__name__)


def default_folder() -> Path:
    """Where embeddings are kept: in the cache folder, beside the weights."""
    return weights_folder().parent / "embeddings"


class EmbeddingCache:
    """Embeddings under a hash of the very pixels that enter the network, the base weights' hash, the image size, the
    resize rule and the precision: what is not exactly the same image prepared in the same way finds nothing.

    Entries are files of one slice each, written aside and renamed, so several processes may share a folder. One that
    cannot be read is made again. The entries used longest ago leave when there is no more room. Where the folder cannot
    be written, memory alone serves.

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
        self.entries: OrderedDict[str, Tensor] = OrderedDict()
        self.held = self.writes = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # A copied or pickled network shares the folder, and takes no gigabytes along.
        return type(self), (self.folder, self.disk_bytes, self.memory_bytes)

    def encode(self, slices: Tensor, base: Hashable, encoder: Callable[[Tensor], Tensor]) -> Tensor:
        """Embeddings (N, 256, h, w) of slices (N, C, H, W), of which only the unknown ones enter the encoder.

        Args:
            slices: as the network gets them.
            base: all that the embedding depends on besides the slice.
            encoder: (n, C, H, W) -> (n, 256, h, w), called at most once.
        """
        keys = [self.key(part, base) for part in slices]
        found = {key: embedding for key in keys if (embedding := self.find(key)) is not None}
        missing = {key: i for i, key in enumerate(keys) if key not in found}
        if missing:
            for key, embedding in zip(missing, encoder(slices[list(missing.values())]).detach(), strict=True):
                found[key] = embedding.cpu().contiguous()
                self.keep(key, found[key])
                self.write(key, found[key])
        return torch.stack([found[key] for key in keys]).to(slices.device)

    @staticmethod
    def key(part: Tensor, base: Hashable) -> str:
        part = part[:1] if part.stride(0) == 0 else part  # grey, repeated
        pixels = part.detach().cpu().contiguous()
        about = repr((FORMAT, base, tuple(part.shape), pixels.dtype)).encode()
        return hashlib.sha256(about + pixels.numpy().tobytes()).hexdigest()

    def find(self, key: str) -> Tensor | None:
        if key in self.entries:
            self.entries.move_to_end(key)
            return self.entries[key]
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
        self.entries[key] = embedding
        self.held += embedding.nbytes
        while self.held > self.memory_bytes and len(self.entries) > 1:
            self.held -= self.entries.popitem(last=False)[1].nbytes

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
        """Delete the files used longest ago where the folder holds more than it may, down to nine tenths of that."""
        assert self.folder is not None
        files = []
        for file in os.scandir(self.folder):
            if not OURS.fullmatch(file.name):
                continue
            try:
                status = file.stat()
                files.append((status.st_mtime, status.st_size, file.path))
            except FileNotFoundError:  # another process was faster
                continue
        total = sum(size for _, size, _ in files)
        if total <= self.disk_bytes:
            return
        for _, size, path in sorted(files):
            if total <= 0.9 * self.disk_bytes:
                break
            Path(path).unlink(missing_ok=True)
            total -= size
