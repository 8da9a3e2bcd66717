"""Answers to clicks and boxes, and how a volume follows from a few of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer, SlidingWindowInferer
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..errors import InputError
from ..networks.slices import MOST_BYTES
from .drawn import Prompts
from .requests import clicks_of_request

ABSENT = -20.0  # logit of an object that was followed to its end
PART = 16  # slices of a volume that a prompt is answered for at a time, where the whole would be large


class PromptedInference(Inferer):
    """Segments by the prompts given, or without, by another inferer.

    Several objects of an image become one answer. In a volume an object with clicks on some slices and no box is
    followed from slice to slice: the box about the mask of one is the prompt of the next, until nothing is left of it.
    Memory is bounded by the volume itself, whatever the number of labels and objects. Each object's answer is the one
    that it has alone.

    The last image's embedding is kept, so a further click on it costs the decoder alone. It serves only while the
    image's values, the network's settings and every one of its tensors are the same. It is not kept where that cannot
    be told: of a network that was built in inference mode. After a change through ``.data`` call the network's
    ``forget()``.

    Args:
        automatic: inferer for images without prompts.
        follow: whether to.
    """

    def __init__(self, automatic: Inferer, follow: bool = True) -> None:
        self.automatic, self.follow = automatic, follow
        self.last: tuple[Tensor, list[Any], list[weakref.ref[Any]], Tensor, Tensor | None] | None = None

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **prompts: Any) -> Tensor:
        """An image (1, C, *spatial), and prompts of K objects, to logits (1, K + 1, *spatial). Of a volume whose logits
        would be large the labels alone are kept, int16 (1, 1, H, W, D), as :mod:`sam_monai.inference.slabs` does.

        Without prompts those that :class:`sam_monai.prompts.requests.KeepClicks` left with the image count.
        """
        prompts = prompts or {k: v.to(inputs.device) for k, v in clicks_of_request(inputs[0]).items()}
        if not prompts:
            return self.automatic(inputs, network, *args)
        if isinstance(getattr(self.automatic, "inferer", self.automatic), SlidingWindowInferer):
            raise InputError("prompts are answered for the whole image: an adapter trained with scale patch takes none")
        count = len(next(iter(prompts.values())))
        objects = [{key: value[k : k + 1] for key, value in prompts.items()} for k in range(count)]
        large = in_parts(inputs, network, len(objects))
        embedding, automatic = self.prepared(inputs, network, large)
        if not large:
            logits = network(inputs, embedding, automatic=automatic, **prompts)
            for one, answer in zip(objects, logits[:, 1], strict=True):
                self.follow_up(network, inputs, embedding, automatic, answer, one)
            return torch.cat([logits[:1, 0], logits[:, 1]])[None]
        best = torch.zeros(inputs.shape[2:], device=inputs.device)
        found = torch.zeros_like(best, dtype=torch.int16)
        for number, one in enumerate(objects, 1):
            answer = by_parts(network, inputs, embedding, one)
            self.follow_up(network, inputs, embedding, None, answer, one)
            found[answer > best] = number
            torch.maximum(best, answer, out=best)
        return found[None, None]

    def follow_up(
        self,
        network: Callable[..., Tensor],
        image: Tensor,
        embedding: Tensor,
        automatic: Tensor | None,
        answer: Tensor,
        prompts: Prompts,
    ) -> None:
        if self.follow and image.ndim == 5 and ("boxes" not in prompts or prompts["boxes"].isnan().all()):
            clicks = {key: value for key, value in prompts.items() if key != "boxes"}
            follow(network, image, embedding, automatic, answer, clicks)

    def prepared(self, image: Tensor, network: Callable[..., Tensor], large: bool) -> tuple[Tensor, Tensor | None]:
        """Embedding of an image and, if it is not large, the network's answer without a prompt; kept from the last call
        where image, network and weights are the same."""
        module = getattr(network, "module", network)
        last, plain = self.last, torch.as_tensor(image)  # read once: another thread may write it
        state, parts = state_of_network(module)
        if last is not None and state is not None:
            before, when, were, embedding, automatic = last
            same = when == state and all(part() is not None for part in were)
            same = same and before.shape == plain.shape and before.dtype == plain.dtype
            same = same and before.device == plain.device and (large or automatic is not None)
            if same and torch.equal(before, plain):
                return embedding, automatic
        embedding = module.encode(image)
        automatic = None if large else network(image, embedding)
        self.last = None if state is None else (plain.detach().clone(), state, parts, embedding, automatic)
        return embedding, automatic


def state_of_network(network: Any) -> tuple[list[Any] | None, list[weakref.ref[Any]]]:
    """What a network's answers depend on besides the image, to be compared; ``None``: it cannot be told.

    That is which object it is, its settings, the modes of torch, and each tensor with its version and place in memory.
    Objects are told by their numbers, which mean them only as long as all of the references given with them live.
    """
    settings = [(key, value) for key, value in vars(network).items() if isinstance(value, int | float | str | tuple)]
    modes = [torch.is_grad_enabled(), torch.is_inference_mode_enabled()]
    tensors = [*network.parameters(), *network.buffers()] if isinstance(network, nn.Module) else []
    if any(tensor.is_inference() for tensor in tensors):
        return None, []
    versions = [(id(tensor), tensor._version, tensor.data_ptr()) for tensor in tensors]
    return [id(network), *settings, *modes, *versions], [weakref.ref(part) for part in (network, *tensors)]


def in_parts(image: Tensor, network: Callable[..., Tensor], objects: int = 1) -> bool:
    """Whether a volume's prompts are answered part by part: its logits, for labels and objects, would be large."""
    labels = len(getattr(network, "module", network).labels)
    return image.ndim == 5 and 4 * image[0, 0].numel() * (labels + objects + 2) > MOST_BYTES


