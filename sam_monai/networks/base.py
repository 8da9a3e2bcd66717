"""What the three networks share: SAM as an ordinary MONAI network whose state dict is the adapter alone."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..adaptations.depth_attention import add_depth_attention
from ..backbones.backbone import Backbone, build_backbone
from ..backbones.blocks import attention_blocks
from ..backbones.frozen import forget
from ..errors import InputError
from . import identity
from .adapter_state import REMEDY, check_identity, forgive_missing_base, keep_adapter_only, told_of_thawed
from .fields import FLAG, NAMES, PREPARATION, mapping, optional, whole
from .mixture import ChannelMixture
from .regions import Regions
from .slicewise import SliceNetwork

ARGUMENTS = {  # of the constructor, beside those of an adapter's record
    "labels": optional(NAMES),
    "default_labels": NAMES,
    "image_size": optional(identity.IMAGE_SIZE),
    "depth_attention": FLAG,
    "channel_names": PREPARATION["channel_names"],
    "preprocessing": optional(mapping(PREPARATION)),
    "amp": FLAG,
    "checkpointing": FLAG,
    "slices_per_batch": whole(1, 4096),
}
OTHERS = "others: see :class:`AdaptedSAM`."


def with_others(own: str, shared: str) -> str:
    """A docstring that says itself what it refers to: the arguments of the base class that it does not describe."""
    own, shared = inspect.cleandoc(own), inspect.cleandoc(shared)
    listed = shared.partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.split(r"^(?=    \w)", listed, flags=re.MULTILINE)
    more = [entry.rstrip() for entry in entries if entry and f"\n    {entry.split(':')[0].strip()}:" not in own]
    return own.replace(f"    {OTHERS}", "\n".join(more))


class AdaptedSAM(SliceNetwork):
    """A frozen SAM and what one paper adds to it. Subclasses add it in :meth:`adapt` and say the prompt in
    :meth:`prompt_tokens`.

    One network may be asked from several threads at once, with images, volumes and prompts of any kind and size: what
    belongs to a request travels as arguments and is never kept in a module. So :meth:`forward`, :meth:`encode` and what
    they call give each thread the answer that it would get alone. What changes the network itself must not run beside
    them: loading an adapter, training steps, ``train()``, ``to()``, :meth:`forget`, setting an attribute.

    Args:
        backbone: name of known weights, an architecture with ``checkpoint``, or a built :class:`Backbone`.
        checkpoint: file of the base weights, where the name does not say it.
        labels: names of the foreground labels in order. ``None``: the adapter that is loaded says them.
        image_size: side of the encoder's square in pixels. ``None``: the adapter that is loaded says it, or the
            weights' own.
        default_labels: names until an adapter is loaded, where ``labels`` is ``None``.
        amp: bfloat16 autocast where the processor has instructions for it.
        slices_per_batch: slices of a volume, or images, that pass through the encoder together; on a CPU without
            gradients fewer, where that is faster. Bounds the memory, and with ``depth_attention`` how far slices see
            each other.
        depth_attention: let the slices of a volume see each other in every attention block of the encoder
            (:mod:`sam_monai.adaptations.depth_attention`). Volumes of more than ``slices_per_batch`` slices pass
            through in parts, which overlap by a quarter.
        checkpointing: keep nothing of the encoder's attention blocks for the backward pass, which computes them again:
            less memory, more time, the same gradients.
        channel_names: of images of several channels that are no colours, in their order. They are brought to SAM's
            three by a trained mixture (:mod:`sam_monai.networks.mixture`). ``None``: images are grey or colours.
        preprocessing: how the images were prepared for training; kept in the adapter for inference, not interpreted.

    Raises:
        InputError: an argument of another type or range, or see :func:`build_backbone`.

    Example:
        >>> from sam_monai.networks import identity
        >>> {"medsa", "ptsam", "ssam"} <= identity.methods().keys()  # all of them subclasses
        True
    """

    method: str
    title: str = ""  # for people
    #: The method's own settings: attributes of the network, arguments of its constructor and keys of the adapter's
    #: record, which must agree between an adapter and the network that loads it.
    own: Mapping[str, identity.Field] = {}
    #: Names of parameters that weight decay may pull to 0, because that means nothing there.
    decayed: tuple[str, ...] = ()
    #: Whether clicks and boxes are answered.
    takes_prompts = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__doc__ and OTHERS in cls.__doc__:
            cls.__doc__ = with_others(cls.__doc__, AdaptedSAM.__doc__ or "")
        if "method" in vars(cls):
            identity.METHODS[cls.method] = cls

    def __init__(
        self,
        backbone: str | Backbone = "lite_medsam",
        checkpoint: str | Path | None = None,
        labels: Sequence[str] | None = None,
        image_size: int | None = None,
        default_labels: Sequence[str] = ("object",),
        amp: bool = True,
        slices_per_batch: int = 8,
        depth_attention: bool = False,
        checkpointing: bool = False,
        preprocessing: Mapping[str, Any] | None = None,
        channel_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        given = {key: getattr(self, key) for key in self.own} | {
            "labels": labels,
            "default_labels": default_labels,
            "image_size": image_size,
            "depth_attention": depth_attention,
            "channel_names": channel_names,
            "preprocessing": preprocessing,
            "amp": amp,
            "checkpointing": checkpointing,
            "slices_per_batch": slices_per_batch,
        }
        identity.checked(given, {**self.own, **ARGUMENTS}, type(self).__name__)
        if not isinstance(backbone, str | Backbone):
            raise InputError(f"backbone is {backbone!r}: give a name of known weights, an architecture or a Backbone")
        self.base_name = backbone if isinstance(backbone, str) else backbone.weights.name
        self.checkpoint = checkpoint
        self.told = {
            "labels": labels is not None,
            "image_size": image_size is not None,
            "preprocessing": bool(preprocessing),
        }
        self.amp = amp
        self.slices_per_batch, self.depth_attention = slices_per_batch, depth_attention
        self.checkpointing = checkpointing
        self.preprocessing = dict(preprocessing or {})
        self.temperature = 1.0  # that divides logits before they become probabilities; an adapter has its own
        self.forgotten = 0  # how often; answers that were kept before are out of date
        if isinstance(backbone, str):
            backbone = build_backbone(backbone, checkpoint, image_size)
        elif image_size not in (None, backbone.image_size):
            raise InputError(f"the backbone given takes {backbone.image_size} px, not image_size {image_size}")
        else:
            self.told["image_size"] = True
        self.set_backbone(backbone)
        self.channel_names = None if channel_names is None else tuple(channel_names)
        if self.channel_names is not None:
            self.mixture = ChannelMixture(len(self.channel_names)).to(backbone.pixel_mean.device)
        self.set_labels(labels if labels is not None else default_labels)
        self.register_state_dict_post_hook(keep_adapter_only)
        self.register_load_state_dict_pre_hook(check_identity)
        self.register_load_state_dict_post_hook(forgive_missing_base)

    def set_backbone(self, backbone: Backbone) -> None:
        if backbone.adapted:
            raise InputError(
                "the backbone given belongs to another network, whose trained parts lie in it: build one for each "
                "network, by build_backbone"
            )
        backbone.adapted = True
        self.backbone = backbone
        with backbone.pixel_mean.device:
            self.adapt()
            if self.depth_attention:
                add_depth_attention(backbone.image_encoder)
        for block in attention_blocks(backbone.image_encoder):
            block.checkpointing = self.checkpointing
        self.frozen_keys, self.adapted_modules = frozenset[str](), set[str]()
        self.note_frozen()

    @property
    def regions(self) -> Regions | None:
        """The values of each label in a label map, see :mod:`sam_monai.networks.regions`."""
        return self.preprocessing.get("regions")

    def note_frozen(self, within: str = "backbone.") -> None:
        """Note which parameters and buffers of the backbone are frozen, and which modules have others; where the
        adaptation has changed that ``within`` a module alone, of this one. What a user freezes later is still part of
        the adapter."""
        backbone = self.backbone
        named = [*backbone.named_parameters(prefix="backbone"), *backbone.named_buffers(prefix="backbone")]
        names = {name for name, _ in named}
        trained = {name for name in names - self.frozen_keys if not name.startswith(within)}
        trained |= {name for name, tensor in named if name.startswith(within) and tensor.requires_grad}
        self.frozen_keys = frozenset(names - trained)
        self.adapted_modules = {name.rpartition(".")[0] for name in trained}

    def thawed(self) -> list[str]:
        """Names of parameters of the base that are trained all the same, so that the adapter would not be what was
        trained."""
        named = self.backbone.named_parameters(prefix="backbone")
        return [name for name, parameter in named if parameter.requires_grad and name in self.frozen_keys]

    def set_labels(self, labels: Sequence[str]) -> None:
        device = self.backbone.pixel_mean.device
        self.labels = tuple(labels)
        with device:  # not `self.to(device)`, which walks through all of SAM for each of a hundred small adapters
            self.adapt_to_labels()
        self.register_buffer("identity", identity.to_tensor(self.describe()).to(device))

    def adopt(self, record: dict[str, Any]) -> None:
        """Become the network that an adapter's record describes, as far as this one was not told otherwise.

        Trained parameters stay the objects that they were, whatever their new shapes, so an optimiser made before keeps
        training this network. One that already took steps cannot go on with other shapes, and torch says so.
        """
        before = {name: p for name, p in self.named_parameters() if p.requires_grad}
        if not self.told["preprocessing"]:
            self.preprocessing = record["preprocessing"]
        self.temperature = record["temperature"]
        if record["image_size"] != self.backbone.image_size:
            device = self.backbone.pixel_mean.device
            self.set_backbone(build_backbone(self.base_name, self.checkpoint, record["image_size"]).to(device))
        untold = {key: record[key] for key in self.own if not self.told.get(key, True)}
        changed = any(getattr(self, key) != value for key, value in untold.items())
        for key, value in untold.items():
            setattr(self, key, value)
        if not self.told["labels"] and (changed or tuple(record["labels"]) != self.labels):
            self.set_labels(record["labels"])
        for name, new in list(self.named_parameters()):
            old = before.get(name)
            if old is not None and old is not new and new.requires_grad:
                old.data, old.grad = new.data, None
                module, _, own = name.rpartition(".")
                self.get_submodule(module).register_parameter(own, old)

    def forget(self) -> None:
        """Drop every copy that was derived of the weights: in another precision, folded, decomposed or as tables.

        Copies are made anew where torch sees that a weight changed. It does not see changes made through ``.data``, or
        to tensors of inference mode: call this after such a change.
        """
        self.forgotten += 1
        forget(self)

    def parameter_groups(self, learning_rate: float, prompt_learning_rate: float, weight_decay: float) -> list[dict]:
        """Parameters for an optimiser in groups: what adapts frozen layers, what makes the prompt and may be decayed
        (:attr:`decayed`), and what else makes the prompt.

        Decay pulls to 0. That is not where SAM's own tokens, scales, shifts, gains, norms and biases start or belong.

        Raises:
            InputError: parameters of the base were thawed, which no adapter holds.
        """
        if held := self.thawed():
            raise InputError(f"{told_of_thawed(held)}. {REMEDY}")
        adapting, decayed, others = [], [], []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                adapts = name.startswith("backbone.") and ("prompt_encoder" not in name or "mask_downscaling" in name)
                adapts |= name.startswith("mixture.")  # of the image's channels, before the first layer
                (adapting if adapts else decayed if name in self.decayed else others).append(parameter)
        return [
            {"params": adapting, "lr": learning_rate, "weight_decay": 0.0},
            {"params": decayed, "lr": prompt_learning_rate, "weight_decay": weight_decay},
            {"params": others, "lr": prompt_learning_rate, "weight_decay": 0.0},
        ]

    # -- what a method says -------------------------------------------------------------------------------------------

    def adapt(self) -> None:
        """Put the method's parameters into ``self.backbone`` and mark what is trained there."""
        raise NotImplementedError

    def adapt_to_labels(self) -> None:
        """Make what depends on the number and the names of ``self.labels``."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """The adapter's record: method, base, labels, sizes, and how its images were prepared."""
        own = {key: getattr(self, key) for key in self.own}
        return own | {
            "method": self.method,
            "backbone": self.base_name,
            "base": self.backbone.base,
            "labels": list(self.labels),
            "image_size": self.backbone.image_size,
            "resize": self.backbone.weights.resize,
            "depth_attention": self.depth_attention,
            "channel_names": None if self.channel_names is None else list(self.channel_names),
            "temperature": self.temperature,
            "preprocessing": self.preprocessing,
        }
