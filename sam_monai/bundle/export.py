"""A trained network as one file for another runtime: ONNX, OpenVINO, or torch.export's own."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..adaptations import ssam_singular_values as svd
from ..backbones.tiny_vit import fold_norms
from ..errors import InputError, quiet
from ..files import refuse_existing
from ..locks import beside, put_beside
from ..networks import identity
from ..networks.base import AdaptedSAM
from ..networks.fields import plain
from ..networks.medsa import MedSA
from ..networks.regions import overlap
from .export_formats import RUNTIMES, WRITERS, Axes

OPSET = 18  # what torch's own translations are written in
PARITY = 1e-3  # largest difference from torch, over the largest logit where that is more than 1


class Prompted(nn.Module):
    """Med-SA by clicks and a box, with one pass of the encoder for both of its answers."""

    def __init__(self, network: MedSA) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, point_coords: Tensor, point_labels: Tensor, boxes: Tensor) -> Tensor:
        embedding = self.network.encode(image)
        return self.network(image, embedding, point_coords, point_labels, boxes)


def export(
    network: AdaptedSAM,
    path: str | Path,
    size: Sequence[int] | None = None,
    channels: int = 3,
    prompted: bool = False,
    opset: int = OPSET,
) -> str:
    """Write a network as one program, run that by its runtime, and compare it with torch.

    Inputs, float32 but for the int64 ``point_labels``: ``image`` (batch, C, H, W), or (1, C, H, W, D), values in
    [0, 1]. ``prompted``: also ``point_coords`` (1, clicks, 2 or 3), ``point_labels`` (1, clicks) and ``boxes``
    (1, 1, 4 or 6), NaN for none. Output ``logits`` (batch, L + 1, H, W[, D]), prompted (1, 2, H, W[, D]). Dynamic are
    the batch of pictures, the clicks, and D where the network has no depth attention. S-SAM's weights and batch norms
    are folded, in place. The file also holds :func:`metadata`.

    Args:
        network: is put in eval mode and computes in float32 from here on.
        path: ``.onnx``, ``.xml`` (OpenVINO, with a ``.bin`` beside it) or ``.pt2``.
        size: H, W for pictures; H, W, D for volumes. ``None``: the encoder's square, and for volumes without depth
            attention any number of such slices.
        channels: C, 1 or 3; where the network has ``channel_names``, it is their number.
        prompted: Med-SA by clicks and a box.
        opset: of ONNX.

    Returns:
        What was written, for people: inputs and outputs with their axes, the opset, the differences, and what the
        channels of the output are.

    Raises:
        InputError: a format that is not known or whose packages are missing, a size or a prompt that the network does
            not take, a size other than that of the patches that it was trained on, a file that is there already, or one
            that does not compute what torch does: then no file is left.
    """
    path = Path(path)
    if path.suffix not in RUNTIMES:
        raise InputError(f"{path}: the output ends in {', '.join(RUNTIMES)}, which say the format")
    refuse_existing(path)
    for package in RUNTIMES[path.suffix]:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise InputError(f'{path.suffix} needs {package}: pip install "sam_monai[export]"') from error
    channels = len(network.channel_names or ()) or channels
    dims = network.preprocessing.get("spatial_dims", 2 if size is None else len(size))
    one = (1,) if dims == 3 and not network.depth_attention else ()  # slice, of any number
    size = tuple(size or (network.image_size, network.image_size, *one))
    if len(size) not in (2, 3) or min(size) < 1:
        raise InputError(f"the size is H W for pictures or H W D for volumes, not {' '.join(map(str, size))}")
    if len(size) != dims:
        what = "volumes: give the size as H W D" if dims == 3 else "pictures: give the size as H W"
        raise InputError(f"the size is {' '.join(map(str, size))}, and the network was trained on {what}")
    if prompted and not isinstance(network, MedSA):
        raise InputError(f"{type(network).__name__} takes no clicks and boxes: only Med-SA is exported with prompts")
    square = network.image_size
    if network.preprocessing.get("scale") == "patch" and tuple(size[:2]) != (square, square):
        raise InputError(
            f"the network was trained on patches of {square} x {square} pixels and would shrink an image of "
            f"{size[0]} x {size[1]} to one: give a size of {' '.join(map(str, (square, square, *size[2:])))}"
        )
    deep = len(size) == 3 and network.depth_attention
    network.eval().amp = False
    if deep:
        network.slices_per_batch = size[2]  # the file's slices all see each other, and so do torch's to compare with
    svd.fold(network.backbone)
    fold_norms(network.backbone)
    about = metadata(network, prompted)
    program: nn.Module = Prompted(network) if isinstance(network, MedSA) and prompted else network
    axes = dynamic_axes(len(size), prompted, deep)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        beside(path, "an export") as folder,
        torch.no_grad(),
        quiet(),
        tqdm(total=3, leave=False, bar_format="{desc} {n}/{total} {elapsed}") as bar,
    ):
        if path.suffix == ".xml":
            refuse_existing(path.with_suffix(".bin"))
        bar.set_description("tracing the network")
        aside = folder / path.name
        example = inputs(size, channels, 2, prompted, deep)
        exported = torch.export.export(program, example, dynamic_shapes=dimensions(axes), strict=False)
        for module in exported.graph_module.modules():
            for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
                node.meta.pop("stack_trace", None)  # which names the folders of this machine
        bar.update()
        bar.set_description("writing the program")
        run = WRITERS[path.suffix](exported, aside, axes, opset, about)
        lines = [f"{path}: {'opset ' + str(opset) + ', ' if path.suffix != '.pt2' else ''}{megabytes(folder)}"]
        for name, tensor in zip(axes, example, strict=True):
            lines.append(f"  {name} {described(tensor, axes[name])} {str(tensor.dtype)[6:]}")
        bar.update()
        bar.set_description("comparing it with torch")
        for many in (1, 3) if any(axes.values()) else (1,):
            given = inputs(size, channels, many, prompted, deep)
            expected, found = program(*given), run(given)
            if many == 1:
                lines.append(f"  logits {described(expected, axes['image'])} float32")
            difference = float((found - expected).abs().max()) if found.shape == expected.shape else float("nan")
            largest = float(expected.abs().max())
            if not difference <= PARITY * max(1.0, largest):
                raise InputError(
                    f"{path} is not written: it differs from torch by {difference:.2g} where logits reach {largest:.3g}"
                )
            sizes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in zip(axes, given, strict=True))
            lines.append(f"  from torch {difference:.1e}, of the largest logit {difference / largest:.1e}: {sizes}")
        refuse_existing(*(path.parent / file.name for file in folder.iterdir()))
        put_beside(path, folder)
    lines += [f"  channel {i} of logits: {name}" for i, name in enumerate(json.loads(about["channels"]))]
    return "\n".join([*lines, f"  {about['mask']}"])


def metadata(network: AdaptedSAM, prompted: bool = False) -> dict[str, str]:
    """What an exported file says of itself.

    Returns:
        ``identity``: the adapter's record as JSON, see :mod:`sam_monai.networks.identity`. ``channels``: JSON list of
        what each channel of the output is. ``mask``: how a mask comes of them, and what of the bundle's inference the
        file lacks.
    """
    record = identity.check(network.describe())
    images = record["preprocessing"]
    channels = ["background", *(["object"] if prompted else record["labels"])]
    mask = "a pixel or voxel is what the channel with the largest value says"
    if images.get("instances") and not prompted:
        mask = (
            "a pixel belongs to an object where log(exp(channel 1) + exp(channel 2)) is above 0, and channel 2 parts "
            "objects that touch"
        )
    elif overlap(images.get("regions") or []) and not prompted:
        mask = "labels overlap: a pixel or voxel belongs to each label whose channel is above 0"
    if images.get("scale") == "patch":
        mask += (
            f"; trained on patches of {network.image_size} x {network.image_size} pixels: give such patches of an "
            "image and blend the answers where they overlap"
        )
    if prompted:
        mask += "; all clicks are shown at once, where the bundle refines its answer click by click"
    as_json = {"identity": plain(record), "channels": channels}
    return {key: json.dumps(value, ensure_ascii=False) for key, value in as_json.items()} | {"mask": mask}


# -- inputs ------------------------------------------------------------------------------------------------------------


def dynamic_axes(dims: int, prompted: bool, deep: bool) -> Axes:
    """Name of each dynamic axis of each input."""
    depth = {4: "depth"} if dims == 3 and not deep else {}
    if not prompted:
        return {"image": depth if dims == 3 else {0: "batch"}}
    return {"image": depth, "point_coords": {1: "clicks"}, "point_labels": {1: "clicks"}, "boxes": {}}


def dimensions(axes: Axes) -> tuple[dict[int, Any], ...]:
    dims = {axis: torch.export.Dim(axis, min=1) for named in axes.values() for axis in named.values()}
    return tuple({i: dims[axis] for i, axis in named.items()} for named in axes.values())


def inputs(size: Sequence[int], channels: int, many: int, prompted: bool, deep: bool) -> tuple[Tensor, ...]:
    """Random inputs whose dynamic axes are of length ``many``; of three clicks one is padding, and one has no box."""
    rng = torch.Generator().manual_seed(many)
    plane = (size[0], size[1])
    depth = () if len(size) == 2 else (size[2],) if deep else (many,)
    batch = 1 if prompted or depth else many
    image = torch.rand(batch, channels, *plane, *depth, generator=rng)
    if not prompted:
        return (image,)
    end = torch.tensor([*plane, *depth]) - 1.0
    coords = (torch.rand(1, many, len(end), generator=rng) * end).round()
    labels = torch.tensor([[1, 0, -1]])[:, :many]
    box = torch.cat([(end * 0.2).round(), (end * 0.7).round()])[None, None]
    return image, coords, labels, box if many > 1 else torch.full_like(box, torch.nan)


def described(tensor: Tensor, axes: dict[int, str]) -> str:
    return f"({', '.join(axes.get(i, str(n)) for i, n in enumerate(tensor.shape))})"


def megabytes(folder: Path) -> str:
    return f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.1f} MB"
