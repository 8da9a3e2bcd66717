from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from bad_itk_files import mha
from bundle_runner import oblique
from image_files import AFFINE, COLOUR, GREY, RNG, load_image, picture, volume
from monai.data import DataLoader, decollate_batch
from monai.data import Dataset as MonaiDataset
from monai.transforms import Compose, EnsureChannelFirst, Flipd, Invertd, Resized, SaveImage, SaveImaged, Spacingd
from PIL import Image

from sam_monai.data import LoadCased
from sam_monai.errors import InputError
from sam_monai.inference import pipeline
from sam_monai.inference.masks import SaveMasks


@pytest.mark.parametrize(("mode", "found"), [("RGBA", 4), ("LA", 2)])
def test_other_numbers_of_channels_are_refused_naming_the_key(tmp_path, mode, found):
    path = picture(tmp_path / "a.png", COLOUR, mode)
    with pytest.raises(InputError, match=rf"a\.png: has {found} channels.*key channels"):
        load_image(path)
    assert load_image(path, channels=[0]).shape == (1, 9, 11)
    many = volume(tmp_path / "v.nii.gz", np.zeros((5, 6, 7, found), np.float32))
    with pytest.raises(InputError, match=rf"v\.nii\.gz: has {found} time points.*key channels"):
        load_image(many)


def test_channels_picks_and_repeats_and_keeps_the_geometry(tmp_path):
    array = RNG.normal(size=(5, 6, 7, 2)).astype(np.float32)
    path = volume(tmp_path / "v.nii.gz", array)
    second = load_image(path, channels=[1])
    assert np.array_equal(second[0], array[..., 1])
    assert np.allclose(second.affine, AFFINE) and second.meta["filename_or_obj"] == path
    assert np.array_equal(load_image(path, channels=[0, 0, 0])[2], array[..., 0])
    with pytest.raises(InputError, match=r"has channels 0 to 1, and the key channels.*: correct it"):
        load_image(path, channels=[2])
    for wrong in ([], [0, 1], [-1]):
        with pytest.raises(InputError, match="key channels"):
            LoadCased("image", channels=wrong)


@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 1), (5, 6, 7, 1)])
def test_a_volume_keeps_axes_and_affine(tmp_path, shape):
    array = RNG.normal(size=shape).astype(np.float32)
    image = load_image(volume(tmp_path / "a.nii.gz", array))
    assert image.shape == (1, *shape[:3]) and np.array_equal(image[0], array.reshape(shape[:3]))
    assert np.allclose(image.affine, AFFINE)


def test_ensure_channel_first_leaves_what_was_loaded_as_it_is(tmp_path):
    for path in (
        picture(tmp_path / "a.png", COLOUR),
        volume(tmp_path / "a.nii.gz", RNG.random((5, 6, 7, 1, 3)).astype(np.float32)),
    ):
        image = load_image(path)
        assert EnsureChannelFirst()(image).shape == image.shape


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.nii", "a.nii.gz"])
@pytest.mark.parametrize("damage", ["cut", "no image"])
def test_a_damaged_file_is_named_with_the_remedy(tmp_path, name, damage):
    path = tmp_path / name
    whole = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    volume(path, whole) if ".nii" in name else picture(path, whole)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage == "cut" else b"not an image" * 100)
    with pytest.raises(InputError, match=rf"{name}: cannot be read \(.+\); copy it again or remove it") as error:
        load_image(str(path))
    assert "\n" not in str(error.value)


def test_a_case_without_label_needs_allow_missing_keys(tmp_path):
    case = {"image": picture(tmp_path / "a.png", GREY), "fold": 1}
    with pytest.raises(KeyError):
        LoadCased(labels=1)(case)
    loaded = LoadCased(labels=1, allow_missing_keys=True)(case)
    assert loaded.keys() == {"image", "fold"} and loaded["fold"] == 1
    with pytest.raises(ValueError, match="labels"):
        LoadCased()


