"""What clicks and boxes mean to Med-SA: places, slices, objects, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from network_tester import LABELS, image, perturb, tiny_backbone

from sam_monai import InputError, MedSA
from sam_monai.networks import slices
from sam_monai.networks.click_tokens import sparse_prompts


@pytest.fixture
def network():
    torch.manual_seed(0)
    return MedSA(tiny_backbone(), labels=LABELS, amp=False)


def sam_answer(sam, x, points=None, boxes=None):
    """segment-anything's own answer, in its own convention: (x, y) in pixels of its square."""
    features = sam.encode(x)
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=None)
    masks, _ = sam.mask_decoder(
        image_embeddings=features,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return torch.nn.functional.interpolate(masks, (64, 64), mode="bilinear", align_corners=False)


def test_untrained_it_answers_clicks_and_boxes_as_segment_anything_does(network):
    sam, x = tiny_backbone(), image(1, 3, 64, 64)
    coords, labels = torch.tensor([[[10.0, 40.0], [50.0, 3.0]]]), torch.tensor([[1, 0]])
    box = torch.tensor([[[5.0, 8.0, 30.0, 60.0]]])
    xy, xyxy = coords.flip(2), box[..., [1, 0, 3, 2]][:, 0]
    with torch.no_grad():
        for ours, theirs in (
            (network(x, point_coords=coords, point_labels=labels), sam_answer(sam, x, (xy, labels))),
            (network(x, boxes=box), sam_answer(sam, x, None, xyxy)),
            (network(x, None, coords, labels, box), sam_answer(sam, x, (xy, labels), xyxy)),
        ):
            assert ours.shape == (1, 2, 64, 64) and not ours[:, 0].any()
            torch.testing.assert_close(ours[:, 1:], theirs, rtol=1e-4, atol=1e-4)


def test_a_click_means_the_same_place_at_any_size(network):
    """A picture of 128 x 64 fills half of the square of 64 px: voxel (2 i + 0.5) of it is pixel i."""
    small = image(1, 3, 64, 32)
    x = torch.zeros(1, 3, 64, 64)
    x[..., :32] = small
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    at, labels = torch.tensor([[[20.0, 11.0]]]), torch.tensor([[1]])
    from sam_monai.networks.click_tokens import to_pixels

    torch.testing.assert_close(to_pixels(2 * at + 0.5, large.shape[2:], network.backbone), at.flip(2))
    with torch.no_grad():
        expected = network(small, point_coords=at, point_labels=labels)
        found = network(large, point_coords=2 * at + 0.5, point_labels=labels)
    half = torch.nn.functional.avg_pool2d(found, 2)
    assert (half - expected).abs().mean() < 0.1 * expected.abs().mean() + 0.05


@pytest.mark.parametrize("most_bytes", [1, slices.ARRAY])
def test_in_a_volume_a_click_belongs_to_its_slice_and_a_box_to_the_slices_between(network, monkeypatch, most_bytes):
    monkeypatch.setattr(slices, "ARRAY", most_bytes)
    volume = image(1, 1, 64, 64, 5)
    coords, labels = torch.tensor([[[10.0, 40.0, 3.0], [0.0, 0.0, 0.0]]]), torch.tensor([[1, -1]])
    with torch.no_grad():
        logits = network(volume, point_coords=coords, point_labels=labels)
        alone = network(volume[..., 3], point_coords=coords[:, :1, :2], point_labels=labels[:, :1])
        torch.testing.assert_close(logits[..., 3], alone, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(logits[..., 2], network(volume[..., 2], None, coords[:, :1, :2], labels[:, :1]))
        box = torch.tensor([[[5.0, 8, 1, 30, 60, 2]]])
        boxed = network(volume, boxes=box)
        flat = box[..., [0, 1, 3, 4]]
        for k in range(5):
            same = torch.allclose(boxed[..., k], network(volume[..., k], boxes=flat), atol=1e-4)
            assert same == (k in (1, 2))


def test_several_objects_of_one_image_are_answered_in_one_call(network):
    perturb(network)
    for x in (image(1, 1, 40, 50), image(1, 1, 40, 50, 3)):
        dims = x.ndim - 2
        coords = torch.tensor([[[10.0, 40.0, 2.0]], [[30.0, 5.0, 0.0]], [[1.0, 1.0, 1.0]]])[..., :dims]
        labels = torch.ones(3, 1, dtype=torch.long)
        with torch.no_grad():
            together = network(x, point_coords=coords, point_labels=labels)
            assert together.shape == (3, 2, *x.shape[2:])
            for i in range(3):
                alone = network(x, point_coords=coords[i : i + 1], point_labels=labels[i : i + 1])
                torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)


def test_the_prompt_makes_hyp_adpts_weights(network):
    perturb(network)
    condition = image(3, 256)
    layer = network.backbone.mask_decoder.transformer.layers[0].cross_attn_token_to_image.adapter
    with torch.no_grad():
        answers = layer(image(1, 4, 256).expand(3, -1, -1), condition)
    assert not torch.allclose(answers[0], answers[1], atol=1e-4)


def test_a_slice_without_a_click_is_conditioned_on_the_volumes_clicks(network):
    perturb(network)
    for gains in (network.label_gains, network.click_gains):  # by which clicks reach the next slices too
        gains.data.zero_()
    volume, labels = image(1, 1, 32, 32, 3), torch.ones(1, 1, dtype=torch.long)
    with torch.no_grad():
        embedding = network.encode(volume)
        near, far = (network(volume, embedding, torch.tensor([[[a, a, 0.0]]]), labels)[..., 2] for a in (3.0, 28.0))
    assert not torch.allclose(near, far, atol=1e-4)
    _, _, condition = sparse_prompts(network.backbone, (32, 32, 3), torch.tensor([[[3.0, 3.0, 0.0]]]), labels, None)
    for k in (1, 2):
        torch.testing.assert_close(condition[:, k], condition[:, 0] / (1 + k))


def test_a_second_click_costs_the_decoder_alone(network):
    volume = image(1, 1, 32, 32, 3)
    embedding = network.encode(volume)
    expected = network(volume, point_coords=torch.ones(1, 1, 3), point_labels=torch.ones(1, 1, dtype=torch.long))
    network.backbone.image_encoder.forward = None
    again = network(volume, embedding, torch.ones(1, 1, 3), torch.ones(1, 1, dtype=torch.long))
    torch.testing.assert_close(again, expected)


def test_no_box_is_nan_and_padding_is_no_click(network):
    x = image(1, 1, 32, 32)
    coords, labels = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[1]])
    nothing = torch.full((1, 1, 4), torch.nan)
    with torch.no_grad():
        assert network(x, boxes=nothing).isfinite().all()
        torch.testing.assert_close(network(x, None, coords, labels, nothing), network(x, None, coords, labels))
        torch.testing.assert_close(network(x, boxes=nothing), network(x, None, coords, -labels))


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ({"point_coords": torch.zeros(1, 1, 2)}, "come together"),
        ({"point_coords": torch.zeros(1, 1, 3), "point_labels": torch.zeros(1, 1)}, r"\(B, N, 2\)"),
        ({"boxes": torch.zeros(1, 4)}, r"\(B, N, 4\)"),
        ({"boxes": torch.zeros(3, 1, 4)}, "do not fit 2 images"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(network, prompts, said):
    with pytest.raises(InputError, match=said):
        network(image(2, 1, 32, 32), **prompts)


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 4)])
def test_an_objects_answer_does_not_depend_on_the_prompts_of_others(network, shape):
    """Objects of one image, or of a batch, with few clicks, many, a box, both; padded to as many as the most has."""
    perturb(network.eval())
    nan = torch.nan
    coords = torch.tensor([[[9.0, 9, 1]], [[30.0, 5, 2]], [[12.0, 33, 0]], [[20.0, 20, 3]]]).repeat(1, 5, 1)
    coords = (coords + torch.arange(5.0)[:, None] * torch.tensor([1, 2, 0]))[..., : len(shape)]
    labels = torch.tensor([[1, -1, -1, -1, -1], [1, 0, 1, 1, 0], [-1, -1, -1, -1, -1], [1, 0, -1, -1, -1]])
    corners = torch.tensor([[[nan] * 6], [[nan] * 6], [[5.0, 6, 0, 20, 30, 2]], [[10.0, 10, 1, 35, 40, 3]]])
    boxes = corners[..., [axis for axis in range(6) if axis % 3 < len(shape)]]
    alone = [
        {"point_coords": coords[:1, :1], "point_labels": labels[:1, :1]},
        {"point_coords": coords[1:2], "point_labels": labels[1:2]},
        {"boxes": boxes[2:3]},
        {"point_coords": coords[3:, :2], "point_labels": labels[3:, :2], "boxes": boxes[3:]},
    ]
    prompts = {"point_coords": coords, "point_labels": labels, "boxes": boxes}
    x = image(1, 1, *shape)
    with torch.no_grad():
        for together in (network(x, **prompts), network(x.expand(4, *x.shape[1:]), **prompts)):
            for i, own in enumerate(alone):
                torch.testing.assert_close(together[i : i + 1], network(x, **own), rtol=1e-3, atol=1e-3)


def test_each_of_several_objects_lies_where_its_image_lies(network):
    affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0]))
    one = MetaTensor(image(1, 30, 40), affine=affine, meta={"filename_or_obj": "a.png"})
    points, batch = torch.tensor([[[9.0, 9.0]], [[20.0, 30.0]], [[5.0, 8.0]]]), list_data_collate([{"image": one}])
    with torch.no_grad():
        found = network(batch["image"], point_coords=points, point_labels=torch.ones(3, 1))
    each: list[Any] = decollate_batch(found)
    assert len(each) == 3 and all(torch.equal(answer.affine, affine.double()) for answer in each)
    assert {answer.meta["filename_or_obj"] for answer in each} == {"a.png"}
