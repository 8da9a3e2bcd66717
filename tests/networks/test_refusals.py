"""What a network refuses: arguments, images, embeddings and adapters that could only give a wrong answer."""

from __future__ import annotations

import pkgutil
from itertools import permutations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from network_tester import LABELS, image, tiny_backbone

from sam_monai import PTSAM, SSAM, InputError, MedSA
from sam_monai.backbones.backbone import build_backbone
from sam_monai.errors import warn_once

KINDS = {"ssam": SSAM, "ptsam": PTSAM, "medsa": MedSA}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(scope="module")
def network():
    return MedSA(tiny_backbone(), labels=LABELS, amp=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"labels": "liver"}, "labels is 'liver'"),
        ({"labels": ["liver", "liver"]}, "labels"),
        ({"labels": ["liver", " liver "]}, "labels"),
        ({"labels": []}, "labels"),
        ({"labels": ["liver", ""]}, "labels"),
        ({"labels": ["liver", 2]}, "labels"),
        ({"labels": {"1": "liver"}}, "labels"),
        ({"labels": ["$liver"]}, "labels"),
        ({"labels": None, "default_labels": "object"}, "default_labels"),
        ({"labels": [f"{'long' * 40} {i}" for i in range(30)]}, "too long"),
        ({"slices_per_batch": 0}, "slices_per_batch is 0"),
        ({"slices_per_batch": -3}, "slices_per_batch"),
        ({"slices_per_batch": 2.5}, "slices_per_batch"),
        ({"slices_per_batch": True}, "slices_per_batch"),
        ({"image_size": 0}, "image_size"),
        ({"image_size": "64"}, "image_size"),
        ({"image_size": 10**9}, "image_size"),
        ({"image_size": 128}, "image_size 128"),
        ({"amp": "false"}, "amp"),
        ({"depth_attention": 1}, "depth_attention"),
        ({"checkpointing": "no"}, "checkpointing"),
        ({"preprocessing": {"spacing": [1, 1, 0]}}, "preprocessing"),
        ({"preprocessing": ["ct"]}, "preprocessing"),
    ],
)
def test_arguments_of_every_method(kind, arguments, said):
    with pytest.raises(InputError, match=said):
        kind(tiny_backbone(), **{"labels": LABELS} | arguments)


@pytest.mark.parametrize(
    ("kind_", "arguments"),
    [
        (SSAM, {"text_encoder": "bert"}),
        (SSAM, {"text_encoder": None}),
        (PTSAM, {"tokens": 0}),
        (PTSAM, {"tokens": 8.0}),
        (PTSAM, {"encoder_prompts": -1}),
        (MedSA, {"ratio": -1}),
        (MedSA, {"ratio": 0}),
        (MedSA, {"ratio": float("nan")}),
        (MedSA, {"ratio": "0.25"}),
        (MedSA, {"scale": float("inf")}),
        (MedSA, {"hyper_width": 0}),
        (MedSA, {"hyper_steps": -1}),
        (MedSA, {"thaw_decoder": "false"}),
    ],
)
def test_arguments_of_one_method(kind_, arguments):
    (key,) = arguments
    with pytest.raises(InputError, match=f"{key} is"):
        kind_(tiny_backbone(), labels=LABELS, **arguments)


@pytest.mark.parametrize("size", [0, -64, 33, 63.5, "64", 10**9, True])
def test_image_sizes_of_a_backbone(size):
    with pytest.raises(InputError, match="image_size"):
        build_backbone("lite_medsam", image_size=size)


@pytest.mark.parametrize("backbone", [None, 3, ["lite_medsam"], "sam"])
def test_backbones(kind, backbone):
    with pytest.raises(InputError, match="backbone"):
        kind(backbone, labels=LABELS)


@pytest.mark.parametrize(
    ("module", "name", "backbone"),
    [
        ("segment_anything.modeling.prompt_encoder.PositionEmbeddingRandom", "forward_with_coords", "vit"),
        ("segment_anything.modeling.PromptEncoder", "get_dense_pe", "vit"),
        ("kornia.models.tiny_vit.TinyViTBlock", "window_size", "tiny_vit"),
    ],
)
def test_another_version_of_a_library_is_a_line_when_a_network_is_built(monkeypatch, module, name, backbone):
    owner = pkgutil.resolve_name(module)
    if hasattr(owner, name):
        monkeypatch.delattr(owner, name)
    else:  # set in its constructor

        def lack(self):
            raise AttributeError

        monkeypatch.setattr(owner, name, property(lack, lambda self, value: None), raising=False)
    with pytest.raises(InputError, match=f"(segment-anything|kornia) .*{name}"):
        tiny_backbone() if backbone == "vit" else build_backbone("lite_medsam", image_size=64)


