"""What ``python -m monai.bundle run`` lacks: help, a complaint about misspelt keys, and one-line errors and endings."""

from __future__ import annotations

import ast
import atexit
import inspect
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import partialmethod
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from monai.bundle import ConfigParser, run
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS
from tqdm import tqdm

from ..errors import causes, tell_any_name, told
from ..memory import keep_freed_memory
from . import configuration, keys
from .front import refuse_misplaced
from .key_list import in_words
from .trained import RESUMED
from .typed import arguments, refuse_lone, refuse_single_dash, refuse_unknown

_python_hook = sys.excepthook
_BEGAN = time.monotonic() - time.process_time()  # a program that imports does nothing else
SECONDS_TO_STOP = 15.0
SECONDS_IN_A_LOG = 30.0  # from one line of a bar to the next
STATES: dict[Path, Any] = {}  # what the training that runs can be resumed from, once it has written it, and what it was


def begin() -> None:
    """The first step of a bundle's ``initialize``: settings of the process, a check of the configuration, and, where
    the program is ``monai.bundle``, help, errors of one line and a check of the keys."""
    keep_freed_memory()
    parser, given = configuration.running(), {}
    if is_monai_bundle():
        sys.excepthook = print_cause
        tell_any_name()
        given, others = arguments(sys.argv[1:])
        if "help" in given and parser is not None:
            print(in_words({name: parser[name] for name in keys.KEYS if name in parser}))
            raise SystemExit(0)
        refuse_unknown_keys(sys.argv[1:])
        if not sys.stderr.isatty():  # a log keeps every state of a bar
            calm = {"mininterval": SECONDS_IN_A_LOG, "maxinterval": SECONDS_IN_A_LOG}
            tqdm.__init__ = partialmethod(tqdm.__init__, **calm)
        for handler in logging.getLogger().handlers:  # of an error that is told at the end; each engine tells it before
            handler.addFilter(lambda record: "is terminating due to exception" not in record.getMessage())
        stop_in_a_line(resumed=given.get("resume") == "True")
        if others[1:] and parser is not None and others[1] not in (*parser.get(), "None"):
            refuse_lone(others[1:])
    if parser is None:
        return
    configuration.refuse_overlay(parser)
    configuration.take_as_typed(parser, given)
    configuration.check(parser, given)
    if configuration.will_run():
        if "record" not in parser:
            configuration.check_weights(parser)
        configuration.check_folders(parser)
        if "train" in parser and "record" not in parser:
            state = Path(parser.get_parsed_content("train#folder")) / RESUMED
            STATES[state] = written_at(state)
        configuration.hold_outputs(parser)
        if "record" in parser:
            configuration.warn_of_other_images(parser)


def is_monai_bundle() -> bool:
    """Whether the program is ``python -m monai.bundle``."""
    return "monai" in Path(sys.argv[0]).parts and Path(sys.argv[0]).parent.name == "bundle"


def began() -> float:
    """When the command began, by ``time.monotonic``: what the program took to import its packages is part of it."""
    return _BEGAN if is_monai_bundle() else time.monotonic()


def print_cause(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print what a user can mend as one line, also where MONAI wrapped it; anything else as Python does."""
    cause = told(error) or wrong_configuration(error)
    if cause is None:
        _python_hook(kind, error, trace)
    else:
        print(f"error: {cause}", file=sys.stderr, flush=True)


def wrong_configuration(error: BaseException) -> str | None:
    """The line for a configuration on which MONAI's parser itself fails: a target that is not there or lacks
    arguments, a reference to nothing, an expression that is none. ``None``: it is something else."""
    found = [one for one in causes(error) if not str(one).startswith("Unsupported option")]  # MONAI's own detour
    frames = traceback.extract_tb(found[-1].__traceback__)
    where = Path(frames[-1].filename).parts if frames else ()
    parsed = where[-1:] == ("<string>",) or isinstance(found[-1], SyntaxError)
    if not (parsed or where[-3:] == ("monai", "utils", "module.py") or where[-3:-1] == ("monai", "bundle")):
        return None
    said = [str(one).partition("\n set ")[0] for one in reversed(found[-2:])]  # without advice on MONAI's debugger
    said = [" ".join(text.split())[:300].rstrip(".,") for text in said]
    return f"the configuration cannot be run: {'; '.join(dict.fromkeys(said))}. Correct it, or take one as shipped"


def stop_in_a_line(resumed: bool) -> None:
    """Let SIGTERM and Ctrl-C end the process with a line that says how to go on, and status 143 or 130. A training can
    be ``resumed`` as soon as it has written a state of its own; one that lies there from another does not count."""
    if threading.current_thread() is not threading.main_thread():
        return
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker that loads data
            os._exit(128 + number)
        for one in (signal.SIGTERM, signal.SIGINT):  # who asks twice does not want to wait
            signal.signal(one, lambda *_: os._exit(128 + number))
        logging.disable(logging.CRITICAL)  # ignite tells of every engine that ends
        sys.unraisablehook = lambda _: None
        sys.excepthook = lambda *_: sys.exit(128 + number)  # what fails as its workers have ended already
        if os.environ.get("RANK", "0") == "0":
            written = any(written_at(file) not in (None, before) for file, before in STATES.items())
            how = "with --resume True to go on" if written and not resumed else "again to go on"
            if STATES and not written and not resumed:
                how = "again: no epoch had ended, so it starts anew"
            atexit.register(print, f"\ninterrupted; run the same command {how}", file=sys.stderr, flush=True)
        if hasattr(signal, "SIGALRM"):  # all but Windows
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises an error for each worker that ends
            # Python drops what is raised inside some callbacks, and the training would go on: ask again.
            signal.signal(signal.SIGALRM, lambda *_: sys.exit(128 + number))
            signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_STOP, SECONDS_TO_STOP)
            atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def written_at(file: Path) -> tuple[int, int] | None:
    """By which it is seen whether a file was written anew; its time alone may be that of another machine's clock."""
    with suppress(OSError):
        return file.stat().st_ino, file.stat().st_mtime_ns
    return None


def refuse_unknown_keys(words: Sequence[str]) -> None:
    """MONAI adds an unknown ``--key`` to the configuration in silence, so a misspelt one would do nothing."""
    refuse_single_dash(words)
    given: dict[str, Any] = dict(arguments(words)[0])
    if "args_file" in given:
        given = {**ConfigParser.load_config_file(given["args_file"]), **given}
    tracked = DEFAULT_MLFLOW_SETTINGS["configs"] if "tracking" in given else {}  # which MONAI puts there
    files = given.get("config_file") or "configs/train.json"
    if isinstance(files, str) and files[:1] in ("[", "("):
        files = ast.literal_eval(files)
    files = [files] if isinstance(files, str) else list(files)
    config = tracked | ConfigParser.load_config_files(files)
    refuse_misplaced(given, config, [Path(file).stem for file in files], "run the configuration of {}")
    refuse_unknown(given, config, inspect.signature(run).parameters)
