"""Jobs of training: a step of each method, an epoch, and commands from their start."""

from __future__ import annotations

import subprocess
import sys
import tempfile

import torch
from torch import Tensor, nn

from sam_monai import MedSA
from sam_monai.networks.base import AdaptedSAM
from sam_monai.prompts.prompted_training import PromptedLoss, PromptedTraining
from sam_monai.training.losses import SoftmaxDiceFocalLoss

from . import contenders
from .contenders import medsa, pixels, ptsam, ssam
from .job import Build, Job
from .measure import Run, device


def square(slices: int, image_size: int, volume: bool) -> tuple[Tensor, Tensor]:
    """Random slices with a square as the label, as a batch of pictures or as a volume."""
    images, labels = pixels(slices, image_size)[:, :1], torch.zeros(slices, 1, image_size, image_size, device=device())
    labels[..., image_size // 4 : image_size // 2, image_size // 4 : image_size // 2] = 1
    if not volume:
        return images, labels
    return images.movedim(0, 3)[None], labels.movedim(0, 3)[None]


def step_of(network: AdaptedSAM, slices: int, image_size: int, volume: bool = False) -> Run:
    """A training step: encoder, decoder, loss, backward pass, optimiser; Med-SA's with its four drawn prompts."""
    network = network.to(device()).train()
    image, label = square(slices, image_size, volume)
    loss: nn.Module = SoftmaxDiceFocalLoss()
    inferer = PromptedTraining(len(network.labels)) if isinstance(network, MedSA) else None
    loss = loss if inferer is None else PromptedLoss(loss)
    optimizer = torch.optim.AdamW(network.parameter_groups(1e-4, 1e-4, 0.0), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        answers = network(image) if inferer is None else inferer(image, network, label=label)
        loss(answers, label).backward()
        optimizer.step()

    return step


def training_vit_b(method: str, slices: int) -> Job:
    ours: dict[str, Build] = {
        "S-SAM": lambda: step_of(ssam("sam_vit_b", 256), slices, 256),
        "PTSAM": lambda: step_of(ptsam("sam_vit_b", 256), slices, 256),
        "Med-SA": lambda: step_of(medsa("sam_vit_b", 256), slices, 256, volume=True),
    }
    return Job(
        {"sam_monai step": ours[method], "segment-anything forward": lambda: contenders.segment_anything(256, slices)},
        slices,
    )


def training_vit_t() -> Job:
    return Job(
        {
            "sam_monai S-SAM step": lambda: step_of(ssam("lite_medsam", 128), 4, 128),
            "sam_monai PTSAM step": lambda: step_of(ptsam("lite_medsam", 128), 4, 128),
            "sam_monai Med-SA step": lambda: step_of(medsa("lite_medsam", 128), 4, 128, volume=True),
            "kornia forward": lambda: contenders.kornia_tiny_vit(128, 4),
        },
        4,
    )


def epoch() -> Job:
    """Sixteen images in batches of four."""

    def four(step: Run) -> Run:
        return lambda: [step() for _ in range(4)]

    return Job(
        {
            "sam_monai S-SAM": lambda: four(step_of(ssam("lite_medsam", 128), 4, 128)),
            "sam_monai PTSAM": lambda: four(step_of(ptsam("lite_medsam", 128), 4, 128)),
            "sam_monai Med-SA": lambda: four(step_of(medsa("lite_medsam", 128), 4, 128, volume=True)),
            "kornia forward": lambda: four(contenders.kornia_tiny_vit(128, 4)),
        },
        16,
    )


def command(code: str) -> Build:
    return lambda: lambda: subprocess.run([sys.executable, "-c", code], check=True)


def imports() -> Job:
    """A fresh interpreter each."""
    return Job(
        {
            "torch, monai and sam_monai": command("import torch, monai, sam_monai"),
            "torch and monai": command("import torch, monai"),
        },
        items=0,
    )


def first_step(bundle: str) -> Job:
    """From the command to the first training step's end, on the demonstration."""

    def run() -> None:
        words = [sys.executable, "-m", "monai.bundle", "run", "--config_file", f"bundles/{bundle}/configs/train.json"]
        folder = ["--ckpt_dir", tempfile.mkdtemp(), "--output_dir", tempfile.mkdtemp()]
        with subprocess.Popen([*words, *folder], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            seen = b""
            while b"loss=" not in seen:
                read = process.stderr.read1()
                if not read:
                    raise RuntimeError(seen.decode(errors="replace"))
                seen += read
            process.kill()

    return Job({f"bundles/{bundle}": lambda: run}, items=0)
