"""On a GPU, as far as a machine without one can tell: every operation's devices and shapes, with nothing computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from network_tester import LABELS, perturb, tiny_backbone
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sam_monai import PTSAM, SSAM, MedSA
from sam_monai.adaptations import ssam_singular_values as svd
from sam_monai.networks.medsa import resemblances


def pretends() -> bool:
    """Whether this torch moves a tensor without numbers to a GPU that is not there; older ones ask the driver."""
    try:
        with FakeTensorMode():
            return torch.zeros(1).to("cuda").is_cuda
    except RuntimeError:
        return False


pytestmark = [
    pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor"),
    pytest.mark.skipif(not pretends(), reason="this torch needs a GPU even for tensors without numbers"),
]


def onto_gpu(module: nn.Module, mode: FakeTensorMode) -> None:
    """A module's tensors as ones on a GPU that hold no numbers."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    there: Any = mode.from_tensor(tensor.detach())
                    with mode:
                        tensors[name] = there.to("cuda")


def on_gpu(network: nn.Module, *shape: int, **prompts: Any) -> torch.Tensor:
    mode = FakeTensorMode()
    onto_gpu(network, mode)
    with mode, torch.no_grad():
        there = {name: torch.tensor(value, device="cuda") for name, value in prompts.items()}
        return network(torch.rand(*shape, device="cuda"), **there)


@pytest.mark.parametrize("shape", [(2, 1, 40, 56), (1, 3, 64, 64, 9)])
@pytest.mark.parametrize("depth_attention", [False, True])
@pytest.mark.parametrize("method", [SSAM, PTSAM, MedSA])
def test_everything_is_computed_on_the_images_device(method, depth_attention, shape, monkeypatch):
    monkeypatch.setattr(torch, "equal", lambda *_: True)  # S-SAM's weights are formed anew where their factors changed
    network = method(tiny_backbone(), labels=LABELS, depth_attention=depth_attention).eval()
    perturb(network)
    logits = on_gpu(network, *shape)
    assert logits.device.type == "cuda" and logits.shape == (shape[0], 1 + len(LABELS), *shape[2:])


def test_merged_factors_too():
    network = SSAM(tiny_backbone(), labels=LABELS).eval()
    svd.fold(network.backbone)
    assert on_gpu(network, 1, 1, 40, 56).device.type == "cuda"


def test_boxes_too(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # else their values are looked at
    network = MedSA(tiny_backbone(), labels=LABELS, depth_attention=True).eval()
    logits = on_gpu(network, 1, 1, 64, 64, 5, boxes=[[[5.0, 8.0, 1.0, 30.0, 60.0, 2.0]]])
    assert logits.device.type == "cuda" and logits.shape == (1, 2, 64, 64, 5)


def test_what_clicks_say_beside_the_decoder_too():
    network, mode = MedSA(tiny_backbone(), labels=LABELS).eval(), FakeTensorMode()
    onto_gpu(network, mode)
    with mode, torch.no_grad(), torch.device("cuda"):
        prompted, automatic = torch.rand(1, 64, 64, 5), torch.rand(1, 1 + len(LABELS), 64, 64, 5)
        coords, labels = torch.rand(1, 3, 3), torch.ones(1, 3, dtype=torch.int64)
        alike = resemblances(prompted, automatic, coords, labels, None)
    with mode, torch.no_grad():
        assert network.guided(prompted, automatic, alike, coords, labels).device.type == "cuda"
