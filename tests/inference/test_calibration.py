"""The temperature makes probabilities what they say, comes with the adapter, and changes no mask."""

from __future__ import annotations

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import SMALL, run, volumes
from monai.data import MetaTensor, list_data_collate
from monai.transforms import Compose

from sam_monai import InputError
from sam_monai.data.unlabelled import UNLABELLED
from sam_monai.inference.calibration import Calibration
from sam_monai.inference.quality import sums_of
from sam_monai.networks import identity
from sam_monai.networks.adapter_files import at_temperature, note_validation, read_adapter, read_training
from sam_monai.networks.regions import probabilities_of


def drawn(temperature, regions=None, size=90):
    """Logits, and a label map drawn from what they are at a temperature."""
    rng = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(3, size, size, generator=rng)
    logits[0] = 0
    p = probabilities_of(logits, regions, temperature)
    if regions is None:
        label = torch.multinomial(p.flatten(1).T, 1, generator=rng).reshape(1, size, size)
    else:
        one, two = torch.rand(2, size, size, generator=rng) < p[1:]
        label = (2 * (one & two) + (one & ~two).long())[None]
    return logits, label


def fitted(logits, label, regions=None):
    calibration = Calibration(Compose([]), regions)
    state = SimpleNamespace(output={"pred": logits[None], "label": MetaTensor(label[None])}, epoch_length=1)
    calibration.collect(SimpleNamespace(state=state))
    calibration.fit()
    return calibration


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_temperature_is_found_again_and_the_calibration_error_falls(temperature):
    found = fitted(*drawn(temperature))
    assert found.temperature == pytest.approx(temperature, rel=0.13)
    before, after = found.errors
    assert after < 0.03 and (temperature == 1 or after < before / 2)


def test_logits_and_a_reference_that_lie_apart_are_refused():
    logits, label = drawn(1.0)
    with pytest.raises(InputError, match="on different grids"):
        fitted(logits[..., :-1], label)


def test_voxels_that_nobody_annotated_do_not_count():
    logits, label = drawn(2.0)
    label[:, 40:] = (label[:, 40:] + 1) % 3
    assert fitted(logits, label).temperature > 4
    label[:, 40:] = UNLABELLED
    assert fitted(logits, label).temperature == pytest.approx(2, rel=0.13)


def test_regions_that_overlap_have_a_sigmoid_each():
    regions = [[1, 2], [2]]
    logits = torch.stack(
        [torch.zeros(90, 90), *(4 * torch.randn(2, 90, 90, generator=torch.Generator().manual_seed(0)))]
    )
    logits[2] = logits[1].minimum(logits[2])
    whole = torch.rand(90, 90, generator=torch.Generator().manual_seed(1))
    inner, outer = (whole < (logits[i] / 2).sigmoid() for i in (2, 1))  # the inner one lies in the outer one
    found = fitted(logits, (outer.long() + inner.long())[None], regions)
    assert found.temperature == pytest.approx(2, rel=0.13) and found.errors[1] < 0.03 < found.errors[0]


def test_labels_alone_are_left_out():
    logits, label = drawn(2.0)
    found = fitted(logits.argmax(0, keepdim=True), label)
    assert found.temperature == 1 and found.guesses() == [None] and np.isnan(found.errors).all()


def test_guesses_are_those_of_the_temperature():
    logits, label = drawn(2.0)
    found = fitted(logits, label)
    network = SimpleNamespace(regions=None, temperature=found.temperature)
    sums = sums_of(logits, network)
    assert found.guesses()[0] == pytest.approx((2 * sums[0] / (sums[1] + sums[2])).tolist(), abs=1e-3)


def test_the_adapter_brings_it_and_masks_stay(tmp_path):
    folder, models, out = volumes(tmp_path / "data", names=("bright",)), tmp_path / "models", tmp_path / "out"
    where = {"dataset_dir": str(folder), "ckpt_dir": str(models), "scale": "whole", "mirror": "none", **SMALL}
    run("ptsam", "train", output_dir=str(out), **where)
    path, training = models / "model.pt", read_training(models / "model.pt")
    record = identity.from_tensor(read_adapter(path)["identity"])
    assert training is not None and len(training["calibration_error"]) == 2
    assert 0.25 <= record["temperature"] <= 8
    note_validation(path, 3.0)
    assert identity.from_tensor(read_adapter(path)["identity"])["temperature"] == 3
    assert read_training(path) == training
    run("ptsam", "train", output_dir=str(out), resume=True, **(where | {"epochs": 3}))  # it is still its adapter

    logits, masks = [], []
    for temperature in (1.0, 3.0):
        note_validation(path, temperature)
        to = {"adapter": str(path), "output_dir": str(tmp_path / f"masks {temperature}")}
        run("ptsam", "inference", dataset_dir=str(folder), probabilities=True, **to)
        p = nib.load(tmp_path / f"masks {temperature}/d_prob.nii.gz").get_fdata().clip(1e-3, 1 - 1e-3)
        logits.append(np.log(p / (1 - p)))
        masks.append(np.asarray(nib.load(tmp_path / f"masks {temperature}/d_seg.nii.gz").dataobj))
    assert np.array_equal(*masks)
    inside = np.abs(logits[0]) < 5
    assert inside.any() and np.allclose(logits[0][inside], 3 * logits[1][inside], atol=0.05)


def test_an_adapter_without_it_means_1():
    record = {"method": "ptsam", "backbone": "lite_medsam", "base": "random", "labels": ["a"], "image_size": 64,
              "resize": "stretch", "depth_attention": False, "tokens": 8, "encoder_prompts": 0,
              "preprocessing": {}}  # fmt: skip
    data = json.dumps(record).encode().ljust(identity.LENGTH)
    state = {"identity": torch.frombuffer(bytearray(data), dtype=torch.uint8).clone()}
    assert identity.from_tensor(state["identity"])["temperature"] == 1
    assert at_temperature(state) is state
    other = at_temperature(state, 2.0)
    assert identity.from_tensor(other["identity"])["temperature"] == 2
    assert identity.from_tensor(at_temperature(other)["identity"]) == identity.from_tensor(state["identity"])


@pytest.mark.parametrize("depth", [10, 11, 36])
def test_voxels_are_taken_of_every_slice(depth):
    """A stride that is a multiple of the depth would stay in one."""
    label = torch.zeros(1, 512, 512, depth)
    label[:, 200:300, 200:300, 3:8], label[:, 220:240, 220:240, 4:6] = 1, 2
    logits = torch.zeros(3, 512, 512, depth)
    logits[1:] = -4
    for value in (1, 2):
        logits[value][label[0] == value] = 1
    calibration = Calibration(Compose([]))
    output = list_data_collate([{"pred": MetaTensor(logits), "label": MetaTensor(label)}])
    calibration.collect(SimpleNamespace(state=SimpleNamespace(output=output, epoch_length=1)))  # type: ignore[arg-type]
    ((_, masks),) = calibration.cases
    assert masks.float().mean(1).tolist() == pytest.approx(
        [float((label == i).float().mean()) for i in (1, 2)], rel=0.1
    )
