"""Clicks and boxes: drawn from labels, read from files and servers, answered, followed through a volume."""

from .. import modules_of

__getattr__ = modules_of(__name__)
