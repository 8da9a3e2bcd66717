"""The commands of ``sam-monai`` that do not stand for a line of MONAI's program. Each is described by its docstring.

A mistake is answered before torch and MONAI are imported, so each command imports what it needs.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, printable
from ..files import from_home
from .folder import refuse_packed
from .front import import_quietly, in_folder, is_own, tell_trust

if TYPE_CHECKING:
    from ..backbones.weights import KnownFile


def refuse_missing(path: str, what: str) -> None:
    """Say at once that there is nothing at ``path``, or an archive."""
    if not os.path.lexists(from_home(path)):
        raise InputError(f"{path}: no such {what}")
    refuse_packed(path)


def adapter_at(path: str) -> str:
    """The file of an adapter, as of :func:`in_folder`, which must be there."""
    path = in_folder(from_home(path))
    if not os.path.isfile(path):
        remedy = "train one by `sam-monai train FOLDER`, or give the path of its file"
        raise InputError(f"there is no trained adapter at {path}: {remedy}")
    return path


def tell(made: Path, *hints: str) -> None:
    """Print the folder that was made, for a program that reads it, and what a person may do with it."""
    if not sys.stdout.isatty():
        print(made)
    print("\n".join([f"{made} is made", *hints]), file=sys.stderr)


def known_files() -> dict[str, KnownFile]:
    """Every file of weights that has a name: those of SAM, then those of the text encoders."""
    from ..backbones.weights import KNOWN_WEIGHTS
    from ..networks.text import TEXT_WEIGHTS

    return {weights.name: weights for weights in (*KNOWN_WEIGHTS.values(), *TEXT_WEIGHTS.values())}


def new(args: argparse.Namespace) -> None:
    """Write a bundle's folder, to train and to change."""
    from .shipped import new

    made = new(args.bundle, args.output)
    tell(made, f"train it: sam-monai train FOLDER --bundle {shlex.quote(str(made))}")


def weights(args: argparse.Namespace) -> None:
    """List the known weights: what they are, whether their file is here, licence and provenance."""
    from ..backbones.weights import Weights, how_to_get, locate

    rows: list[tuple[str, ...]] = [("name", "encoder", "pixels", "here", "licence", "from")]
    details = [""]
    for known in known_files().values():
        kind = (known.architecture, str(known.image_size)) if isinstance(known, Weights) else ("text", "-")
        try:
            here, detail = "yes", str(locate(known))
        except InputError:
            here, detail = "no", how_to_get(known)
        rows.append((known.name, *kind, here, known.licence, known.provenance))
        details.append(f"\n    {detail}")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, detail in zip(rows, details, strict=True):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + detail)


def download(args: argparse.Namespace) -> None:
    """Download known weights and check their hash."""
    from ..backbones.download import download

    known = known_files()
    if args.name not in known:
        names = ", ".join(name for name, file in known.items() if file.url)
        raise InputError(f"there are no known weights '{args.name}': those with a download are {names}")
    print(download(known[args.name], args.folder))


def keys(args: argparse.Namespace) -> None:
    """List the keys of a bundle's configurations: default, meaning, what is allowed."""
    from . import shipped
    from .folder import read_json
    from .key_list import in_words

    bundle = shipped.find(args.bundle)
    configs = [read_json(bundle / "configs" / f"{name}.json") for name in ("evaluate", "inference", "train")]
    print(in_words({name: value for config in configs for name, value in config.items()}))


def package(args: argparse.Namespace) -> None:
    """Make a bundle of a trained adapter: its configuration continues that network, its metadata describe it."""
    from .shipped import find

    bundle = find(args.bundle)
    kept = is_own(bundle) or (bundle / "models" / "model.pt").is_file()
    home = bundle if kept else Path(bundle.name)  # where a training by its name leaves it
    here = Path(bundle.name) / "models" / "model.pt"
    elsewhere = here.is_file() and not (kept and here.samefile(bundle / "models" / "model.pt"))
    if args.adapter is None and not is_own(bundle) and home == bundle and elsewhere:
        raise InputError(
            f"{args.bundle} holds an adapter, and {here} was trained here: name the one that is meant by --adapter "
            f"{shlex.quote(str(here))} or --adapter {shlex.quote(str(bundle / 'models' / 'model.pt'))}"
        )
    adapter = adapter_at(str(home / "models" / "model.pt") if args.adapter is None else args.adapter)
    from .package import package

    made = package(bundle, args.output, adapter, args.picture)
    tell(
        made,
        f"segment with it: sam-monai segment FOLDER --bundle {shlex.quote(str(made))}",
        f"before you hand it on, read {made / 'docs' / 'README.md'}, and fill in authors and copyright in "
        f"{made / 'configs' / 'metadata.json'}; hand it on before you use it, which leaves pictures and names of your "
        "images in its folders output and models",
    )


def show(args: argparse.Namespace) -> None:
    """Say what an adapter is: method, base, labels, sizes, preparation of images, training."""
    args.adapter = adapter_at(args.adapter)
    from ..networks.adapter_files import describe

    print(describe(args.adapter))


def verify(args: argparse.Namespace) -> None:
    """Load an adapter on its base and see that it fits, is finite, and is the same in both of its files."""
    args.adapter = adapter_at(args.adapter)
    from ..networks.adapter_files import verify

    verify(args.adapter, checkpoint=args.checkpoint)
    print(f"{args.adapter}: ok")


def verify_bundle(args: argparse.Namespace) -> None:
    """Check a bundle with a trained adapter as MONAI's model zoo does, but offline. Runs its configuration."""
    from .shipped import find

    find(args.bundle)
    from .acceptance import verify_bundle

    verify_bundle(args.bundle)


