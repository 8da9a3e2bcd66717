"""A real MONAI Label server on the bundles, driven over HTTP as 3D Slicer and OHIF drive it, alone and under load."""

from __future__ import annotations

import gzip
import io
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests
from monai_label_server import PYTHON, Server, centre, start_server, truth
from nibabel.affines import apply_affine
from PIL import Image

pytestmark = [
    pytest.mark.monai_label,
    pytest.mark.skipif(not PYTHON, reason="MONAI_LABEL_PYTHON names no python with MONAI Label"),
]
REQUESTS = 100
MOST_GROWTH = 150  # MiB of the server's process after its warm-up; a leaked volume per request would be more
Request = tuple[str, str, dict]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = start_server(tmp_path_factory.mktemp("monai_label"))
    yield running
    running.stop()


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def same_grid(mask: nib.Nifti1Image, file: Path) -> bool:
    image = nib.load(file)
    corners = np.array([[0, 0, 0], [n - 1 for n in image.shape]])
    return mask.shape == image.shape and np.allclose(
        apply_affine(mask.affine, corners), apply_affine(image.affine, corners), atol=1e-3
    )


def test_every_bundle_is_listed_with_its_labels(server):
    models = requests.get(f"{server.url}/info/", timeout=60).json()["models"]
    assert set(server.models) <= set(models)
    for name in {*server.models} - {"pictures"}:
        assert set(models[name]["labels"]) == {"bright", "dark"}
    assert models["medsa_deepgrow"]["type"] == "deepgrow" and models["ssam"]["type"] == "segmentation"


@pytest.mark.parametrize("image", ["d", "flipped"])
@pytest.mark.parametrize("model", ["ssam", "ptsam", "medsa"])
def test_masks_come_back_in_the_files_own_grid(server, model, image):
    mask = server.mask(model, image)
    assert same_grid(mask, server.studies / f"{image}.nii.gz")
    found, there = np.asarray(mask.dataobj), truth(server, image)
    assert set(np.unique(found)) <= {0, 1, 2}
    assert dice(found == 1, there == 1) > 0.5


def test_the_mask_of_a_picture_is_a_picture_of_its_rows_and_columns(server):
    answer = server.ask("pictures", "p0")
    assert answer.status_code == 200, answer.text + server.log.read_text()[-4000:]
    mask, there = np.asarray(Image.open(io.BytesIO(answer.content))), np.zeros((40, 60), bool)
    there[5:15, 30:50] = True
    assert mask.shape == there.shape and dice(mask == 1, there) > 0.8
    answer = server.ask("pictures", "p0", result_extension=".nii.gz")
    volume = nib.Nifti1Image.from_bytes(gzip.decompress(answer.content))
    assert np.array_equal(np.asarray(volume.dataobj)[..., 0].T, mask)
    assert np.allclose(volume.affine, np.diag([-1, -1, 1, 1]))  # as ITK, and so 3D Slicer, places the picture


@pytest.mark.parametrize("image", ["d", "flipped"])
def test_the_mask_is_where_the_click_was_and_not_where_it_was_not(server, image):
    for label, other in [(1, 2), (2, 1)]:
        on, beside = centre(server, label, image), centre(server, other, image)
        clicks = {"foreground": [on], "background": [beside]}
        mask = server.mask("medsa_deepgrow", image, label=["bright", "dark"][label - 1], **clicks)  # as 3D Slicer does
        found = np.asarray(mask.dataobj)
        assert same_grid(mask, server.studies / f"{image}.nii.gz")
        assert found[tuple(on)] == 1 and found[tuple(beside)] == 0
        assert dice(found == 1, truth(server, image) == label) > 0.5


def test_a_second_click_is_faster_than_the_first(server):
    server.mask("medsa_deepgrow", "c", foreground=[centre(server, 1, "c")])  # the network is loaded
    times = []
    for click in ([0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1]):
        started = time.perf_counter()
        server.mask("medsa_deepgrow", "d", foreground=[[a + b for a, b in zip(centre(server, 1), click, strict=True)]])
        times.append(time.perf_counter() - started)
    print(f"first click {times[0]:.2f} s, further clicks {min(times[1:]):.2f} s")
    assert min(times[1:]) < times[0]


@pytest.mark.parametrize(
    "params, message",
    [
        ({"foreground": [[500, 3, 2]]}, "outside"),
        ({"foreground": [["here"]]}, "points"),
        ({"background": [[3, 3]]}, "points"),
        ({"foreground": [[float("nan"), 3, 2]]}, "finite"),
        ({"foreground": "here"}, "lists of points"),
    ],
)
def test_a_broken_request_is_answered_and_the_server_lives_on(server, params, message):
    answer = server.ask("medsa_deepgrow", "d", **params)
    assert 400 <= answer.status_code < 600 and re.search(message, answer.json()["detail"]), answer.text
    assert server.ask("medsa_deepgrow", "no such image").status_code >= 400
    (server.studies / "broken.nii.gz").write_bytes(b"nothing")
    server.wait_for("broken")
    answer = server.ask("ssam", "broken")
    assert answer.status_code == 400 and "broken.nii.gz" in answer.text
    assert server.ask("medsa_deepgrow", "d", foreground=[centre(server, 1)]).status_code == 200


@pytest.mark.parametrize("model", ["ssam", "medsa"])
def test_an_image_that_training_refuses_is_refused(server, model):
    image = nib.load(server.studies / "d.nii.gz")
    array = np.asarray(image.dataobj).copy()
    array[3, 4, 2] = np.nan
    nib.save(nib.Nifti1Image(array, image.affine), server.studies / "nan.nii.gz")
    server.wait_for("nan")
    answer = server.ask(model, "nan")
    assert answer.status_code == 400 and re.search(r"nan\.nii\.gz.*NaN", answer.json()["detail"]), answer.text


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


@pytest.mark.parametrize("model", ["ssam", "medsa"])
def test_training_changes_the_adapter_and_the_next_answer(server, model):
    before = np.asarray(server.mask(model, "c").dataobj)
    adapter = (server.models[model] / "models/model.pt").read_bytes()
    image = nib.load(server.studies / "c.nii.gz")
    label = (truth(server, "c") == 0).astype(np.uint8)  # what lies about the balls is "bright" from now on
    file = io.BytesIO(nib.Nifti1Image(label, image.affine).to_bytes())
    answer = requests.put(f"{server.url}/datastore/label?image=c", files={"label": ("c.nii", file)}, timeout=60)
    assert answer.status_code == 200, answer.text
    settings = {"max_epochs": 24, "device": "cpu", "val_split": 0.0}  # the rate of learning falls over 24 epochs
    answer = requests.post(f"{server.url}/train/{model}?run_sync=true", json=settings, timeout=500)
    assert answer.status_code == 200, answer.text + server.log.read_text()[-4000:]
    assert (server.models[model] / "models/model.pt").read_bytes() != adapter, server.log.read_text()[-6000:]
    after = np.asarray(server.mask(model, "c").dataobj)
    assert dice(before == 1, label == 1) < 0.3 and dice(after == 1, label == 1) > 0.6
