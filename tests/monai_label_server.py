"""A real MONAI Label server on packaged bundles, on this machine's loopback address.

Needs MONAI Label in an environment of its own (docs/monai_label.md); MONAI_LABEL_PYTHON names its python.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import requests
from bundle_runner import ROOT, run, volumes, write_json
from PIL import Image

PYTHON = os.environ.get("MONAI_LABEL_PYTHON", "")
SHAPE = (40, 36, 8)
EPOCHS = {"ssam": 30, "ptsam": 60, "medsa": 24}
FLIPPED = np.array([[1, -1], [0, 1], [2, -1]])  # the axes that a file's own become, and their direction


def package(bundle: str, folder: Path, data: Path, epochs: int) -> Path:
    """A bundle trained on small made volumes, ready to be loaded by others."""
    run(
        bundle,
        "train",
        dataset_dir=str(data),
        ckpt_dir=f"{folder}/{bundle}_trained",
        output_dir=f"{folder}/{bundle}_output",
        image_size=32,
        epochs=epochs,
        val_interval=epochs,
        slices=4,
    )
    command = [sys.executable, "-m", "sam_monai", "package", str(ROOT / "bundles" / bundle), str(folder / bundle)]
    subprocess.run([*command, "--adapter", f"{folder}/{bundle}_trained/model.pt"], check=True, cwd=folder)
    return folder / bundle


def pictures(folder: Path) -> Path:
    """Three pictures of 40 rows and 60 columns with a bright box."""
    folder.mkdir()
    rng, mask = np.random.default_rng(0), np.zeros((40, 60), np.uint8)
    mask[5:15, 30:50] = 1
    for i in range(3):
        Image.fromarray((mask * 150 + rng.integers(0, 60, mask.shape)).astype(np.uint8)).save(folder / f"p{i}.png")
        Image.fromarray(mask).save(folder / f"p{i}_label.png")
    cases = [{"image": f"p{i}.png", "label": f"p{i}_label.png"} for i in range(3)]
    labels = {"0": "background", "1": "box"}
    write_json(folder, modality={"0": "grey"}, labels=labels, training=cases[:2], validation=cases[2:])
    return folder


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
        deadline = time.monotonic() + 240
        while image not in requests.get(f"{self.url}/datastore/?output=all", timeout=60).json()["objects"]:
            assert time.monotonic() < deadline, f"the server does not list {image}"
            time.sleep(0.5)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)

    def memory(self) -> float:
        """Resident MiB of the server's process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


def start_server(folder: Path) -> Server:
    """Train and package bundles, and serve them with three images: c, d, and d with its voxels in another order."""
    data = volumes(folder / "data", SHAPE)
    models = {bundle: package(bundle, folder, data, number) for bundle, number in EPOCHS.items()}
    models["medsa_deepgrow"] = models["medsa"]
    models["pictures"] = package("ssam", folder / "pictures", pictures(folder / "picture_data"), 30)
    studies = folder / "studies"
    studies.mkdir()
    shutil.copy(folder / "picture_data/p0.png", studies / "p0.png")
    for name in ("c", "d"):
        shutil.copy(data / f"images/{name}.nii.gz", studies)
    image = nib.load(data / "images/d.nii.gz")
    nib.save(image.as_reoriented(FLIPPED), studies / "flipped.nii.gz")  # the same patient, voxels in another order
    running = Server(folder, studies, models)
    running.data, running.models, running.studies = data, models, studies
    return running


def truth(server: Server, image: str) -> np.ndarray:
    """The labels of an image, in the order of its own voxels."""
    label = nib.load(server.data / f"labels/{'d' if image == 'flipped' else image}.nii.gz")
    return np.asarray((label.as_reoriented(FLIPPED) if image == "flipped" else label).dataobj)


def centre(server: Server, label: int, image: str = "d") -> list[int]:
    """The voxel in the middle of a label's ball."""
    return [int(x) for x in np.round(np.argwhere(truth(server, image) == label).mean(0))]
