"""A bundle's folder: where it is, its labels, its trained adapter, and how that wants its images.

The command line reads metadata.json before it imports torch and MONAI, so this module must not import them at once.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, warn_once
from ..files import parse_json
from ..networks.fields import PREPARATION, absent, is_name, is_number
from ..networks.regions import wrong_with
from . import keys

# What is read of metadata.json; the rest is for people.
PLACES = (
    "adapter",
    "adapter/preprocessing",
    "network_data_format/inputs/image",
    "network_data_format/outputs/pred",
    "network_data_format/outputs/pred/channel_def",
)

AS_SHIPPED = "take the file of the bundle as it is shipped"
PACKED = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")


def refuse_packed(path: str) -> None:
    """Refuse an archive that is given where a folder is wanted."""
    if path.lower().endswith(PACKED) and Path(path).is_file():
        raise InputError(f"{path}: unpack it first, and give the folder that was in it")


def root(path: str) -> str:
    """The folder of the bundle whose configuration asks: where MONAI's workflow read it, whatever folder it runs in;
    without a workflow the current folder, if that is a bundle's, else ``path`` from there."""
    from monai.bundle import ConfigWorkflow

    workflows = (frame.f_locals.get("self") for frame, _ in traceback.walk_stack(None))
    configs = (workflow.config_root_path for workflow in workflows if isinstance(workflow, ConfigWorkflow))
    for folder in (*(Path(os.path.abspath(folder)).parent for folder in configs), Path()):
        if (folder / "configs" / "metadata.json").is_file():
            return str(folder)
    return path


def read_json(path: Path, remedy: str = AS_SHIPPED) -> dict[str, Any]:
    """A bundle's file, or another one that holds an object. ``remedy`` is what the message of an error tells to do."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: cannot be read ({reason}); {remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no object; {remedy}")
    return content


def read_metadata(bundle_root: str | Path) -> dict[str, Any]:
    """The bundle's metadata.json."""
    path = Path(bundle_root) / "configs" / "metadata.json"
    if not path.exists():
        raise InputError(f"{path} is missing: bundle_root must be the bundle's folder")
    metadata = read_json(path)
    for place in PLACES:
        found = metadata
        for part in place.split("/"):
            found = found.get(part) if isinstance(found, dict) else None
        if not isinstance(found, dict):
            raise InputError(f"{path}: {place} is missing or no object; {AS_SHIPPED}")
    return metadata


def record(bundle_root: str | Path, adapter: str | Path) -> dict[str, Any]:
    """What inference must know of the adapter before it is loaded: the adapter's own record where it is trained, else
    what metadata.json says of the bundle as it is shipped."""
    from ..networks import identity
    from ..networks.adapter_files import read_adapter, read_training
    from ..training.room import too_few

    metadata = read_metadata(bundle_root)
    shipped = absent(identity.COMMON) | metadata["adapter"] | {"labels": metadata_labels(metadata)}
    own = [key for key in shipped if key not in (*keys.NETWORK, *keys.IMAGES, "method", "preprocessing")]
    if not Path(adapter).is_file():
        return checked(shipped, Path(bundle_root) / "configs" / "metadata.json", own)
    trained = identity.from_tensor(read_adapter(adapter)["identity"])
    if few := too_few(read_training(adapter) or {}):
        prompted = trained.get("method") == "medsa" and trained.get("prompted", True)
        worse = " Its answers to clicks and boxes may be worse than without a training." if prompted else ""
        warn_once(f"{adapter}: {few}{worse}")
    images = trained.get("preprocessing")
    strange = [key for key in (*keys.NETWORK, *own) if key in shipped and key not in trained]
    if strange:
        raise InputError(
            f"{adapter}: the adapter is one of {trained.get('method')} and has no {strange[0]}, so it is not one of "
            f"{bundle_root}: name that method's bundle, or an adapter trained with this one"
        )
    if isinstance(images, dict):  # an adapter that was not trained by a bundle says nothing of its images
        images = shipped["preprocessing"] | absent(PREPARATION) | images
        trained = trained | {"preprocessing": images}
    return checked(trained, adapter, own)


def checked(record: Mapping[str, Any], source: str | Path, own: Sequence[str] = ()) -> dict[str, Any]:
    """Of an adapter's record, or of what metadata.json says of one, what a configuration may take: the method's name,
    the keys of :data:`keys.NETWORK` that it has and all of :data:`keys.IMAGES`. Nothing else of it is looked at.

    ``own`` names further keys, of a method that is not known here. Their values are a flag, a number or a name.
    """
    images = record.get("preprocessing")
    images = {**absent(PREPARATION), **images} if isinstance(images, Mapping) else {}
    if any(key not in images for key in keys.IMAGES):
        raise InputError(f"{source}: the record does not say how images are prepared ({', '.join(keys.IMAGES)})")
    images = {key: images[key] for key in keys.IMAGES}
    values = {key: record[key] for key in (*keys.NETWORK, *own) if key in record}
    odd = [
        f"{key} is {values[key]!r:.200}; it is a flag, a number or a name"
        for key in own
        if key in values and not (isinstance(values[key], bool) or is_number(values[key]) or is_name(values[key]))
    ]
    if wrong := keys.problems(values | images) + odd:
        raise InputError(f"{source}: the record of the adapter was changed or is damaged: {'; '.join(wrong)}")
    return {**values, "method": record.get("method"), "preprocessing": images}


def metadata_labels(metadata: dict[str, Any]) -> list[Any]:
    """Names of the foreground labels, unchecked."""
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    images = metadata["adapter"].get("preprocessing")
    regions = images.get("regions") if isinstance(images, dict) else None
    if regions is not None and not wrong_with(regions):
        return [channels.get(str(region[0])) for region in regions]
    return [channels.get(str(i)) for i in range(1, len(channels))]
