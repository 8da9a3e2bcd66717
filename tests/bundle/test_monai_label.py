"""A real MONAI Label server on the bundles, driven over HTTP as 3D Slicer and OHIF drive it.

Needs MONAI Label in an environment of its own (docs/monai_label.md); MONAI_LABEL_PYTHON names its python.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests
from bundle_runner import ROOT, run, volumes
from nibabel.affines import apply_affine

PYTHON = os.environ.get("MONAI_LABEL_PYTHON", "")
pytestmark = [
    pytest.mark.monai_label,
    pytest.mark.skipif(not PYTHON, reason="MONAI_LABEL_PYTHON names no python with MONAI Label"),
]
SHAPE = (40, 36, 8)
EPOCHS = {"ssam": 30, "ptsam": 60, "medsa": 24}
FLIPPED = np.array([[1, -1], [0, 1], [2, -1]])  # the axes that a file's own become, and their direction


def package(bundle: str, folder: Path, data: Path) -> Path:
    """A bundle trained on small made volumes, ready to be loaded by others."""
    run(
        bundle,
        "train",
        dataset_dir=str(data),
        ckpt_dir=f"{folder}/{bundle}_trained",
        output_dir=f"{folder}/{bundle}_output",
        image_size=64,
        epochs=EPOCHS[bundle],
        val_interval=EPOCHS[bundle],
        slices=4,
    )
    command = [sys.executable, "-m", "sam_monai", "package", str(ROOT / "bundles" / bundle), str(folder / bundle)]
    subprocess.run([*command, "--adapter", f"{folder}/{bundle}_trained/model.pt"], check=True, cwd=folder)
    return folder / bundle


class Server:
    """MONAI Label's own server on this machine's loopback address."""

    def __init__(self, folder: Path, studies: Path, models: dict[str, Path]) -> None:
        (folder / "stubs").mkdir()
        (folder / "stubs/pydicom_seg.py").touch()  # an export of MONAI Label's that does not run with pydicom 3
        environment = os.environ | {"PYTHONPATH": f"{folder / 'stubs'}:{ROOT}", "OMP_NUM_THREADS": "1"}
        label = [PYTHON, "-m", "monailabel.main"]
        command = [*label, "apps", "--download", "--name", "monaibundle", "--output", str(folder)]
        subprocess.run(command, check=True, env=environment, cwd=folder)
        (folder / "monaibundle/model").mkdir(exist_ok=True)
        for name, bundle in models.items():
            (folder / "monaibundle/model" / name).symlink_to(bundle)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "server.log"
        command = [*label, "start_server", "--app", str(folder / "monaibundle"), "--studies", str(studies)]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        for key, value in {"models": ",".join(models), "zoo_source": "local", "sam2": "false"}.items():
            command += ["--conf", key, value]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        deadline = time.monotonic() + 240
        while True:
            try:
                requests.get(f"{self.url}/info/", timeout=120).raise_for_status()
                return
            except requests.RequestException:
                assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-4000:]
                time.sleep(1)

    def ask(self, model: str, image: str, **params: object) -> requests.Response:
        where = f"{self.url}/infer/{model}?image={image}&output=image"
        return requests.post(where, data={"params": json.dumps(params)}, timeout=300)

    def mask(self, model: str, image: str, **params: object) -> nib.Nifti1Image:
        answer = self.ask(model, image, **params)
        assert answer.status_code == 200, answer.text + self.log.read_text()[-4000:]
        return nib.Nifti1Image.from_bytes(gzip.decompress(answer.content))

    def wait_for(self, image: str) -> None:
        """Until the server has noticed a new file of its studies."""
        deadline = time.monotonic() + 60
        while image not in requests.get(f"{self.url}/datastore/?output=all", timeout=60).json()["objects"]:
            assert time.monotonic() < deadline, f"the server does not list {image}"
            time.sleep(0.5)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("monai_label")
    data = volumes(folder / "data", SHAPE)
    models = {bundle: package(bundle, folder, data) for bundle in EPOCHS}
    models["medsa_deepgrow"] = models["medsa"]
    studies = folder / "studies"
    studies.mkdir()
    for name in ("c", "d"):
        shutil.copy(data / f"images/{name}.nii.gz", studies)
    image = nib.load(data / "images/d.nii.gz")
    nib.save(image.as_reoriented(FLIPPED), studies / "flipped.nii.gz")  # the same patient, voxels in another order
    running = Server(folder, studies, models)
    running.data, running.models, running.studies = data, models, studies
    yield running
    running.stop()


def truth(server: Server, image: str) -> np.ndarray:
    """The labels of an image, in the order of its own voxels."""
    label = nib.load(server.data / f"labels/{'d' if image == 'flipped' else image}.nii.gz")
    return np.asarray((label.as_reoriented(FLIPPED) if image == "flipped" else label).dataobj)


def centre(server: Server, label: int, image: str = "d") -> list[int]:
    """The voxel in the middle of a label's ball."""
    return [int(x) for x in np.round(np.argwhere(truth(server, image) == label).mean(0))]


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
    for name in server.models:
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


