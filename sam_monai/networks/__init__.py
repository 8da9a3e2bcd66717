"""S-SAM, PTSAM and Med-SA as MONAI networks over one base, and trained adapters as files."""

from .. import modules_of

__getattr__ = modules_of(__name__)
