"""Med-SA: how many numbers, what depth attention sees, and what clicks and boxes mean."""

from __future__ import annotations

import pytest
import torch
from network_tester import LABELS, NetworkTester, image, perturb, tiny_backbone

from sam_monai import PTSAM, SSAM, InputError, MedSA
from sam_monai.adaptations import depth_attention as depth
from sam_monai.adaptations import medsa_adapters as adapters
from sam_monai.backbones.backbone import random_backbone
from sam_monai.backbones.blocks import attention_blocks
from sam_monai.backbones.weights import KNOWN_WEIGHTS
from sam_monai.networks import slices
from sam_monai.networks.medsa import resemblances
from sam_monai.networks.prompt_tokens import obey_clicks


def automatic_and_prompted(network, x):
    coords, labels = torch.tensor([[[5.0, 9.0], [20.0, 30.0]]] * 2), torch.tensor([[1, 0]] * 2)
    clicked = network(x, point_coords=coords, point_labels=labels)
    boxed = network(x, boxes=torch.tensor([[[5.0, 9, 20, 30]]] * 2))
    return torch.cat([network(x)[:, 1:], clicked[:, 1:], boxed[:, 1:]], 1)


class TestMedSA2D(NetworkTester):
    def answers(self, network, x):
        return automatic_and_prompted(network, x)

    def build(self, backbone, labels=LABELS, **others):
        return MedSA(backbone, labels=labels, depth_attention=False, **others)


