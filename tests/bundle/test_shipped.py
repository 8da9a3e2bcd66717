"""The bundles that come with the package: in a clone, in the wheel, and as new folders."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import monai.bundle
import pytest
from bundle_runner import ROOT, volumes

from sam_monai.__main__ import main
from sam_monai.bundle import shipped

BUNDLES = ("medsa", "ptsam", "ssam")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def in_git(name: str) -> set[str]:
    """A bundle's files without what a training left."""
    return {file for file in files(ROOT / "bundles" / name) if file.split("/")[0] not in ("models", "output", "runs")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built of a clone in which somebody has trained."""
    clone, output = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("wheel")
    for folder in ("sam_monai", "bundles"):
        ignored = shutil.ignore_patterns("__pycache__", "models", "output", "runs")
        shutil.copytree(ROOT / folder, clone / folder, ignore=ignored)
    for file in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / file, clone / file)
    for file in ("models/model.pt", "output/cases.csv"):
        (clone / "bundles/ssam" / file).parent.mkdir()
        (clone / "bundles/ssam" / file).touch()
    isolated = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *isolated, "-w", output, clone]
    subprocess.run(command, check=True)
    return next(output.glob("*.whl"))


def test_the_wheel_holds_the_bundles_and_nothing_that_was_trained(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
        scripts = archive.read(next(n for n in archive.namelist() if n.endswith("entry_points.txt"))).decode()
    for name in BUNDLES:
        assert files(tmp_path / "sam_monai/_bundles" / name) == in_git(name)
    assert "sam-monai = sam_monai.__main__:main" in scripts
    assert sorted(path.name for path in tmp_path.iterdir() if "dist-info" not in path.name) == ["sam_monai"]


def test_the_wheels_content_writes_a_bundle(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-m", "sam_monai", "new", "medsa", "mine"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "mine\n" and files(tmp_path / "mine") == in_git("medsa")


@pytest.mark.slow
def test_an_installed_wheel_trains_segments_and_packages_outside_the_clone(wheel, tmp_path):
    site, here = tmp_path / "site", tmp_path / "here"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel], check=True)
    volumes(here / "my_scans")
    environment = os.environ | {"PYTHONPATH": str(site), "PATH": f"{site / 'bin'}:{os.environ['PATH']}"}
    for words in (
        ["train", "my_scans", "--bundle", "ptsam", "--quick", "True"],
        ["package", "ptsam", "mine", "--adapter", "ptsam/models/quick/model.pt"],
        ["segment", "my_scans", "--bundle", "mine"],
    ):
        done = subprocess.run(["sam-monai", *words], cwd=here, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    assert (here / "mine/output/inference/d_seg.nii.gz").is_file() and (here / "ptsam/output/quick/cases.csv").is_file()
    assert all(files(site / "sam_monai/_bundles" / name) == in_git(name) for name in BUNDLES)


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("output", ["mine", "two words/a@b#c", "it's"])
def test_a_new_bundle_is_that_of_the_package_under_its_own_name(name, output, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", name, output]) == 0 and capsys.readouterr().out == f"{output}\n"
    assert files(Path(output)) == in_git(name) and shipped.names() == list(BUNDLES)
    for file in sorted(Path(output, "configs").glob("*.json")):
        new, old = (
            json.loads((folder / "configs" / file.name).read_text())
            for folder in (Path(output), ROOT / f"bundles/{name}")
        )
        assert {key for key in old if new[key] != old[key]} == (
            {"bundle_root"} & old.keys()
        ) and new.keys() == old.keys()
    for config in ("train", "inference"):
        parser = monai.bundle.ConfigParser(
            monai.bundle.ConfigParser.load_config_file(f"{output}/configs/{config}.json")
        )
        assert parser.get_parsed_content("bundle_root") == output


def test_a_bundle_that_nobody_may_write_is_copied_to_one_that_may_be_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "ssam", "kept"]) == 0
    for path in (*(tmp_path / "kept").rglob("*"), tmp_path / "kept"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert main(["new", "kept", "mine"]) == 0
    for path in (tmp_path / "mine").rglob("*"):
        assert path.stat().st_mode & 0o200, path
    for path in (tmp_path / "kept", *(tmp_path / "kept").rglob("*")):
        path.chmod(0o755)


@pytest.mark.parametrize("name", BUNDLES)
def test_the_document_of_a_new_bundle_has_no_link_out_of_it_and_names_its_own_folder(name, tmp_path):
    shipped.new(name, tmp_path / "mine")
    text = (tmp_path / "mine/docs/README.md").read_text()
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links and all(link.startswith("https://") for link in links)
    assert f"bundles/{name}" not in text and " mine/configs/train.json" in text and str(tmp_path) not in text


def test_a_folder_in_use_and_a_bundle_that_is_none_are_named_and_nothing_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_text("x")
    shutil.copytree(ROOT / "bundles/ssam/configs", "half/configs")
    for words, said in {
        ("new", "ssam", "kept"): "kept exists already", ("new", "ssam", "kept/file"): "kept/file exists already",
        ("new", "unet", "mine"): "unet is no bundle", ("new", "half", "mine"): "half is no bundle of sam_monai",
        ("new", "kept", "mine"): "kept is no bundle", ("new", "ssam", "kept/file/x"): "kept/file/",
    }.items():  # fmt: skip
        assert main(list(words)) == 1
        line = capsys.readouterr().err.strip()
        assert line.startswith("error: ") and said in line and "\n" not in line
    assert files(tmp_path / "kept") == {"file"} and sorted(p.name for p in tmp_path.iterdir()) == ["half", "kept"]


def test_an_empty_folder_that_is_there_is_filled_and_stays_the_same_folder(tmp_path, monkeypatch):
    """It may be a mount, whose place nothing can take, or the folder in which a shell is."""
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    inode = (tmp_path / "mine").stat().st_ino
    assert main(["new", "ssam", "."]) == 0
    assert (tmp_path / "mine").stat().st_ino == inode and files(Path(".")) == in_git("ssam")


def test_what_a_killed_process_left_in_an_empty_folder_is_no_content(tmp_path):
    (tmp_path / "mine/.bundle.part/part").mkdir(parents=True)
    assert main(["new", "ssam", str(tmp_path / "mine")]) == 0
    assert files(tmp_path / "mine") == in_git("ssam") and not (tmp_path / "mine/.bundle.part").exists()


def test_files_that_a_system_leaves_beside_others_are_not_part_of_a_bundle(tmp_path):
    kept = shipped.new("ssam", tmp_path / "kept")
    (kept / "configs/._train.json").write_bytes(b"\0\5\x16\7\0\xb0\xe2")
    assert not (shipped.new(str(kept), tmp_path / "mine") / "configs/._train.json").exists()
