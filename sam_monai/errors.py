"""Errors that name what is wrong, in which file, and what to do about it."""

from __future__ import annotations

import functools
import io
import logging
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

logger = logging.getLogger(__name__)


class InputError(ValueError):  # pyright: ignore[reportRedeclaration]
    """Something the user gave does not fit: a file, a folder, a key, a checkpoint.

    The message is written for a person and stands alone: what was wrong, where, and the remedy. The command line
    prints it as the last line in place of a traceback.

    Example:
        >>> from sam_monai.data import read_dataset
        >>> try:
        ...     read_dataset("no/such/folder")
        ... except InputError as error:
        ...     print(str(error).partition("folder: ")[2])
        no such folder; the key dataset_dir names a folder of images and labels
    """

    problems: Sequence[str] = ()


if "monailabel" in sys.modules:
    # Its server answers "Internal Server Error" to any other exception, and a message to these.
    from starlette.exceptions import HTTPException  # pyright: ignore[reportMissingImports]

    class InputError(InputError, HTTPException):
        def __init__(self, message: str) -> None:
            HTTPException.__init__(self, 400, message)
            self.args = (message,)

        def __str__(self) -> str:
            return self.detail


def several(problems: Sequence[str]) -> InputError:
    """One error for several problems, of which :func:`told` makes a line each."""
    error = InputError("\n".join(problems))
    error.problems = problems
    return error


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning that names a file, which may be loaded many times."""
    logger.warning(message)


@functools.cache
def say_once(message: str) -> None:
    """Log what was decided about many files."""
    logger.info(message)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what others log and warn of meanwhile."""
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)


def printable(text: str) -> str:
    """A text of somebody else's, such as a name in a header, of which nothing acts upon a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def tell_any_name() -> None:
    """Let the program print what its terminal cannot show: names that are no UTF-8, or of another alphabet."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def shown(names: Sequence[object], most: int = 12) -> str:
    """Names, or values, in a line of bounded length."""
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(number: int, word: str, more: str = "") -> str:
    """As in "1 case" and "3 studies"."""
    return f"{number} {word if number == 1 else more or f'{word}s'}"


def input_error_in(error: BaseException) -> InputError | None:
    """The error that a user can mend, where MONAI or ignite wrapped it."""
    return next((cause for cause in causes(error) if isinstance(cause, InputError)), None)


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what brought it about, back to the first."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def innermost(error: BaseException) -> BaseException:
    """What first went wrong."""
    return list(causes(error))[-1]


def told(error: BaseException) -> str | None:
    """The line for a user of an error that a user can mend, also where MONAI or ignite wrapped it: an
    :class:`InputError`, or what the system refused. Several problems are a line each. ``None``: it is something
    else."""
    cause = input_error_in(error) or next((cause for cause in causes(error) if isinstance(cause, OSError)), None)
    if isinstance(cause, shutil.Error) and isinstance(cause.args[0], list):  # of a tree: all that went wrong
        source, _, reason = cause.args[0][0]
        return f"{source}: cannot be copied ({reason})"
    if isinstance(cause, OSError) and cause.filename is not None and cause.strerror:
        return f"{cause.filename}: {cause.strerror}"
    if cause is None and any(type(one).__name__ == "OutOfMemoryError" for one in causes(error)):  # torch's
        return (
            "the GPU's memory is full: give --checkpointing True, with --resume True where a training was under way; "
            "or begin anew with a smaller --image_size or --batch_size"
        )
    if isinstance(cause, InputError) and cause.problems:
        return "\nerror: ".join(printable(" ".join(problem.split())) for problem in cause.problems)
    return None if cause is None else printable(" ".join(str(cause).split()))
