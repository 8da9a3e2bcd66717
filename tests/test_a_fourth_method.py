"""The page on adding a method works as it stands, with no other change."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
from bundle_runner import ROOT, volumes

PAGE = ROOT / "docs/a_fourth_method.md"


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone in which a reader did what the page says."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("sam_monai", "bundles", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("models", "output", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for title, code in re.findall(r'^```python title="(.*?)"\n(.*?)^```', PAGE.read_text(), re.S | re.M):
        if title.endswith(".py"):
            (folder / title).write_text(code)
        else:
            subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    volumes(folder / "scans")
    return folder


def run(clone, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(clone)}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.slow
def test_the_shared_testers_hold_for_it(clone):
    assert re.search(r"[4-9]\d passed", run(clone, "pytest", "tests/test_lora.py", "-p", "no:cacheprovider"))


@pytest.mark.slow
def test_the_commands_know_it(clone):
    train = ["monai.bundle", "run", "--config_file", "bundles/lora/configs/train.json", "--dataset_dir", "scans"]
    settings = "--image_size 32 --epochs 2 --output_dir out --ckpt_dir models".split()
    run(clone, *train, *settings)
    assert re.search(r"method\s+lora", run(clone, "sam_monai", "show", "models/model.pt"))
    run(clone, "sam_monai", "verify", "models/model.pt")
    run(clone, "sam_monai", "package", "bundles/lora", "mine", "--adapter", "models/model.pt")
    run(clone, "sam_monai", "verify_bundle", "mine")
    run(clone, "sam_monai", "export", "models/model.pt", "m.pt2")
    infer = ["monai.bundle", "run", "--config_file", "mine/configs/inference.json", "--dataset_dir", "scans"]
    run(clone, *infer, "--output_dir", "masks")
    assert (clone / "masks/d_seg.nii.gz").is_file()
