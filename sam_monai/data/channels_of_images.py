"""How many channels the images of a dataset have, which of a file's they are, and what their numbers are."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError
from .channels import channels_of, kinds_taken
from .dataset import Dataset
from .frames import frames_of
from .load import LoadCased

logger = logging.getLogger(__name__)


def image_channels(
    cases: Sequence[Mapping[str, Any]],
    channels: Sequence[int] | None = None,
    channel_names: Sequence[str] | None = None,
    frames: bool = False,
) -> int | None:
    """How many channels the images have that a network is trained on: 1, grey, 3, colours, or those that are named.

    Args:
        cases: of the training. The first one tells, for :func:`check_dataset` refuses those that differ.
        channels, channel_names, frames: as in `LoadCased`.

    Returns:
        ``None`` where no case tells: there is none, or its file is refused, which :func:`check_dataset` says.

    Example:
        >>> from sam_monai.data import demo_dataset, read_dataset
        >>> image_channels(read_dataset(demo_dataset()).training)
        1
    """
    if channel_names is not None:
        return len(channel_names)
    try:
        image = LoadCased("image", channels=channels, frames=frames)(cases[0])["image"]
        return len(image) // frames_of(image)
    except (InputError, KeyError, IndexError):
        return None


def channels_picked(cases: Sequence[Mapping[str, Any]], channels: Sequence[int] | None = None) -> list[int] | None:
    """The key ``channels`` as an adapter records it: nothing where it picks all that every image has, in their order.

    An adapter that recorded ``[0]`` of grey images would take the red of colours without a word.

    Args:
        cases: of the training. The first one tells, and of the others their headers.
        channels: as in `LoadCased`.

    Example:
        >>> from sam_monai.data import demo_dataset, read_dataset
        >>> channels_picked(read_dataset(demo_dataset()).training, [0]), channels_picked([], [2])
        (None, [2])
    """
    if channels is None:
        return None
    number = image_channels(cases)
    every = list(channels) == list(range(number or 0))
    alike = every and {channels_of(str(case.get("image", ""))) for case in cases} <= {None, number}
    return None if alike else list(channels)


def intensity_taken(data: Dataset, channels: Sequence[int] | None = None) -> str | list[str]:
    """What the numbers of an image are for a training that is not told by the key intensity, as
    :func:`~sam_monai.data.channels.kinds_taken` says; the log tells where nothing states it."""
    if data.guessed:
        taken = f'intensities are treated as "{data.intensity}", which the key intensity changes'
        logger.info("%s; %s", data.guessed, taken)
    return kinds_taken(data.intensity, channels)
