"""What every network of the collection must be. A method's tests subclass NetworkTester and say how to build it."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from monai.data import DataLoader, MetaTensor, decollate_batch
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.transforms import LoadImage, SaveImage

from sam_monai import InputError
from sam_monai.backbones.backbone import Backbone
from sam_monai.backbones.vit import build_vit
from sam_monai.backbones.weights import Weights
from sam_monai.networks import identity, slices
from sam_monai.networks.base import AdaptedSAM

LABELS = ("liver", "spleen")
TINY = Weights(
    name="tiny",
    architecture="vit_b",
    filename="tiny.pth",
    licence="none",
    provenance="random numbers",
    resize="pad",
    pixel_mean=(0.5, 0.4, 0.3),
    pixel_std=(0.2, 0.25, 0.3),
)


def tiny_backbone(seed: int = 0, blocks: int = 4) -> Backbone:
    """A SAM of 64 px with four blocks, every second of them global, and windows that need padding."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = build_vit(width=32, blocks=blocks, heads=2, global_blocks=(1, 3), image_size=64, window=3)
        backbone = Backbone(encoder, TINY, 64, base=f"random {seed + 100 * (blocks != 4)}")
        for parameter in encoder.parameters():
            if not parameter.any():  # position tables begin as zeros, where nothing could go wrong
                parameter.data.normal_(std=0.2)
    return backbone


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def perturb(network: AdaptedSAM) -> None:
    """Stands for training: every trained number moves a little."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)


class NetworkTester:
    def build(self, backbone: Backbone, labels: Sequence[str] | None = LABELS, **others: Any) -> AdaptedSAM:
        raise NotImplementedError

    def answers(self, network: AdaptedSAM, x: torch.Tensor) -> torch.Tensor:
        """Everything that takes part in a step of training."""
        return network(x)[:, 1:]

    @pytest.fixture
    def network(self) -> AdaptedSAM:
        torch.manual_seed(0)
        return self.build(tiny_backbone(), amp=False)

    def test_untrained_it_computes_what_sam_computes_for_its_tokens(self, network):
        sam, x = tiny_backbone(), image(2, 3, 64, 64)
        with torch.no_grad():
            expected = sam.decode(sam.encode(x), network.prompt_tokens(), (64, 64))
            assert torch.equal(network(x)[:, 1:], expected)

    def test_channel_0_is_the_constant_0_and_logits_are_float32(self, network):
        logits = network(image(1, 1, 30, 50))
        assert logits.shape == (1, 3, 30, 50) and logits.dtype == torch.float32
        assert not logits[:, 0].any() and logits[:, 1:].std() > 0

    @pytest.mark.parametrize("shape", [(64, 64), (1, 1), (37, 90), (200, 16), (30, 40, 1), (33, 21, 5), (64, 64, 11)])
    def test_any_image_and_any_depth_come_back_on_their_own_grid(self, network, shape):
        logits = network(image(2, 1, *shape))
        assert logits.shape == (2, 3, *shape) and logits.isfinite().all()

    @pytest.mark.parametrize("inferer", [SimpleInferer(), SlidingWindowInferer((16, 16, 4))])
    def test_a_mask_of_an_ordinary_workflow_lies_on_its_image_s_grid(self, network, inferer, tmp_path):
        """As of MONAI's own networks: SaveImage finds affine and name in what the network gives."""
        affine = torch.tensor([[0, 0.7, 0, -5], [2.5, 0, 0, 9], [0, 0, -1.5, 30], [0, 0, 0, 1]], dtype=torch.float64)
        volume = MetaTensor(image(1, 20, 18, 4), affine, {"filename_or_obj": "scan.nii.gz"})
        batch = next(iter(DataLoader([{"image": volume}])))
        with torch.no_grad():
            mask = decollate_batch(inferer(batch["image"], network))[0].argmax(0, keepdim=True)
        SaveImage(tmp_path, separate_folder=False, print_log=False)(mask)
        saved = LoadImage(image_only=True)(tmp_path / "scan_trans.nii.gz")
        torch.testing.assert_close(saved.affine, affine)

    def test_a_volume_is_its_slices(self, network):
        volume = image(2, 1, 40, 48, 5)
        with torch.no_grad():
            whole = network(volume)
            for k in range(5):
                torch.testing.assert_close(whole[..., k], network(volume[..., k]), rtol=1e-4, atol=1e-4)

    def test_no_more_than_slices_per_batch_enter_the_encoder_together(self, network):
        seen = []
        network.slices_per_batch = 3
        network.backbone.image_encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        network(image(1, 1, 32, 32, 7))
        assert seen == [3, 3, 1]

    def test_slices_computed_one_by_one_or_all_at_once_give_the_same(self, network, monkeypatch):
        perturb(network)
        volume, answers, decoded, encoded = image(1, 1, 40, 56, 5), [], [], []
        decode = network.backbone.decode
        monkeypatch.setattr(
            network.backbone, "decode", lambda e, *a, **k: (decoded.append(len(e)), decode(e, *a, **k))[1]
        )
        network.backbone.image_encoder.register_forward_pre_hook(lambda _, args: encoded.append(len(args[0])))
        for most in (1, 2**30):
            monkeypatch.setattr(slices, "ARRAY", most)
            with torch.no_grad():
                answers.append(network(volume))
        assert decoded == [1] * 5 + [5]
        assert encoded == ([5, 5] if network.depth_attention else decoded)
        torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-4)

    def test_an_embedding_is_used_again_in_place_of_the_encoder(self, network):
        for x in (image(2, 3, 50, 40), image(1, 1, 50, 40, 3)):
            with torch.no_grad():
                embedding, expected = network.encode(x), network(x)
                network.backbone.image_encoder.forward = None  # type: ignore[assignment]
                assert torch.equal(network(x, embedding), expected)
                del network.backbone.image_encoder.forward

    def test_one_channel_is_repeated_and_two_are_refused(self, network):
        x = image(1, 1, 32, 32)
        assert torch.equal(network(x), network(x.repeat(1, 3, 1, 1)))
        with pytest.raises(InputError, match="`channels`"):
            network(x.repeat(1, 2, 1, 1))

    @pytest.mark.parametrize("shape", [(64, 64), (40, 48, 3)])
    def test_checkpointing_keeps_less_and_gives_the_same_gradients(self, shape):
        def gradients(checkpointing: bool) -> tuple[int, list[torch.Tensor]]:
            torch.manual_seed(0)
            network, kept = self.build(tiny_backbone(), amp=False, checkpointing=checkpointing), []
            perturb(network)
            with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
                embedding = network.encode(image(2, 1, *shape))
            if not embedding.requires_grad:
                pytest.skip("nothing of the encoder is trained")
            embedding.square().mean().backward()
            return len(kept), [p.grad for p in network.parameters() if p.grad is not None]

        (less, ours), (more, expected) = gradients(True), gradients(False)
        assert less < 0.5 * more and len(ours) == len(expected) > 0
        for one, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(one, other)

    def test_a_step_of_training_changes_what_is_trained_and_nothing_else(self, network):
        network.train()
        before = {k: v.clone() for k, v in [*network.named_parameters(), *network.named_buffers()]}
        parameters = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, 1e-2)
        self.answers(network, image(2, 3, 64, 64)).square().mean().backward()
        for name, parameter in network.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
        optimizer.step()
        changed = {
            k for k, v in [*network.named_parameters(), *network.named_buffers()] if not torch.equal(v, before[k])
        }
        trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        assert changed and changed <= trained

    def test_frozen_modules_stay_in_eval_mode(self, network):
        network.train()
        assert network.training and not any(module.training for module in network.backbone.modules())

    def test_decay_moves_only_what_may_go_to_0(self, network):
        groups = network.parameter_groups(0.1, 0.1, 0.01)
        trained = [name for name, p in network.named_parameters() if p.requires_grad]
        assert sum(len(group["params"]) for group in groups) == len(trained)
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        torch.optim.AdamW(groups).step()
        moved = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
        assert moved == set(network.decayed)

    def test_the_state_dict_holds_the_adapter_alone(self, network):
        state = network.state_dict()
        trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        assert trained < set(state) and "identity" in state
        frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
        assert not frozen & set(state)

    def test_a_saved_adapter_gives_the_same_logits_in_a_fresh_network_that_knew_no_labels(self, network):
        perturb(network)
        file = io.BytesIO()
        torch.save(network.state_dict(), file)
        file.seek(0)
        fresh = self.build(tiny_backbone(), labels=None, amp=False)
        outcome = fresh.load_state_dict(torch.load(file, weights_only=True))
        x = image(1, 3, 50, 64)
        assert not outcome.missing_keys and not outcome.unexpected_keys
        assert fresh.labels == LABELS and torch.equal(fresh(x), network(x))

    @pytest.mark.parametrize("strict", [True, False])
    def test_an_adapter_of_another_base_is_refused_and_both_are_named(self, network, strict):
        other = self.build(tiny_backbone(seed=1))
        with pytest.raises(InputError, match="random 0.*random 1"):
            other.load_state_dict(network.state_dict(), strict=strict)

    @pytest.mark.parametrize("strict", [True, False])
    def test_an_adapter_of_other_labels_is_refused_and_the_known_ones_are_listed(self, network, strict):
        with pytest.raises(InputError, match="liver, spleen.*kidney"):
            self.build(tiny_backbone(), labels=("kidney",)).load_state_dict(network.state_dict(), strict=strict)

    def test_base_weights_are_not_taken_for_an_adapter(self, network):
        with pytest.raises(InputError, match="not an adapter"):
            network.load_state_dict(tiny_backbone().state_dict(), strict=False)

    def test_an_adapter_that_brings_weights_of_the_base_along_is_refused(self, network):
        name = next(iter(network.frozen_keys))
        before = network.get_parameter(name) if name in dict(network.named_parameters()) else network.get_buffer(name)
        with pytest.raises(InputError, match=f"no such adapter has, {name}"):
            network.load_state_dict(network.state_dict() | {name: before + 1}, strict=False)

    def test_a_missing_number_of_the_adapter_is_noticed(self, network):
        state = network.state_dict()
        name = next(k for k in state if k != "identity")
        del state[name]
        for strict in (True, False):
            with pytest.raises(InputError, match=f"lacks {name}"):
                network.load_state_dict(state, strict=strict)

    def test_an_identity_averaged_over_sites_is_still_read(self, network):
        state = network.state_dict()
        state["identity"] = state["identity"].float() * 0.999_999
        fresh = self.build(tiny_backbone(), labels=None)
        fresh.load_state_dict(state)
        assert identity.from_tensor(fresh.identity)["labels"] == list(LABELS)

    def test_a_deep_copy_is_independent(self, network):
        x = image(1, 3, 64, 64)
        expected = network(x)
        twin = copy.deepcopy(network)
        perturb(twin)
        assert torch.equal(network(x), expected) and not torch.equal(twin(x), expected)
        network.load_state_dict(twin.state_dict())
        assert torch.equal(network(x), twin(x))

    def test_it_pickles(self, network):
        perturb(network)
        again = pickle.loads(pickle.dumps(network))
        x = image(1, 3, 64, 64)
        assert torch.equal(again(x), network(x)) and again.state_dict().keys() == network.state_dict().keys()

    def test_bfloat16_stays_close_and_places_are_exact(self, network, monkeypatch):
        """A position in bfloat16 is off by several pixels."""
        perturb(network)
        x, encoder = image(2, 3, 64, 64), network.backbone.prompt_encoder
        places, seen = encoder.pe_layer.forward_with_coords, []
        monkeypatch.setattr(
            encoder.pe_layer, "forward_with_coords", lambda *given: seen.append(places(*given)) or seen[-1]
        )
        dense, of_all = encoder.get_dense_pe, []
        monkeypatch.setattr(encoder, "get_dense_pe", lambda: of_all.append(dense()) or of_all[-1])
        with torch.no_grad():
            exact, before = self.answers(network, x), seen[:]
            expected = dense()
            monkeypatch.setattr("sam_monai.networks.slicewise.fast_bfloat16", lambda device: True)
            network.amp = True
            seen.clear()
            rough = self.answers(network, x)
        assert rough.dtype == torch.float32 and not torch.equal(rough, exact)
        assert all(map(torch.equal, before, seen)) and len(before) == len(seen)
        assert all(torch.equal(one, expected) for one in of_all)
        assert (rough - exact).abs().mean() < 0.05 * exact.abs().mean()

    def test_it_exports(self, network):
        perturb(network)
        network.eval()
        x = image(1, 3, 64, 64)
        program = torch.export.export(network, (x,))
        torch.testing.assert_close(program.module()(x), network(x), rtol=1e-3, atol=1e-4)

    @pytest.mark.thorough
    def test_it_compiles(self, network):
        perturb(network)
        network.eval()
        x = image(1, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(torch.compile(network)(x), network(x), rtol=1e-3, atol=1e-4)