@pytest.mark.parametrize("image", ["d", "flipped"])
def test_the_mask_is_where_the_click_was_and_not_where_it_was_not(server, image):
    for label, other in [(1, 2), (2, 1)]:
        on, beside = centre(server, label, image), centre(server, other, image)
        mask = server.mask("medsa_deepgrow", image, foreground=[on], background=[beside])
        found = np.asarray(mask.dataobj)
        assert same_grid(mask, server.studies / f"{image}.nii.gz")
        assert found[tuple(on)] == 1 and found[tuple(beside)] == 0
        assert dice(found == 1, truth(server, image) == label) > 0.5


def test_a_second_click_is_faster_than_the_first(server):
    server.mask("medsa_deepgrow", "c", foreground=[centre(server, 1, "c")])  # the network is loaded
    times = []
    for click in ([0, 0, 0], [1, 0, 0], [0, 1, 0]):
        started = time.perf_counter()
        server.mask("medsa_deepgrow", "d", foreground=[[a + b for a, b in zip(centre(server, 1), click, strict=True)]])
        times.append(time.perf_counter() - started)
    print(f"first click {times[0]:.2f} s, further clicks {times[1]:.2f} and {times[2]:.2f} s")
    assert min(times[1:]) < times[0]


@pytest.mark.parametrize(
    "params, message",
    [
        ({"foreground": [[500, 3, 2]]}, "outside"),
        ({"foreground": [["here"]]}, "points"),
        ({"background": [[3, 3]]}, "points"),
    ],
)
def test_a_broken_request_is_answered_and_the_server_lives_on(server, params, message):
    answer = server.ask("medsa_deepgrow", "d", **params)
    assert 400 <= answer.status_code < 600 and re.search(message, answer.json()["detail"]), answer.text
    assert server.ask("medsa_deepgrow", "no such image").status_code >= 400
    (server.studies / "broken.nii.gz").write_bytes(b"nothing")
    server.wait_for("broken")
    answer = server.ask("ssam", "broken")
    assert 400 <= answer.status_code < 600 and "broken.nii.gz" in answer.text
    assert server.ask("medsa_deepgrow", "d", foreground=[centre(server, 1)]).status_code == 200


@pytest.mark.parametrize("model", ["ssam", "medsa"])
def test_training_changes_the_adapter_and_the_next_answer(server, model):
    before = np.asarray(server.mask(model, "c").dataobj)
    adapter = (server.models[model] / "models/model.pt").read_bytes()
    image = nib.load(server.studies / "c.nii.gz")
    label = np.zeros(image.shape, np.uint8)
    label[: image.shape[0] // 2] = 1  # half of the volume is "bright" from now on
    file = io.BytesIO(nib.Nifti1Image(label, image.affine).to_bytes())
    answer = requests.put(f"{server.url}/datastore/label?image=c", files={"label": ("c.nii", file)}, timeout=60)
    assert answer.status_code == 200, answer.text
    settings = {"max_epochs": 24, "device": "cpu", "val_split": 0.0}  # the rate of learning falls over 24 epochs
    answer = requests.post(f"{server.url}/train/{model}?run_sync=true", json=settings, timeout=500)
    assert answer.status_code == 200, answer.text + server.log.read_text()[-4000:]
    assert (server.models[model] / "models/model.pt").read_bytes() != adapter, server.log.read_text()[-6000:]
    after = np.asarray(server.mask(model, "c").dataobj)
    assert dice(before == 1, label == 1) < 0.3 and dice(after == 1, label == 1) > 0.6
