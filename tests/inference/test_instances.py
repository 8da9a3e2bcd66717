"""Numbered objects in inference: none is doubled at a patch's seam, prompts keep theirs, and files hold the numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image

from sam_monai import InputError
from sam_monai.data.instances import inside_and_border
from sam_monai.inference import file_grid, pipeline
from sam_monai.inference.masks import SaveMasks

SETTINGS = {"spatial_dims": 2, "intensity": "picture", "ct_window": (0, 1), "orientation": "PLS", "spacing": None,
            "channels": None, "scale": "patch", "instances": True}  # fmt: skip


def squares(side: int = 100) -> np.ndarray:
    """Squares of 10 pixels, wall to wall but for a few gaps."""
    label = np.kron(np.arange(1, 101).reshape(10, 10), np.ones((10, 10), int))
    return label * (label % 7 > 0)


def answer(image: torch.Tensor) -> torch.Tensor:
    """A network that reads inside and border from the grey of a picture (B, 1, H, W)."""
    classes = (2 * image[:, 0]).round().long()
    return 8.0 * torch.nn.functional.one_hot(classes, 3).movedim(-1, 1) - 4


@pytest.mark.parametrize("scale", ["whole", "patch"])
def test_an_object_that_a_seam_cuts_is_one(scale):
    label = torch.as_tensor(squares())[None].float()
    image = inside_and_border(label)[None] / 2
    inferer = pipeline.inferer(scale, 32, 2, 0.25)
    case = {"image": MetaTensor(image[0], meta={"filename_or_obj": "a.png"}), "pred": inferer(image, answer)[0]}
    found = pipeline.postprocessing(pipeline.preprocessing((), SETTINGS), instances=True)(case)["pred"]
    numbers = {*zip(found.flatten().tolist(), label.flatten().tolist(), strict=True)}
    assert len(numbers) == len(label.unique()) == int(found.max()) + 1


def test_objects_of_prompts_keep_their_numbers():
    image = MetaTensor(torch.zeros(1, 100, 100), meta={"filename_or_obj": "a.png"})
    numbered = MetaTensor(torch.as_tensor(squares())[None].to(torch.int16))
    steps = pipeline.postprocessing(pipeline.preprocessing((), SETTINGS), instances=True)
    assert torch.equal(steps({"image": image, "pred": numbered})["pred"], numbered)


def test_objects_of_a_shrunk_picture_lie_on_the_files_grid(tmp_path):
    Image.fromarray((squares(100) % 250).astype(np.uint8)).resize((200, 200)).save(tmp_path / "a.png")
    preparation = pipeline.preprocessing((), SETTINGS | {"spacing": [2.0, 2.0]})
    case = preparation({"image": str(tmp_path / "a.png")})
    assert case["image"].shape == (1, 100, 100)
    classes = inside_and_border(torch.as_tensor(squares())[None].float())[0].long()
    logits = 8.0 * torch.nn.functional.one_hot(classes, 3).movedim(-1, 0) - 4
    found = pipeline.postprocessing(preparation, instances=True)({"image": case["image"], "pred": logits})["pred"]
    assert found.shape == (1, 200, 200) and int(found.max()) == len(np.unique(squares())) - 1
    there = np.kron(squares() > 0, np.ones((2, 2), bool))
    assert ((found[0].numpy() > 0) == there).mean() > 0.95
    one = pipeline.postprocessing(preparation, instances=True)(
        {"image": case["image"], "pred": torch.as_tensor(squares())[None].to(torch.int16)}
    )["pred"]
    assert one.shape == (1, 200, 200) and set(one.unique().tolist()) == set(np.unique(squares()).tolist())


def test_a_file_holds_more_than_256_numbers(tmp_path):
    mask = MetaTensor(torch.arange(900).reshape(1, 30, 30).int())
    path = SaveMasks(tmp_path).save(mask, "/images/a.png")
    assert np.array_equal(np.asarray(Image.open(path)), mask[0].numpy())


def test_the_largest_component_is_refused_and_labels_are_compared_as_one():
    preparation = pipeline.preprocessing((), SETTINGS)
    for key in ("largest_component", "fill_holes"):
        with pytest.raises(InputError, match=key):
            pipeline.postprocessing(preparation, instances=True, **{key: True})
    case = {"pred": MetaTensor(torch.tensor([[[0, 1, 7]]])), "label": MetaTensor(torch.tensor([[[3, 0, 2]]]))}
    pred, label = pipeline.to_compare(instances=True)([case])
    assert pred[0].tolist() == [[[0, 1, 1]]] and label[0].tolist() == [[[1, 0, 1]]]


def test_numbered_objects_are_where_their_logits_are(monkeypatch):
    """The reference is there too, and metrics compare the two. A device without numbers stands for a GPU."""
    monkeypatch.setattr(file_grid, "objects_in", lambda logits: np.ones((4, 5), int))
    case = {"image": MetaTensor(torch.zeros(1, 4, 5)), "pred": torch.zeros(3, 4, 5, device="meta")}
    assert file_grid.ToInstances(Compose([]))(case)["pred"].device.type == "meta"
