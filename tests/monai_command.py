"""What ``python -m monai.bundle run`` does, in this process, up to and with ``initialize``."""

from __future__ import annotations

import sys
from pathlib import Path

import fire
import monai.bundle
from bundle_runner import ROOT
from tqdm import tqdm

from sam_monai.bundle import command_line

BEGIN = ["--initialize", "['$sam_monai.bundle.command_line.begin()']"]
FILES = {
    "train": ("train",),
    "evaluate": ("train", "evaluate"),
    "inference": ("inference",),
    "multi_gpu_train": ("train", "multi_gpu_train"),
    "multi_gpu_evaluate": ("train", "evaluate", "multi_gpu_evaluate"),
    "inference_trt": ("inference", "inference_trt"),
}


def config_files(bundle: str, *names: str) -> list[str]:
    return [str(ROOT / f"bundles/{bundle}/configs/{name}.json") for name in names]


def begun(monkeypatch, bundle: str, config: str, *words: str, component=monai.bundle.create_workflow):
    """The workflow of a command line whose first step alone was taken."""
    words = ("run", "--config_file", str(config_files(bundle, *FILES[config])), *BEGIN, *words)
    monkeypatch.setattr(sys, "argv", [str(Path(monai.bundle.__file__).with_name("__main__.py")), *words])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back afterwards
    monkeypatch.setattr(tqdm, "__init__", tqdm.__init__)
    monkeypatch.setattr(command_line, "stop_in_a_line", lambda **_: None)
    made = []
    fire.Fire({"run": lambda **given: made.append(component(**given))}, command=list(words))
    return made[0]
