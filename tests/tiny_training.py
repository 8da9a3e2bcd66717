"""A training as the bundles configure it, of a network of a few parameters on a few pixels: an epoch takes 10 ms."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, MeanDice, from_engine
from monai.losses import DiceCELoss
from monai.transforms import AsDiscreted, Compose, RandScaleIntensityd
from torch import nn

from sam_monai.networks import identity
from sam_monai.training.checkpoints import Checkpoints
from sam_monai.training.handlers import Progress, SeedEpochs, Validate, validation_interval

ABSENT = object()  # in place of a value: the record lacks the key
NAMES = ("a", "b", "c", "d", "e")


class Tiny(nn.Module):
    def __init__(self, **record: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(1, 2, 3, padding=1)
        self.record = {
            "method": "ptsam",
            "backbone": "lite_medsam",
            "base": "random",
            "labels": ["bright"],
            "image_size": 64,
            "resize": "stretch",
            "depth_attention": False,
            "tokens": 8,
            "encoder_prompts": 0,
            "preprocessing": {"intensity": "mr", "spacing": None},
        }
        self.record = {key: value for key, value in (self.record | record).items() if value is not ABSENT}
        self.register_buffer("identity", identity.to_tensor(self.describe()))

    def describe(self) -> dict[str, Any]:
        return self.record

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layer(image)


def make_cases(folder: Path, label: Callable[[np.ndarray], np.ndarray] = lambda image: image > 0.7) -> list[dict]:
    """Five cases of 8 x 8 pixels; the last two validate."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for name in NAMES:
        image = rng.random((1, 8, 8), np.float32)
        cases.append({"image": f"{folder}/{name}.npy", "label": f"{folder}/{name}_label.npy"})
        np.save(cases[-1]["image"], image)
        np.save(cases[-1]["label"], label(image).astype(np.float32))
    return cases


def load(case: dict) -> dict:
    tensors = {key: torch.from_numpy(np.load(case[key])) for key in ("image", "label")}
    return {**tensors, "case": Path(case["image"]).name}


def tiny_training(
    folder: Path,
    cases: list[dict],
    epochs: int = 6,
    lr: float = 0.05,
    resume: bool = False,
    seed: int = 0,
    interval: float | None = None,
    record: dict[str, Any] | None = None,
    loss: Callable[..., torch.Tensor] | None = None,
    network: nn.Module | None = None,
    report: Path | None = None,
    **settings: Any,
) -> SupervisedTrainer:
    """A trainer whose ``run`` writes to ``folder``; ``settings`` are further keys that decide the result."""
    settings = {"seed": seed, "learning_rate": lr} | settings
    network = Tiny(**(record or {})) if network is None else network
    optimizer = torch.optim.AdamW(network.parameters(), lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda e: 0.5 + 0.5 * math.cos(math.pi * min(1, e / epochs))
    )
    evaluator = SupervisedEvaluator(
        torch.device("cpu"),
        DataLoader(Dataset(cases[3:], load), batch_size=1),
        network,
        postprocessing=AsDiscreted("pred", argmax=True),
        key_val_metric={
            "val_mean_dice": MeanDice(
                include_background=False, num_classes=2, output_transform=from_engine(["pred", "label"])
            )
        },
    )
    training = Dataset(cases[:3], Compose([load, RandScaleIntensityd("image", 0.2, prob=1.0)]))
    handlers = [
        SeedEpochs(seed, training),
        LrScheduleHandler(schedule, print_lr=False),
        Progress(evaluator, ("bright",)),
        Validate(evaluator, interval or validation_interval(epochs)),
        Checkpoints(folder, network, optimizer, schedule, evaluator, resume, settings, report=report),
    ]
    return SupervisedTrainer(
        torch.device("cpu"),
        epochs,
        DataLoader(training, batch_size=2, shuffle=True),
        network,
        optimizer,
        loss or DiceCELoss(to_onehot_y=True, softmax=True),
        train_handlers=handlers,
    )


def state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / Checkpoints.RESUME, weights_only=True)


def same(one: Path, other: Path) -> bool:
    """Whether two trainings ended with the same parameters, optimiser and adapter, bit for bit."""
    files = [[torch.load(folder / "model.pt", weights_only=True) for folder in (one, other)]]
    files.append([state(one)["network"], state(other)["network"]])
    moments = [state(folder)["optimizer"]["state"] for folder in (one, other)]
    pairs = [(a[key], b[key]) for a, b in files for key in a]
    pairs += [(moments[0][i][key], moments[1][i][key]) for i in moments[0] for key in moments[0][i]]
    return all(torch.equal(a, b) for a, b in pairs)
