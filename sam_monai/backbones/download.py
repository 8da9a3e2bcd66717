"""Downloading weights, only when a person asks for it."""

from __future__ import annotations

import os
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from ..errors import InputError
from ..files import from_home
from ..locks import alone
from .weights import KnownFile, file_sha256, how_to_get, weights_folder


def download(weights: KnownFile, folder: str | Path | None = None) -> Path:
    """Fetch the file of ``weights`` into ``folder`` (the cache folder if not given) and check its hash.

    What has arrived when a download stops is kept in ``FILENAME.part``, and the next call goes on from there. One
    process downloads a file at a time.

    Returns:
        the file's path.

    Raises:
        InputError: the weights have no address, the connection failed, other bytes arrived than expected, or
            another process is downloading them.
    """
    if not weights.url or not weights.sha256:
        raise InputError(f"{weights.name} cannot be downloaded from here: {how_to_get(weights)}")
    path = (weights_folder() if folder is None else Path(from_home(folder))) / weights.filename
    part = path.with_name(path.name + ".part")
    if path.exists():
        if (found := file_sha256(path)) != weights.sha256:
            raise InputError(
                f"{path} is there already and is not {weights.name}: its sha256 is {found} and should be "
                f"{weights.sha256}. Move it away and run this again"
            )
        return path
    with alone(path, "a download"):
        if not path.exists():  # which another process may have brought in the meantime
            _fetch_whole(weights, part, path)
    return path


def _fetch_whole(weights: KnownFile, part: Path, path: Path) -> None:
    """Bring what ``part`` lacks, and give it its name if it is what it should be."""
    try:
        _fetch(str(weights.url), part)
    except (OSError, HTTPException) as error:
        raise InputError(
            f"downloading {weights.url} to {part} failed: {error or type(error).__name__}. Check the network and the "
            f"disk and run this again, which goes on where it stopped; or bring the file by other means to {path}"
        ) from error
    if (found := file_sha256(part)) != weights.sha256:
        part.unlink()
        raise InputError(
            f"{weights.url} gave other bytes than expected and they were deleted: their sha256 is {found} and should "
            f"be {weights.sha256}. Run this again; if it stays so, do not trust that address"
        )
    os.replace(part, path)


def _fetch(url: str, part: Path) -> None:
    """Append to ``part`` what of ``url`` it lacks, or write it anew if the server only sends whole files."""
    from tqdm import tqdm

    start = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"User-Agent": "sam_monai"} | ({"Range": f"bytes={start}-"} if start else {}))
    try:
        response = urlopen(request, timeout=60)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # nothing lies beyond `start`: all of it is here
            return
        raise
    with response:
        if response.status != 206:
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with (
            open(part, "ab" if start else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem) as bar,
        ):
            while block := response.read(1 << 18):
                file.write(block)
                bar.update(len(block))
    if total is not None and part.stat().st_size < total:
        # http.client says nothing when a connection closes early.
        raise ConnectionError(f"the connection closed after {part.stat().st_size} of {total} bytes")
