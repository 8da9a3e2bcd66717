"""Every key that a user may set: what it may be, and what it does. The check, the documentation's table and the command
``keys`` come from here, and so does the check of what an adapter's record brings into a configuration.

The command line answers a mistake before it imports torch and MONAI, so this module must not import them.
"""

from __future__ import annotations

import ast
import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backbones.weights import KNOWN_WEIGHTS
from ..errors import InputError
from ..networks.regions import wrong_with
from ..networks.text import TEXT_WEIGHTS

# The same as where they are used; a test compares.
PLANES = ("axial", "coronal", "sagittal")
ENGINES = ("torch", "openvino")
MOST_CHANNELS = 64


@dataclass(frozen=True)
class Kind:
    """What values are allowed, in words and as a check."""

    words: str
    allows: Callable[[Any], bool]


@dataclass(frozen=True)
class Key:
    """``default``: in words, where the configuration computes it."""

    kind: Kind
    help: str
    default: str = ""


def is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def is_list(value: Any, lengths: Sequence[int], of: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and len(value) in lengths and all(map(of, value))


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


def are_axis_codes(value: Any) -> bool:
    return isinstance(value, str) and sorted("".join(pair[0] for c in value for pair in ("LR", "AP", "IS") if c in pair)
                                             ) == ["A", "I", "L"] and len(value) == 3  # fmt: skip


def is_name(value: Any) -> bool:
    """A label's name; not one that a configuration would run, look up, read from a file or act upon."""
    acted_upon = r"^\s*[$@%]|[@%][\w.]*(#|::)|^_\w+_$"
    return isinstance(value, str) and value.strip() != "" and not re.search(acted_upon, value)


def is_code(value: Any) -> bool:
    """A modality's, as DICOM has them."""
    return isinstance(value, str) and re.fullmatch("[A-Z]{2,16}", value) is not None


def whole(low: int, high: int | None = None, step: int = 1) -> Kind:
    words = f"a whole number from {low} {'on' if high is None else f'to {high}'}"
    return Kind(
        f"{words}, a multiple of {step}" if step > 1 else words,
        lambda v: is_whole(v) and low <= v <= (v if high is None else high) and v % step == 0,
    )


def one_of(*choices: str | int) -> Kind:
    # By type as well, for 2.0 == 2 and True == 1.
    return Kind("one of " + ", ".join(map(str, choices)), lambda v: any(type(v) is type(c) and v == c for c in choices))


def or_none(kind: Kind, meaning: str = "none") -> Kind:
    return Kind(f"{kind.words}, or None: {meaning}", lambda v: v is None or kind.allows(v))


FLAG = Kind("True or False", lambda v: isinstance(v, bool))
PATH = Kind("a path", is_path)
POSITIVE = Kind("a number above 0", lambda v: is_number(v) and v > 0)
NOT_NEGATIVE = Kind("a number from 0 on", lambda v: is_number(v) and v >= 0)
FROM_1 = Kind("a number from 1 on", lambda v: is_number(v) and v >= 1)
SHARE = Kind("a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1)
PART = Kind("a number from 0 to less than 1", lambda v: is_number(v) and 0 <= v < 1)
RATIO = Kind("a number above 0, at most 1", lambda v: is_number(v) and 0 < v <= 1)
DEVICE = Kind("cpu, or cuda, cuda:1 or mps where this machine has it", is_device)
WINDOW = Kind("two numbers, the lower first: [-160, 240]", lambda v: is_list(v, (2,), is_number) and v[0] < v[1])
SPACING = Kind("three numbers above 0: [1.0, 1.0, 2.0]", lambda v: is_list(v, (3,), POSITIVE.allows))
CHANNELS = Kind(
    "a list of channels, counted from 0: [0]", lambda v: is_list(v, range(1, MOST_CHANNELS + 1), whole(0).allows)
)
INTENSITY = one_of("ct", "mr", "picture")
ORIENTATION = Kind(
    f"coarsest, {', '.join(PLANES)}, or three axis codes such as RAS",
    lambda v: isinstance(v, str) and v in ("coarsest", *PLANES) or are_axis_codes(v),
)
NAMES = Kind(
    "a list of different names, none of which begins with $, @ or %, for MONAI would run it: ['liver', 'spleen']",
    lambda v: isinstance(v, list | tuple) and len(v) > 0 and all(map(is_name, v)) and len({*v}) == len(v),
)
SEED = whole(0, 2**32 - 1)
PLANNED = "planned from the data, the machine and the time"

PATHS = ("dataset_dir", "ckpt_dir", "adapter", "output_dir", "bundle_root", "checkpoint", "text_checkpoint",
         "embedding_cache")  # fmt: skip
# What an adapter's record says of its network and of its images, under the names that configurations use.
NETWORK = ("labels", "backbone", "image_size", "depth_attention", "text_encoder", "tokens", "encoder_prompts",
           "ratio", "thaw_decoder")  # fmt: skip
IMAGES = (
    "spatial_dims",
    "intensity",
    "ct_window",
    "orientation",
    "spacing",
    "channels",
    "image_channels",
    "channel_names",
    "regions",
    "modality",
    "scale",
)

KEYS: dict[str, Key] = {
    "dataset_dir": Key(or_none(PATH, "cases come from a server"), "your folder", "the MNI152 demonstration"),
    "ckpt_dir": Key(PATH, "where adapters are written and looked for", "`models` in the bundle"),
    "adapter": Key(PATH, "the trained adapter, `.pt` or `.safetensors`", "`models/model.pt` in the bundle"),
    "output_dir": Key(PATH, "where masks, tables and pictures are written", "`output` in the bundle"),
    "bundle_root": Key(PATH, "the bundle's folder", "the folder of the configuration"),
    "device": Key(DEVICE, "where the network computes", "the GPU, if there is one"),
    "quick": Key(
        FLAG,
        "two epochs on two cases at 32 px: every step once, in a minute. Writes to the folder `quick` in `ckpt_dir`",
    ),
    "seed": Key(SEED, "seed of all random choices"),
    "resume": Key(FLAG, "continue after the last finished epoch in `ckpt_dir`"),
    "train_cases": Key(or_none(whole(1), "all"), "how many cases to train on, from the start of the list"),
    "train_cases_seed": Key(or_none(SEED), "choose these cases at random with this seed instead"),
    "fold": Key(
        or_none(whole(0)),
        'for cross-validation: validate on the training cases with this `"fold"` in `dataset.json`',
    ),
    "labels": Key(
        or_none(NAMES, "as stated"), "names of the foreground labels", "the dataset's; at inference the adapter's"
    ),
    "channels": Key(
        or_none(CHANNELS, "as in the file"),
        "which channels of the image to use, and in what order; 3 are colour where they are not named",
    ),
    "frames": Key(
        FLAG,
        "the fourth dimension of a volume's file is time, and each frame a volume of its own; masks have as many "
        "([Time](your_data.md#time))",
    ),
    "channel_names": Key(
        or_none(
            Kind(f"a list of at least two names: {NAMES.words}", lambda v: NAMES.allows(v) and len(v) > 1),
            "grey or colours",
        ),
        "names of the channels of an image, in order, where they are several and no colours; others are refused",
        "from the dataset's `channel_names` or `modality`; at inference the adapter's",
    ),
    "image_channels": Key(
        or_none(whole(1, MOST_CHANNELS), "not checked"),
        "how many channels an image has, counted after `channels`: 1 is grey, 3 are colours where they are not named; "
        "others are refused",
        "that of the first training image; at inference the adapter's",
    ),
    "regions": Key(
        or_none(
            Kind(
                "for each label a list of its values in label files, first the one that a mask holds where no later "
                "label lies: [[1, 2, 3], [2, 3], [3]]",
                lambda v: not wrong_with(v),
            ),
            "one value each: 1, 2, ...",
        ),
        "labels that are regions and may overlap ([Regions](your_data.md#regions))",
        "from the dataset's `labels` and `regions_class_order`; at inference the adapter's",
    ),
    "spatial_dims": Key(one_of(2, 3), "2 for pictures, 3 for volumes", "the dataset's"),
    "intensity": Key(
        Kind(
            f"{INTENSITY.words}, or a list with one for each channel",
            lambda v: INTENSITY.allows(v) or is_list(v, range(2, MOST_CHANNELS + 1), INTENSITY.allows),
        ),
        "what the image's numbers are: Hounsfield units, arbitrary, or brightness",
        "from the dataset's `modality`",
    ),
    "modality": Key(
        or_none(
            Kind(
                "a list of DICOM's codes, such as ['CT'] or ['CT', 'PT']",
                lambda v: is_list(v, range(1, 17), is_code),
            ),
            "not checked",
        ),
        "of which modality the images are; DICOM that says another is named",
        "what DICOM images say, else from the dataset's `modality`; at inference the adapter's",
    ),
    "ct_window": Key(WINDOW, "Hounsfield units that become 0 and 1, for `intensity` ct"),
    "orientation": Key(
        ORIENTATION,
        "which axis of a volume is sliced; coarsest: the one with the coarsest spacing, or axial where none is",
    ),
    "spacing": Key(
        or_none(SPACING, "as in the file"), "resample volumes to this spacing in mm; masks return to the file's grid"
    ),
    "backbone": Key(
        one_of(*KNOWN_WEIGHTS, "vit_b", "vit_l", "vit_h"), "base weights: `python -m sam_monai weights` lists them"
    ),
    "checkpoint": Key(or_none(PATH, "where they are known to be"), "the file of the base weights"),
    "image_size": Key(
        or_none(whole(32, 4096, 16), PLANNED),
        "side in pixels of the square that the encoder sees. Twice the side is finer and takes four times as long. "
        "LiteMedSAM was made for 256",
        "planned",
    ),
    "depth_attention": Key(
        FLAG, "let the slices of a volume see each other ([Med-SA](medsa.md#depth-attention))", "true for volumes"
    ),
    "text_encoder": Key(one_of(*TEXT_WEIGHTS), "what turns label names into prompts ([S-SAM](ssam.md))"),
    "text_checkpoint": Key(or_none(PATH, "where it is known to be"), "the file of the text encoder's weights"),
    "tokens": Key(whole(1, 1000), "prompt tokens of a label ([PTSAM](ptsam.md))"),
    "encoder_prompts": Key(whole(0, 1000), "prompts in every block of the encoder ([PTSAM](ptsam.md))"),
    "embedding_cache": Key(
        Kind("a path, or False: none is kept", lambda v: v is None or v is False or is_path(v)),
        "where embeddings are kept ([PTSAM](ptsam.md))",
        "in the cache folder",
    ),
    "ratio": Key(RATIO, "of an adapter's width to its layer's ([Med-SA](medsa.md))"),
    "thaw_decoder": Key(FLAG, "train the whole mask decoder too ([Med-SA](medsa.md))"),
    "amp": Key(FLAG, "bfloat16 where the processor has instructions for it"),
    "slices_per_batch": Key(whole(1), "slices that pass through the encoder together: bounds the memory"),
    "checkpointing": Key(
        or_none(FLAG, PLANNED),
        "keep less of the encoder for the backward pass and compute it again: less memory, more time "
        "([Speed](speed.md#memory))",
        "planned",
    ),
    "engine": Key(
        one_of(*ENGINES), "openvino: [OpenVINO](export.md#openvino-inside-a-bundle) runs the image encoder on the CPU"
    ),
    "scale": Key(
        or_none(one_of("whole", "patch"), PLANNED),
        "whole: slices are resized to the encoder's square. patch: patches of `image_size` pixels at the image's own "
        "resolution, for thin structures in large pictures",
        "planned",
    ),
    "overlap": Key(PART, "of neighbouring patches"),
    "average_flips": Key(
        one_of("none", "sides", "flips"),
        "average the answers to an image and to its mirrored copies: from left to right (`sides`, twice the time), of "
        "pictures also upside down (`flips`, four times). For data that were mirrored in training ([what it "
        "gives](evidence.md#what-helps-and-what-does-not))",
    ),
    "minutes": Key(
        or_none(Kind("a number above 0", lambda v: is_number(v) and v > 0), "15, or 4 for the demonstration"),
        "time for the whole command, validation and report included; what is planned is planned for it",
    ),
    "steps": Key(or_none(whole(1), PLANNED), "steps of the optimiser, in place of minutes"),
    "epochs": Key(or_none(whole(1), PLANNED), "an epoch visits each training case once", "planned"),
    "batch_size": Key(whole(1), "cases in a step"),
    "slices": Key(whole(1), "consecutive slices taken from a volume"),
    "samples": Key(whole(1), "samples taken at each visit of a volume or, with patch, of a picture"),
    "augment": Key(
        FLAG,
        "random zooms, small turns, intensities, and what `mirror` says. Labels that differ in their side alone (left "
        "and right kidney) change places in a mirrored sample; where one has no such partner nothing is mirrored",
    ),
    "mirror": Key(
        or_none(one_of("turns", "flips", "sides", "none"), PLANNED),
        "how samples are mirrored: pictures by flips and quarter `turns`, by `flips`, from left to right (`sides`), or "
        "`none`; volumes from side to side unless it is `none`",
        "planned",
    ),
    "corrections": Key(whole(0), "clicks that correct an answer in training ([Med-SA](medsa.md))"),
    "learning_rate": Key(NOT_NEGATIVE, "for the encoder's adaptation"),
    "prompt_learning_rate": Key(NOT_NEGATIVE, "for the prompt"),
    "weight_decay": Key(NOT_NEGATIVE, "for the prompt"),
    "focal_gamma": Key(NOT_NEGATIVE, "exponent of the focal loss"),
    "val_interval": Key(
        or_none(FROM_1, PLANNED), "epochs between validations; the last epoch is always validated", "planned"
    ),
    "num_workers": Key(whole(0), "worker processes that load data"),
    "cache_rate": Key(SHARE, "share of the prepared images kept in memory, as far as the free memory allows"),
    "largest_component": Key(FLAG, "keep only the largest connected component of each label"),
    "fill_holes": Key(FLAG, "fill holes inside a label"),
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
        and not KEYS[known].kind.allows(value)
    ]


def of_record(record: Mapping[str, Any], source: str | Path, own: Sequence[str] = ()) -> dict[str, Any]:
    """Of an adapter's record, or of what metadata.json says of one, what a configuration may take: the keys of
    :data:`NETWORK` that it has and all of :data:`IMAGES`. Nothing else of it is looked at.

    Args:
        record: as it was read.
        source: its file.
        own: further keys, of a method that is not known here; their values are a flag, a number or a name.

    Raises:
        InputError: a value that is missing or not allowed; ``source`` is named.
    """
    images = record.get("preprocessing")
    from ..networks import identity  # imports torch

    images = {**identity.absent(identity.PREPARATION), **images} if isinstance(images, Mapping) else {}
    if any(key not in images for key in IMAGES):
        raise InputError(f"{source}: the record does not say how images are prepared ({', '.join(IMAGES)})")
    values = {**{key: record[key] for key in NETWORK if key in record}, **{key: images[key] for key in IMAGES}}
    values |= {key: record[key] for key in own if key in record}
    odd = [
        f"{key} is {values[key]!r:.200}; it is a flag, a number or a name"
        for key in own
        if key in values and not (isinstance(values[key], bool) or is_number(values[key]) or is_name(values[key]))
    ]
    if wrong := problems(values) + odd:
        raise InputError(f"{source}: the record of the adapter was changed or is damaged: {'; '.join(wrong)}")
    return values


def literal(text: str) -> str:
    """A configuration's value that MONAI takes for this very text, whatever is in it: what it would run, look up, read
    from a file or alter stands escaped in an expression."""
    return f"${quoted(text)}" if re.search(r"[$@%#]|::", text) else text


def quoted(text: str) -> str:
    """A text as it stands in an expression of a configuration."""
    return re.sub(r"[$@%#:]", lambda found: f"\\x{ord(found[0]):02x}", ascii(text))


def default_of(name: str, value: Any) -> str:
    """What a configuration's value is where nothing else is said, for people."""
    if isinstance(value, str) and (usual := re.fullmatch(r"\$\S+ if @quick else (\S+)", value)):
        value = ast.literal_eval(usual[1])
    if value is None:
        return KEYS[name].default or "None"
    if isinstance(value, str) and (otherwise := re.fullmatch(r"\$@(\w+) if @(\w+) else (\S+)", value)):
        return f"{otherwise[3]}, with {otherwise[2]} that of {otherwise[1]}"
    return KEYS[name].default or "as trained" if isinstance(value, str) and value[:1] in ("$", "@") else str(value)


def listed(config: Mapping[str, Any]) -> str:
    """A configuration's keys, for people: default, meaning, what is allowed."""
    return "\n".join(
        f"--{name}  (default: {default_of(name, config[name])})\n    {key.help}: {key.kind.words}"
        for name, key in KEYS.items()
        if name in config
    )


def markdown(*configs: Mapping[str, Any]) -> str:
    """The documentation's table of the keys that these configurations have."""
    lines = [("key", "default", "allowed", "meaning"), ("---",) * 4]
    for name, key in KEYS.items():
        defaults = dict.fromkeys(default_of(name, config[name]) for config in configs if name in config)
        lines.append((f"`{name}`", " / ".join(defaults), key.kind.words, key.help))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
