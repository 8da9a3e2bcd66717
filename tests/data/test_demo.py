from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from sam_monai.data import demo_dataset, read_dataset
from sam_monai.errors import InputError


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    return demo_dataset(tmp_path_factory.mktemp("cache"))


def test_demo_slabs_are_disjoint_in_space_and_lie_where_the_template_has_them(demo):
    from nilearn.datasets import load_mni152_template

    dataset = read_dataset(demo)
    assert (len(dataset.training), len(dataset.validation), len(dataset.test)) == (4, 1, 1)
    assert dataset.labels == ("grey matter", "white matter") and dataset.intensity == "mr"
    template = load_mni152_template(resolution=1)
    voxels = np.asarray(template.dataobj)
    taken: list[tuple[float, float]] = []
    for image in [c["image"] for c in dataset.training + dataset.validation + dataset.test]:
        slab = nibabel.load(image)
        values = np.asarray(slab.dataobj)
        x, y, z = np.round(np.linalg.inv(template.affine) @ slab.affine[:, 3])[:3].astype(int)
        a, b, c = values.shape
        assert np.array_equal(values, voxels[x : x + a, y : y + b, z : z + c])
        assert values[[0, -1]].any(axis=(1, 2)).all() and values[:, [0, -1]].any(axis=(0, 2)).all()
        taken.append((z, z + c - 1))
    taken.sort()
    assert all(above[0] - below[1] > 2 for below, above in zip(taken, taken[1:], strict=False))


def test_demo_labels_are_the_likelier_tissue(demo):
    from nilearn.datasets import load_mni152_gm_template, load_mni152_wm_template

    for c in read_dataset(demo).validation:
        label = nibabel.load(c["label"])
        values = np.asarray(label.dataobj)
        assert values.dtype == np.uint8 and set(np.unique(values)) == {0, 1, 2}
        grey_map = load_mni152_gm_template(resolution=1)
        corner = np.round(np.linalg.inv(grey_map.affine) @ label.affine[:, 3])[:3].astype(int)
        box = tuple(slice(s, s + n) for s, n in zip(corner, values.shape, strict=True))
        grey = np.asarray(grey_map.dataobj)[box]
        white = np.asarray(load_mni152_wm_template(resolution=1).dataobj)[box]
        assert np.array_equal(values == 1, (grey > 0.5) & (grey >= white))
        assert np.array_equal(values == 2, (white > 0.5) & (white > grey))


def test_a_complete_demo_is_reused_without_nilearn_and_an_incomplete_one_is_written_again(demo, monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    assert demo_dataset(demo.parent) == demo
    victim = demo / "labelsTr" / "training_2.nii.gz"
    victim.unlink()
    with pytest.raises(InputError, match="pip install"):
        demo_dataset(demo.parent)
    monkeypatch.undo()
    assert demo_dataset(demo.parent) == demo and victim.is_file()
    assert [p.name for p in demo.parent.iterdir()] == [demo.name]


def test_the_demo_goes_where_the_environment_says(monkeypatch, tmp_path, demo):
    for variable, folder in (("XDG_CACHE_HOME", tmp_path / "x" / "sam_monai"), ("SAM_MONAI_CACHE", tmp_path / "s")):
        monkeypatch.setenv(variable, str(tmp_path / "x" if variable == "XDG_CACHE_HOME" else folder))
        if variable == "XDG_CACHE_HOME":
            monkeypatch.delenv("SAM_MONAI_CACHE", raising=False)
        folder.mkdir(parents=True)
        (folder / demo.name).symlink_to(demo)
        assert demo_dataset() == folder / demo.name


def test_a_process_that_comes_second_uses_what_the_first_one_wrote(demo, monkeypatch, tmp_path):
    import sam_monai.data.demo as module

    def overtaken(folder: Path) -> None:
        for target in (folder, tmp_path / demo.name):
            subprocess.run(["cp", "-r", str(demo), str(target)], check=True)

    monkeypatch.setattr(module, "_write", overtaken)
    assert read_dataset(demo_dataset(tmp_path)).labels == ("grey matter", "white matter")
    assert [p.name for p in tmp_path.iterdir()] == [demo.name]