def test_what_monai_saves_of_a_flipped_and_resized_volume_lies_where_the_file_lay(tmp_path):
    array = (np.indices((12, 10, 8)) // 4).sum(0).astype(np.uint8)
    case = {"image": volume(tmp_path / "case.nii.gz", array)}
    steps = Compose(
        [
            LoadCased("image"),
            Flipd("image", 0),
            Spacingd("image", (0.25, 0.25, 3.0), mode="nearest"),
        ]
    )
    batch = next(iter(DataLoader(MonaiDataset([case], steps), batch_size=1)))
    batch["pred"] = batch["image"]
    back = Compose(
        [
            Invertd("pred", steps, orig_keys="image", nearest_interp=True),
            SaveImaged("pred", output_dir=tmp_path, output_postfix="seg", separate_folder=False, print_log=False),
        ]
    )
    back(decollate_batch(batch)[0])
    saved = nibabel.load(tmp_path / "case_seg.nii.gz")
    assert np.allclose(saved.affine, AFFINE) and np.array_equal(np.asarray(saved.dataobj), array)


def test_what_monai_saves_of_a_resized_picture_lies_as_the_picture_lay(tmp_path):
    array = np.kron(RNG.integers(0, 2, (4, 6)), np.ones((4, 4))).astype(np.uint8)
    cases = [{"image": picture(tmp_path / f"{n}.png", array * 200)} for n in "ab"]
    steps = Compose([LoadCased("image"), Resized("image", (32, 48), mode="nearest")])
    batch = next(iter(DataLoader(MonaiDataset(cases, steps), batch_size=2)))
    batch["pred"] = (batch["image"] > 0).float()
    writer = SaveImage(
        tmp_path, "seg", ".png", np.uint8, resample=True, scale=None, separate_folder=False, print_log=False
    )
    writer.set_options(write_kwargs={"reverse_indexing": False})
    for case in decollate_batch(batch):
        writer(Invertd("pred", steps, orig_keys="image", nearest_interp=True)(case)["pred"])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b_seg.png")), array)


def test_a_place_that_is_given_twice_in_other_digits_is_one_place(tmp_path, caplog):
    pytest.importorskip("itk")
    image = LoadCased("image")({"image": str(mha(Position="0.0 0.00 -0")(tmp_path))})["image"]
    assert image.shape == (1, 12, 10, 9) and "does not say how it lies" not in caplog.text
    header = (tmp_path / "x.mha").read_bytes().replace(b"TransformMatrix = 1 0 0 0 1 0 0 0 1\n", b"")
    (tmp_path / "y.mha").write_bytes(header)
    LoadCased("image")({"image": str(tmp_path / "y.mha")})
    assert "y.mha: its header does not say how it lies" in caplog.text


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_nrrd_and_metaimage_lie_where_the_same_nifti_lies_and_so_do_their_masks(tmp_path, suffix, degrees):
    itk = pytest.importorskip("itk")
    affine = oblique(degrees)
    array = np.random.default_rng(1).integers(-1000, 2000, (8, 9, 5)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "a.nii.gz")
    other = tmp_path / f"a{suffix}"
    itk.imwrite(itk.imread(str(tmp_path / "a.nii.gz")), str(other))
    nifti, image = load_image(str(tmp_path / "a.nii.gz")), load_image(str(other))
    assert torch.equal(image.as_tensor(), nifti.as_tensor())
    torch.testing.assert_close(image.affine, nifti.affine, atol=1e-4, rtol=0)
    # A network that returns its input's thresholded intensities, through turning and back.
    settings = {"spatial_dims": 3, "intensity": "ct", "ct_window": (0, 1), "orientation": "coarsest", "spacing": None}
    preparation = pipeline.preprocessing((), settings | {"channels": None})
    case = preparation({"image": str(other)})
    case["pred"] = torch.cat([torch.zeros_like(case["image"]), case["image"] - 0.5])
    mask = pipeline.postprocessing(preparation)(case)["pred"]
    saved = nibabel.load(SaveMasks(tmp_path).save(mask, str(other)))
    assert np.array_equal(np.asarray(saved.dataobj), array > 0.5)
    np.testing.assert_allclose(saved.affine, affine, atol=1e-4)
