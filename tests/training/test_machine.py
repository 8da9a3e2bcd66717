"""What a step costs is timed on the network itself, and other sizes follow from what was timed."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SimpleInferer
from network_tester import LABELS, tiny_backbone

from sam_monai import MedSA
from sam_monai.training import machine as machines
from sam_monai.training.losses import loss_of
from sam_monai.training.machine import Cost, Costs, cost_of
from sam_monai.training.sizes import SIZES


@pytest.mark.parametrize("axes, together", [((32, 32), 1), ((32, 32, 2), 8)])
def test_answers_are_timed_as_they_are_given(monkeypatch, axes, together):
    """The slices of a volume pass together."""
    network, asked = MedSA(tiny_backbone(), labels=LABELS, amp=False), []
    answered = network.segment

    def noted(image, *others):
        asked.append(image.numel() // (image.shape[1] * 32 * 32))
        return answered(image, *others)

    monkeypatch.setattr(network, "segment", noted)
    cost_of(network, (2, 1, *axes), SimpleInferer(), loss_of(None), torch.device("cpu"))
    assert asked[-1] == together and set(asked) == {together, 2 * (axes[2] if len(axes) > 2 else 1)}


def test_the_cost_of_other_sizes_follows_from_those_that_were_timed():
    costs = Costs(lambda size: Cost(size, 0.5 + (size / 64) ** 2, (size / 64) ** 2, size**2), (64, 128))
    assert costs(128).step == pytest.approx(4.5) and costs(256).step == pytest.approx(16.5)
    assert costs(256).kept == pytest.approx(256**2) and costs(32).answer == pytest.approx(0.25)
    assert all(costs(size).step > 0 for size in (32, *SIZES))


@pytest.mark.parametrize(
    ("device", "runs", "kept"),
    [("cpu", [0.5, 0.1, 0.3, 0.2], 0.1), ("cpu", [4.0, 3.0], 3.0), ("cpu", [9.0], 9.0), ("cuda", [9.0, 1.0], 1.0)],
)
def test_timing_a_step_warms_up_and_takes_a_slow_processor_seconds(monkeypatch, device, runs, kept):
    left = iter(runs)
    monkeypatch.setattr(machines, "timed", lambda *_: next(left))
    assert machines.fastest(lambda: None, torch.device(device)) == kept and not list(left)


def test_a_step_that_would_take_long_is_estimated():
    asked: list[int] = []
    costs = Costs(lambda size: asked.append(size) or Cost(size, 3.0 * (size / 64) ** 2, 1.0, 1e9))
    assert costs(128).step == pytest.approx(12.0) and asked == [64]


def test_processes_that_share_a_gpu_share_its_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (8 * 10**9, 10**10))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    for processes, gpus, share in ((1, 1, 8), (2, 1, 4), (2, 2, 8), (3, 2, 4)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        monkeypatch.setattr(torch.cuda, "device_count", lambda n=gpus: n)
        assert machines.free_on(torch.device("cuda")) == share * 10**9