def by_parts(network: Callable[..., Tensor], image: Tensor, embedding: Tensor, prompts: Prompts) -> Tensor:
    """Logits (H, W, D) of one object, the same as from the whole volume at once, made of :data:`PART` slices a time."""
    module, depth = getattr(network, "module", network), image.shape[4]
    parts = [(first, slice(first, first + PART)) for first in range(0, depth, PART)]
    resemblance = sum(
        module.resemblance(image[..., here], embedding[..., here], part=(first, depth), **prompts)
        for first, here in tqdm(parts, desc="comparing with the labels", unit="part", leave=False)
    )
    logits = torch.empty(image.shape[2:], device=image.device)
    for first, here in tqdm(parts, desc="answering the prompt", unit="part", leave=False):
        known = {"part": (first, depth), "resemblance": resemblance}
        logits[..., here] = network(image[..., here], embedding[..., here], **known, **prompts)[0, 1]
    return logits


def follow(
    network: Callable[..., Tensor],
    image: Tensor,
    embedding: Tensor,
    automatic: Tensor | None,
    logits: Tensor,
    prompts: Prompts,
) -> None:
    """In the logits (H, W, D) of one object, answer slices without a positive click anew, in place, from the nearest
    slice with one outwards: each by the box about its neighbour's mask, and negative clicks of its own."""
    coords, labels = prompts["point_coords"][0], prompts["point_labels"][0]
    at = coords[:, 2].round().int()
    seeds = sorted(set(at[labels == 1].tolist()))
    if not seeds:
        return
    nearest = {k: min(seeds, key=lambda seed: abs(seed - k)) for k in range(logits.shape[2])}
    for k in sorted(set(nearest) - set(seeds), key=lambda k: abs(k - nearest[k])):
        neighbour = k + (1 if k < nearest[k] else -1)
        inside = (logits[..., neighbour] > 0).nonzero()
        if not len(inside):
            logits[..., k] = ABSENT
            continue
        corners = [*inside.amin(0).tolist(), 0, *inside.amax(0).tolist(), 0]
        slice_prompts = {"boxes": torch.tensor(corners, dtype=torch.float32, device=image.device)[None, None]}
        own = (at == k) & (labels == 0)
        if own.any():
            plane = coords[own] * torch.tensor([1, 1, 0], device=coords.device)  # alone, the slice is number 0
            slice_prompts |= {"point_coords": plane[None], "point_labels": labels[own][None]}
        here = slice(k, k + 1)
        known = None if automatic is None else automatic[..., here]
        answer = network(image[..., here], embedding[..., here], automatic=known, **slice_prompts)
        logits[..., k] = answer[0, 1, ..., 0]
