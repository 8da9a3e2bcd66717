"""A bundle's folder, package, acceptance and export, and what ``monai.bundle run`` lacks."""

from .. import modules_of

__getattr__ = modules_of(__name__)
