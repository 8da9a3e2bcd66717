"""A bundle of one's own: the method's configurations with one trained adapter, and documents about that."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from PIL import Image

from .. import __version__
from ..backbones.weights import file_sha256
from ..data.picture_files import FORMATS
from ..distributed import first_process
from ..errors import InputError
from ..files import write_aside, write_json
from ..networks.adapter_files import BUFFERS, read_adapter, read_training, write_adapter
from ..networks.regions import numbered
from .configuration import NAMES
from .folder import metadata_labels, read_json, read_metadata, record
from .model_card import PICTURE, images, joined, model_card, needed
from .shipped import copy, default_root, new_folder, shipped
from .typed import literal

MONAI_NAMES = {"monai": "monai", "torch": "pytorch", "numpy": "numpy"}  # which metadata.json names by themselves
LARGE = 25 * 2**20  # bytes of a file that the model zoo does not take
TEXT_LIBRARIES = {"minilm": ["tokenizers"], "clip": ["open-clip-torch"]}


def package(
    bundle_root: str | Path, output: str | Path, adapter: str | Path | None = None, picture: str | Path | None = None
) -> Path:
    """Make a bundle of a trained adapter: what is known of it becomes part of its configuration and metadata, so that
    further training, by a server too, continues this very network.

    Args:
        bundle_root: the bundle it was trained with.
        output: folder to make; there must be none, or an empty one.
        adapter: ``None``: the bundle's ``models/model.pt``.
        picture: of a validation case, for the model card. Whoever gets the bundle sees it.

    Raises:
        InputError: the output is there, the bundle is not one, the adapter is missing or of another method, its record
            holds what no configuration may take, or the picture cannot be read.
    """
    root, output = Path(bundle_root), Path(output)
    adapter = root / "models" / "model.pt" if adapter is None else Path(adapter)
    state, known = read_adapter(adapter), record(root, adapter)
    # What was checked one by one, and nothing else of the record: a configuration is code.
    values = {key: value for key, value in known.items() if key not in ("method", "preprocessing")}
    values |= known["preprocessing"]
    values |= {"labels": known["labels"][:1]} if values["instances"] else {}  # the dataset's
    training = read_training(adapter)
    template = shipped() / known["method"]
    template = template if template.is_dir() else root
    method, defaults = read_metadata(template)["name"], read_json(template / "configs" / "train.json")
    metadata = named(described(read_metadata(root), known), output.absolute().name, method, known, training or {})
    parameters = sum(tensor.numel() for key, tensor in state.items() if key not in BUFFERS)
    card = model_card(
        output.absolute().name, metadata, known, training or {}, parameters, defaults, picture is not None
    )
    with new_folder(output) as part:
        copy(root, part)
        (part / "docs" / PICTURE).unlink(missing_ok=True)  # of the adapter before
        write_json(metadata, part / "configs" / "metadata.json")
        for file in sorted((part / "configs").glob("*.json")):
            config = read_json(file)
            if file.name == "train.json":
                config |= {key: value for key, value in values.items() if not isinstance(config.get(key, {}), dict)}
                names = {key: config[key] for key in NAMES if isinstance(config.get(key), list)}
                config |= {key: [literal(name) for name in each] for key, each in names.items()}
                config["dataset_dir"] = None
                if known.get("prompted") is False:  # which no key says, but the number of draws
                    config["draws"] = 0
                elif config.get("draws") == 0:  # of the bundle that this one is made of
                    config["draws"] = defaults["draws"]
            if "bundle_root" in config:
                config["bundle_root"] = default_root(output)
                write_json(config, file)
        write_aside(card, part / "docs" / "README.md")
        if picture is not None:
            add_picture(picture, part / "docs" / PICTURE)
        write_adapter(state, part / "models" / "model.pt", training)
        if large := [file for file in sorted((part / "models").iterdir()) if file.stat().st_size > LARGE]:
            write_aside(listed(large), part / "large_files.yml")
    return output


def listed(files: Sequence[Path]) -> str:
    """The ``large_files.yml`` of weights that the zoo does not take, but downloads. Where from, only its user knows."""
    lines = [
        "# MONAI's model zoo takes no file above 25 MB. Upload these, and say by url where they are.",
        "large_files:",
    ]
    for file in files:
        lines += [f"  - path: models/{file.name}", '    url: ""', f"    hash_val: {file_sha256(file)}"]
        lines += ["    hash_type: sha256"]
    return "\n".join([*lines, ""])


def add_picture(source: str | Path, target: Path) -> None:
    """A picture as it looks, without what else its file says."""
    try:
        with Image.open(source, formats=FORMATS) as image:
            Image.frombytes("RGB", image.size, image.convert("RGB").tobytes()).save(target)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{source}: no picture that can be read ({error})") from error


def suggest(bundle_root: str | Path, ckpt_dir: str | Path) -> None:
    """The last lines of a training: how the adapter segments images, and how to make a bundle of it where the metadata
    describe another."""
    adapter = Path(ckpt_dir) / "model.pt"
    if first_process() and (Path(bundle_root) / "configs" / "metadata.json").is_file():
        metadata, ours = read_metadata(bundle_root), record(bundle_root, adapter)
        ours_too = Path(bundle_root).resolve().parent == shipped().resolve()
        bundle = Path(bundle_root).resolve().name if ours_too else str(bundle_root)
        own = Path(ckpt_dir).resolve() == (Path(bundle_root) / "models").resolve()
        words = ["sam-monai", "segment", "FOLDER", "--bundle", bundle, *([] if own else ["--adapter", str(adapter)])]
        print(f"to segment new images: {shlex.join(words)}", flush=True)
        if metadata_labels(metadata) != ours["labels"] or any(ours.get(k) != v for k, v in metadata["adapter"].items()):
            command = shlex.join(["sam-monai", "package", bundle, "OUTPUT", "--adapter", str(adapter)])
            print(f"to make a bundle of it, with its own documents: {command}", flush=True)


def described(metadata: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """A bundle's metadata brought up to date with a trained adapter: labels, channels, sizes, preparation of images."""
    names = ["background", *known["labels"]]
    pred = metadata["network_data_format"]["outputs"]["pred"]
    pred["num_channels"] = len(names)
    # MONAI Label takes the channels' numbers for the values of a mask.
    regions = known["preprocessing"].get("regions")
    values = range(len(names)) if regions is None else [0, *(region[0] for region in regions)]
    pred["channel_def"] = {str(value): name for value, name in zip(values, names, strict=True)}
    held = ", ".join(["0 background", *numbered(known["labels"], regions, known["preprocessing"]["instances"])])
    listed = ", ".join(f"{i} {name}" for i, name in enumerate(names))
    metadata["label_classes"], metadata["pred_classes"] = f"label map: {held}", f"logits: {listed}"
    dims = known["preprocessing"]["spatial_dims"]
    shape = [known["image_size"]] * 2 + [8] * (dims - 2)
    image = metadata["network_data_format"]["inputs"]["image"]
    for tensor in (pred, image):
        tensor["spatial_shape"] = shape
    intensity = known["preprocessing"]["intensity"]
    kinds = {"ct": "CT", "mr": "MR", "picture": "RGB"}
    each = [intensity] if isinstance(intensity, str) else dict.fromkeys(intensity)
    image["modality"] = ", ".join(known["preprocessing"]["modality"] or (kinds[kind] for kind in each))
    number = known["preprocessing"]["image_channels"] or (3 if intensity == "picture" else 1)
    names = known["preprocessing"]["channel_names"]
    colours = ("red", "green", "blue") if intensity == "picture" else ("first", "second", "third")
    image["num_channels"] = number
    image["channel_def"] = {"0": "image"} if number == 1 else {str(i): name for i, name in enumerate(names or colours)}
    metadata["data_type"] = "nifti" if dims == 3 else "png"
    metadata["adapter"] = {key: value for key, value in known.items() if key not in ("method", "labels")}
    if known.get("prompted") is False:
        metadata["task"] = "Segmentation of medical images and volumes"
    elif "prompted" in known:
        metadata["task"] = read_metadata(shipped() / known["method"])["task"]
    return metadata


