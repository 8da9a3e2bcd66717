"""What each paper adds to the frozen SAM, one file per idea; depth attention can be switched on for any method."""

from .. import modules_of

__getattr__ = modules_of(__name__)
