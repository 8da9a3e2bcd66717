"""Objects of prompts take the place of labels in the automatic mask, and nothing else of it changes."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import oblique
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.inferers import SimpleInferer, SlidingWindowInferer

from sam_monai import InputError
from sam_monai.inference import pipeline
from sam_monai.inference.slabs import SlabInferer
from sam_monai.prompts import prompted_inference
from sam_monai.prompts.corrections import corrected
from sam_monai.prompts.monai_label import KeepClicks
from sam_monai.prompts.prompt_files import prompts_beside, with_prompts
from sam_monai.prompts.prompted_inference import PromptedInference

SETTINGS = {"spatial_dims": 3, "intensity": "mr", "ct_window": (-160, 240), "orientation": "PLS", "spacing": None,
            "channels": None, "scale": "whole"}  # fmt: skip
LABELS = ("liver", "stomach", "spleen")


class Bands:
    """Thirds of the grey values are the labels. A box is answered by its inside, as far as it is not black."""

    labels, mask_prompts, image_size = LABELS, False, 16

    def __call__(self, image, embedding=None, boxes=None, automatic=None, part=(0, 0), resemblance=None, meant=None):
        grey = image[:, :1]
        if boxes is None:
            each = [5 - 30 * (grey - c / 3).abs() for c in (1, 2, 3)]
            return torch.cat([torch.zeros_like(grey), *each], 1)
        low, high = boxes[0, 0].round().int().tolist()[: image.ndim - 2], boxes[0, 0].round().int().tolist()
        inside = torch.full_like(grey[0], -1.7)
        where = [slice(a, b + 1) for a, b in zip(low, high[image.ndim - 2 :], strict=True)]
        if image.ndim == 5:
            where[2] = slice(max(0, where[2].start - part[0]), max(0, where[2].stop - part[0]))
        inside[(0, *where)] = 5
        answer = torch.where(grey[0] > 0.1, inside, -1.7)
        return torch.stack([torch.zeros_like(answer), answer], 1)

    def encode(self, image):
        return image

    def resemblance(self, image, embedding, **prompts):
        return torch.zeros(1, 3, 5)


def bands(*shape: int) -> torch.Tensor:
    """Black, then four columns of each label, and black again."""
    grey = torch.zeros(1, 1, *shape)
    for c in (1, 2, 3):
        grey[:, :, 3:-3, 4 * c : 4 * c + 4] = c / 3
    return grey


def map_of(answer: torch.Tensor) -> torch.Tensor:
    return answer.argmax(1)[0] if answer.shape[1] > 1 else answer[0, 0]


WAYS = {
    "a picture": ((24, 20), SimpleInferer()),
    "a volume": ((24, 20, 6), SlabInferer(SimpleInferer())),
    "a large volume": ((24, 20, 6), SlabInferer(SimpleInferer(), slices=2, most_bytes=0)),
    "a picture in patches": ((24, 20), SlidingWindowInferer((16, 16), overlap=0.25)),
    "a volume in patches": ((24, 20, 6), SlabInferer(SlidingWindowInferer((16, 16, 6)))),
}


@pytest.mark.parametrize(("shape", "automatic"), WAYS.values(), ids=WAYS)
def test_objects_take_the_place_of_their_labels_and_nothing_else_changes(monkeypatch, shape, automatic):
    if getattr(automatic, "most_bytes", 1) == 0:
        monkeypatch.setattr(prompted_inference, "MOST_BYTES", 0)
    inferer, x, deep = PromptedInference(automatic), bands(*shape), len(shape) == 3

    def ask(*objects):
        boxes = [[*low, *[1] * deep, *high, *[3] * deep] for low, high, _ in objects]
        return map_of(inferer(x, Bands(), boxes=[[box] for box in boxes], label=[o[2] for o in objects], correct=True))

    def inside(low, high):
        mask = torch.zeros(shape, dtype=torch.bool)
        mask[(slice(low[0], high[0] + 1), slice(low[1], high[1] + 1), *[slice(1, 4)] * deep)] = True
        return mask & (x[0, 0] > 0.1)

    before = map_of(inferer(x, Bands()))
    assert before.unique().tolist() == [0, 1, 2, 3]
    one, two, late = ((5, 7), (9, 10)), ((14, 8), (18, 9)), ((8, 5), (15, 8))
    expected = torch.where(before == 2, 0, before)
    expected[inside(*one) | inside(*two)] = 2
    assert torch.equal(ask((*one, "stomach"), (*two, "stomach")), expected)
    assert inside(*one)[before == 1].any() and inside(*late)[inside(*one)].any()
    expected = torch.where((before == 2) | (before == 3), 0, before)
    expected[inside(*one)] = 2
    expected[inside(*late)] = 3
    expected[inside(*two)] = 2  # above the part of the spleen that it meets
    assert torch.equal(ask((*one, "stomach"), (*late, "spleen"), (*two, "stomach")), expected)


def test_where_the_object_is_not_the_next_best_label_counts_and_what_is_given_stays_as_it_was():
    voxels = [[0.0, 3.0, 2.0, -1.0], [0.0, 3.0, -2.0, 2.5], [0.0, 3.0, -2.0, -2.0], [0.0, -1.0, 2.0, -9.0]]
    logits = torch.tensor(voxels).T[None, :, None].half()
    kept = logits.clone()
    nowhere, rows, columns = torch.full((1, 4), -4.0), slice(0, 1), slice(0, 4)
    found = corrected(logits, [1], [(nowhere, rows, columns)])
    assert found.argmax(1).tolist() == [[[2, 3, 0, 2]]] and torch.equal(logits, kept) and found.isfinite().all()
    assert torch.equal(found[:, [0, 2, 3]], logits[:, [0, 2, 3]].float())
    both = corrected(logits, [1, 2], [(nowhere, rows, columns)] * 2)
    assert both.argmax(1).tolist() == [[[0, 3, 0, 0]]]  # neither comes back through the other


@pytest.fixture
def scan(tmp_path):
    """Two organs that touch and one apart, in a file whose axes are turned, and whose voxels are resampled."""
    array = np.zeros((28, 24, 9), np.float32)
    for c in (1, 2, 3):
        array[4:24, 5 * c : 5 * c + 5, 1:8] = c / 3
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(array, oblique(spacing=(1.2, 0.8, 2.0))), path)
    return path


def segment(path, content=None, **settings):
    file = prompts_beside(path)
    file.unlink(missing_ok=True)
    if content is not None:
        file.write_text(json.dumps(content))
    steps = pipeline.preprocessing((), SETTINGS | {"spacing": (0.9, 1.0, 1.7)} | settings)
    batch = list_data_collate([steps({"image": str(path)})])
    x, _, _, prompts = with_prompts(batch, torch.device("cpu"))
    answer = PromptedInference(SimpleInferer())(x, Bands(), **prompts)
    (case,) = decollate_batch({"image": batch["image"], "pred": MetaTensor(answer)})
    return np.asarray(pipeline.postprocessing(steps)(case)["pred"][0])


def test_in_a_turned_and_resampled_file_only_the_objects_voxels_change(scan):
    one = {"box": [8, 11, 2, 15, 16, 5], "label": "stomach"}
    before, alone = segment(scan), segment(scan, {"objects": [one]}) > 0
    after = segment(scan, {"objects": [one], "correct": True})
    assert np.unique(before).tolist() == [0, 1, 2, 3] == np.unique(after).tolist()
    places = np.argwhere(alone)
    assert np.abs(places.min(0) - [8, 11, 2]).max() <= 1 and np.abs(places.max(0) - [15, 16, 5]).max() <= 1
    assert np.array_equal(after == 2, alone)
    others = ~alone & (before != 2)
    assert np.array_equal(after[others], before[others])
    assert (
        (after[(before == 2) & ~alone] != 2).all() and ((before == 2) & ~alone).any() and (alone & (before != 2)).any()
    )


def test_a_correction_that_is_taken_back_leaves_the_automatic_mask(scan):
    one = {"box": [8, 11, 2, 15, 16, 5], "label": "stomach"}
    before = segment(scan)
    assert not np.array_equal(segment(scan, {"correct": True, "objects": [one]}), before)
    assert np.array_equal(segment(scan, {"correct": True, "objects": []}), before)
    assert np.array_equal(segment(scan, {"correct": False, "objects": [one]}), segment(scan, {"objects": [one]}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"correct": True, "objects": [{"label": "liver", "box": [1] * 6}, {"box": [1] * 6}]}, "object 2 names no"),
        ({"correct": True, "objects": [{"label": "stomac", "box": [1] * 6}]}, "object 1.*'stomac'.*stomach"),
        ({"correct": 1, "objects": [{"label": "liver", "box": [1] * 6}]}, '"correct" is true or false'),
        ({"corect": True, "objects": [{"label": "liver", "box": [1] * 6}]}, "did you mean 'correct'"),
        ({"correct": False, "objects": []}, "no list with at least one"),
    ],
)
def test_what_corrects_no_label_is_refused(scan, content, said):
    with pytest.raises(InputError, match=said):
        segment(scan, content)


def test_from_python_and_in_a_request(monkeypatch):
    x, inferer, box = bands(24, 20), PromptedInference(SimpleInferer()), [5, 7, 9, 10]
    expected = inferer(x, Bands(), boxes=[[box]], label=["stomach"], correct=True)

    def ask(**params):
        image = KeepClicks()({"image": MetaTensor(x[0]), **params})["image"]
        return inferer(MetaTensor(image[None], meta=image.meta), Bands())

    assert torch.equal(ask(box=[7, 5, 10, 9], label="Stomach", correct=True), expected)
    assert torch.equal(ask(correct=True, label="stomach"), inferer(x, Bands()))
    for label in ({}, {"label": "Segment_1"}):
        with pytest.raises(InputError, match="object 1 of the prompts names no label"):
            ask(box=[7, 5, 10, 9], correct=True, **label)
    with pytest.raises(InputError, match="object 2 of the prompts names no label"):
        inferer(x, Bands(), boxes=[[box], [box]], label=["liver", None], correct=True)
    with pytest.raises(InputError, match="give true or false"):
        inferer(x, Bands(), boxes=[[box]], label=["liver"], correct="yes")
    monkeypatch.setattr(Bands, "preprocessing", {"instances": True}, raising=False)
    with pytest.raises(InputError, match="numbers the objects of one label"):
        inferer(x, Bands(), boxes=[[box]], label=["liver"], correct=True)
