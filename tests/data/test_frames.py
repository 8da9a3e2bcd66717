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
from monai.data import MetaTensor, list_data_collate
from monai.inferers import SimpleInferer
from monai.transforms import Compose
from network_tester import tiny_backbone

from sam_monai import PTSAM, InputError
from sam_monai.data import LoadCased, examine, image_channels, preparing
from sam_monai.data.dataset import read_dataset
from sam_monai.data.frames import FRAMES, InLine, InLined, RandPart, frames_of, parts_of
from sam_monai.data.unlabelled import UNLABELLED
from sam_monai.inference.file_grid import ToFileGridd
from sam_monai.inference.pipeline import on_one_grid
from sam_monai.inference.slabs import SlabInferer
from sam_monai.training.samples import training_samples

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
        (IMAGE, LABEL[..., 0], {}, r"cine_label\.nii\.gz: has 1 frames?, its image .*cine\.nii\.gz has 3.*ignore"),
        (IMAGE, LABEL[..., :2], {}, r"has 2 frames?, its image .* has 3"),
        (IMAGE[..., 0], LABEL, {}, r"has 3 frames?, its image .* has 1"),
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


@pytest.mark.parametrize("together", [False, True])
def test_a_line_of_slices_has_its_order_and_comes_back(together):
    frames = MetaTensor(torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5), meta={FRAMES: 2})
    step = InLine(together)
    line = step(frames)
    assert line.shape == (1, 3, 4, 10) and parts_of(line) == (5 if together else 2)
    assert torch.equal(line[0, ..., 1].as_tensor(), frames[1, ..., 0] if together else frames[0, ..., 1])
    assert torch.equal(step.inverse(line).as_tensor(), frames.as_tensor())
    one = MetaTensor(torch.zeros(1, 3, 4, 5))
    assert parts_of(step(one)) == (5 if together else 1) and step.inverse(step(one)).shape == one.shape


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
    for found, held in zip(np.asarray(mask), np.moveaxis(LABEL, -1, 0), strict=True):
        for value in np.unique(held)[1:]:
            a, b = found == value, held == value
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) > (0.999 if spacing is None else 0.7)


def test_a_frame_that_somebody_has_annotated_is_drawn_alone():
    image, label = (MetaTensor(torch.zeros(1, 4, 4, 6), meta={FRAMES: 3}) for _ in range(2))
    image[..., 2:4], label[..., :2], label[..., 4:] = 1, UNLABELLED, UNLABELLED
    draw = RandPart(("image", "label")).set_random_state(0)
    for _ in range(5):
        out = draw({"image": image, "label": label})
        assert out["image"].shape == (1, 4, 4, 2) and (out["image"] == 1).all() and (out["label"] == 0).all()
    plain = {"image": image.as_tensor(), "label": label.as_tensor()}
    assert draw(plain)["image"].shape == InLined(("image",))(plain)["image"].shape == (1, 4, 4, 6)


@pytest.mark.parametrize("together", [False, True])
def test_a_slice_depends_on_other_times_only_where_frames_are_together(tmp_path, together):
    """And on other slices only where they are not."""
    torch.manual_seed(0)
    network = PTSAM(tiny_backbone(), labels=["a", "b"], amp=False, depth_attention=True).eval()
    for name, parameter in network.named_parameters():
        if "depth_attention" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    settings = MR | {"frames_together": together, "orientation": "RAS"}
    steps = Compose([LoadCased("image", frames=True), *preparing.preparing(settings)])

    def answer(name: str, image: np.ndarray) -> torch.Tensor:
        data = steps({"image": volume(tmp_path / f"{name}.nii.gz", image.astype(np.float32), np.eye(4))})
        with torch.no_grad():
            logits = SlabInferer(SimpleInferer())(list_data_collate([data])["image"], network)[0]
        (channel,) = ToFileGridd(steps).channels({**data, "pred": logits[1:2]})
        assert channel.shape == (3, *SHAPE[:3])
        return channel

    later, deeper = IMAGE.copy(), IMAGE.copy()
    later[..., 2], deeper[:, :, 3, 0] = 255 - IMAGE[..., 2], IMAGE[::-1, :, 3, 0]
    plain = answer("plain", IMAGE)
    first = [torch.allclose(answer(name, image)[0, ..., 0], plain[0, ..., 0], atol=1e-4)
             for name, image in (("later", later), ("deeper", deeper))]  # fmt: skip
    assert first == [not together, together]


def test_samples_of_frames_that_are_together_are_one_slice_at_several_times(tmp_path):
    image = np.broadcast_to(np.arange(9.0)[:, None], SHAPE)  # each slice has a value of its own, at all times
    label = LABEL.copy()
    label[:, :, [0, *range(2, 9)]] = 3  # the values of "ignore": one slice is annotated, at all times
    files = (("image", image.astype(np.float32)), ("label", label))
    case = {key: volume(tmp_path / f"{key}.nii.gz", array, np.eye(4)) for key, array in files} | {"ignore": 3}
    settings = MR | {"frames_together": True, "orientation": "RAS", "intensity": "picture"}
    network = PTSAM(tiny_backbone(), labels=["a", "b"], depth_attention=True, slices_per_batch=3)
    samples = training_samples(["a", "b"], settings | {"scale": "whole"}, network, 3, augment=False)
    for seed in range(3):
        (sample,) = samples.set_random_state(seed)(case)
        assert torch.allclose(torch.as_tensor(sample["image"])[0, 8, 8], torch.full((3,), 1 / 8))
    with pytest.raises(InputError, match="depth_attention is False"):
        training_samples(["a", "b"], settings | {"scale": "whole"}, PTSAM(tiny_backbone(), labels=["a", "b"]))
    with pytest.raises(InputError, match="frames_together, given or the adapter's, .* --frames True"):
        preparing.preparing(settings | {"frames": False})


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


@pytest.mark.parametrize("hidden", [0, 1])
def test_of_annotated_parts_those_without_a_label_are_drawn_too(hidden):
    """That nothing is there is what they teach."""
    image = MetaTensor(torch.arange(6.0).repeat_interleave(3).expand(1, 4, 4, 18).clone(), meta={FRAMES: 6})
    label = MetaTensor(torch.zeros(1, 4, 4, 18))
    label[..., 6:12] = 1
    label[0, 0, 0, :hidden] = UNLABELLED
    label[0, 0, 0, ::3] = UNLABELLED if hidden else label[0, 0, 0, ::3]
    draw = RandPart(("image", "label")).set_random_state(0)
    drawn = {int(draw({"image": image, "label": label})["image"].max()) for _ in range(99)}
    assert drawn == {0, 1, 2, 3, 4, 5}
