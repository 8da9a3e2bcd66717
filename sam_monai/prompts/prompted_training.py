"""How networks that take clicks and boxes are trained: with and without a prompt, from one embedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from ..data.instances import inside_and_border
from ..data.unlabelled import UNLABELLED
from ..errors import InputError
from ..networks.medsa import NO_REGIONS
from ..networks.regions import Regions
from .drawn import corrective_click, draw_prompts, pick_object
from .rough_masks import draw_mask

MASKED = 0.3  # of the draws begin with a rough mask alone
REFINED = 0.75  # of the corrections are given with the answer that they correct


def without_regions(regions: Regions | None, draws: int) -> Regions | None:
    """Refuse labels that are regions before anything else is made, unless no prompts are drawn for them."""
    if regions is not None and draws:
        raise InputError(
            f"labels overlap, or dataset.json lists values of theirs, and Med-SA {NO_REGIONS}, with --draws 0, or "
            "train S-SAM or PTSAM"
        )
    return regions


class PromptedTraining(Inferer):
    """The trainer's inferer: answers every batch without a prompt and, from the same embedding, with drawn ones.

    An object an image is drawn, and a kind of prompt; then up to ``corrections`` times a click is added where the
    answer was wrong, and the last answer counts (Med-SA's training). A network that takes masks as prompts gets rough
    ones in some draws, and with most corrections the answer that they correct. This is done several times a batch,
    because a prompt costs the decoder alone.

    Args:
        labels: number of foreground labels.
        corrections: most corrective clicks.
        draws: prompts for a batch; 0 trains for the labels alone.
    """

    def __init__(self, labels: int, corrections: int = 2, draws: int = 4) -> None:
        self.labels, self.corrections, self.draws = labels, corrections, draws

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, label: Tensor, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Images (B, C, *spatial) and label maps (B, 1, *spatial) to logits ``automatic`` (B, L + 1, *spatial) and, if
        there are draws, ``prompted`` (B, draws, 2, *spatial), and the ``objects`` (B, draws, *spatial) that the prompts
        mean, 1 on them and unlabelled where the label is."""
        module: Any = getattr(network, "module", network)
        if not self.draws or not module.prompted:
            return {"automatic": network(inputs)}
        rng = np.random.RandomState(int(torch.randint(2**31, ())))  # so that an epoch's seed decides
        embedding = module.encode(inputs)
        automatic = network(inputs, embedding)
        known = automatic.detach()
        unlabelled = label == UNLABELLED
        objects, answers = [], []
        for _ in range(self.draws):
            target = pick_object(label, rng, self.labels)
            masked = module.mask_prompts and rng.rand() < MASKED
            prompts = draw_mask(target, rng) if masked else draw_prompts(target, rng)
            if module.mask_prompts and not masked:  # with no mask too every trained layer takes part, as DDP asks for
                prompts["masks"] = torch.full_like(inputs[:, :1], torch.nan)
            for _ in range(rng.randint(self.corrections + 1)):
                with torch.no_grad():
                    answer = network(inputs, embedding.detach(), automatic=known, **prompts)
                prompts = corrective_click(target, (answer[:, 1:] > 0) & ~unlabelled, prompts)
                if module.mask_prompts and rng.rand() < REFINED:
                    prompts["masks"] = answer[:, 1:]
            objects.append(target.to(label.dtype).masked_fill(unlabelled, UNLABELLED))
            answers.append(network(inputs, embedding, automatic=known, **prompts))
        return {
            "automatic": automatic,
            "prompted": torch.stack(answers, 1),
            "objects": torch.cat(objects, 1),
        }


class PromptedLoss(nn.Module):
    """A loss of both kinds of :class:`PromptedTraining`'s answers, added. ``instances``: the labels number objects."""

    def __init__(self, loss: nn.Module, instances: bool = False) -> None:
        super().__init__()
        self.loss, self.instances = loss, instances
        self.words = getattr(loss, "words", type(loss).__name__)

    def forward(self, answers: dict[str, Tensor], label: Tensor) -> Tensor:
        label = inside_and_border(label) if self.instances else label
        automatic = self.loss(answers["automatic"], label)
        if "prompted" not in answers:
            return automatic
        return automatic + self.loss(answers["prompted"].flatten(0, 1), answers["objects"].flatten(0, 1)[:, None])


def with_label(batch: dict[str, Tensor], device: torch.device, non_blocking: bool = False, **kwargs: Any) -> tuple:
    """The trainer's ``prepare_batch``: the label goes to the inferer too, which draws prompts from it."""
    image, label = (batch[key].to(device, non_blocking=non_blocking, **kwargs) for key in ("image", "label"))
    return image, label, (), {"label": label}
