"""What ``python -m monai.bundle run`` lacks: a complaint about misspelt keys, and errors of one line."""

from __future__ import annotations

import ast
import difflib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from monai.bundle import ConfigParser, run

from .errors import InputError, input_error_in

_python_hook = sys.excepthook


def begin() -> None:
    """The first step of a bundle's ``initialize``. Does nothing where the program is not ``monai.bundle``.

    Raises:
        InputError: the command line holds a key that neither the configuration nor ``monai.bundle run`` knows.
    """
    if not ("monai" in Path(sys.argv[0]).parts and Path(sys.argv[0]).parent.name == "bundle"):
        return
    sys.excepthook = print_cause
    refuse_unknown_keys(sys.argv[1:])


def print_cause(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an InputError as one line, also when MONAI wrapped it; anything else as Python does."""
    cause = input_error_in(error)
    if cause is None:
        _python_hook(kind, error, trace)
    else:
        print(f"error: {cause}", file=sys.stderr, flush=True)


def refuse_unknown_keys(arguments: Sequence[str]) -> None:
    """MONAI adds an unknown ``--key`` to the configuration in silence, so a misspelt one would do nothing.

    Args:
        arguments: of the command line, after the program.
    """
    given: dict[str, Any] = {}
    for i, argument in enumerate(arguments):
        if argument.startswith("--"):
            key, has_value, value = argument[2:].partition("=")
            given[key] = value if has_value else arguments[i + 1] if i + 1 < len(arguments) else None
    if isinstance(given.get("args_file"), str):
        given = {**ConfigParser.load_config_file(given["args_file"]), **given}
    files = given.get("config_file") or "configs/train.json"
    if isinstance(files, str) and files.startswith("["):
        files = ast.literal_eval(files)
    config = ConfigParser.load_config_files(files)
    options = set(inspect.signature(run).parameters)
    for key in given:
        path = key.lstrip("+").replace("::", "#").split("#")
        # The last part of a nested key may be new: "_disabled_", or an argument that the file leaves at its default.
        wanted = path[:1] if len(path) == 1 else path[:-1]
        if key not in options and not _holds(config, wanted):
            near = difflib.get_close_matches(path[0], [*config, *options], n=1)
            hint = f"did you mean --{near[0]}?" if near else f"keys are {', '.join(k for k in config if k[0] != '_')}"
            raise InputError(f"unknown key --{key}: {hint}")


def _holds(config: Any, path: Sequence[str]) -> bool:
    for part in path:
        if isinstance(config, dict) and part in config:
            config = config[part]
        elif isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        else:
            # What a reference or an expression stands for is not known here.
            return isinstance(config, str)
    return True
