"""From files to masks on each file's own grid: whole volumes in bounded memory, many studies in one run."""

from .. import modules_of

__getattr__ = modules_of(__name__)