def series(args: argparse.Namespace) -> None:
    """List the DICOM series in a folder and the folders within: what each is, and what to give as its image."""
    if not os.path.isdir(args.folder):
        raise InputError(f"{args.folder}: no such folder")
    from ..data.dicom_series import list_series

    found = [one for folder, _, _ in sorted(os.walk(args.folder)) for one in list_series(folder)]
    if not found:
        raise InputError(f"{args.folder}: there is no DICOM image in it")
    for one in found:
        print(f"{one.path}  ({printable(one.description)}, {len(one.files)} file{'s' * (len(one.files) > 1)})")


def dataset(args: argparse.Namespace) -> None:
    """Write the dataset.json of a folder in another form, such as nnU-Net's, and draw three of its cases."""
    refuse_missing(args.folder, "folder")
    from ..results.dataset_file import write_dataset

    names = None if args.labels is None else [name.strip() for name in args.labels.split(",")]
    channel = int(args.channel) if (args.channel or "").isdecimal() else args.channel
    print("\n".join(write_dataset(args.folder, names, args.modality, channel, args.output)))


def merge(args: argparse.Namespace) -> None:
    """Merge an S-SAM adapter into a plain SAM checkpoint for segment-anything, with its prompts in a second file."""
    args.adapter = adapter_at(args.adapter)
    import torch

    from ..backbones.weights import SAM_MEAN
    from ..files import refuse_existing
    from ..locks import beside, put_beside
    from ..networks.adapter_files import load_network
    from ..networks.ssam import SSAM

    output = Path(args.output)
    if output.suffix not in (".pth", ".pt"):
        raise InputError(f"{output}: segment-anything reads .pth: give the file such a name")
    prompts = output.with_name(f"{output.stem}_prompts.pth")
    refuse_existing(output)
    with beside(output, "merging an adapter") as folder:
        refuse_existing(prompts)
        network = load_network(args.adapter, args.checkpoint)
        if not isinstance(network, SSAM):
            raise InputError(f"{args.adapter} is an adapter of {network.method}: only S-SAM merges into a plain SAM")
        sam, tokens = network.merged()
        torch.save(sam, folder / output.name)
        torch.save(tokens, folder / prompts.name)
        refuse_existing(output, prompts)
        put_beside(output, folder)
    print(f"{output}: a SAM for images of {network.image_size} px\n{prompts}: a sparse prompt (1, 256) for each label")
    weights = network.backbone.weights
    if weights.pixel_mean != SAM_MEAN or weights.resize != "pad":
        how = "stretched" if weights.resize == "stretch" else "padded"
        print(
            f"its images are prepared otherwise than SAM's: {how}, mean {weights.pixel_mean} and standard deviation "
            f"{weights.pixel_std} of values from 0 to 1. SamPredictor gives wrong masks: call the network itself"
        )


def export(args: argparse.Namespace) -> None:
    """Export a trained network to ONNX, OpenVINO or torch.export's .pt2, and compare the file with torch."""
    args.adapter = adapter_at(args.adapter)
    from ..networks.adapter_files import load_network
    from .export import export

    network = load_network(args.adapter, args.checkpoint)
    images = network.preprocessing
    if args.size is None and images.get("spatial_dims") == 3:
        # Without depth attention the number of slices is free, and this one serves as an example.
        if network.depth_attention:
            raise InputError("with depth attention the number of slices is fixed in the file: give --size H W D")
        args.size = [network.image_size, network.image_size, 1]
    usual = 3 if images.get("intensity", "picture") == "picture" else 1
    if network.channel_names and args.channels:
        raise InputError(f"the adapter takes the channels {', '.join(network.channel_names)}: leave --channels out")
    channels = args.channels or len(network.channel_names or ()) or images.get("image_channels") or usual
    print("an export takes half a minute, or two on a slow processor", flush=True)
    print(export(network, args.output, args.size, channels, args.prompted, args.opset))


def plan(args: argparse.Namespace) -> None:
    """Print how a folder would be trained, why, and in what time. Takes all keys of train, as --minutes 60."""
    from ..files import refuse_existing, write_json
    from . import shipped
    from .folder import read_json
    from .front import as_taken
    from .keys import PATHS

    refuse_missing(args.folder, "folder")
    if args.json:
        refuse_existing(Path(args.json))
    bundle = shipped.find(args.bundle)
    tell_trust(bundle)
    config = read_json(bundle / "configs" / "train.json")
    given = as_taken(args.keys, config)
    if "dataset_dir" in given:
        raise InputError(f"two folders are given: {args.folder} and, by --dataset_dir, {given['dataset_dir']}")
    import_quietly()
    import logging

    from monai.bundle import ConfigParser

    from ..results.report import show_plan
    from .configuration import check_weights, take_as_typed

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("sam_monai").setLevel(logging.INFO)  # how the folder was understood

    if given.pop("unlabelled", None) is not None:
        print("planned for the labelled cases alone: only a training labels the images of --unlabelled", flush=True)
    parser = ConfigParser(config | given | {"dataset_dir": args.folder})
    take_as_typed(parser, {key: str(given[key]) for key in PATHS & given.keys()} | {"dataset_dir": args.folder})
    check_weights(parser)
    found = parser.get_parsed_content("plan")
    show_plan(found)
    if args.json:
        write_json(found.as_dict(), Path(args.json))


def adapters(args: argparse.Namespace) -> None:
    """List the adapters in a folder, and the commands that train one on data that come with an extra."""
    from .gallery import listed

    print(listed(args.folder))


def compare(args: argparse.Namespace) -> None:
    """Put evaluations of the same cases side by side: Dice by label, paired differences, the cases that differ most."""
    for output in args.outputs:
        refuse_missing(output, "file or folder")
    from ..results.compare import compare

    print(compare(args.outputs, args.picture))
