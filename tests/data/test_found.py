from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_maker import write_series

from sam_monai.data import images_to_segment
from sam_monai.errors import InputError


def test_images_to_segment_lists_a_folder_or_one_file(tmp_path):
    for name in ("b.PNG", "a.nii.gz", "c.tif", "notes.txt", "._a.nii.gz", "below/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [Path(c["image"]).name for c in images_to_segment(tmp_path)] == ["a.nii.gz", "b.PNG", "c.tif"]
    assert images_to_segment(tmp_path / "below" / "d.png") == [{"image": f"{tmp_path}/below/d.png"}]


def test_images_to_segment_takes_a_folder_of_dicom_slices_as_one_image(tmp_path):
    write_series(tmp_path, np.zeros((4, 4, 3), np.int16), np.eye(4))
    assert images_to_segment(tmp_path) == [{"image": str(tmp_path)}]


def test_images_to_segment_refuses_where_there_is_nothing(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="holds no image"):
        images_to_segment(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        images_to_segment(tmp_path / "nowhere.png")
