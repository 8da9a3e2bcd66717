"""Prompts from training to inference: drawn, read from a file, answered."""

from __future__ import annotations

import json
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import oblique
from dicom_maker import write_series
from monai.data import list_data_collate
from monai.inferers import SimpleInferer
from monai.transforms import Flipd, Resized, Rotate90d, SpatialCropd
from network_tester import LABELS, image, perturb, tiny_backbone
from PIL import Image

from sam_monai import MedSA
from sam_monai.data import LoadCased
from sam_monai.inference import pipeline
from sam_monai.prompts import following, prompted_inference
from sam_monai.prompts.answering import answered, obeyed_between_voxels
from sam_monai.prompts.prompt_files import name_unused, prompts_beside, read_prompts, with_prompts
from sam_monai.prompts.prompted_inference import PromptedInference
from sam_monai.prompts.prompted_training import PromptedLoss, PromptedTraining
from sam_monai.results.prompted import MOST, correction_name, number_of_clicks
from sam_monai.training.losses import SoftmaxDiceFocalLoss

SETTINGS = {"spatial_dims": 3, "intensity": "mr", "ct_window": (-160, 240), "orientation": "PLS", "spacing": None,
            "channels": None, "scale": "whole"}  # fmt: skip


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = MedSA(tiny_backbone(), labels=LABELS, amp=False)
    perturb(network)
    return network


def test_a_training_step_answers_with_and_without_a_prompt_from_one_embedding(network):
    volume, label = image(1, 1, 32, 32, 3), torch.zeros(1, 1, 32, 32, 3)
    label[..., 5:20, 8:20, 1:] = 2
    seen = []
    network.backbone.image_encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    for corrections in range(3):
        torch.manual_seed(corrections)
        answers = PromptedTraining(2, corrections)(volume, network, label=label)
        assert answers["automatic"].shape == (1, 3, 32, 32, 3) and answers["prompted"].shape == (1, 4, 2, 32, 32, 3)
        assert torch.equal(answers["objects"], (label == 2).expand(-1, 4, -1, -1, -1))
    assert seen == [3, 3, 3]
    loss = PromptedLoss(SoftmaxDiceFocalLoss())(answers, label)
    loss.backward()
    grads = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
    # which clicks, corners and masks take part is drawn
    assert all(grad is not None and grad.any() for name, grad in grads.items() if "prompt_encoder" not in name)


