"""Samples of every label, shifted in proportion to their size, as thick as depth attention sees."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bundle_runner import volumes
from monai.data import MetaTensor
from monai.transforms import Compose, RandAffined

from sam_monai import InputError
from sam_monai.data.unlabelled import UNLABELLED
from sam_monai.training.samples import CropAroundLabelsd, training_samples, wobbling

SETTINGS = {"spatial_dims": 3, "intensity": "mr", "ct_window": [-160, 240], "orientation": "axial", "spacing": None,
            "channels": None, "scale": "whole"}  # fmt: skip


def network(**options):
    mean = SimpleNamespace(cpu=lambda: torch.zeros(3, 1, 1))
    known = {
        "image_size": 32,
        "resize": "stretch",
        "depth_attention": False,
        "slices_per_batch": 8,
        "channel_names": None,
    }
    return SimpleNamespace(**known | options, backbone=SimpleNamespace(pixel_mean=mean))


def drawn(label: torch.Tensor, draws: int = 900) -> dict[int, float]:
    """How often the centre of a sample has each value."""
    crop = CropAroundLabelsd(("label",), "label", (1, 1, 1), pos=2, neg=1, num_samples=draws)
    crop.set_random_state(0)
    values, counts = np.unique([int(sample["label"]) for sample in crop({"label": label})], return_counts=True)
    return dict(zip(values.tolist(), (counts / draws).tolist(), strict=True))


def test_a_large_organ_does_not_crowd_out_a_small_one():
    label = torch.zeros(1, 40, 40, 10)
    label[:, :20] = 1
    label[0, 30, 30, 5] = 2
    label[0, 35, 30:32, 5] = 7
    assert drawn(label) == pytest.approx({0: 1 / 3, 1: 2 / 9, 2: 2 / 9, 7: 2 / 9}, abs=0.05)


@pytest.mark.parametrize("value", [0, 3])
def test_a_case_of_background_or_of_one_label_alone_is_drawn_from(value):
    assert drawn(torch.full((1, 5, 5, 5), float(value))) == {value: 1.0}


def test_the_seed_decides_the_samples():
    label = torch.randint(0, 3, (1, 16, 16, 4)).float()
    crop = CropAroundLabelsd(("label",), "label", (4, 4, 2), num_samples=8)
    draws = []
    for _ in range(2):
        crop.set_random_state(7)
        draws.append(torch.stack([sample["label"] for sample in crop({"label": label})]))
    assert torch.equal(*draws)


@pytest.mark.parametrize("size", [64, 1024])
@pytest.mark.parametrize("volume", [True, False])
def test_shifts_are_a_share_of_the_size(size, volume):
    affine = next(step for step in wobbling(volume, size) if isinstance(step, RandAffined))
    assert affine.rand_affine.rand_affine_grid.translate_range[:2] == (size / 8, size / 8)


@pytest.mark.parametrize("volume", [True, False])
def test_what_is_varied_stays_within_what_a_prepared_image_may_hold(volume):
    wobble = Compose(wobbling(volume, 16)).set_random_state(0)
    case = {"image": torch.rand(1, 16, 16, *(4,) * volume), "label": torch.ones(1, 16, 16, *(4,) * volume)}
    ends = [value.item() for _ in range(40) for value in torch.aminmax(wobble(case)["image"])]
    assert min(ends) == 0 and max(ends) == 1  # brightness is varied, and is cut there


@pytest.mark.parametrize(("slices", "attention", "said"), [(2, True, True), (8, True, False), (2, False, False)])
def test_slices_that_depth_attention_will_see_otherwise_are_named(slices, attention, said, caplog):
    with caplog.at_level(logging.WARNING):
        training_samples(["liver"], SETTINGS, network(depth_attention=attention), slices)
    assert ("trained on 2 slices and used on 8" in caplog.text) == said


def test_a_sample_knows_the_name_of_its_case(tmp_path):
    folder = volumes(tmp_path / "data")
    case = {"image": f"{folder}/images/a.nii.gz", "label": f"{folder}/labels/a.nii.gz"}
    samples = training_samples(["bright", "dark"], SETTINGS, network(), slices=2, samples=3)(case)
    assert [sample["case"] for sample in samples] == ["a.nii.gz"] * 3
    assert samples[0]["image"].shape == (1, 32, 32, 2)


def test_a_case_of_which_no_annotated_slice_is_left_is_named():
    label = MetaTensor(torch.full((1, 8, 8, 4), float(UNLABELLED)), meta={"filename_or_obj": "a.nii.gz"})
    with pytest.raises(InputError, match=r"a\.nii\.gz: none of its annotated slices is left at the key spacing"):
        CropAroundLabelsd(("label",), "label", (4, 4, 2))({"label": label})
