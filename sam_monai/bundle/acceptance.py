"""What MONAI's model zoo demands of a bundle before it takes it, checked here without a network connection."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow, verify_net_in_out
from packaging.version import InvalidVersion, Version

from ..errors import InputError, input_error_in, quiet
from ..networks import adapter_files
from .folder import read_metadata
from .package import MONAI_NAMES
from .typed import literal

WORKFLOWS: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "train with evaluate": ("train", "evaluate"),
    "inference": ("inference",),
}


def verify_bundle(folder: str | Path) -> None:
    """Print a line for each check: documents, metadata, requirements, configurations, network, weights.

    Args:
        folder: of a bundle with trained weights. Its configuration is run, but for training and inference themselves.

    Raises:
        InputError: after all checks, naming those that failed; before them, where jsonschema is not installed.
    """
    if find_spec("jsonschema") is None:
        raise InputError("metadata are checked by jsonschema, which is not installed: run `pip install jsonschema`")
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the bundle's")
    checks: dict[str, Callable[[], None]] = {
        "documents": lambda: check_documents(root),
        "metadata": lambda: check_metadata(root),
        "requirements": lambda: check_requirements(read_metadata(root)),
        "network": lambda: check_network(root),
        "weights": lambda: check_weights(root),
        **{
            f"properties of {name}": lambda files=files: check_properties(root, files)
            for name, files in WORKFLOWS.items()
        },
    }
    failed = []
    with quiet():  # MONAI tells of each step and asks for trust in the configuration
        for name, check in checks.items():
            try:
                check()
                print(f"ok      {name}", flush=True)
            except Exception as error:  # a bundle's configuration may raise anything
                said = str(input_error_in(error) or f"{type(error).__name__}: {error}")
                print(f"FAILED  {name}: {' '.join(said.split())}", flush=True)
                failed.append(name)
    if failed:
        raise InputError(f"{root} fails {len(failed)} of {len(checks)} checks: {', '.join(failed)}")


def check_documents(root: Path) -> None:
    """LICENSE and docs/README.md are there and not empty."""
    absent = [
        name
        for name in ("LICENSE", "docs/README.md")
        if not (root / name).is_file() or not (root / name).stat().st_size
    ]
    if absent:
        raise InputError(f"{', '.join(absent)} missing or empty")


def check_metadata(root: Path) -> None:
    """metadata.json holds what MONAI's specification and the zoo ask for, and its changelog the version."""
    from jsonschema import Draft202012Validator

    schema = json.loads(Path(__file__).with_name("metadata.schema.json").read_text(encoding="utf-8"))
    metadata = read_metadata(root)
    problems = [
        f"{error.json_path}: {error.message[:200]}" for error in Draft202012Validator(schema).iter_errors(metadata)
    ]
    if not problems and metadata["version"] not in metadata["changelog"]:
        problems = [f"the changelog has no entry for version {metadata['version']}"]
    if problems:
        raise InputError("; ".join(problems))


def check_requirements(metadata: Mapping[str, Any]) -> None:
    """Each package that the metadata name is installed, in that version or a newer one."""
    wanted = {name: metadata[f"{key}_version"] for name, key in MONAI_NAMES.items()}
    problems = []
    for name, least in {**wanted, **metadata["required_packages_version"]}.items():
        try:
            if Version(version(name)) < Version(least):
                problems.append(f"{name} {least} or newer is wanted, {version(name)} is installed")
        except PackageNotFoundError:
            problems.append(f"{name} is not installed")
        except InvalidVersion as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise InputError("; ".join(problems))


def check_network(root: Path) -> None:
    """The network of inference takes and gives tensors of the shapes and types that metadata.json says."""
    configs = root / "configs"
    verify_net_in_out(
        "network_def",
        str(configs / "metadata.json"),
        str(configs / "inference.json"),
        "cpu",
        bundle_root=literal(str(root)),
    )


def check_weights(root: Path) -> None:
    """models/model.pt is there and loads into the network of inference."""
    parser = ConfigParser(ConfigParser.load_config_file(root / "configs" / "inference.json"))
    parser["bundle_root"] = literal(str(root))
    adapter_files.verify(root / "models" / "model.pt", parser.get_parsed_content("network_def"))


def check_properties(root: Path, files: Sequence[str]) -> None:
    """MONAI finds every property of a workflow that it requires."""
    nowhere = {"image": str(root / "none.nii.gz"), "label": str(root / "none.nii.gz")}
    # Placeholders for data, which MONAI would resolve too; none is opened.
    data: dict[str, Any] = {"dataset#data": [nowhere], "dataset_dir": literal(str(root))}
    if files[0] == "train":
        data = {"train#dataset#data": [nowhere], "validate#dataset#data": [nowhere], "cache_rate": 0.0}
        data["train#settings"] = data["examined"] = {}  # some are of the data
        data["plan"] = {
            "scale": "whole",
            "spacing": None,
            "image_size": 64,
            "batch_size": 1,
            "epochs": 1,
            "val_interval": 1,
            "mirror": "none",
            "checkpointing": False,
        }
    with TemporaryDirectory() as output:  # where handlers open their logs
        workflow = ConfigWorkflow(
            [str(root / "configs" / f"{name}.json") for name in files],
            workflow_type="infer" if files[0] == "inference" else "train",
            logging_file=False,
            init_id="nothing",  # the data are not checked
            bundle_root=literal(str(root)),
            output_dir=output,
            **data,
        )
        workflow.initialize()
        missing = workflow.check_properties()
    if missing:
        raise InputError(f"missing: {', '.join(missing)}")
