"""The configuration that MONAI is about to run: paths as they were typed, keys that are allowed, folders that can be
written. All of it before data are read."""

from __future__ import annotations

import dataclasses
import logging
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver, run

from ..backbones.weights import KNOWN_WEIGHTS, locate
from ..data.channels import kinds_taken
from ..data.dataset import dataset_of
from ..data.folders import understand
from ..errors import InputError, innermost, input_error_in
from ..files import check_writable, from_home
from ..locks import hold, remove_empty
from ..networks.text import TEXT_WEIGHTS
from .keys import KEYS, OTHER_NAMES, PATHS, problems
from .typed import literal

# Where values of ours stand under MONAI's own names; a server or a command line sets them there.
SECTIONS = ("preparation", "network_def", "dataloader", "train::trainer", "train::dataset", "train::dataloader",
            "validate::dataset", "validate::dataloader")  # fmt: skip

NAMES = ("labels", "channel_names")

logger = logging.getLogger(__name__)


def running() -> ConfigParser | None:
    """The configuration whose expression asks, if one does."""
    callers = (frame.f_locals.get("self") for frame, _ in traceback.walk_stack(None))
    return next((caller for caller in callers if isinstance(caller, ConfigParser)), None)


def will_run() -> bool:
    """Whether MONAI's ``run`` asks, so that training, evaluation or inference follow; a program may only look."""
    return any(frame.f_code is run.__code__ for frame, _ in traceback.walk_stack(None))


def is_expression(value: Any) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(one, str) and one[:1] in ("$", "@") for one in values)


def refuse_overlay(parser: ConfigParser) -> None:
    """Refuse a configuration without a network: an overlay that was given alone."""
    if "network_def" not in parser:
        raise InputError(
            "this configuration is only an overlay: evaluate.json and the multi_gpu files change train.json, "
            "inference_trt.json changes inference.json. Give both, as in --config_file "
            "\"['configs/train.json','configs/evaluate.json']\""
        )


def take_as_typed(parser: ConfigParser, given: Mapping[str, str]) -> None:
    """Put right what the command line's parser and MONAI make of a value before this package is asked: a folder
    ``2024_05_17`` becomes a number, ``scans#2`` becomes ``scans``, and a key that is set to ``None`` is left as it was.
    """
    for key in KEYS.keys() & given.keys():
        typed, path = given[key], key in PATHS
        there = path and os.path.exists(typed)
        word = {"None": None, "False": False}.get(typed, typed)
        if word is None and not path or word is not typed and not there and KEYS[key].kind.fits(word):
            parser[key] = word
        elif path and (there or not is_expression(typed)):
            parser[key] = literal(typed if there else from_home(typed))
    for key in PATHS:
        if isinstance(value := parser.get(key), str) and not is_expression(value):
            parser[key] = literal(from_home(with_hash(key, value)))
    for key in NAMES:  # in which MONAI writes every # as ::, too
        if isinstance(value := parser.get(key), list) and not is_expression(value):
            parser[key] = [literal(x.replace("::", "#")) if isinstance(x, str) and "::" in x else x for x in value]
    parser.parse(reset=True)


def with_hash(key: str, path: str) -> str:
    """A program's path as it was before MONAI wrote every ``#`` as ``::``."""
    original = path.replace("::", "#")
    there = [one for one in dict.fromkeys((original, path)) if os.path.lexists(one)]
    if len(there) > 1:
        raise InputError(f"the key {key}: MONAI takes {original} and {path} for the same: give it as a pathlib.Path")
    return there[0] if there else original