def spoilt(shape, value, dtype=torch.float32):
    x = image(*shape)
    x[(0, 0, 3, 4, *[0] * (len(shape) - 4))] = value
    return x.to(dtype)


@pytest.mark.parametrize("shape", [(1, 1, 20, 24), (2, 3, 20, 24), (1, 1, 20, 24, 3)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 255.0, -1000.0, 3.0])
def test_values_of_an_image(kind, shape, value):
    network, x = kind(tiny_backbone(), labels=LABELS, amp=False), spoilt(shape, value)
    for door in (network, network.encode, lambda x: network(MetaTensor(x))):
        for mode in (torch.no_grad, torch.enable_grad):
            with mode(), pytest.raises(InputError, match="values"):
                door(x)


def test_a_picture_in_bytes_and_what_augmentation_adds(network):
    with pytest.raises(InputError, match="from 0 to 255.*scale"):
        network(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16))
    with pytest.raises(InputError, match="complex"):
        network(torch.zeros(1, 1, 16, 16, dtype=torch.complex64))
    assert network(image(1, 1, 16, 16) * 1.15 - 0.1).isfinite().all()


@pytest.mark.parametrize(
    "shape", [(0, 1, 20, 20), (1, 1, 0, 20), (1, 1, 20, 20, 0), (1, 2, 20, 20), (20, 20), (1,) * 6]
)
def test_shapes_of_an_image(kind, shape):
    network = kind(tiny_backbone(), labels=LABELS)
    for door in (network, network.encode):
        with pytest.raises(InputError):
            door(torch.zeros(shape))


def test_an_embedding_of_another_image(network):
    volume, picture = image(1, 1, 20, 20, 3), image(1, 1, 20, 20)
    with torch.no_grad():
        deep, flat = network.encode(volume), network.encode(picture)
        for x, embedding in (
            (volume, flat),
            (picture, deep),
            (volume, deep[..., :2]),
            (picture.repeat(2, 1, 1, 1), flat),
        ):
            with pytest.raises(InputError, match="embedding"):
                network(x, embedding)


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ({"point_coords": [[[torch.nan, 3]]], "point_labels": [[1]]}, "NaN"),
        ({"point_coords": [[[torch.inf, 3]]], "point_labels": [[1]]}, "infinite"),
        ({"point_coords": [[[4.0, 3]]], "point_labels": [[0.5]]}, "point_labels"),
        ({"point_coords": [[[4.0, 3]]], "point_labels": [[2]]}, "point_labels"),
        ({"point_coords": np.zeros((1, 0, 2)), "point_labels": np.zeros((1, 0))}, "no click"),
        ({"boxes": [[[9.0, 9, 3, 3]]]}, "lower corner"),
        ({"boxes": [[[3.0, 3, torch.inf, 9]]]}, "finite"),
        ({"boxes": [[[3.0, torch.nan, 9, 9]]]}, "NaN"),
    ],
)
def test_prompts(network, prompts, said):
    with pytest.raises(InputError, match=said):
        network(image(1, 1, 20, 20), **{key: torch.as_tensor(value).float() for key, value in prompts.items()})


@pytest.mark.parametrize(("one", "other"), permutations(KINDS, 2))
@pytest.mark.parametrize("strict", [True, False])
def test_an_adapter_of_another_method_is_a_line_that_names_both(one, other, strict):
    state = KINDS[one](tiny_backbone(), labels=LABELS).state_dict()
    with pytest.raises(InputError, match=f"one of {one} and this network is {other}"):
        KINDS[other](tiny_backbone()).load_state_dict(state, strict=strict)


@pytest.mark.parametrize(
    ("key", "was", "now"),
    [("intensity", "ct", "mr"), ("spacing", [1, 1, 2], (1, 1, 3)), ("ct_window", [-160, 240], [-100, 240]),
     ("spatial_dims", 2, 3), ("image_channels", 3, 1), ("scale", "whole", "patch"), ("orientation", "axial", "PSL")],
)  # fmt: skip
def test_an_adapter_of_images_that_were_prepared_otherwise_is_refused(key, was, now):
    """As where a server of federated learning sends what it has of another site."""
    sent = PTSAM(tiny_backbone(), labels=LABELS, preprocessing={key: was}).state_dict()
    with pytest.raises(InputError, match=f"prepared with {key} .* and here {key} is"):
        PTSAM(tiny_backbone(), labels=LABELS, preprocessing={key: now}).load_state_dict(sent)
    PTSAM(tiny_backbone(), labels=LABELS, preprocessing={key: was, "frames": True}).load_state_dict(sent)
    PTSAM(tiny_backbone(), labels=LABELS).load_state_dict(sent)