class DepthTester(NetworkTester):
    def answers(self, network, x):
        return network(x[..., None].expand(-1, -1, -1, -1, 3))[:, 1:]

    def test_a_picture_has_no_depth(self, network):
        for block in attention_blocks(network.backbone):
            block.depth_attention.adapter.up.weight.data.normal_()
        x = image(1, 1, 32, 32)
        flat, deep = network(x), network(x[..., None])[..., 0]
        for block in attention_blocks(network.backbone):
            block.depth_attention = None
        assert torch.equal(flat, network(x)) and not torch.allclose(deep, flat, atol=1e-3)

    def test_a_volume_is_its_slices(self, network):
        """Not with depth attention, once it is trained."""
        volume = image(1, 1, 40, 48, 5)
        with torch.no_grad():
            torch.testing.assert_close(network(volume)[..., 2], network(volume[..., 2]), rtol=1e-4, atol=1e-4)
            perturb(network)
            assert not torch.allclose(network(volume)[..., 2], network(volume[..., 2]), atol=1e-3)

    def test_no_more_than_slices_per_batch_enter_the_encoder_together(self, network):
        seen = []
        network.slices_per_batch = 8
        network.backbone.image_encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        network(image(1, 1, 32, 32, 19))
        assert seen == [8, 8, 8]
        network(image(3, 1, 32, 32, 3))
        assert seen[3:] == [6, 3]

    def test_volumes_of_a_batch_do_not_mix(self, network):
        perturb(network)
        volumes = image(2, 1, 32, 32, 4)
        with torch.no_grad():
            torch.testing.assert_close(network(volumes)[1:], network(volumes[1:]), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("slices", [1, 2, 7, 8, 13, 29])
    def test_any_number_of_slices_is_segmented(self, network, slices):
        perturb(network)
        logits = network(image(1, 1, 20, 20, slices))
        assert logits.shape == (1, 3, 20, 20, slices) and logits.isfinite().all()


class TestMedSA(DepthTester):
    def answers(self, network, x):
        return torch.cat([automatic_and_prompted(network, x), super().answers(network, x)[..., 0]], 1)

    def build(self, backbone, labels=LABELS, **others):
        return MedSA(backbone, labels=labels, **others)


class TestSSAMWithDepth(DepthTester):
    def build(self, backbone, labels=LABELS, **others):
        return SSAM(backbone, labels=labels, depth_attention=True, **others)


class TestPTSAMWithDepth(DepthTester):
    def build(self, backbone, labels=LABELS, **others):
        return PTSAM(backbone, labels=labels, depth_attention=True, **others)


def trained(module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_adapters_of_vit_b_are_7_1_million_numbers_and_10_65_with_depth():
    network = MedSA(random_backbone(KNOWN_WEIGHTS["sam_vit_b"], 256), depth_attention=False)
    assert trained(network.backbone.image_encoder) == 12 * 2 * (768 * 192 + 192 + 192 * 768 + 768) == 7_100_928
    # down and up of HyP-Adpt, its two makers and norms, and two adapters of 256, in each of two blocks
    makers = 2 * (256 * 64 + 64 + 64 * 4096 + 4096 + 2 * 64)
    assert trained(network.backbone.mask_decoder) == 2 * (2 * 256 * 64 + 64 + 256 + makers + 2 * 33_088) == 1_329_792
    depth.add_depth_attention(network.backbone.image_encoder)
    assert trained(network.backbone.image_encoder) == 10_651_392 + 12 * 12 * 4


def test_every_attention_block_of_tiny_vit_is_adapted_at_its_own_width():
    network = MedSA("lite_medsam", image_size=64)
    widths = [(b.width, b.space_adapter.down.out_features, b.depth_attention.adapter.down.in_features)
              for b in attention_blocks(network.backbone.image_encoder)]  # fmt: skip
    assert widths == [(128, 32, 128)] * 2 + [(160, 40, 160)] * 6 + [(320, 80, 320)] * 2


def test_a_thawed_decoder_trains_and_travels_whole():
    network = MedSA(tiny_backbone(), labels=LABELS, thaw_decoder=True)
    assert all(p.requires_grad for p in network.backbone.mask_decoder.parameters())
    assert "backbone.mask_decoder.iou_token.weight" in network.state_dict()


# -- depth attention -------------


@pytest.mark.parametrize("number", [0, 1])  # in windows of 3 that pad 4 x 4 patches, and global
def test_a_slice_reaches_the_others_at_its_own_place_and_nowhere_else(number):
    encoder = tiny_backbone().image_encoder
    block = encoder.blocks[number]
    depth.add_depth_attention(encoder)
    layer = block.depth_attention
    for parameter in layer.parameters():
        parameter.data.normal_()
    x = image(10, 4, 4, 32)  # two volumes of five slices
    changed = x.clone()
    changed[6, 2, 3] += torch.randn(32)
    with torch.no_grad(), depth.slices_of_a_volume(encoder, 5):
        difference = (block(changed) - block(x)).abs().amax(-1)
    assert not difference[:5].any()  # the other volume
    others = difference[[5, 7, 8, 9]]
    assert (others[:, 2, 3] > 1e-4).all()
    others[:, 2, 3] = 0
    assert not others.any()


@pytest.mark.parametrize("slices", [1, 5, 70])
def test_attention_over_depth_is_attention_with_a_bias_of_cosines(slices):
    layer = depth.DepthAttention(32, 2)
    layer.amplitudes.data.normal_()
    q, k, v = torch.randn(3, 4, 2, slices, 16).unbind(0)
    distance = torch.arange(slices)[:, None] - torch.arange(slices)
    waves = torch.stack([torch.cos(2 * torch.pi * distance / w) for w in depth.WAVELENGTHS], -1)
    bias = torch.einsum("hm,ijm->hij", layer.amplitudes, waves)
    expected = (q @ k.transpose(2, 3) / 4 + bias).softmax(-1) @ v
    with torch.no_grad():
        torch.testing.assert_close(layer.attend(q, k, v), expected, rtol=1e-4, atol=1e-5)


def test_a_deep_volume_passes_in_parts_that_overlap():
    for deep, n in ((19, 8), (8, 8), (9, 8), (100, 16), (7, 3), (601, 16)):
        kept = []
        for start, stop, first, last in slices.passes(2 * deep, deep, n):
            assert start <= first < last <= stop and stop - start == min(n, deep) or deep * 2 <= n
            assert start // deep == (stop - 1) // deep
            assert deep <= n or n < 3 or first in (0, deep) or start < first
            kept += range(first, last)
        assert kept == list(range(2 * deep))


# -- prompts --------


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
    from sam_monai.networks.prompt_tokens import to_pixels

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
    x = image(1, 4, 256).expand(3, -1, -1)
    with torch.no_grad(), adapters.conditioned(network.backbone.mask_decoder, condition):
        answers = layer(x)
    assert not torch.allclose(answers[0], answers[1], atol=1e-4)
    assert layer.condition is None


def test_a_slice_without_a_click_is_conditioned_on_the_volumes_clicks(network):
    perturb(network)
    volume, labels = image(1, 1, 32, 32, 3), torch.ones(1, 1, dtype=torch.long)
    with torch.no_grad():
        embedding = network.encode(volume)
        near, far = (network(volume, embedding, torch.tensor([[[a, a, 0.0]]]), labels)[..., 2] for a in (3.0, 28.0))
    assert not torch.allclose(near, far, atol=1e-4)


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
        assert network(x, None, coords, labels, nothing).isfinite().all()
        assert network(x, boxes=nothing).isfinite().all()
        assert network(x, None, coords, -labels).isfinite().all()


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


def test_a_prompted_object_learns_from_the_label_that_it_resembles_and_from_no_other(network):
    network.label_gains.data.fill_(2.0)
    label = torch.full((1, 3, 8, 8), -6.0)
    label[:, 0] = 0
    label[:, 1, 2:6, 2:6] = label[:, 2, 6:, 6:] = 6.0
    rough = torch.full((2, 8, 8), -3.0)
    rough[0, 2:6, 2:5] = 1.0  # label 1 without a column
    rough[1, 0:2, 0:2] = 4.0  # no label
    with torch.no_grad():
        mended, alone = network.guided(rough, label, resemblances(rough, label, None, None, None))
        assert torch.equal(mended > 0, label[0, 1] > 0)
        assert torch.equal(alone > 0, rough[1] > 0)
        twice = rough[:1].repeat(2, 1, 1), label.repeat(2, 1, 1, 1)
        again = network.guided(*twice, resemblances(*twice, None, None, None))
    torch.testing.assert_close(again, mended.repeat(2, 1, 1))


@pytest.mark.parametrize("on, label", [((4.0, 2.0), 1), ((4.0, 9.0), 2)])
def test_a_click_says_which_label_is_meant(network, on, label):
    """Where the prompted answer itself is as much like the one as like the other."""
    network.label_gains.data.fill_(1.0)
    automatic = torch.full((1, 3, 8, 12), -4.0)
    automatic[:, 0], automatic[:, 1, :, :6], automatic[:, 2, :, 6:] = 0.0, 4.0, 4.0
    unsure = torch.full((1, 8, 12), -0.5)
    other = (4.0, 9.0) if label == 1 else (4.0, 2.0)
    for clicks, values in ([on], [1]), ([on, other, other], [1, 0, -1]):
        prompts = torch.tensor([clicks]), torch.tensor([values])
        alike = resemblances(unsure, automatic, *prompts, None)
        answer = network.guided(unsure, automatic, alike, *prompts)[0]
        halves = answer[:, :6].mean(), answer[:, 6:].mean()
        assert halves[label - 1] > 0 > halves[2 - label]


@pytest.mark.parametrize("shape", [(20, 24), (20, 24, 7)])
def test_a_correction_counts_where_it_was_made_against_the_labels_answer(network, shape):
    network.label_gains.data.fill_(1.0)
    network.click_gains.data.fill_(30.0)
    automatic = torch.stack([torch.zeros(shape), torch.full(shape, 4.0), torch.full(shape, -4.0)])[None]
    coords = torch.tensor([[[5.0, 6, 1], [15.0, 18, 5], [10.0, 12, 3]]])[..., : len(shape)]
    labels = torch.tensor([[1, 0, -1]])
    before = torch.stack([torch.full(shape, -20.0), torch.full(shape, 6.0)])
    for sign, start in zip((1, -1), before.split(1), strict=True):
        alike = resemblances(start, automatic, None, None, None)
        plain = network.guided(start, automatic, alike)[0]
        answer = network.guided(start, automatic, alike, coords, labels)[0]
        on, beside, padding = coords[0].long()
        assert answer[tuple(on)] > 0 > answer[tuple(beside)]
        changed = (answer - plain).abs() > 1e-3
        assert changed[tuple(on if sign == 1 else beside)] and not changed[tuple(padding)] and not changed[..., 0].all()


@pytest.mark.parametrize("shape", [(40, 36), (40, 36, 5)])
@pytest.mark.parametrize("logit", [-9.0, 9.0])
def test_every_click_is_obeyed_and_what_is_far_from_it_stays(shape, logit):
    coords = torch.tensor([[[5.0, 6, 1], [15.0, 30, 1], [30.2, 4.6, 3], [8.0, 20, 2], [50.0, 3, 2]]])[..., : len(shape)]
    labels = torch.tensor([[1, 0, 1, -1, 0]])  # the fourth is padding, the last lies outside
    before = torch.full((1, *shape), logit)
    after = obey_clicks(before, coords, labels)[0]
    on, beside, other, padding, _ = coords[0].round().long()
    assert after[tuple(on)] > 0 and after[tuple(other)] > 0 > after[tuple(beside)]
    changed = (after - logit).abs() > 1e-3
    assert not changed[tuple(padding)] and changed.sum() < 100 and not changed[0, 0].any() and not changed[-1, -1].any()
    if len(shape) == 3:
        assert not changed[..., [0, 2, 4]].any()


def test_an_untrained_network_obeys_its_clicks(network):
    x = image(1, 1, 32, 32)
    coords = torch.tensor([[[5.0, 9.0], [20.0, 30.0]]])
    for labels in ([1, 0], [0, 1]):
        object_ = network.eval()(x, point_coords=coords, point_labels=torch.tensor([labels]))[0, 1] > 0
        assert [int(object_[5, 9]), int(object_[20, 30])] == labels


def test_the_answer_without_a_prompt_may_be_given_and_gets_no_gradient(network):
    network.label_gains.data.fill_(1.0)
    x, prompts = image(1, 1, 30, 30), {"boxes": torch.tensor([[[4.0, 5.0, 20.0, 21.0]]])}
    embedding, calls = network.encode(x), []
    automatic = network(x, embedding)
    network.backbone.mask_decoder.transformer.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    given = network(x, embedding, automatic=automatic, **prompts)
    assert len(calls) == 1
    torch.testing.assert_close(given, network(x, embedding, **prompts))
    network.zero_grad()
    given.sum().backward()
    assert network.label_tokens.grad is None or not network.label_tokens.grad.any()
    assert network.label_gains.grad.any()


def test_merging_with_depth_attention_is_refused():
    with pytest.raises(InputError, match="depth attention"):
        SSAM(tiny_backbone(), labels=LABELS, depth_attention=True).merged()