def check(parser: ConfigParser, given: Mapping[str, str]) -> None:
    """Refuse values that :data:`sam_monai.bundle.keys.KEYS` does not allow, those of expressions too where they need no
    data."""
    values = {key: parser.get(key) for key in KEYS if key in parser}
    for section in SECTIONS:
        found = parser.get(section)
        for name in (KEYS.keys() | OTHER_NAMES) & (found.keys() if isinstance(found, dict) else set()):
            values[f"{section}::{name}".replace("::", "#")] = found[name]
    refuse({name: value for name, value in values.items() if not is_expression(value)})
    for key, value in values.items():
        typed_path = key in PATHS and is_expression(given.get(key))
        if key in KEYS and is_expression(value) and (typed_path or needs_no_data(parser, key)):
            try:
                computed = parser.get_parsed_content(key)
            except Exception as error:  # whatever an expression raises
                cause = input_error_in(error) or innermost(error)
                advice = f"; a file or folder of that name is written ./{given[key]}" if typed_path else ""
                raise InputError(f"the key {key} is {value!r}, an expression that fails ({cause}){advice}") from error
            refuse({key: computed})


def refuse(values: Mapping[str, Any]) -> None:
    if wrong := problems(values):
        raise InputError("; ".join(wrong))


def needs_no_data(parser: ConfigParser, key: str) -> bool:
    """Whether an expression is made of literal keys alone, so that it costs nothing to compute."""
    value = parser.get(key)
    if key not in KEYS or key in PATHS:
        return False
    return not is_expression(value) or isinstance(value, str) and all(
        needs_no_data(parser, other) for other in ReferenceResolver.match_refs_pattern(value)
    )  # fmt: skip


def check_folders(parser: ConfigParser) -> None:
    """Find out before the work whether results can be written; what is made to find out is removed again."""
    if os.environ.get("RANK", "0") != "0":  # one process of several finds out
        return
    for key in ("output_dir",) if "record" in parser else ("output_dir", "ckpt_dir"):
        folder = Path(parser.get_parsed_content(key))
        made = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
        try:
            check_writable(folder, key)
        finally:
            remove_empty(made)


def check_weights(parser: ConfigParser) -> None:
    """Find out before a training's cases are opened whether the frozen weights are on this machine."""
    for name, given, known in (
        ("backbone", "checkpoint", KNOWN_WEIGHTS),
        ("text_encoder", "text_checkpoint", TEXT_WEIGHTS),
    ):
        if name in parser and given in parser and (weights := known.get(parser.get_parsed_content(name))):
            locate(weights, parser.get_parsed_content(given))


def hold_outputs(parser: ConfigParser) -> None:
    """Have the folder of a training's or an evaluation's results, and that of a training's adapter, until all is
    written."""
    if os.environ.get("RANK", "0") != "0" or "train" not in parser:  # Studies lock theirs
        return
    hold(parser.get_parsed_content("output_dir"), "evaluation" if "record" in parser else "training")
    if "record" not in parser:
        hold(parser.get_parsed_content("train#folder"), "training")


def warn_of_other_images(parser: ConfigParser) -> None:
    """Say where a dataset's own words and the adapter's record disagree on what the images are."""
    folder = Path(os.path.abspath(parser.get_parsed_content("dataset_dir") or ""))
    if not (folder / "dataset.json").is_file() or not Path(parser.get_parsed_content("adapter")).is_file():
        return
    adapter = parser.get_parsed_content("record")["preprocessing"]
    try:
        known = understand(folder)
        data = None if known is None else dataset_of(dataclasses.replace(known, unlabelled=[]), overlaps=False)
    except InputError:  # a folder to segment need not be one to train on; whoever reads it says what is wrong
        return
    if data is None:
        return
    found = kinds_taken(data.intensity, adapter["channels"])
    if adapter["intensity"] != found:
        logger.warning(
            "%s holds images of the kind %s, and the adapter was trained on images of the kind %s: its masks are "
            "likely to be wrong. Segment with an adapter for such images, or correct the modality in dataset.json",
            folder,
            found,
            adapter["intensity"],
        )
    elif adapter["modality"] and data.modality and not {*adapter["modality"]} & {*data.modality}:
        logger.warning(
            "%s says that its images are %s, and the adapter was trained on %s: its masks are likely to be wrong. "
            "Segment with an adapter for such images, or correct the modality in dataset.json",
            folder,
            " and ".join(data.modality),
            " and ".join(adapter["modality"]),
        )
