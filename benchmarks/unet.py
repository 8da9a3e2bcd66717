"""The rival: MONAI's U-Net from scratch on the same training cases, judged on the same validation cases.

    python -m benchmarks.unet FOLDER OUTPUT.json [--patch] [--seed 0] [--epochs 150] [--size 128] [--judge_every N]

Images are scaled by their percentiles 1 and 99, and resized to a square or cube of ``size``; ``--patch``: crops of that
size at the file's own resolution, two of three around labels, and a sliding window at the end. Flips and quarter turns
of pictures unless a label has a side, brightness. AdamW 1e-3 with cosine decay, Dice and cross-entropy. The weights of
the last epoch count;
``--judge_every``: Dice is printed every so many epochs, too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import CacheDataset, DataLoader
from monai.inferers import SlidingWindowInferer
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    EnsureTyped,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
    Resized,
    ScaleIntensityRangePercentilesd,
    SpatialPadd,
)
from monai.utils import set_determinism
from torch import Tensor, nn
from tqdm.auto import tqdm

from sam_monai.data import Dataset, LoadCased, has_sides, read_dataset
from sam_monai.errors import InputError
from sam_monai.files import write_json
from sam_monai.results.metrics import case_metrics

from .accuracy import mean_dice

KEYS = ("image", "label")


def transforms(labels: Sequence[str], dims: int, size: int, patch: bool) -> tuple[Compose, list]:
    """Those of training, and the ones with which a whole case begins."""
    square = (size,) * dims
    scale = ScaleIntensityRangePercentilesd("image", 1, 99, 0.0, 1.0, clip=True)
    loading = [LoadCased(KEYS, labels), scale]
    if patch:
        cut = [SpatialPadd(KEYS, square), RandCropByPosNegLabeld(KEYS, "label", square, pos=2, neg=1)]
    else:
        cut = [Resized(KEYS, square, mode=("area", "nearest"))]
    turns = [*(RandFlipd(KEYS, 0.5, spatial_axis=axis) for axis in (0, 1)), RandRotate90d(KEYS, 0.75)]
    varied = [*([] if has_sides(labels) or dims == 3 else turns), RandScaleIntensityd("image", 0.2, prob=1.0)]
    finish = [RandShiftIntensityd("image", 0.05, prob=1.0), EnsureTyped(KEYS, track_meta=False)]
    return Compose([*loading, *cut, *varied, *finish]), loading


def network(channels: int, labels: int, dims: int) -> UNet:
    widths = (32, 64, 128, 256, 512)[: 7 - dims]
    return UNet(dims, channels, labels + 1, widths, (2,) * (len(widths) - 1), num_res_units=2)


def train(net: nn.Module, loader: DataLoader, epochs: int, device: torch.device, judged: Callable[[int], None]) -> None:
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    net.train()
    for epoch in tqdm(range(1, epochs + 1), desc="training the U-Net", unit="epoch"):
        for batch in loader:
            optimizer.zero_grad()
            loss(net(batch["image"].to(device)), batch["label"].to(device)).backward()
            optimizer.step()
            schedule.step()
        judged(epoch)
    net.eval()


def answer(net: nn.Module, image: Tensor, size: int, patch: bool) -> Tensor:
    """Label map (1, *spatial) of an image (C, *spatial) on its own grid."""
    dims, mode = image.ndim - 1, "bilinear" if image.ndim == 3 else "trilinear"
    if patch:
        logits = SlidingWindowInferer((size,) * dims, 8, overlap=0.5, mode="gaussian")(image[None], net)
        return torch.as_tensor(logits).argmax(1)
    small = F.interpolate(image[None], (size,) * dims, mode="area")
    return F.interpolate(net(small), image.shape[1:], mode=mode).argmax(1)


def judge(
    net: nn.Module, data: Dataset, loading: Sequence, size: int, patch: bool, device: torch.device
) -> list[dict[str, Any]]:
    """Dice and other metrics of each validation case and label."""
    rows, training = [], net.training
    net.eval()
    with torch.no_grad():
        for case in data.validation:
            whole: Any = Compose(loading)(dict(case))
            found = answer(net, torch.as_tensor(whole["image"]).to(device), size, patch).cpu()
            metrics = case_metrics(found, whole["label"], len(data.labels), [1.0] * data.spatial_dims, 2.0)
            rows += [
                {"case": Path(case["image"]).name, "label": n, **m} for n, m in zip(data.labels, metrics, strict=True)
            ]
    net.train(training)
    return rows


def run(
    folder: str,
    seed: int,
    size: int,
    epochs: int,
    patch: bool,
    cases: int | None = None,
    fold: int | None = None,
    judge_every: int = 0,
) -> dict[str, Any]:
    """Train and judge; Dice of every validation case and label. ``seed`` is that of a split that nothing states, too,
    as in the bundles."""
    set_determinism(seed, use_deterministic_algorithms=None)
    data = read_dataset(folder, cases, seed, fold=fold)
    if data.regions is not None or data.channels:
        raise InputError(f"{folder}: has regions or channels of its own, for which this U-Net is not made")
    dims = data.spatial_dims
    training, loading = transforms(data.labels, dims, size, patch)
    dataset = CacheDataset(data.training, training, progress=False, num_workers=1)
    loader = DataLoader(dataset, batch_size=4 if dims == 2 else 2, shuffle=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = network(next(iter(loader))["image"].shape[1], len(data.labels), dims).to(device)
    started = time.monotonic()

    def judged(epoch: int) -> None:
        if judge_every and (epoch % judge_every == 0 or epoch == epochs):
            dice = mean_dice(judge(net, data, loading, size, patch, device))
            tqdm.write(f"epoch {epoch}: validation Dice {dice:.4f}")

    train(net, loader, epochs, device, judged)
    seconds = time.monotonic() - started
    rows = judge(net, data, loading, size, patch, device)
    return {"seconds": seconds, "cases": rows, "parameters": sum(p.numel() for p in net.parameters())}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unet", description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("output", type=Path)
    parser.add_argument("--patch", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--cases", type=int, help="only the first of the training list")
    parser.add_argument("--fold", type=int)
    parser.add_argument("--judge_every", type=int, default=0, metavar="EPOCHS")
    words = parser.parse_args()
    output = words.__dict__.pop("output")
    write_json(run(**vars(words)), output)


if __name__ == "__main__":
    main()
