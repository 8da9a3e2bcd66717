"""Med-SA: adapters in the encoder and the decoder, depth attention, and prompts that condition the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..adaptations import medsa_adapters as adapters
from ..adaptations.ptsam_prompts import decoder_prompts
from ..backbones.backbone import Backbone
from ..errors import InputError
from .base import AdaptedSAM
from .click_tokens import check_prompts, in_part, in_whole_slices, refuse_outside, sparse_prompts, to_low_resolution
from .fields import FLAG, number, whole
from .guidance import WIDTHS, guided
from .resemblance import resemblances
from .slices import of_image, slices_of

GAIN_ON_NEW_IMAGES = 2.0
NO_REGIONS = "answers prompts for labels of one value each, and not for regions: train it for the labels alone"
NO_PROMPTS = (
    "the adapter was trained for its labels alone (--draws 0), so it answers no clicks, boxes or masks: "
    "leave them out, or train again without --draws 0"
)


class MedSA(AdaptedSAM):
    """Med-SA (Wu et al., Medical Image Analysis 102, 2025, https://arxiv.org/abs/2304.12620).

    Trained: two adapters in every attention block of the image encoder, three in every block of the mask decoder, of
    which the first, HyP-Adpt, has weights made from the prompt; with ``depth_attention`` the attention over slices
    (SD-Trans); the tokens that stand for each label where there is no prompt; SAM's five tokens that say what a click
    or a corner is; and SAM's three small convolutions of a mask prompt. Frozen: all else of SAM.

    Called with clicks, boxes or a rough mask it segments the object they mean, called without it segments the labels.

    Where it departs from the paper: without a prompt each label has eight tokens of its own, as in PTSAM, where the
    paper has none. SAM's tokens of clicks and corners are trained, from where SAM has them, because LiteMedSAM was made
    with boxes alone. In a volume the slices beyond a box have, in place of its corners, SAM's token of a negative click
    without a position. What the labels' answers say of a prompted object is added to its logits, and the clicks are
    believed about their places: :meth:`guided`.

    Args:
        ratio: of an adapter's bottleneck to its width.
        scale: of the adapters beside an MLP.
        hyper_width, hyper_steps: reduced dimension and number of steps of HyP-Adpt; the paper publishes neither.
        thaw_decoder: train the whole mask decoder too, as the paper's public code does. For comparison.
        prompted: train for clicks, boxes and masks too. ``False``: for the labels alone, and prompts are refused. An
            adapter that is loaded says it itself.
        mask_prompts: train with masks as prompts, by which clicks then refine answers click by click. An adapter
            that is loaded says it itself; those of earlier versions were trained without.
        depth_attention: on by default; makes no difference to images of two axes.
        others: see :class:`AdaptedSAM`.

    Example:
        >>> network = MedSA("lite_medsam", labels=["liver", "spleen"], image_size=64)
        >>> image = torch.rand(1, 1, 90, 100)
        >>> click = {"point_coords": torch.tensor([[[40.0, 52.0]]]), "point_labels": torch.tensor([[1]])}
        >>> tuple(network(image, **click).shape), tuple(network(image).shape)  # the object; both labels
        ((1, 2, 90, 100), (1, 3, 90, 100))
    """

    method = "medsa"
    title = "Med-SA"
    takes_prompts = True
    own = {
        "ratio": number(0.001, 16),
        "scale": number(0, 100),
        "hyper_width": whole(1, 4096),
        "hyper_steps": whole(1, 64),
        "thaw_decoder": FLAG,
        "prompted": FLAG._replace(absent=True),
        "mask_prompts": FLAG._replace(absent=False),
    }
    decayed = ("label_tokens",)

    def __init__(
        self,
        backbone: str | Backbone = "lite_medsam",
        checkpoint: str | Path | None = None,
        labels: Sequence[str] | None = None,
        image_size: int | None = None,
        ratio: float = 0.25,
        scale: float = adapters.MLP_SCALE,
        hyper_width: int = 64,
        hyper_steps: int = 2,
        thaw_decoder: bool = False,
        depth_attention: bool = True,
        prompted: bool = True,
        mask_prompts: bool = True,
        **others: Any,
    ) -> None:
        self.ratio, self.scale, self.thaw_decoder = ratio, scale, thaw_decoder
        self.hyper_width, self.hyper_steps = hyper_width, hyper_steps
        self.prompted, self.mask_prompts = prompted, mask_prompts and prompted
        super().__init__(backbone, checkpoint, labels, image_size, depth_attention=depth_attention, **others)
        self.told["prompted"] = self.told["mask_prompts"] = False
        if prompted and self.regions is not None:
            raise InputError(f"Med-SA {NO_REGIONS}, with prompted=False, or S-SAM or PTSAM")

    def adapt(self) -> None:
        adapters.adapt_image_encoder(self.backbone.image_encoder, self.ratio, self.scale)
        decoder = self.backbone.mask_decoder
        adapters.adapt_mask_decoder(decoder, self.ratio, self.scale, self.hyper_width, self.hyper_steps)
        if self.thaw_decoder:
            decoder.requires_grad_(True)
        named = self.backbone.prompt_encoder.named_parameters()
        self.of_sam = {name: parameter.detach().clone() for name, parameter in named}
        self.train_prompts()

    def train_prompts(self) -> None:
        """What of SAM's prompt encoder is trained; the rest is SAM's, whatever was loaded before."""
        encoder = self.backbone.prompt_encoder
        encoder.point_embeddings.requires_grad_(self.prompted)
        encoder.not_a_point_embed.requires_grad_(self.prompted)
        encoder.mask_downscaling.requires_grad_(self.mask_prompts)
        with torch.no_grad():
            for name, parameter in encoder.named_parameters():
                if not parameter.requires_grad:
                    parameter.copy_(self.of_sam[name])

    def adopt(self, record: dict[str, Any]) -> None:
        before = self.prompted, self.mask_prompts
        super().adopt(record)
        if before != (self.prompted, self.mask_prompts):
            self.train_prompts()
            for gains in (self.label_gains, self.click_gains):
                gains.requires_grad_(self.prompted)
            self.note_frozen("backbone.prompt_encoder.")

    def adapt_to_labels(self) -> None:
        self.label_tokens = decoder_prompts(len(self.labels), tokens=8)
        self.label_gains = nn.Parameter(torch.zeros(len(self.labels)), self.prompted)
        self.click_gains = nn.Parameter(torch.zeros(2, len(WIDTHS)), self.prompted)  # of negative and positive clicks

    def prompt_tokens(self) -> Tensor:
        return self.label_tokens

    def forward(
        self,
        image: Tensor,
        embedding: Tensor | None = None,
        point_coords: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        automatic: Tensor | None = None,
        part: tuple[int, int] | None = None,
        resemblance: Tensor | None = None,
        masks: Tensor | None = None,
        meant: Tensor | None = None,
    ) -> Tensor:
        """Segment images or volumes, by clicks, boxes and masks or by themselves.

        Coordinates are voxels of ``image`` in the order of its axes (i, j[, k]); whole numbers are centres.

        Args:
            image: (B, C, H, W) or (B, C, H, W, D), C 1 or 3, values in [0, 1], any size.
            embedding: what :meth:`encode` gave for this image: another click then costs the decoder alone.
            point_coords: clicks (B, N, 2 or 3), all of one object an image. With an image of batch 1 a batch of K
                asks for K objects of it.
            point_labels: (B, N): 1 on the object, 0 beside it, -1 for padding.
            boxes: (B, N, 4 or 6), lower corner then upper, both inside; all of one object. NaN: none.
            automatic: what the network answers for this image without a prompt, to save half of the decoder's work.
            part: (first, depth) where ``image`` holds the slices from ``first`` on of a volume of ``depth`` slices,
                whose voxels the prompts are in: so a volume is answered part by part.
            resemblance: of the objects to the labels in the whole volume, the sum of what :meth:`resemblance` gives
                for its parts. ``None``: that of the image given.
            masks: (B, 1, *spatial of ``image``) logits of what is known of the object: an earlier answer, that of a
                neighbouring slice, a rough drawing. NaN in a slice: none.
            meant: (B or 1, L) 1 for a label that the objects may be, 0 for the others. ``None``: they may be any.

        Returns:
            float32 logits. Prompted (B or K, 2, *spatial): background, which is 0, and the object. Else
            (B, L + 1, *spatial): background and labels.
        """
        if point_coords is None and point_labels is None and boxes is None and masks is None:
            tokens, condition = self.label_tokens, self.label_tokens.mean(1)

            def by_labels(features: Tensor, first: int, shape: tuple[int, int]) -> Tensor:
                return self.backbone.decode(
                    features, tokens, shape, condition=condition.expand(features.shape[0], -1, -1)
                )

            return of_image(self.segment(image, embedding, by_labels), image)
        point_coords, boxes, masks = (x if x is None else x.float() for x in (point_coords, boxes, masks))
        objects, automatic = self.unguided(image, embedding, point_coords, point_labels, boxes, automatic, part, masks)
        point_coords = in_part(point_coords, part)
        if resemblance is None:
            resemblance = resemblances(objects, automatic, point_coords, point_labels, boxes)
        if meant is not None:
            resemblance = resemblance * meant[..., None]
        answer = self.guided(objects, automatic, resemblance, point_coords, point_labels)
        return of_image(torch.stack([torch.zeros_like(answer), answer], 1), image)

    def unguided(
        self,
        image: Tensor,
        embedding: Tensor | None,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None,
        automatic: Tensor | None = None,
        part: tuple[int, int] | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The prompted objects' logits (R, *spatial) as the decoder gives them, and the labels' (B, L + 1, *spatial).
        Arguments as in :meth:`forward`."""
        if not self.prompted:
            raise InputError(NO_PROMPTS)
        count = check_prompts(image, point_coords, point_labels, boxes, masks)
        boxes = None if boxes is None else in_whole_slices(boxes)
        point_labels = None if point_labels is None else point_labels.long()  # of bytes, -1 would be 255
        if part is None:
            refuse_outside(image.shape[2:], point_coords, point_labels, boxes)
        first, depth = part or (0, image.shape[-1])
        shape = (*image.shape[2:4], depth) if image.ndim == 5 else tuple(image.shape[2:])
        with torch.autocast(image.device.type, enabled=False):  # positions in bf16 are off by several pixels
            masked = None if masks is None else ~masks.flatten(1).isnan().all(1)
            prompts = sparse_prompts(self.backbone, shape, point_coords, point_labels, boxes, masked)
        if image.ndim == 5:
            prompts = [each[:, first : first + image.shape[4]] for each in prompts]
        if masks is not None:
            low = to_low_resolution(slices_of(masks), self.backbone)
            prompts = [*prompts, low.unflatten(0, (count, -1))]
        if count == len(image):
            prompts = [each.flatten(0, 1)[:, None] for each in prompts]
        else:  # (D, objects, ...)
            prompts = [each.transpose(0, 1) for each in prompts]

        def prompted(features: Tensor, first: int, shape: tuple[int, int]) -> Tensor:
            tokens, *others = (each[first : first + features.shape[0]] for each in prompts)
            return self.backbone.decode(features, tokens, shape, *others)

        logits = self.segment(image, embedding, prompted)
        objects = logits[:, 1] if count == len(image) else logits[0, 1:]
        if automatic is not None:
            return objects, automatic
        with torch.no_grad():
            return objects, self(image, self.encode(image) if embedding is None else embedding)

    def resemblance(
        self,
        image: Tensor,
        embedding: Tensor,
        point_coords: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        part: tuple[int, int] | None = None,
        masks: Tensor | None = None,
        automatic: Tensor | None = None,
    ) -> Tensor:
        """:func:`resemblances` of prompted objects in a part of a volume, to be added to those of its other parts.
        Arguments as in :meth:`forward`."""
        point_coords, boxes, masks = (x if x is None else x.float() for x in (point_coords, boxes, masks))
        objects, automatic = self.unguided(image, embedding, point_coords, point_labels, boxes, automatic, part, masks)
        return resemblances(objects, automatic, in_part(point_coords, part), point_labels, boxes)

    def guided(
        self,
        prompted: Tensor,
        automatic: Tensor,
        resemblance: Tensor,
        point_coords: Tensor | None = None,
        point_labels: Tensor | None = None,
    ) -> Tensor:
        """:func:`~sam_monai.networks.guidance.guided` with the gains of this network, which on new images counts its
        labels' gains :data:`GAIN_ON_NEW_IMAGES` times: on the images that it was trained on a prompted answer is better
        than on others, and its gain smaller. In eval mode clicks are obeyed."""
        gains = self.label_gains if self.training else GAIN_ON_NEW_IMAGES * self.label_gains
        clicks = None if point_coords is None or point_labels is None else (point_coords, point_labels)
        return guided(prompted, automatic, resemblance, gains, self.click_gains, clicks, obey=not self.training)
