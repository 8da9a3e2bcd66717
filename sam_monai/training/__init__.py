"""Training samples, the loss, checkpoints from which a killed run goes on, and the trainer's handlers."""

from .. import modules_of

__getattr__ = modules_of(__name__)
