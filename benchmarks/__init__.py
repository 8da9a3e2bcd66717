"""How fast sam_monai is, beside what else installs from PyPI: ``python -m benchmarks``."""
