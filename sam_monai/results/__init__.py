"""Metrics, tables, pictures and reports."""

from .. import modules_of

__getattr__ = modules_of(__name__)
