"""PTSAM: how many numbers, what deep prompts are, and what a specialist costs."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from network_tester import LABELS, NetworkTester, image, tiny_backbone

from sam_monai import PTSAM, InputError
from sam_monai.backbones.backbone import random_backbone
from sam_monai.backbones.blocks import attention_blocks
from sam_monai.backbones.weights import KNOWN_WEIGHTS


class TestPTSAM(NetworkTester):
    def build(self, backbone, labels=LABELS, **others):
        return PTSAM(backbone, labels=labels, **others)


def trained(network) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def size_of_file(network) -> int:
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    return file.tell()


def test_one_class_is_2048_numbers_and_the_file_is_kilobytes():
    network = PTSAM("lite_medsam", labels=["polyp"], image_size=64)
    assert trained(network) == 2048
    assert size_of_file(network) < 2048 * 4 + 4096 + 4096


def test_deep_prompts_of_vit_b_are_73728_numbers():
    network = PTSAM(random_backbone(KNOWN_WEIGHTS["sam_vit_b"], 256), labels=["polyp"], encoder_prompts=8)
    assert trained(network) == 2048 + 73_728


def inserted_into_vit(attention, tokens, prompts, bias):
    """Attention over the patches' tokens (N, T, C) and really inserted prompts, of which the patches' outputs stay."""
    n, patches, c = tokens.shape
    sequence = torch.cat([tokens, prompts.expand(n, -1, -1)], 1)
    q, k, v = attention.qkv(sequence).view(n, -1, 3, attention.num_heads, c // attention.num_heads).unbind(2)
    scores = torch.einsum("nqhc,nkhc->nhqk", q, k) * attention.scale
    scores[:, :, :patches, :patches] += bias
    out = torch.einsum("nhqk,nkhc->nqhc", scores.softmax(-1), v).flatten(2)
    return attention.proj(out)[:, :patches]


@pytest.mark.parametrize("side", [14, 20, 33])  # a window, the whole image of a global block, and of a larger one
def test_deep_prompts_equal_inserted_tokens_in_a_vit(side):
    from segment_anything.modeling.image_encoder import add_decomposed_rel_pos

    encoder = random_backbone(KNOWN_WEIGHTS["sam_vit_b"], 16 * max(side, 20)).image_encoder
    block = encoder.blocks[0 if side == 14 else 2]
    attention = block.attn
    for table in (attention.rel_pos_h, attention.rel_pos_w):
        table.data.normal_()
    x, prompts = torch.randn(2, side, side, 768), torch.randn(5, 768)
    q = attention.qkv(x).view(2, side * side, 3, 12, 64)[:, :, 0].transpose(1, 2).reshape(24, side * side, 64)
    nothing = torch.zeros(24, side * side, side * side)
    bias = add_decomposed_rel_pos(
        nothing, q, attention.rel_pos_h, attention.rel_pos_w, (side, side), (side, side)
    ).unflatten(0, (2, 12))
    expected = inserted_into_vit(attention, x.flatten(1, 2), prompts, bias).unflatten(1, (side, side))
    for gradients in (True, False):  # another form of attention for many tokens
        with torch.set_grad_enabled(gradients):
            torch.testing.assert_close(attention(x, prompts), expected, rtol=1e-4, atol=2e-5)


def test_every_window_of_a_vit_block_sees_the_same_normalised_prompts():
    backbone = tiny_backbone()
    block = backbone.image_encoder.blocks[0]  # windows of 3 on 4 x 4 patches
    block.prompts = torch.nn.Parameter(torch.randn(2, 32))
    x = torch.randn(1, 4, 4, 32)
    normed = F.pad(block.norm1(x), (0, 0, 0, 2, 0, 2))
    expected = torch.zeros(1, 6, 6, 32)
    for i in (0, 3):
        for j in (0, 3):
            window = normed[:, i : i + 3, j : j + 3]
            expected[:, i : i + 3, j : j + 3] = block.attn(window, block.norm1(block.prompts))
    expected = x + expected[:, :4, :4]
    torch.testing.assert_close(block(x), expected + block.mlp(block.norm2(expected)))


def test_deep_prompts_equal_inserted_tokens_in_tiny_vit():
    encoder = random_backbone(KNOWN_WEIGHTS["lite_medsam"], 64).image_encoder
    for block in attention_blocks(encoder):
        attention = block.attn
        attention.attention_biases.data.normal_()
        side, tokens = block.window_size, block.window_size**2
        x, prompts = torch.randn(3, side, side, block.width), torch.randn(4, block.width)
        sequence = attention.norm(torch.cat([x.flatten(1, 2), prompts.expand(3, -1, -1)], 1))
        qkv = attention.qkv(sequence).view(3, tokens + 4, attention.num_heads, -1).transpose(1, 2)
        q, k, v = qkv.split([attention.key_dim, attention.key_dim, attention.d], 3)
        scores = q @ k.transpose(2, 3) * attention.scale
        scores[..., :tokens, :tokens] += attention.attention_biases[:, attention.attention_bias_idxs]
        out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        expected = attention.proj(out)[:, :tokens].unflatten(1, (side, side))
        torch.testing.assert_close(attention(x, prompts), expected, rtol=1e-4, atol=2e-5)
        with torch.no_grad():
            torch.testing.assert_close(attention(x, prompts), expected, rtol=1e-4, atol=2e-5)


class TestPTSAMWithEncoderPrompts(NetworkTester):
    def build(self, backbone, labels=LABELS, **others):
        return PTSAM(backbone, labels=labels, encoder_prompts=3, **others)

    def test_untrained_it_computes_what_sam_computes_for_its_tokens(self, network):
        """Deep prompts take part in every softmax, zero or not; SAM is what is left without them."""
        sam, x = tiny_backbone(), image(2, 3, 64, 64)
        assert not torch.allclose(network.encode(x), sam.encode(x))
        for block in attention_blocks(network.backbone):
            block.prompts = None
        with torch.no_grad():
            assert torch.equal(network(x)[:, 1:], sam.decode(sam.encode(x), network.prompt_tokens(), (64, 64)))


def test_an_adapter_with_encoder_prompts_is_not_loaded_without():
    state = PTSAM(tiny_backbone(), labels=LABELS, encoder_prompts=2).state_dict()
    with pytest.raises(InputError, match="encoder_prompts 2.*encoder_prompts 0"):
        PTSAM(tiny_backbone()).load_state_dict(state)


def test_an_adapter_gives_the_same_logits_in_a_fresh_process(tmp_path):
    network, x = PTSAM("lite_medsam", labels=LABELS, image_size=64, encoder_prompts=2), image(1, 1, 30, 40)
    torch.save(network.state_dict(), tmp_path / "adapter.pt")
    torch.save(x, tmp_path / "image.pt")
    program = """
import sys, torch
from sam_monai import PTSAM
network = PTSAM("lite_medsam", encoder_prompts=2)
network.load_state_dict(torch.load(sys.argv[1] + "/adapter.pt", weights_only=True))
with torch.no_grad():
    torch.save(network(torch.load(sys.argv[1] + "/image.pt", weights_only=True)), sys.argv[1] + "/logits.pt")
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "logits.pt", weights_only=True), network(x))


def test_a_hundred_specialists_take_turns_on_one_sam():
    network = PTSAM("lite_medsam", image_size=64)
    specialists = [PTSAM("lite_medsam", labels=[name], image_size=64) for name in ("polyp", "nodule")]
    for i, specialist in enumerate(specialists):
        specialist.prompts.data.normal_(generator=torch.Generator().manual_seed(i))
    states, x = [s.state_dict() for s in specialists], image(1, 1, 30, 30)
    assert states[0]["prompts"].numel() == 2048 and sum(x.numel() for x in states[0].values()) < 10_000
    for i in range(100):
        network.load_state_dict(states[i % 2])
    assert torch.equal(network(x), specialists[1](x)) and network.labels == ("nodule",)
