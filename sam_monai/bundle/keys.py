"""Every key that a user may set: what it may be, and what it does. The check, the documentation's table and the command
``keys`` come from here, and so does the check of what an adapter's record brings into a configuration.

The command line answers a mistake before it imports torch and MONAI, so this module must not import them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..backbones.weights import KNOWN_WEIGHTS
from ..networks.fields import (
    FLAG,
    NAMES,
    POSITIVE,
    PREPARATION,
    SHARE,
    WINDOW,
    Field,
    is_number,
    listed,
    number,
    one_of,
    optional,
    whole,
)
from ..networks.text import TEXT_WEIGHTS

ENGINES = ("torch", "openvino")  # as where they are used; a test compares


class Key(NamedTuple):
    """``default``: in words, where the configuration computes it."""

    kind: Field
    help: str
    default: str = ""


def is_path(value: Any) -> bool:
    return isinstance(value, str | Path) and str(value) != "" and "\0" not in str(value)


def is_device(value: Any) -> bool:
    import torch

    try:
        device = torch.device(value) if isinstance(value, str | torch.device) else None
    except RuntimeError:
        return False
    if device is None or device.type == "cpu":
        return device is not None
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    return device.type == "mps" and torch.backends.mps.is_available()


PATH = Field("a path", is_path)
DEVICE = Field("cpu, or cuda, cuda:1 or mps where this machine has it", is_device)
NOT_NEGATIVE = number(0)
SEED = whole(0, 2**32 - 1)
PLANNED = "planned from the data, the machine and the time"

PATHS = ("dataset_dir", "unlabelled", "ckpt_dir", "adapter", "output_dir", "bundle_root", "checkpoint",
         "text_checkpoint", "embedding_cache")  # fmt: skip
# What an adapter's record says of its network and of its images, under the names that configurations use.
NETWORK = ("labels", "backbone", "image_size", "depth_attention", "text_encoder", "tokens", "encoder_prompts",
           "ratio", "thaw_decoder")  # fmt: skip
IMAGES = tuple(key for key in PREPARATION if key != "frames")

KEYS: dict[str, Key] = {
    "dataset_dir": Key(optional(PATH, "cases come from a server"), "your folder", "the MNI152 demonstration"),
    "unlabelled": Key(
        optional(PATH, "none"),
        "images without labels to train on too, a folder: the adapter that is in `ckpt_dir` labels them first "
        "([Images without labels](your_data.md#images-without-labels))",
    ),
    "labels": Key(
        optional(NAMES, "as stated"), "names of the foreground labels", "the dataset's; at inference the adapter's"
    ),
    "train_cases": Key(optional(whole(1), "all"), "how many cases to train on, from the start of the list"),
    "train_cases_seed": Key(optional(SEED), "choose these cases at random with this seed instead"),
    "fold": Key(
        optional(whole(0)),
        "for cross-validation: the number of the fold to validate on ([Cross-validation](monai.md#cross-validation))",
    ),
    "channels": Key(
        PREPARATION["channels"],
        "which channels of the image to use, and in what order; 3 are colour where they are not named",
    ),
    "frames": Key(
        FLAG,
        "the fourth dimension of a volume's file is time, and each frame a volume of its own; masks have as many "
        "([Time](your_data.md#time))",
    ),
    "frames_together": Key(
        FLAG,
        "depth attention looks along time in place of depth: a slice sees itself in the other `frames` "
        "([Time](your_data.md#time))",
    ),
    "channel_names": Key(
        PREPARATION["channel_names"],
        "names of the channels of an image, in order, where they are several and no colours; others are refused",
        "from the dataset's `channel_names` or `modality`",
    ),
    "image_channels": Key(
        PREPARATION["image_channels"],
        "how many channels an image has, counted after `channels`: 1 is grey, 3 are colours where they are not named; "
        "others are refused",
        "that of the first training image",
    ),
    "regions": Key(
        PREPARATION["regions"],
        "labels that are regions and may overlap ([Regions](your_data.md#regions))",
        "from the dataset's `labels` and `regions_class_order`",
    ),
    "instances": Key(
        FLAG,
        "pictures with many objects of one label, which label files and masks number "
        "([Many objects](your_data.md#many-objects-of-one-label))",
    ),
    "spatial_dims": Key(PREPARATION["spatial_dims"], "2 for pictures, 3 for volumes", "the dataset's"),
    "intensity": Key(
        PREPARATION["intensity"],
        "what the image's numbers are: Hounsfield units, arbitrary, or brightness",
        "from the dataset's `modality`",
    ),
    "modality": Key(
        PREPARATION["modality"],
        "which modality the images are of; a warning names DICOM whose header says another",
        "what DICOM images say, else from the dataset's `modality`",
    ),
    "ct_window": Key(WINDOW, "Hounsfield units that become 0 and 1, for `intensity` ct"),
    "orientation": Key(
        PREPARATION["orientation"],
        "which axis of a volume is sliced; coarsest: the one with the coarsest spacing, or axial where none is",
    ),
    "spacing": Key(
        optional(
            listed(POSITIVE, 2, 3)._replace(words="two or three numbers above 0: [1.0, 1.0, 2.0]"),
            "as in the file, or planned with patches",
        ),
        "resample volumes to this spacing in mm, that of the rows, the columns and then the slices that `orientation` "
        "makes, or pictures to so many of their pixels down and across, as in [2, 2]; masks return to the file's grid",
    ),
    "minutes": Key(
        optional(POSITIVE, "15, or 4 for the demonstration"),
        "time for the whole command, validation and report included; what is planned is planned for it",
    ),
    "steps": Key(optional(whole(1), PLANNED), "steps of the optimiser, in place of minutes"),
    "epochs": Key(optional(whole(1), PLANNED), "an epoch visits each training case once", "planned"),
    "quick": Key(
        FLAG,
        "two epochs on two cases at 32 px: every step once, in a minute. Writes to the folder `quick` in `ckpt_dir`",
    ),
    "resume": Key(FLAG, "continue after the last finished epoch in `ckpt_dir`"),
    "seed": Key(SEED, "seed of all random choices"),
    "backbone": Key(one_of(*KNOWN_WEIGHTS, "vit_b", "vit_l", "vit_h"), "base weights: `sam-monai weights` lists them"),
    "checkpoint": Key(optional(PATH, "where they are known to be"), "the file of the base weights"),
    "image_size": Key(
        optional(whole(32, 4096, 16), PLANNED),
        "side in pixels of the square that the encoder sees. Twice the side is finer and takes four times as long. "
        "LiteMedSAM was made for 256",
        "planned",
    ),
    "depth_attention": Key(
        FLAG, "let the slices of a volume see each other ([Med-SA](medsa.md#depth-attention))", "true for volumes"
    ),
    "text_encoder": Key(one_of(*TEXT_WEIGHTS), "what turns label names into prompts ([S-SAM](ssam.md))"),
    "text_checkpoint": Key(optional(PATH, "where it is known to be"), "the file of the text encoder's weights"),
    "tokens": Key(whole(1, 1000), "prompt tokens of a label ([PTSAM](ptsam.md))"),
    "encoder_prompts": Key(whole(0, 1000), "prompts in every block of the encoder ([PTSAM](ptsam.md))"),
    "embedding_cache": Key(
        Field("a path, or False: none is kept", lambda v: v is None or v is False or is_path(v)),
        "where embeddings are kept ([PTSAM](ptsam.md))",
        "in the cache folder",
    ),
    "ratio": Key(
        Field("a number above 0, at most 1", lambda v: is_number(v) and 0 < v <= 1),
        "of an adapter's width to its layer's ([Med-SA](medsa.md))",
    ),
    "thaw_decoder": Key(FLAG, "train the whole mask decoder too ([Med-SA](medsa.md))"),
    "amp": Key(FLAG, "bfloat16 where the processor has instructions for it"),
    "slices_per_batch": Key(whole(1), "slices that pass through the encoder together: bounds the memory"),
    "checkpointing": Key(
        optional(FLAG, PLANNED),
        "keep less of the encoder for the backward pass and compute it again: less memory, more time "
        "([Speed](speed.md#memory))",
        "planned",
    ),
    "engine": Key(
        one_of(*ENGINES), "openvino: [OpenVINO](export.md#openvino-inside-a-bundle) runs the image encoder on the CPU"
    ),
    "scale": Key(
        optional(PREPARATION["scale"], PLANNED),
        "whole: slices are resized to the encoder's square. patch: patches of `image_size` pixels at the image's own "
        "resolution, for thin structures in large pictures",
        "planned",
    ),
    "overlap": Key(
        Field("a number from 0 to less than 1", lambda v: is_number(v) and 0 <= v < 1), "of neighbouring patches"
    ),
    "average_flips": Key(
        one_of("none", "sides", "flips"),
        "average the answers to an image and to its mirrored copies: from left to right (`sides`, twice the time), of "
        "pictures also upside down (`flips`, four times). For data that were mirrored in training ([what it "
        "gives](tried.md#options))",
    ),
    "batch_size": Key(optional(whole(1), PLANNED), "cases in a step", "planned"),
    "slices": Key(whole(1), "consecutive slices taken from a volume"),
    "samples": Key(whole(1), "samples taken at each visit of a volume or, with patch, of a picture"),
    "augment": Key(
        FLAG,
        "random zooms, small turns, intensities, and what `mirror` says. Labels that differ in their side alone (left "
        "and right kidney) change places in a mirrored sample; where one has no such partner nothing is mirrored",
    ),
    "mirror": Key(
        optional(one_of("turns", "flips", "sides", "none"), PLANNED),
        "how samples are mirrored: pictures by flips and quarter `turns`, by `flips`, from left to right (`sides`), or "
        "`none`; volumes from side to side unless it is `none`",
        "planned",
    ),
    "draws": Key(
        whole(0),
        "prompts drawn in a training step; 0 trains [for the labels alone](medsa.md#for-the-labels-alone)",
    ),
    "corrections": Key(whole(0), "clicks that correct an answer in training ([Med-SA](medsa.md))"),
    "learning_rate": Key(NOT_NEGATIVE, "for the encoder's adaptation"),
    "prompt_learning_rate": Key(NOT_NEGATIVE, "for the prompt"),
    "weight_decay": Key(NOT_NEGATIVE, "for the prompt"),
    "focal_gamma": Key(NOT_NEGATIVE, "exponent of the focal loss"),
    "val_interval": Key(
        optional(number(1), PLANNED),
        "epochs between validations; the last epoch is always validated, and no other less than half an interval "
        "before it",
        "planned",
    ),
    "num_workers": Key(whole(0), "worker processes that load data"),
    "cache_rate": Key(SHARE, "share of the prepared images kept in memory, as far as the free memory allows"),
    "largest_component": Key(FLAG, "keep only the largest connected component of each label"),
    "fill_holes": Key(FLAG, "fill holes inside a label; another label that lies in it stays"),
    "device": Key(DEVICE, "where the network computes", "the GPU, if there is one"),
    "adapter": Key(PATH, "the trained adapter, `.pt` or `.safetensors`", "`models/model.pt` in the bundle"),
    "ckpt_dir": Key(PATH, "where adapters are written and looked for", "`models` in the bundle"),
    "output_dir": Key(
        PATH,
        "where masks, tables and pictures are written",
        "`output` in the bundle; `output/inference` and `output/evaluation` for these",
    ),
    "bundle_root": Key(PATH, "the bundle's folder", "the folder of the configuration"),
    "mask_format": Key(one_of("nifti", "dicom_seg"), "of masks of volumes ([DICOM SEG](volumes.md#dicom-seg))"),
    "probabilities": Key(
        FLAG, "write each label's probability beside the mask ([Probabilities](volumes.md#probabilities))"
    ),
    "pictures": Key(whole(0), "how many pictures are drawn at most"),
    "surface_tolerance": Key(NOT_NEGATIVE, "in mm, of the surface Dice"),
}
# The same under the names that MONAI's own components use: a server sets train#trainer#max_epochs.
OTHER_NAMES = {"max_epochs": "epochs"}


def problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with values, by their key: a line for each that is not what :data:`KEYS` allows."""
    return [
        f"the key {name} is {str(value) if isinstance(value, Path) else value!r:.200}; give {KEYS[known].kind.words}"
        for name, value in values.items()
        if (known := OTHER_NAMES.get(last := re.split("#|::", name)[-1], last)) in KEYS
        and not KEYS[known].kind.fits(value)
    ]


def with_value() -> list[str]:
    """The keys that are no flags."""
    # Whether a device is there only torch can say.
    return [name for name, key in KEYS.items() if name in (*PATHS, "device") or not key.kind.fits(True)]
