"""Prompts where the network sees patches: the patch about the object, answered at the image's own resolution."""

from __future__ import annotations

import pytest
import torch
from network_tester import LABELS, image, perturb, tiny_backbone

from sam_monai import InputError, MedSA
from sam_monai.errors import warn_once
from sam_monai.inference.pipeline import inferer
from sam_monai.prompts.patches import in_patch, patch_about
from sam_monai.prompts.prompted_inference import PromptedInference


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = MedSA(tiny_backbone(), labels=LABELS, amp=False).eval()
    perturb(network)
    return network


def prompted(dims, flips="none"):
    return PromptedInference(inferer("patch", 64, dims, 0.5, flips))


@pytest.mark.parametrize("flips", ["none", "sides"])
@pytest.mark.parametrize("shape", [(200, 150), (200, 150, 3)])
def test_an_object_is_answered_in_the_patch_about_it_as_if_this_were_the_image(network, shape, flips, caplog):
    warn_once.cache_clear()
    x, dims = image(1, 1, *shape), len(shape)
    coords = torch.tensor([[[150.0, 90, 1], [140, 100, 1], [2, 2, 1]]])[..., :dims]
    labels = torch.tensor([[1, 0, 0]])
    rows, columns = patch_about({"point_coords": coords, "point_labels": labels}, shape, 64)
    assert rows.stop - rows.start == 64 and rows.start + 16 < 150 < rows.stop - 16
    assert columns.start + 16 < 90 < columns.stop - 16
    with torch.no_grad():
        whole = prompted(dims, flips)(x, network, point_coords=coords, point_labels=labels)[0, 0]
        assert ("average_flips sides is for images without prompts" in caplog.text) == (flips == "sides")
        shift = torch.tensor([rows.start, columns.start, 0.0])[:dims]
        own = {"point_coords": (coords - shift)[:, :2], "point_labels": labels[:, :2]}
        patch = x[:, :, rows, columns]
        expected = PromptedInference(inferer("whole", 64, dims, 0.5))(patch, network, **own).argmax(1)[0]
    assert whole.shape == shape and whole.any()
    assert (whole[rows, columns] == expected).float().mean() > 0.999
    whole[rows, columns] = 0
    assert not whole.any()


def test_several_objects_far_apart_are_each_answered_at_their_place(network):
    coords = torch.tensor([[[150.0, 90.0]], [[20.0, 30.0]]])
    with torch.no_grad():
        found = prompted(2)(image(1, 1, 200, 150), network, point_coords=coords, point_labels=torch.ones(2, 1).long())
    assert found[0, 0, 150, 90] == 1 and found[0, 0, 20, 30] == 2


def test_an_object_larger_than_a_patch_gets_a_larger_one_and_a_small_image_is_padded(network):
    box = {"boxes": torch.tensor([[[10.0, 20.0, 109.0, 60.0]]])}
    rows, columns = patch_about(box, (200, 150), 64)
    assert rows.stop - rows.start == 134 and rows.start <= 10 and rows.stop > 109 and columns.stop > 60
    moved = in_patch(box, (rows, columns))["boxes"][0, 0].tolist()
    assert moved[2] - moved[0] == 99 and moved[0] == 10 - rows.start
    with torch.no_grad():
        found = prompted(2)(image(1, 1, 40, 50), network, boxes=torch.tensor([[[5.0, 5.0, 30.0, 30.0]]]))
    assert found.shape == (1, 1, 40, 50)


def test_a_mask_says_where_the_object_is():
    masks = torch.full((1, 1, 200, 150), -4.0)
    masks[..., 150:160, 100:120] = 4
    rows, columns = patch_about({"masks": masks}, (200, 150), 64)
    own = in_patch({"masks": masks}, (rows, columns))["masks"]
    assert own.shape == (1, 1, 64, 64) and (own > 0).sum() == 200


def test_negative_clicks_alone_are_refused(network):
    clicks = {"point_coords": torch.tensor([[[5.0, 5.0]]]), "point_labels": torch.tensor([[0]])}
    with pytest.raises(InputError, match="where the object is"):
        prompted(2)(image(1, 1, 40, 50), network, **clicks)


def test_a_slice_without_a_mask_has_none_beyond_the_volume_either():
    masks = torch.full((1, 1, 40, 50, 6), torch.nan)
    masks[..., 2] = -1
    masks[..., 10:30, 10:40, 2] = 4
    own = in_patch({"masks": masks}, (slice(0, 64), slice(0, 64)))["masks"]
    assert own.shape[2:] == (64, 64, 6) and own[..., 2].isfinite().all() and (own[..., 2] > 0).sum() == 600
    assert own[..., [0, 1, 3, 4, 5]].isnan().all()
