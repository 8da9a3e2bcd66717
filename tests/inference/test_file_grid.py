"""Whatever transforms prepared an image, its mask holds labels alone, on the grid of the file."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    Flipd,
    LoadImaged,
    Orientationd,
    Resized,
    Rotate90d,
    Rotated,
    Spacingd,
    SpatialPadd,
)

from sam_monai import InputError
from sam_monai.inference.file_grid import ToFileGridd
from sam_monai.inference.masks import SaveMasks
from sam_monai.inference.probabilities import KEY, ToProbabilities

SPACING = Spacingd("image", (1.5, 1.5, 2.0))
CROP = CropForegroundd("image", "image", select_fn=lambda x: x > 50)
EXACT = {"axes": Orientationd("image", "LPS", labels=None), "crop": CROP, "pad": SpatialPadd("image", (40, 40, 40)),
         "flip": Flipd("image", 0), "turn": Rotate90d("image")}  # fmt: skip
RESAMPLING = {"spacing": SPACING, "size": Resized("image", (30, 30, 12)), "angle": Rotated("image", 0.2),
              "nested": Compose([SPACING]), "spacing and crop": Compose([SPACING, CROP])}  # fmt: skip


@pytest.fixture
def block(tmp_path):
    """The file of a volume that is 100 in a block of it, and the block."""
    held = np.zeros((24, 20, 16), bool)
    held[6:18, 4:15, 3:12] = True
    nib.save(nib.Nifti1Image(100 * held.astype(np.float32), np.diag([1.0, 1, 2, 1])), tmp_path / "v.nii.gz")
    return tmp_path / "v.nii.gz", torch.as_tensor(held)


def case_of(file, step) -> tuple[Compose, dict[str, Any]]:
    """The preparation, and a case whose block is label 2 of two."""
    steps = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), step])
    case: Any = steps({"image": str(file)})
    image = case["image"].as_tensor()
    logits = torch.cat([0 * image, 0 * image - 5, (image - 50) / 10])
    return steps, {**case, "pred": MetaTensor(logits).copy_meta_from(case["image"], copy_attr=False)}


@pytest.mark.parametrize("name", [*EXACT, *RESAMPLING])
@pytest.mark.parametrize("kept", ["logits", "labels"])
def test_a_mask_holds_the_labels_that_were_found_and_no_others(block, name, kept):
    file, held = block
    steps, case = case_of(file, {**EXACT, **RESAMPLING}[name])
    if kept == "labels":
        case["pred"] = 2 * (case["pred"][2:] > 0).to(torch.int16)
    mask: Any = ToFileGridd(steps)(case)["pred"]
    assert mask.shape == (1, *held.shape) and {*mask.unique().tolist()} == {0, 2}
    found = mask[0].as_tensor() == 2
    dice = 2 * (found & held).sum() / (found.sum() + held.sum())
    assert dice == 1 if name in EXACT else dice > 0.8
    np.testing.assert_allclose(mask.affine, np.diag([1.0, 1, 2, 1]), atol=1e-6)
    assert SaveMasks(file.parent / "masks").save(mask, str(file)).is_file()


@pytest.mark.parametrize("name", ["crop", "spacing and crop"])
def test_what_was_cropped_away_is_background(block, name):
    file, held = block
    steps, case = case_of(file, {**EXACT, **RESAMPLING}[name])
    each = torch.as_tensor(ToProbabilities(steps)(case)[KEY])
    far = ~torch.nn.functional.max_pool3d(held[None].float(), 5, 1, 2)[0].bool()
    assert far.any() and each[:, far].max() < 1e-6 and each[1][held].mean() > 0.9
    case["pred"] = torch.full_like(case["pred"][:1], 2, dtype=torch.int16)  # all that the network saw
    assert not ToFileGridd(steps)(case)["pred"][0][far].any()


@pytest.mark.parametrize("mask", [torch.rand(1, 4, 4, 4), -torch.ones(1, 4, 4, 4), torch.zeros(3, 4, 4)])
def test_what_is_no_label_map_is_not_saved_as_one(mask, tmp_path):
    with pytest.raises(InputError, match="is no label map"):
        SaveMasks(tmp_path / "out").save(MetaTensor(mask), str(tmp_path / "image.nii.gz"))
    assert not (tmp_path / "out").exists()


def test_two_masks_of_one_file_do_not_replace_each_other(tmp_path):
    mask, save = MetaTensor(torch.ones(1, 4, 4)), SaveMasks(tmp_path / "out")
    case = {"pred": mask, "image": MetaTensor(torch.zeros(1, 4, 4), meta={"filename_or_obj": str(tmp_path / "a.png")})}
    save(SimpleNamespace(state=SimpleNamespace(output=[case])))  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"a\.png: two cases of this run are of the same file"):
        save(SimpleNamespace(state=SimpleNamespace(output=[case])))  # pyright: ignore[reportArgumentType]
