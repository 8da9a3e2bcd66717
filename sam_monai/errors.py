"""Errors that name what is wrong, in which file, and what to do about it."""

from __future__ import annotations

import sys


class InputError(ValueError):  # pyright: ignore[reportRedeclaration]
    """Something the user gave does not fit: a file, a folder, a key, a checkpoint.

    The message is written for a person and stands alone: what was wrong, where, and the remedy. The command line
    prints it as the last line in place of a traceback.
    """


if "monailabel" in sys.modules:
    # Its server answers "Internal Server Error" to any other exception, and a message to these.
    from starlette.exceptions import HTTPException  # pyright: ignore[reportMissingImports]

    class InputError(InputError, HTTPException):
        def __init__(self, message: str) -> None:
            HTTPException.__init__(self, 400, message)
            self.args = (message,)

        def __str__(self) -> str:
            return self.detail


def input_error_in(error: BaseException) -> InputError | None:
    """The error that a user can mend, where MONAI or ignite wrapped it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__ or cause.__context__
    return cause