@pytest.mark.parametrize("draws", [0, 4])
def test_a_network_for_the_labels_alone_is_trained_by_them_alone(draws):
    """Whatever the number of draws: an adapter that is trained on says itself that it takes no prompts."""
    network = MedSA(tiny_backbone(), labels=LABELS, amp=False, prompted=False)
    perturb(network)
    volume, label = image(1, 1, 32, 32, 3), torch.zeros(1, 1, 32, 32, 3)
    label[..., 5:20, 8:20, 1:] = 2
    answers, loss = PromptedTraining(2, draws=draws)(volume, network, label=label), SoftmaxDiceFocalLoss()
    found = PromptedLoss(loss)(answers, label)
    assert torch.equal(found, loss(network(volume), label))
    found.backward()
    without = [
        name for name, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert not without


def test_the_same_seed_draws_the_same_prompts(network):
    volume, label = image(1, 1, 32, 32, 3), torch.ones(1, 1, 32, 32, 3)
    answers = []
    for _ in range(2):
        torch.manual_seed(5)
        answers.append(PromptedTraining(2)(volume, network, label=label)["prompted"])
    assert torch.equal(*answers)


def test_several_objects_become_one_label_map(network):
    x = image(1, 1, 30, 30)
    prompts = {"point_coords": torch.tensor([[[5.0, 5.0]], [[20.0, 20.0]]]), "point_labels": torch.ones(2, 1).long()}
    with torch.no_grad():
        together = PromptedInference(SimpleInferer())(x, network, **prompts)
        each = network(x, **prompts)
    assert together.shape == (1, 3, 30, 30) and not together[:, 0].any()
    torch.testing.assert_close(together[0, 1:], each[:, 1])
    assert PromptedInference(SimpleInferer())(x, network).shape == (1, 3, 30, 30)


VOLUME_PROMPTS = {
    "clicks": {
        "point_coords": torch.tensor([[[9.0, 9, 1], [14, 11, 6], [3, 20, 2]], [[20.0, 5, 4], [2, 2, 0], [25, 25, 7]]]),
        "point_labels": torch.tensor([[1, 1, 0], [1, -1, 0]]),
    },
    "box and clicks": {
        "point_coords": torch.tensor([[[9.0, 9, 1], [14, 11, 6]], [[20.0, 5, 4], [2, 2, 0]]]),
        "point_labels": torch.tensor([[0, 1], [1, -1]]),
        "boxes": torch.tensor([[[5.0, 5, 1, 20, 20, 5]], [[torch.nan] * 6]]),
    },
}


@pytest.mark.parametrize("prompts", VOLUME_PROMPTS.values(), ids=VOLUME_PROMPTS)
def test_a_volume_answered_in_parts_has_the_same_answer(network, monkeypatch, prompts):
    volume = image(1, 1, 30, 28, 8)
    objects = [{key: value[k : k + 1] for key, value in prompts.items()} for k in range(2)]
    with torch.no_grad():
        embedding, automatic = network.encode(volume), network(volume)
        whole = [answered(network, volume, embedding, automatic, one) for one in objects]
        followed = PromptedInference(SimpleInferer())(volume, network, **prompts).argmax(1, keepdim=True)
        monkeypatch.setattr(following, "PART", 3)
        for one, expected in zip(objects, whole, strict=True):
            parts = answered(network, volume, embedding, None, one)
            torch.testing.assert_close(parts, expected, atol=1e-4, rtol=1e-4)
        monkeypatch.setattr(prompted_inference, "MOST_BYTES", 0)
        labels = PromptedInference(SimpleInferer())(volume, network, **prompts)
    assert labels.dtype == torch.int16 and followed.any()
    assert (labels == followed).float().mean() > 0.999


@pytest.mark.parametrize("spacing", [None, (2.0, 1.5, 2.5)])
def test_prompts_of_a_file_mean_the_same_voxels_after_turning_and_resampling(tmp_path, spacing):
    array, voxel = np.zeros((20, 24, 9), np.float32), (13, 5, 6)
    array[11:16, 3:8, 5:8] = 100
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(array, oblique()), path)
    content = {
        "objects": [{"points": [voxel], "labels": [1], "box": [11, 3, 5, 15, 7, 7]}, {"box": [0, 0, 0, 2, 2, 2]}]
    }
    prompts_beside(path).write_text(json.dumps(content))
    batch = pipeline.preprocessing((), {**SETTINGS, "spacing": spacing})({"image": str(path)})
    loaded = batch["image"]
    prompts = read_prompts(prompts_beside(path), loaded)
    assert prompts["point_labels"].tolist() == [[1], [-1]]
    at = prompts["point_coords"][0, 0]
    world = loaded.affine[:3, :3].double() @ at.double() + loaded.affine[:3, 3]
    np.testing.assert_allclose(world, oblique()[:3, :3] @ voxel + oblique()[:3, 3], atol=1e-4)
    i, j, k = at.round().int().tolist()
    assert loaded[0, i, j, k] > 0.9
    low, high = prompts["boxes"][0, 0].round().int().view(2, 3)
    bright = (loaded[0] > 0.5).nonzero()
    off = max((bright.amin(0) - low).abs().max(), (bright.amax(0) - high).abs().max())
    assert off <= (0 if spacing is None else 1) and (low <= high).all()
    _, _, _, given = with_prompts(list_data_collate([batch]), torch.device("cpu"))
    assert given.keys() == {"point_coords", "point_labels", "boxes"}


CROP = SpatialCropd("image", roi_start=(6, 2), roi_end=(24, 30))


@pytest.mark.parametrize("step", [Flipd("image", 0), Rotate90d("image"), CROP, Resized("image", (48, 20))])
def test_prompts_of_a_picture_mean_the_same_pixel_whatever_was_done_to_it(tmp_path, step):
    array = np.zeros((24, 40), np.uint8)
    array[12:16, 20:24] = 255
    Image.fromarray(array).save(tmp_path / "a.png")
    prompts_beside(tmp_path / "a.png").write_text(json.dumps({"objects": [{"points": [[13, 22]], "labels": [1]}]}))
    loaded: Any = step(LoadCased("image")({"image": str(tmp_path / "a.png")}))["image"]
    i, j = read_prompts(prompts_beside(tmp_path / "a.png"), loaded)["point_coords"][0, 0].round().int().tolist()
    assert loaded[0, i, j] > 200


