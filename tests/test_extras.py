"""What a minimal installation does without: each is named with the extra that brings it, or not missed."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from bundle_runner import SMALL, run, volumes
from dicom_maker import AFFINE, blob, write_series

from sam_monai import InputError
from sam_monai.data import LoadCased


def test_dicom_is_named_with_its_extra(tmp_path, monkeypatch):
    write_series(tmp_path, blob((8, 8, 5)), AFFINE)
    assert LoadCased("image")({"image": str(tmp_path)})["image"].shape == (1, 8, 8, 5)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match=r'pip install "sam_monai\[dicom\]"'):
        LoadCased("image")({"image": str(tmp_path)})


@pytest.mark.parametrize("installed", [True, False])
def test_a_training_writes_curves_for_tensorboard_where_it_is_installed(installed, tmp_path, monkeypatch):
    if not installed:
        real = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "tensorboard" else real(name))
    run("ptsam", "train", dataset_dir=str(volumes(tmp_path / "data", shape=(20, 18, 4))), ckpt_dir=f"{tmp_path}/m",
        output_dir=f"{tmp_path}/o", embedding_cache=None, **SMALL | {"epochs": 1})  # fmt: skip
    assert (tmp_path / "o/tensorboard").is_dir() == installed and (tmp_path / "o/report.html").is_file()
