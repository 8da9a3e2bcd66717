"""The mask of a picture that a server's request asks about, as MONAI Label's writer takes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from image_files import picture

from sam_monai.inference import pipeline

SETTINGS = {"spatial_dims": 2, "intensity": "picture", "ct_window": (0, 1), "orientation": "PLS", "channels": None,
            "scale": "whole"}  # fmt: skip


@pytest.mark.parametrize("spacing", [None, [2.0, 2.0]])
@pytest.mark.parametrize("name, extension", [("a.png", None), ("a.jpg", ".png"), ("a.bmp", ".png"), ("a.tif", None)])
def test_it_is_one_slice_of_its_columns_and_rows_at_itks_place(tmp_path, spacing, name, extension):
    array = np.random.default_rng(0).integers(0, 255, (40, 60)).astype(np.uint8)
    prepare = pipeline.preprocessing((), SETTINGS | {"spacing": spacing})
    request = {"image": str(picture(tmp_path / name, array))}
    request["image_path"] = request["image"]
    case = prepare(request)
    rows, columns = case["image"].shape[1:]
    logits = torch.zeros(2, rows, columns)
    logits[0], logits[1, : rows // 2, : columns // 4] = 1, 5
    case["pred"] = logits
    done = pipeline.postprocessing(prepare)(case)
    mask, image = done["pred"], done["image"]
    assert mask.shape == (1, 60, 40, 1) and mask.dtype == torch.uint8
    assert mask[0, :13, :18].all() and not mask[0, 17:].any() and not mask[0, :, 22:].any()
    place = torch.diag(torch.tensor([-1.0, -1, 1, 1]))
    # The writer takes the place of the image, where it knows one, and the size that the mask must have.
    assert torch.equal(mask.affine.float(), place) and torch.equal(image.meta["original_affine"].float(), place)
    assert tuple(image.meta["spatial_shape"]) == (60, 40, 1) and done.get("result_extension") == extension


def test_elsewhere_it_stays_rows_by_columns(tmp_path):
    prepare = pipeline.preprocessing((), SETTINGS | {"spacing": None})
    case = prepare({"image": str(picture(tmp_path / "a.png", np.arange(2400, dtype=np.uint8).reshape(40, 60)))})
    case["pred"] = torch.rand(2, 40, 60)
    assert pipeline.postprocessing(prepare)(case)["pred"].shape == (1, 40, 60)
