"""What each paper adds to a frozen SAM, a file an idea, and what any method may switch on (depth attention)."""

from .. import modules_of

__getattr__ = modules_of(__name__)
