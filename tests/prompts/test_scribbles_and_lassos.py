"""Scribbles become clicks along them, a lasso a mask in its slice, from a file and from a request."""

from __future__ import annotations

import copy
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import oblique
from monai.data import MetaTensor

from sam_monai import InputError
from sam_monai.inference import pipeline
from sam_monai.prompts.monai_label import KeepClicks, clicks_of_request
from sam_monai.prompts.prompt_files import lasso_as_mask, prompts_beside, read_prompts
from sam_monai.prompts.prompted_inference import prompts_in
from sam_monai.prompts.schema import along, check_objects

SETTINGS = {"spatial_dims": 3, "intensity": "mr", "ct_window": (-160, 240), "orientation": "PLS", "spacing": None,
            "channels": None, "scale": "whole"}  # fmt: skip
SQUARE = [[5, 4], [5, 12], [14, 12], [14, 4]]


def test_clicks_lie_at_equal_distances_along_a_scribble_and_are_few():
    assert along([[3, 3, 1]]) == [[3, 3, 1]]
    assert along([[0, 0], [2, 0]]) == [[1, 0]]  # too short for two
    corner = along([[0, 0], [8, 0], [8, 8]])
    assert corner == [[0, 0], [4, 0], [8, 0], [8, 4], [8, 8]]
    many = np.array(along([[0, k] for k in range(0, 300, 3)]))
    assert len(many) == 8 and np.allclose(np.diff(many[:, 1]), 297 / 7)


def test_scribbles_come_after_the_clicks_with_their_labels():
    one = {"points": [[1, 1]], "labels": [0], "scribbles": [{"path": [[0, 0], [8, 0]], "label": 1}]}
    (found,) = check_objects([one], 2, "p")
    assert found["points"] == [[1, 1], [0, 0], [4, 0], [8, 0]] and found["labels"] == [0, 1, 1, 1]


def test_a_lasso_of_a_file_is_a_mask_in_its_slice_after_turning(tmp_path):
    array = np.zeros((20, 24, 9), np.float32)
    array[6:14, 5:12, 5] = 100
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(array, oblique()), path)
    lasso = [[*corner, 5] for corner in ([5.5, 4.5], [5.5, 11.5], [13.5, 11.5], [13.5, 4.5])]
    objects = [{"lasso": lasso}, {"points": [[3, 3, 3]], "labels": [1]}]
    prompts_beside(path).write_text(json.dumps({"objects": objects}))
    loaded = pipeline.preprocessing((), SETTINGS)({"image": str(path)})["image"]
    prompts = read_prompts(prompts_beside(path), loaded)
    with_lasso, without = (lasso_as_mask({"lasso": one[None]}, loaded[None]) for one in prompts["lasso"])
    masks = with_lasso["masks"]
    assert masks.shape == (1, 1, *loaded.shape[1:]) and not without
    given = ~masks[0, 0].isnan()
    assert given.flatten(0, 1).any(0).sum() == 1 and torch.equal(masks[0, 0] > 0, torch.as_tensor(loaded[0] > 0.5))


def test_a_request_draws_on_a_picture_by_columns_and_rows():
    image = MetaTensor(torch.zeros(1, 30, 20))
    request = {"image": image, "lasso": [[j, i] for i, j in SQUARE], "scribbles": [{"path": [[2, 9]], "label": 0}]}
    kept = copy.deepcopy(request["scribbles"])
    prompts = clicks_of_request(KeepClicks()(request)["image"])
    inside = lasso_as_mask(prompts, image[None])["masks"][0, 0] > 0
    assert inside[9, 8] and inside[13, 8] and not inside[8, 13] and not inside[2, 8]
    assert prompts["point_coords"].tolist() == [[[9, 2]]] and prompts["point_labels"].tolist() == [[0]]
    assert clicks_of_request(image)["point_coords"].tolist() == [[[9, 2]]]  # asked again
    assert request["scribbles"] == kept


@pytest.mark.parametrize(
    ("one", "said"),
    [
        ({"scribbles": [[1, 2]]}, "path and a label"),
        ({"scribbles": {"path": [[1, 2]], "label": 1}}, "no list"),
        ({"scribbles": [{"path": [[1, 2, 3]], "label": 1}]}, "2 finite numbers"),
        ({"scribbles": [{"path": [], "label": 1}]}, "path is no list"),
        ({"scribbles": [{"path": [[1, 2]], "label": True}]}, "neither 1"),
        ({"lasso": [[1, 2], [3, 4]]}, "three or more"),
        ({"lasso": [[1, 2], [3, 4], [5, None]]}, "three or more"),
        ({"lassos": []}, "lasso"),
        ({"scribbles": []}, "neither points nor a box"),
    ],
)
def test_what_cannot_be_drawn_is_refused(one, said):
    with pytest.raises(InputError, match=f"object 1.*{said}"):
        check_objects([one], 2, "p.json")


@pytest.mark.parametrize(
    ("lasso", "said"),
    [
        ([[1, 1, 1], [1, 8, 1], [8, 8, 6]], "one slice"),
        ([[1, 1, 9], [1, 8, 9], [8, 8, 9]], "outside"),
        ([[30, 30, 1], [30, 38, 1], [38, 38, 1]], "holds no voxel"),
        ([[1.2, 1.2, 1], [1.2, 1.4, 1], [1.4, 1.4, 1]], "holds no voxel"),
    ],
)
def test_a_lasso_that_holds_nothing_is_refused(lasso, said):
    image = MetaTensor(torch.zeros(1, 12, 12, 7))
    image.meta["original_affine"] = image.affine
    image.meta["clicks"] = {"lasso": lasso}
    with pytest.raises(InputError, match=said):
        clicks_of_request(image)


@pytest.mark.parametrize(
    ("shape", "more", "said"),
    [
        ((1, 1, 30, 30), {"lasso": SQUARE}, r"lassos are \(B, N, 2\)"),  # without the axis of objects
        ((1, 1, 30, 30, 4), {"lasso": [SQUARE]}, r"lassos are \(B, N, 3\)"),
        ((1, 1, 30, 30), {"lasso": [SQUARE], "masks": torch.randn(1, 1, 30, 30)}, "a lasso or masks, not both"),
    ],
)
def test_a_lasso_of_another_shape_or_beside_a_mask_is_refused(shape, more, said):
    with pytest.raises(InputError, match=said):
        prompts_in(torch.rand(shape), more)
