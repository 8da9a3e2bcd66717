"""Four channels made of one MR, each of which shows a part of what there is to see: their mixture beats any of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_runner import run
from scipy import ndimage

from sam_monai.data.demo import demo_dataset

pytestmark = pytest.mark.thorough
NAMES = ["fluid and grey", "grey and white", "edges", "smoothed"]
GREY, WHITE = 0.643, 0.827  # medians of the two labels in the template


def transformed(image: np.ndarray) -> Iterator[np.ndarray]:
    """What :data:`NAMES` name, with values from 0 to 1."""
    yield np.clip(image, 0, GREY) / GREY
    yield (np.clip(image, GREY, WHITE) - GREY) / (WHITE - GREY)
    yield np.minimum(ndimage.gaussian_gradient_magnitude(image, 1) / (WHITE / 6), 1)
    yield ndimage.gaussian_filter(image, 2) / WHITE


def folder_of(top: Path) -> Path:
    """The demonstration's slabs with four files each, every one with noise of its own of a tenth of the values."""
    source, rng = demo_dataset(), np.random.default_rng(0)
    content = json.loads((source / "dataset.json").read_text())
    made = {"channel_names": {str(i): name for i, name in enumerate(NAMES)}, "labels": content["labels"]}
    for part in ("training", "validation"):
        made[part] = []
        for case in content[part]:
            image = nib.load(source / case["image"])
            array, files = image.get_fdata(), []
            for k, channel in enumerate(transformed(array)):
                noisy = np.maximum(channel + rng.normal(0, 0.1, array.shape) + 0.005, 0) * (array > 0)
                files.append(f"{Path(case['image']).name.split('.')[0]}_{k:04d}.nii.gz")
                nib.save(nib.Nifti1Image((200 * noisy).astype(np.float32), image.affine), top / files[-1])
            made[part].append({"image": files, "label": str(source / case["label"])})
    (top / "dataset.json").write_text(json.dumps(made))
    return top


def test_the_mixture_of_four_channels_beats_any_of_them(tmp_path):
    (tmp_path / "data").mkdir()
    dice = {}
    for channels in (None, [0], [1], [2], [3]):
        where = {key: f"{tmp_path}/{key}_{channels}" for key in ("ckpt_dir", "output_dir")}
        given = {"dataset_dir": str(folder_of(tmp_path / "data")), "channels": channels, "image_size": 64}
        trained = run("ssam", "train", **where, **given, epochs=15, val_interval=15)
        dice[str(channels)] = trained.parser.get_parsed_content("validate#evaluator").state.best_metric
    print(dice)
    assert dice.pop("None") > max(dice.values()) + 0.1
