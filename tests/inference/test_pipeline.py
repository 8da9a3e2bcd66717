"""Images reach the network upright and in [0, 1], labels stay with them, and masks go back where they came from."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import oblique
from monai.data import MetaTensor
from monai.transforms import Orientation
from monai.utils import set_determinism
from network_tester import tiny_backbone
from PIL import Image

from sam_monai import SSAM, InputError, MedSA
from sam_monai.errors import input_error_in
from sam_monai.inference import pipeline
from sam_monai.inference.records import by_depth
from sam_monai.networks.adapter_files import training_summary, write_adapter
from sam_monai.prompts.prompt_files import prompts_on_grid
from sam_monai.training import samples

SETTINGS = {
    "spatial_dims": 3,
    "intensity": "mr",
    "ct_window": (-160, 240),
    "orientation": "PLS",
    "spacing": None,
    "channels": None,
    "scale": "whole",
}
PICTURE = {"spatial_dims": 2, "intensity": "picture"}


def network():
    return SSAM(tiny_backbone())


def save(folder, intensity, label, affine):
    nib.save(nib.Nifti1Image(intensity.astype(np.float32), affine), folder / "image.nii.gz")
    nib.save(nib.Nifti1Image(label.astype(np.uint8), affine), folder / "label.nii.gz")
    return {"image": str(folder / "image.nii.gz"), "label": str(folder / "label.nii.gz")}


def blocks(shape=(22, 26, 9)):
    label = np.zeros(shape, np.uint8)
    label[3:9, 15:22, 2:6], label[12:20, 4:9, 1:7] = 1, 2
    return label


def affines():
    yield np.diag([1.0, 1, 1, 1])
    yield np.diag([-0.7, -0.7, 3, 1])
    yield oblique()
    yield oblique()[:, [2, 0, 1, 3]]


@pytest.mark.parametrize("affine", affines())
def test_a_label_sent_through_the_pipeline_comes_back_voxel_for_voxel(tmp_path, affine):
    label = blocks()
    preparation = pipeline.preprocessing(("a", "b"), SETTINGS)
    case = preparation(save(tmp_path, label * 10.0, label, affine))
    # A network that sees the intensities: at 0, 0.5 and 1 after scaling.
    logits = -(case["image"] - torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1)).abs()
    back = pipeline.postprocessing(preparation)({"image": case["image"], "pred": logits})["pred"]
    assert torch.equal(torch.as_tensor(back[0]).byte(), torch.as_tensor(label))
    np.testing.assert_allclose(back.affine, affine, atol=1e-5)


def test_rows_run_to_the_back_and_columns_to_the_left_whatever_the_file_says(tmp_path):
    for affine in affines():
        label = blocks()
        case = pipeline.preprocessing(("a", "b"), SETTINGS)(save(tmp_path, label * 1.0, label, affine))
        assert nib.aff2axcodes(case["image"].affine) == ("P", "L", "S")


def test_a_spacing_is_taken_on_and_undone(tmp_path):
    settings, label = SETTINGS | {"spacing": (1.5, 1.5, 1.0)}, blocks((40, 40, 12))
    preparation = pipeline.preprocessing(("a", "b"), settings)
    case = preparation(save(tmp_path, label * 10.0, label, oblique()))
    np.testing.assert_allclose(case["image"].pixdim, (1.5, 1.5, 1.0), atol=1e-4)
    logits = -(case["image"] - torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1)).abs()
    back = pipeline.postprocessing(preparation)({"image": case["image"], "pred": logits})["pred"]
    assert back.shape[1:] == label.shape
    for value in (1, 2):
        found, held = np.asarray(back[0]) == value, label == value
        assert 2 * (found & held).sum() / (found.sum() + held.sum()) > 0.6  # rims of 2 pass through 1


def test_a_picture_is_shrunk_and_its_mask_and_clicks_are_those_of_the_file(tmp_path):
    label = np.zeros((201, 302), np.uint8)
    label[40:90, 100:180], label[120:190, 220:260] = 1, 2
    Image.fromarray(label * 100).save(tmp_path / "image.png")
    preparation = pipeline.preprocessing((), SETTINGS | PICTURE | {"spacing": [2.5, 2.0], "scale": "patch"})
    case = preparation({"image": str(tmp_path / "image.png")})
    assert case["image"].shape == (1, 80, 151)
    logits = -(case["image"] - torch.tensor([0.0, 100 / 255, 200 / 255]).view(3, 1, 1)).abs()
    back = pipeline.postprocessing(preparation)({"image": case["image"], "pred": logits})["pred"]
    assert back.shape[1:] == label.shape
    assert (np.asarray(back[0]) == label).mean() > 0.97
    for row, column, value in ((42, 177, 1), (187, 222, 2), (0, 0, 0), (200, 301, 0)):
        asked = [{"points": [[row, column]], "labels": [1]}]
        at = prompts_on_grid(asked, case["image"], "prompts")["point_coords"][0, 0].round().int().tolist()
        assert int(logits[:, *at].argmax()) == value


def test_a_shrunk_picture_is_as_bright_at_its_edges(tmp_path):
    Image.fromarray(np.full((90, 120), 200, np.uint8)).save(tmp_path / "image.png")
    settings = SETTINGS | PICTURE | {"spacing": [3.0, 3.0], "scale": "patch"}
    shrink = next(step for step in pipeline.preprocessing((), settings).transforms if hasattr(step, "zoomer"))
    shrunk = shrink({"image": MetaTensor(torch.full((1, 90, 120), 0.8))})["image"]
    torch.testing.assert_close(torch.as_tensor(shrunk), torch.full((1, 30, 40), 0.8))


def test_a_picture_that_shrinking_leaves_nothing_of_is_refused(tmp_path):
    Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)).save(tmp_path / "image.png")
    preparation = pipeline.preprocessing((), SETTINGS | PICTURE | {"spacing": [8.0, 30.0], "scale": "patch"})
    with pytest.raises(RuntimeError) as raised:
        preparation({"image": str(tmp_path / "image.png")})
    assert "image.png: is only 5 x 1 once resampled" in str(input_error_in(raised.value))


def test_a_spacing_of_other_dimensions_is_refused():
    for given, settings in (([2.0, 2.0], SETTINGS), ([1.0, 1.0, 1.0], SETTINGS | PICTURE)):
        with pytest.raises(InputError, match="give three numbers"):
            pipeline.preprocessing((), settings | {"spacing": given})
    with pytest.raises(InputError, match="enlarged"):
        pipeline.preprocessing((), SETTINGS | PICTURE | {"spacing": [0.01, 0.01]})


def test_mr_of_any_unit_becomes_the_same_numbers_and_a_ct_keeps_its_window(tmp_path):
    rng = np.random.default_rng(0)
    intensity, label = rng.uniform(0, 100, (16, 16, 4)), np.zeros((16, 16, 4))
    seen = [
        pipeline.preprocessing(("a",), SETTINGS)(save(tmp_path, scale * intensity, label, np.eye(4)))["image"]
        for scale in (1.0, 37.0)
    ]
    torch.testing.assert_close(*map(torch.as_tensor, seen), rtol=1e-4, atol=1e-4)
    hounsfield = np.linspace(-1000, 1000, 16 * 16 * 4).reshape(16, 16, 4)
    settings = SETTINGS | {"intensity": "ct"}
    ct = pipeline.preprocessing(("a",), settings)(save(tmp_path, hounsfield, label, np.eye(4)))["image"]
    assert ct.min() == 0 and ct.max() == 1
    assert abs(((ct > 0) & (ct < 1)).float().mean().item() - 400 / 2000) < 0.01


@pytest.mark.parametrize(("deepest", "dtype"), [(255, np.uint8), (4000, np.uint16)])
def test_pictures_of_8_and_16_bits_become_0_to_1(tmp_path, deepest, dtype):
    values = np.linspace(0, deepest, 20 * 30).reshape(20, 30).astype(dtype)
    Image.fromarray(values).save(tmp_path / "p.png")
    settings = SETTINGS | {"spatial_dims": 2, "intensity": "picture"}
    image = pipeline.preprocessing((), settings)({"image": str(tmp_path / "p.png")})["image"]
    assert image.shape == (1, 20, 30)
    np.testing.assert_allclose(image[0], values / deepest, atol=1e-3 if dtype == np.uint8 else 0.006)


@pytest.mark.parametrize("scale", ["whole", "patch"])
def test_image_and_label_are_augmented_together(tmp_path, scale):
    label = blocks((40, 40, 6))
    set_determinism(0)
    train = samples.training_samples(("a", "b"), SETTINGS | {"scale": scale}, network(), slices=3, samples=4)
    for transform in train.transforms:
        if type(transform).__name__.startswith(("RandScaleIntensity", "RandShiftIntensity", "RandAdjustContrast")):
            transform.prob = 0.0
        if type(transform).__name__ == "RandAffined":
            transform.rand_affine.prob = transform.prob = 1.0
    drawn = train(save(tmp_path, label * 10.0, label, oblique()))
    agreement = []
    for sample in drawn:
        assert sample["image"].shape[1:] == sample["label"].shape[1:] == (64, 64, 3)
        seen, held = (sample["image"][0] * 2).round(), sample["label"][0]
        assert set(held.unique().tolist()) <= {0, 1, 2}
        if ((seen > 0) | (held > 0)).any():
            agreement.append((seen == held)[(seen > 0) | (held > 0)].float().mean().item())
    assert np.mean(agreement) > 0.6


def test_nothing_changes_sides_where_a_label_has_one(tmp_path):
    label = np.zeros((64, 64, 4), np.uint8)
    label[40:56, 24:40] = 1  # x grows to the right of the patient here: all of it on one side
    case = save(tmp_path, label * 10.0, label, np.eye(4))

    def sides(names):
        train = samples.training_samples(names, SETTINGS, network(), slices=2, samples=30)
        return {bool(sample["label"][0, :, :32].sum() > sample["label"][0, :, 32:].sum()) for sample in train(case)}

    set_determinism(0)
    assert len(sides(("left kidney",))) == 1 and len(sides(("kidney",))) == 2


@pytest.mark.parametrize("axcodes", ["PLS", "ILP", "IPL"])
def test_volumes_are_mirrored_from_side_to_side_in_whatever_plane_they_are_sliced(axcodes):
    volume = MetaTensor(torch.rand(1, 3, 4, 5), torch.eye(4))
    turned = Orientation(axcodes, labels=None)(volume)
    case = {"image": turned, "label": turned.clone()}
    (flip,) = samples.mirroring(True, "sides")
    flip.prob = 1.0
    mirrored = flip(case)["image"]
    expected = Orientation(axcodes, labels=None)(MetaTensor(volume.flip(1).as_tensor(), torch.eye(4)))
    assert torch.equal(mirrored.as_tensor(), expected.as_tensor())
    assert torch.equal(samples.views(("a",), 3, True)[1](turned).as_tensor(), expected.as_tensor())


def test_training_shows_the_encoder_what_inference_shows_it(tmp_path):
    case = save(tmp_path, np.random.default_rng(0).uniform(0, 1, (44, 30, 3)), blocks((44, 30, 3)), np.eye(4))
    sam, seen = network(), []
    sam.backbone.image_encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    prepared = samples.training_samples(("a", "b"), SETTINGS, sam, slices=3, augment=False)(case)[0]["image"]
    sam(prepared[None])
    sam(pipeline.preprocessing(("a", "b"), SETTINGS)(case)["image"][None])
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-4, atol=1e-4)


def test_the_largest_component_is_kept_and_holes_are_filled(tmp_path):
    label = blocks()
    label[12:20, 20:24, 1:7], label[5, 18, 3] = 1, 0  # a second, larger block, and a hole in the first
    preparation = pipeline.preprocessing(("a", "b"), SETTINGS)
    case = preparation(save(tmp_path, label * 10.0, label, np.diag([1.0, 1, 1, 1])))
    logits = -(case["image"] - torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1)).abs()
    outputs = {}
    for keys in ({"fill_holes": True}, {"largest_component": True}):
        found = pipeline.postprocessing(preparation, **keys)({**case, "pred": logits.clone()})["pred"]
        outputs[next(iter(keys))] = np.asarray(found)[0]
    filled = label.copy()
    filled[5, 18, 3] = 1
    assert (outputs["fill_holes"] == filled).all()
    label[3:9, 15:22, 2:6] = 0
    assert (outputs["largest_component"] == label).all()


def test_a_label_inside_another_one_is_no_hole():
    label = torch.zeros(1, 24, 24, 6)
    label[:, 4:20, 4:20, :] = 1
    label[:, 8:12, 8:12, 1:5] = 2  # a tumour, and beside it a hole
    label[:, 15, 15, 3] = 0
    filled = pipeline.FillBackgroundd("pred")({"pred": label})["pred"]
    expected = label.clone()
    expected[:, 15, 15, 3] = 1
    assert torch.equal(filled, expected)


def test_slices_that_see_others_than_in_training_are_told_of(tmp_path, caplog):
    def adapter(name: str, dims: int, trained: int) -> MedSA:
        images = {"spatial_dims": dims}
        made = MedSA(tiny_backbone(), labels=["a"], preprocessing=images, slices_per_batch=4)
        summary = training_summary(1, 1, 0.5, 2, 1) | {"settings": {"slices_per_batch": trained}}
        write_adapter(made.state_dict(), tmp_path / name, summary)
        return made

    for name, dims, trained, told in (("a.pt", 3, 8, True), ("b.pt", 3, 4, False), ("c.pt", 2, 8, False)):
        caplog.clear()
        network = adapter(name, dims, trained)
        loader, engine = pipeline.AdapterCheckpointLoader(tmp_path / name, network), SimpleNamespace(inferer=None)
        loader(engine)  # pyright: ignore[reportArgumentType]
        assert ("was trained with slices_per_batch 8, and here it is 4" in caplog.text) == told
        assert by_depth(network) == ({"slices_per_batch": 4} if dims == 3 else {})


@pytest.mark.parametrize("overlap, number", [(0.25, 25), (0.0, 16)])
def test_patches_have_the_encoders_size_and_overlap_by_the_key(overlap, number):
    seen = []

    def answer(x):
        seen.extend([tuple(x.shape[2:])] * len(x))
        return torch.cat([x, x], 1)

    x = torch.rand(1, 1, 128, 128)
    found = pipeline.inferer("patch", 32, 2, overlap)(x, answer)
    assert seen == [(32, 32)] * number
    torch.testing.assert_close(found[:, :1], x, atol=1e-5, rtol=1e-4)


def test_a_patch_of_a_volume_has_all_slices_which_see_each_other():
    seen = []

    class Answers(torch.nn.Module):
        depth_attention, labels = True, ("a",)

        def forward(self, x):
            seen.append(tuple(x.shape[2:]))
            return torch.cat([x, x], 1)

    x = torch.rand(1, 1, 64, 64, 24)
    found = pipeline.inferer("patch", 64, 3, 0.25)(x, Answers())
    assert seen == [(64, 64, 24)]
    torch.testing.assert_close(found[:, :1], x, atol=1e-5, rtol=1e-4)
