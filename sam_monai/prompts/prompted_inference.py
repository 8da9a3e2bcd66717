"""The inferer that answers clicks, boxes and masks where an image has some."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from monai.inferers import Inferer, SlidingWindowInferer
from torch import Tensor, nn

from ..data.instances import KEY as INSTANCES
from ..errors import InputError, warn_once
from ..networks.click_tokens import check_prompts, in_whole_slices, refuse_outside
from ..networks.regions import label_map_of
from ..networks.resemblance import named
from ..networks.slices import MOST_BYTES, of_image
from .answering import answered
from .corrections import Answer, corrected, labels_to_correct
from .drawn import Prompts
from .monai_label import clicks_of_request
from .patches import cut_out, in_patch, patch_about
from .prompt_files import lasso_as_mask
from .schema import unknown_key

ANSWERED = "answers_prompts"  # an attribute of logits
PROMPTS = ("point_coords", "point_labels", "boxes", "masks", "lasso")


class Kept(NamedTuple):
    """What is kept of the last image."""

    image: Tensor
    state: list[Any]
    parts: list[weakref.ref[Any]]
    embedding: Tensor
    automatic: Tensor | None
    margins: dict[int, Tensor]

    def __repr__(self) -> str:
        """Without the values of the image: MONAI Label logs the attributes of its inferer at each request."""
        return f"embedding of an image {tuple(self.image.shape)}"


class PromptedInference(Inferer):
    """Segments by the prompts given, or without, by another inferer.

    Several objects of an image become one answer. Each object's is the one that it has alone
    (:func:`~sam_monai.prompts.answering.answered`). Where the network was trained on patches, that is the answer in
    the patch about the object. Memory is bounded by the volume itself, whatever the number of labels and objects.

    The last image's embedding is kept, so a further click on it costs the decoder alone. It serves only while the
    image's values, the network's settings and every one of its tensors are the same. It is not kept where that cannot
    be told: of a network that was built in inference mode. After a change through ``.data`` call the network's
    ``forget()``.

    Args:
        automatic: inferer for images without prompts.
    """

    def __init__(self, automatic: Inferer) -> None:
        self.automatic = automatic
        self.last: Kept | None = None

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **prompts: Any) -> Tensor:
        """An image (1, C, *spatial), and prompts of K objects, to logits (1, K + 1, *spatial). Of a volume whose logits
        would be large, and where the network sees patches or finds objects by itself, the labels alone are kept, int16
        (1, 1, *spatial), as
        :mod:`sam_monai.inference.slabs` does.

        Without prompts those that :class:`sam_monai.prompts.monai_label.KeepClicks` left with the image count.

        ``label`` among the prompts says which label each object is: K names, ``None`` where it is not known.

        ``correct=True``: objects take the place of their labels in the answer without a prompt, and the result is such
        an answer (:func:`~sam_monai.prompts.corrections.corrected`). Each object needs its ``label``.

        Raises:
            InputError: prompts of another name, kind or shape, or that lie outside the image. A box that only reaches
                beyond it is cut.
        """
        module: Any = getattr(network, "module", network)
        labels = getattr(module, "labels", ())
        prompts = {key: value for key, value in prompts.items() if value is not None}
        prompts = prompts or clicks_of_request(inputs[0], labels)
        given, correct = prompts.pop("label", None), prompts.pop("correct", False)
        if not isinstance(correct, bool):
            raise InputError(f"correct of the prompts is {str(correct)[:50]!r}: give true or false")
        if not prompts and given is None:
            return self.automatic(inputs, network, *args)
        if len(inputs) != 1:
            raise InputError(f"prompts are answered of one image at a time: give batches of one, not {len(inputs)}")
        prompts = prompts_in(inputs, prompts)
        count = len(next(iter(prompts.values()), ()))
        names = list(given) if isinstance(given, list | tuple) else [given] * (count if given is None else 1)
        if not count or len(names) != count:
            raise InputError(f"label is {given!r}: give one name, or None, for each of the prompted objects")
        if flips := getattr(self.automatic, "flips", None):
            warn_once(f"average_flips {flips} is for images without prompts: those with prompts are answered once")
        innermost: Any = self.automatic  # slabs, flips and patches lie in each other
        while hasattr(innermost, "inferer"):
            innermost = innermost.inferer
        patches = isinstance(innermost, SlidingWindowInferer)
        objects = [{key: value[k : k + 1] for key, value in prompts.items()} for k in range(count)]
        for number, (one, name) in enumerate(zip(objects, names, strict=True), 1):
            if name is not None:
                one["meant"] = named(labels, name, f"object {number} of the prompts").to(inputs.device)
        answers = self.each(inputs, network, objects, patches)
        if correct:
            places = labels_to_correct(module, names)
            found = corrected(torch.as_tensor(self.automatic(inputs, network, *args)), places, answers)
            found = of_image(found, inputs)
            setattr(found, ANSWERED, True)
            return found
        if not patches and not in_parts(inputs, network, count):
            each = [answer for answer, _, _ in answers]
            logits = of_image(torch.stack([torch.zeros_like(each[0]), *each])[None], inputs)
            # Else two objects would pass for the inside and the border of objects.
            setattr(logits, ANSWERED, True)
            return label_map_of(logits, dim=1) if getattr(module, "preprocessing", {}).get(INSTANCES) else logits
        best = torch.zeros(inputs.shape[2:], device=inputs.device)
        found = torch.zeros_like(best, dtype=torch.int16)
        for number, (answer, rows, columns) in enumerate(answers, 1):
            before, numbers = best[rows, columns], found[rows, columns]  # views, without what lies beyond the image
            answer = answer[: before.shape[0], : before.shape[1]]
            numbers[answer > before] = number
            torch.maximum(before, answer, out=before)
        return of_image(found[None, None], inputs)

    def each(
        self, inputs: Tensor, network: Callable[..., Tensor], objects: Sequence[Prompts], patches: bool
    ) -> Iterator[Answer]:
        """The answer to each object, in the whole image or in the patch about it."""
        count, rows, columns = len(objects), slice(0, inputs.shape[2]), slice(0, inputs.shape[3])
        if not patches:
            known = self.prepared(inputs, network, in_parts(inputs, network, count))
            for one in objects:
                one = lasso_as_mask(one, inputs)
                yield answered(network, inputs, *known[:2], one, margins_kept=known[2]), rows, columns
            return
        module: Any = getattr(network, "module", network)
        for one in objects:
            one = lasso_as_mask(one, inputs)
            rows, columns = patch_about(one, inputs.shape[2:], module.image_size)
            image, own = cut_out(inputs, (rows, columns)), in_patch(one, (rows, columns))
            embedding, automatic, _ = self.prepared(image, network, in_parts(image, network, count))
            yield answered(network, image, embedding, automatic, own), rows, columns

    def prepared(
        self, image: Tensor, network: Callable[..., Tensor], large: bool
    ) -> tuple[Tensor, Tensor | None, dict[int, Tensor]]:
        """Embedding of an image, the network's answer without a prompt if the image is not large, and what is kept of
        labels' margins; from the last call where image, network and weights are the same."""
        module = getattr(network, "module", network)
        last, plain = self.last, torch.as_tensor(image)  # read once: another thread may write it
        state, parts = state_of_network(module)
        if last is not None and state is not None:
            before, when, were, *_ = last
            same = when == state and all(part() is not None for part in were)
            same = same and before.shape == plain.shape and before.dtype == plain.dtype
            same = same and before.device == plain.device and (large or last.automatic is not None)
            if same and torch.equal(before, plain):
                return last.embedding, last.automatic, last.margins
        embedding = module.encode(image)
        automatic = None if large else network(image, embedding)
        made = (embedding, automatic)
        followed = any(x is not None and x.requires_grad for x in made)  # a backward pass leaves no graph of it
        margins: dict[int, Tensor] = {}
        self.last = None if state is None or followed else Kept(plain.detach().clone(), state, parts, *made, margins)
        return embedding, automatic, margins