def test_prompts_that_lie_among_the_files_of_a_series_are_named_with_their_place(tmp_path, caplog):
    inside, *_ = write_series(tmp_path / "T1", np.zeros((8, 8, 3), np.int16), np.eye(4))
    alone = tmp_path / "a.nii.gz"
    alone.touch()
    for used in (prompts_beside(tmp_path / "T1"), prompts_beside(alone)):
        used.touch()
    name_unused({tmp_path / "T1", alone}, {})
    assert not caplog.text
    prompts_beside(inside).touch()
    name_unused({tmp_path / "T1", alone}, {})
    assert (
        f"{inside.name}.prompts.json: is not used" in caplog.text and f"sam-monai series {tmp_path}/T1" in caplog.text
    )


def test_an_image_without_a_file_of_prompts_has_none(tmp_path):
    assert read_prompts(tmp_path / "none.json", torch.zeros(1, 5, 5)) == {}


def test_clicks_are_counted_until_the_dice_is_reached_first_and_all_where_it_never_is():
    after = {"one": [0.9], "two": [0.5, 0.6, 0.86, 0.7, 0.9], "never": [0.84]}
    rows = []
    for clicks in range(MOST + 1):
        for name, dice in after.items():
            row = {"label": "b" if name == "two" else "a", "dice": dice[min(clicks, len(dice) - 1)]}
            rows.append({**row, "case": name, "prompt": correction_name(clicks)})
    assert number_of_clicks(rows, ["a", "b"], 0.85) == ((0 + MOST) / 2 + 2) / 2
    assert number_of_clicks(rows, ["a", "b"], 0.88) == ((0 + MOST) / 2 + 4) / 2
    assert number_of_clicks(rows, ["a", "b", "absent"], 0.91) == MOST


def test_prompts_beside_another_channel_are_named_with_the_image_where_they_belong(tmp_path, caplog):
    first, second = tmp_path / "x_FLAIR.nii.gz", tmp_path / "x_T1w.nii.gz"
    for file in (first, second, prompts_beside(second)):
        file.touch()
    name_unused({first}, {second: first})
    assert "x_T1w.nii.gz.prompts.json: is not used, for x_T1w.nii.gz is a channel of x_FLAIR.nii.gz" in caplog.text


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("spacing, at", [((1.0, 1.0, 5.0), 12), ((1.7, 1.3, 2.0), 7), ((1.0, 1.0, 2.0), 39)])
def test_the_clicked_voxel_of_the_file_is_obeyed_whatever_the_networks_grid(tmp_path, spacing, at, kind):
    """Its slice lies between two of the network's, which are interpolated; the last one may lie beyond the last."""
    path = str(tmp_path / "scan.nii.gz")
    nib.save(
        nib.Nifti1Image(np.random.default_rng(0).random((40, 40, 40), np.float32), np.diag([-1, -1, 1, 1.0])), path
    )
    preparation = pipeline.preprocessing((), SETTINGS | {"spacing": spacing})
    case: Any = preparation({"image": path})
    prompts_beside(path).write_text(json.dumps({"objects": [{"points": [[20, 21, at]], "labels": [kind]}]}))
    prompts = read_prompts(prompts_beside(path), case["image"])
    before = torch.full(case["image"].shape[1:], -4.0 if kind else 5.0)
    logits = obeyed_between_voxels(before, prompts)
    whole = prompts["point_coords"].round().long()[0, 0].tolist()
    logits[tuple(whole)] = 1.0 if kind else -1.0  # as the network itself obeys
    pred = torch.stack([torch.zeros_like(logits), logits])
    mask = pipeline.postprocessing(preparation)({"image": case["image"], "pred": pred})["pred"]
    assert int(mask[0, 20, 21, at]) == kind
    assert (mask[0] == kind).sum() < 60  # and little else
