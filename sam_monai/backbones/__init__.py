"""The frozen SAM: its encoders and mask decoder made fast, built by name from known weights."""

from .. import modules_of

__getattr__ = modules_of(__name__)
