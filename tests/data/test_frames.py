"""Files whose fourth dimension is time: read as frames where the key says so, and as nothing else."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import oblique
from dicom_maker import SETTINGS
from image_files import RNG, volume
from monai.data import MetaTensor
from monai.transforms import Compose

from sam_monai import InputError
from sam_monai.data import LoadCased, preparing
from sam_monai.data.check import examine, image_channels
from sam_monai.data.dataset import read_dataset
from sam_monai.data.frames import FRAMES, InLined, RandFramed, frames_of
from sam_monai.data.unlabelled import UNLABELLED
from sam_monai.inference.pipeline import on_one_grid
from sam_monai.inference.slabs import ToFileGridd

SHAPE = (12, 10, 9, 3)
IMAGE = RNG.integers(0, 255, SHAPE).astype(np.float32)
LABEL = np.zeros(SHAPE, np.uint8)
LABEL[3:8, 2:7, 3:6, 0], LABEL[5:9, 2:7, 3:6, 2] = 1, 2
MR = SETTINGS | {"intensity": "mr", "frames": True}


def case_of(folder: Path, image: np.ndarray = IMAGE, label: np.ndarray = LABEL) -> dict[str, str]:
    affine = oblique()
    return {
        "image": volume(folder / "cine.nii.gz", image, affine),
        "label": volume(folder / "cine_label.nii.gz", label, affine),
    }


def test_frames_are_read_each_as_an_image_with_its_label(tmp_path):
    case = LoadCased(labels=2, frames=True)(case_of(tmp_path))
    assert frames_of(case["image"]) == 3 and np.array_equal(case["image"], np.moveaxis(IMAGE, -1, 0))
    assert np.array_equal(case["label"], np.moveaxis(LABEL, -1, 0))
    alone = {key: volume(tmp_path / f"{key}.nii.gz", x[..., 0], oblique())
             for key, x in (("image", IMAGE), ("label", LABEL))}  # fmt: skip
    assert frames_of(LoadCased(labels=2, frames=True)(alone)["image"]) == 1


@pytest.mark.parametrize("key", ["image", "label"])
def test_without_the_key_time_is_refused_and_the_key_named(tmp_path, key):
    case = case_of(tmp_path)
    with pytest.raises(InputError, match=r"cine\w*\.nii\.gz: has 3 (time points|channels).* the key frames"):
        LoadCased(key, labels=2)({key: case[key]})


@pytest.mark.parametrize(
    ("image", "label", "options", "message"),
    [
        (IMAGE, LABEL[..., 0], {}, r"cine_label\.nii\.gz: has 1 frame\(s\), its image .*cine\.nii\.gz has 3.*ignore"),
        (IMAGE, LABEL[..., :2], {}, r"has 2 frame\(s\), its image .* has 3"),
        (IMAGE[..., 0], LABEL, {}, r"has 3 frame\(s\), its image .* has 1"),
        (IMAGE * [1, 0, 1], LABEL, {}, r"cine\.nii\.gz \(frame 2 of 3\): every intensity is 0"),
        (np.stack([IMAGE, IMAGE], -1), LABEL, {}, r"cine\.nii\.gz: has the shape 2 x 12 x 10 x 9 x 3"),
        (IMAGE, LABEL, {"channels": [0]}, "has 3 frames, and the keys channels and channel_names choose"),
        (IMAGE, LABEL, {"channel_names": ["a", "b", "c"]}, "has 3 frames, and the keys channels and channel_names"),
        (IMAGE, LABEL + 5, {}, "holds the values 5, 6, 7, known are 0 to 2"),
    ],
)
def test_what_cannot_be_frames_is_refused_in_a_line(tmp_path, image, label, options, message):
    case = case_of(tmp_path, image.astype(np.float32), label)
    with pytest.raises(InputError, match=message) as error:
        LoadCased(labels=2, frames=True, **options)(case)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 2.0)])
def test_each_frame_is_prepared_as_a_file_of_its_own_and_returns_to_its_place(tmp_path, spacing):
    image = IMAGE * [1, 3, 2] + [0, 10, 500]
    case, settings = case_of(tmp_path, image.astype(np.float32)), MR | {"spacing": spacing}
    line = on_one_grid(["a", "b"], settings)(case)
    assert len(line["image"]) == len(line["label"]) == 1
    for i, parts in enumerate(zip(*(line[key].as_tensor().chunk(3, -1) for key in ("image", "label")), strict=True)):
        (tmp_path / str(i)).mkdir()
        alone = on_one_grid(["a", "b"], settings)(case_of(tmp_path / str(i), image[..., i].astype(np.float32),
                                                          LABEL[..., i]))  # fmt: skip
        assert torch.allclose(parts[0], alone["image"].as_tensor(), atol=1e-5)
        assert torch.equal(parts[1], alone["label"].as_tensor())
    steps = Compose([LoadCased("image", frames=True), *preparing.preparing(settings)])
    prepared = steps({"image": case["image"]})
    logits = torch.stack([(line["label"][0] == value).float() for value in range(3)]).as_tensor()
    mask = ToFileGridd(steps)({**prepared, "pred": logits})["pred"]
    assert mask.shape == (3, *SHAPE[:3]) and (np.asarray(mask[1]) == 0).all()
    same = np.asarray(mask) == np.moveaxis(LABEL, -1, 0)
    assert same.all() if spacing is None else same.mean() > 0.95


def test_a_frame_that_somebody_has_annotated_is_drawn_alone():
    image, label = (MetaTensor(torch.zeros(1, 4, 4, 6), meta={FRAMES: 3}) for _ in range(2))
    image[..., 2:4], label[..., :2], label[..., 4:] = 1, UNLABELLED, UNLABELLED
    draw = RandFramed(("image", "label")).set_random_state(0)
    for _ in range(5):
        out = draw({"image": image, "label": label})
        assert out["image"].shape == (1, 4, 4, 2) and (out["image"] == 1).all() and (out["label"] == 0).all()
    plain = {"image": image.as_tensor(), "label": label.as_tensor()}
    assert draw(plain)["image"].shape == InLined(("image",))(plain)["image"].shape == (1, 4, 4, 6)


def test_a_dataset_of_frames_is_checked_and_its_slices_counted(tmp_path):
    affine = oblique()
    for i in range(3):
        for part, array in (("images", IMAGE + i * RNG.random(SHAPE)), ("labels", LABEL)):
            (tmp_path / part).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array.astype(np.float32), affine), tmp_path / part / f"c{i}.nii.gz")
    dataset = read_dataset(tmp_path)
    assert dataset.labels == ("label 1", "label 2")
    with pytest.raises(InputError, match=r"c0\.nii\.gz: has 3 time points"):
        examine(dataset)
    found = examine(dataset, frames=True).fingerprint
    assert found is not None and found.channels == 1 == image_channels(dataset.training, frames=True)
    assert sorted(found.shape) == [10, 12, 27]
