"""A MONAI Label server under load: every answer is that of its own request, and memory stays flat."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
from monai_label_server import PYTHON, Server, centre, start_server

pytestmark = [
    pytest.mark.monai_label,
    pytest.mark.skipif(not PYTHON, reason="MONAI_LABEL_PYTHON names no python with MONAI Label"),
]
REQUESTS = 100
MOST_GROWTH = 150  # MiB of the server's process after its warm-up; a leaked volume per request would be more
Request = tuple[str, str, dict]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = start_server(tmp_path_factory.mktemp("monai_label"), {"ptsam": 20, "medsa": 8})
    yield running
    running.stop()


def good_requests(server: Server) -> list[Request]:
    """Of several users: other images, other models, other prompts."""
    asked: list[Request] = []
    for image in ("c", "d", "flipped"):
        on, beside = centre(server, 1, image), centre(server, 2, image)
        asked += [("ptsam", image, {}), ("medsa", image, {})]
        asked += [("medsa_deepgrow", image, {"foreground": [on], "background": [beside]})]
        asked += [("medsa_deepgrow", image, {"foreground": [beside]})]
    return asked


BROKEN: list[Request] = [
    ("medsa_deepgrow", "d", {"foreground": [[500, 3, 2]]}),
    ("medsa_deepgrow", "c", {"foreground": [[1, 2]]}),
    ("ptsam", "no such image", {}),
    ("medsa_deepgrow", "d", {"foreground": [[float("nan"), 3, 2]]}),
]


def mixed(good: list[Request], number: int) -> Iterator[Request]:
    """Of five requests one is broken."""
    for i in range(number):
        yield BROKEN[i // 5 % len(BROKEN)] if i % 5 == 4 else good[(7 * i) % len(good)]


def answer(server: Server, request: Request) -> bytes | int:
    """The mask's voxels, or the status of a refusal."""
    model, image, params = request
    found = server.ask(model, image, **params)
    if found.status_code != 200:
        return found.status_code
    mask = nib.Nifti1Image.from_bytes(gzip.decompress(found.content))
    return np.asarray(mask.dataobj).astype(np.uint8).tobytes()


@pytest.mark.parametrize("users", [1, 8])
def test_every_answer_is_that_of_its_own_request(server, users):
    good = good_requests(server)
    alone = {repr(request): answer(server, request) for request in good}
    assert all(isinstance(mask, bytes) for mask in alone.values())
    assert len(set(alone.values())) > 6  # so another request's answer would be seen
    with ThreadPoolExecutor(users) as pool:
        list(pool.map(lambda request: answer(server, request), mixed(good, 2 * users)))  # threads and buffers are made
        before = server.memory()
        asked = list(mixed(good, REQUESTS))
        answers = list(pool.map(lambda request: answer(server, request), asked))
    wrong = [r for r, a in zip(asked, answers, strict=True) if r not in BROKEN and a != alone[repr(r)]]
    assert not wrong, f"{len(wrong)} of {REQUESTS}: {wrong[:5]}"
    refused = [a for r, a in zip(asked, answers, strict=True) if r in BROKEN]
    assert all(isinstance(status, int) and 400 <= status < 600 for status in refused)
    grown = server.memory() - before
    assert grown < MOST_GROWTH, f"{grown:.0f} MiB"
    assert server.process.poll() is None and answer(server, good[0]) == alone[repr(good[0])]
