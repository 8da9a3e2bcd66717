"""What ``python -m monai.bundle run`` lacks: a complaint about misspelt keys, and errors of one line."""

from __future__ import annotations

import ast
import difflib
import inspect
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from monai.bundle import ConfigParser, run

from ..errors import InputError, input_error_in
from ..memory import keep_freed_memory

_python_hook = sys.excepthook


def begin() -> None:
    """The first step of a bundle's ``initialize``: settings of the process and, where the program is ``monai.bundle``,
    errors of one line and a check of the keys.

    Raises:
        InputError: the command line holds a key that neither the configuration nor ``monai.bundle run`` knows.
    """
    keep_freed_memory()
    if is_monai_bundle():
        sys.excepthook = print_cause
        refuse_unknown_keys(sys.argv[1:])


def is_monai_bundle() -> bool:
    """Whether the program is ``python -m monai.bundle``."""
    return "monai" in Path(sys.argv[0]).parts and Path(sys.argv[0]).parent.name == "bundle"


def refuse_outdated() -> None:
    """Say how a bundle is brought up to date whose configuration names modules that are no more.

    Raises:
        InputError: always.
    """
    from ..networks import identity
    from ..networks.adapter_files import read_adapter
    from .folder import root

    if is_monai_bundle():
        sys.excepthook = print_cause
    bundle = root("MY_BUNDLE")
    adapter = Path(bundle) / "models" / "model.pt"
    method = "METHOD"
    with suppress(InputError):
        method = identity.from_tensor(read_adapter(adapter)["identity"])["method"]
    raise InputError(
        f"the configuration of {bundle} was written by an older sam_monai; make the bundle anew from its adapter: "
        f"python -m sam_monai package bundles/{method} NEW_FOLDER --adapter {adapter}"
    )


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