@pytest.mark.parametrize(
    ("key", "was", "now"),
    [("orientation", "coarsest", "axial"), ("orientation", "coronal", "coarsest"), ("channels", None, [1]),
     ("channels", [0, 2], [2, 0])],
)  # fmt: skip
def test_what_may_be_right_for_other_files_is_named_with_both_values(key, was, now, caplog):
    warn_once.cache_clear()
    sent = PTSAM(tiny_backbone(), labels=LABELS, preprocessing={key: was}).state_dict()
    PTSAM(tiny_backbone(), labels=LABELS, preprocessing={key: was}).load_state_dict(sent)
    assert not caplog.messages
    PTSAM(tiny_backbone(), labels=LABELS, preprocessing={key: now}).load_state_dict(sent)
    assert [f"prepared with {key} {was}, and here {key} is {now}" in one for one in caplog.messages] == [True]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("strict", [True, False])
def test_an_adapter_that_is_not_finite_is_refused_by_its_tensor_and_changes_nothing(kind, value, strict):
    network = kind(tiny_backbone(), labels=LABELS)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for name in [name for name, tensor in before.items() if tensor.is_floating_point()]:
        state = dict(before)
        state[name] = state[name].clone()
        state[name].view(-1)[-1] = value
        with pytest.raises(InputError, match=name):
            network.load_state_dict(state, strict=strict)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("stepped", [False, True])
def test_an_optimiser_made_before_an_adapter_of_another_size_still_trains_the_network(kind, stepped):
    adapter = kind("lite_medsam", labels=LABELS, image_size=96, amp=False)
    network = kind("lite_medsam", image_size=None, default_labels=("a", "b"), amp=False)
    optimizer = torch.optim.AdamW(network.parameter_groups(1e-2, 1e-2, 0.0))
    if stepped:
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        optimizer.step()
    network.load_state_dict(adapter.state_dict())
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert network.image_size == 96 and {id(p) for p in network.parameters() if p.requires_grad} == known
    x = image(1, 1, 40, 40)
    with torch.no_grad():
        assert torch.equal(network(x), adapter(x))
    network(x).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        assert not torch.equal(network(x), adapter(x))


def test_an_optimiser_made_before_an_adapter_of_other_labels_still_trains_the_network(kind):
    adapter = kind(tiny_backbone(), labels=("a", "b", "c"), amp=False)
    network = kind(tiny_backbone(), amp=False)
    optimizer = torch.optim.SGD(network.parameter_groups(1e-2, 1e-2, 0.0))
    network.load_state_dict(adapter.state_dict())
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert network.labels == ("a", "b", "c") and {id(p) for p in network.parameters() if p.requires_grad} == known
    network(image(1, 1, 40, 40)).square().mean().backward()
    optimizer.step()


def test_an_adapter_of_other_shapes_than_its_record_says_is_a_line(kind):
    network = kind(tiny_backbone(), labels=LABELS)
    for strict in (True, False):
        for name, tensor in network.state_dict().items():
            if name != "identity":
                with pytest.raises(InputError, match=f"size mismatch for {name}"):
                    network.load_state_dict(network.state_dict() | {name: tensor[..., :-1]}, strict=strict)


def test_a_base_that_was_thawed_is_named_because_no_adapter_would_hold_it(kind, caplog):
    network = kind(tiny_backbone(), labels=LABELS)
    network.state_dict()
    network.requires_grad_(False)
    groups = network.parameter_groups(0.1, 0.1, 0.0)
    assert not caplog.text and not any(group["params"] for group in groups)
    network.requires_grad_(True)
    with pytest.raises(InputError, match="belong to the base, so no adapter holds them. Freeze them again"):
        network.parameter_groups(0.1, 0.1, 0.0)
    held = network.state_dict()
    assert "belong to the base" in caplog.text
    for name, parameter in network.named_parameters():  # the remedy
        parameter.requires_grad_(name in held)
    assert sum(len(group["params"]) for group in network.parameter_groups(0.1, 0.1, 0.0)) > 0


@pytest.mark.parametrize("convert", [torch.nn.Module.half, torch.nn.Module.double])
def test_a_network_in_another_precision_is_named(kind, convert):
    network = convert(kind(tiny_backbone(), labels=LABELS))
    with pytest.raises(InputError, match="was converted to float(16|64): leave it in float32"):
        network(image(1, 1, 24, 24))
