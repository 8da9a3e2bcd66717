"""Errors that name what is wrong, in which file, and what to do about it."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave does not fit: a file, a folder, a key, a checkpoint.

    The message is written for a person and stands alone: what was wrong, where, and the remedy. The command line
    prints it as the last line in place of a traceback.
    """


def input_error_in(error: BaseException) -> InputError | None:
    """The error that a user can mend, where MONAI or ignite wrapped it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__ or cause.__context__
    return cause