def prompts_in(image: Tensor, given: dict[str, Any]) -> Prompts:
    """Prompts as tensors on the device of an image (1, C, *spatial), if they fit it and each other."""
    unknown_key(given, PROMPTS, "the prompts")
    found: Prompts = {}
    for key, value in given.items():
        try:
            found[key] = torch.as_tensor(value, device=image.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{key} of the prompts is no array of numbers: {error}") from error
        if key != "point_labels":
            found[key] = found[key].float()
    lasso, axes = found.get("lasso"), image.ndim - 2
    if lasso is not None and (lasso.ndim != 3 or lasso.shape[2] != axes):
        raise InputError(f"lassos are (B, N, {axes}), the corners of each in one slice, not {tuple(lasso.shape)}")
    if lasso is not None and "masks" in found:
        raise InputError("a lasso is shown as a mask: give a lasso or masks, not both")
    shown = {key: value for key, value in found.items() if key != "lasso"}
    if shown:
        check_prompts(image, *(shown.get(key) for key in PROMPTS[:4]))
    if len({len(value) for value in found.values()}) > 1:
        raise InputError(f"the prompts are for different numbers of objects: { {k: len(v) for k, v in found.items()} }")
    refuse_outside(image.shape[2:], *(found.get(key) for key in PROMPTS[:3]))
    if "point_labels" in found:
        found["point_labels"] = found["point_labels"].long()
    if "boxes" in found:
        size = torch.tensor(image.shape[2:], device=image.device)
        found["boxes"] = torch.cat([corner.clamp(size * 0.0, size - 1.0) for corner in found["boxes"].chunk(2, 2)], 2)
        found["boxes"] = in_whole_slices(found["boxes"])
    for number in range(len(next(iter(found.values()), ()))):
        one = {key: value[number] for key, value in found.items()}
        if not any(bool((value != -1).any() if key == "point_labels" else ~value.isnan().all())
                   for key, value in one.items() if key != "point_coords"):  # fmt: skip
            raise InputError(f"object {number + 1} of the prompts has no click, box, lasso or mask: leave it out")
    if "masks" in found and (found["masks"] >= 0).any() and not (found["masks"] < 0).any():
        raise InputError("masks hold no number below 0: they are logits, positive on the object and negative beside it")
    return found


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