def named(
    metadata: dict[str, Any],
    name: str,
    method: str,
    known: Mapping[str, Any],
    training: Mapping[str, Any],
) -> dict[str, Any]:
    """The metadata of :func:`described` under a name, a version and a description of its own, with what was measured
    and all packages that it needs. Only a bundle that still has the name of its method, ``method``, gets the new
    ``name``."""
    objects = known["preprocessing"]["instances"]  # whose border is a label of the network alone
    labels, what = joined(known["labels"][:1] if objects else known["labels"]), images(known["preprocessing"])
    if metadata["name"] == method:  # the first bundle of this adapter
        metadata["version"], metadata["changelog"] = "0.1.0", {}
        metadata["name"] = re.sub("[$@%#]", "_", name)  # MONAI would run or look up what begins with these
        metadata["authors"], metadata["copyright"] = "not stated", "not stated"
    else:
        *first, last = re.findall(r"\d+", metadata["version"])
        metadata["version"] = ".".join([*first, str(int(last) + 1)])
    day = f" on {training['date'][:10]}" if training else ""
    metadata["changelog"][metadata["version"]] = f"trained{day}: {labels}"
    short = method.partition(":")[0]
    metadata["description"] = f"Segments {labels} in {what.split(',')[0]}. Method: {short}, base: {known['backbone']}."
    metadata["image_classes"] = f"{what}; values in [0, 1]"
    regions = known["preprocessing"].get("regions")
    values = range(1, len(known["labels"]) + 1) if regions is None else [region[0] for region in regions]
    each = zip(values, training.get("dice_by_label", ()), strict=False)
    dice = {str(value): one for value, one in each if one is not None}  # as channel_def counts
    measured = {"val_mean_dice": training.get("validation_dice"), "val_dice_by_channel": dice}
    metadata["eval_metrics"] = {key: value for key, value in measured.items() if value not in (None, {})}
    return metadata | versions(metadata["required_packages_version"], known)


def versions(before: Mapping[str, str], known: Mapping[str, Any]) -> dict[str, Any]:
    """What a bundle needs, its weights' packages too, in the versions that are installed."""
    names = {file.package.split("/")[0].replace("_", "-") for file in needed(known) if file.package}
    names |= {*before, *TEXT_LIBRARIES.get(known.get("text_encoder"), [])}
    with suppress(PackageNotFoundError):
        names |= {re.split(r"[^\w.-]", one)[0] for one in requires("sam_monai") or () if "extra ==" not in one}
    found = {"sam_monai": __version__}
    for name in sorted(names - {"sam_monai"}):
        with suppress(PackageNotFoundError):
            found[name] = (re.match(r"\d+(\.\d+)+", version(name)) or [f"{version(name)}.0"])[0]
    own = {f"{key}_version": found.pop(name) for name, key in MONAI_NAMES.items() if name in found}
    return own | {"required_packages_version": found}
