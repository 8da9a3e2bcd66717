"""The bundles that come with the package, and new folders made of them.

The command line looks for a bundle before it imports torch and MONAI, so this module must not import them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError
from ..locks import beside
from .folder import read_json, read_metadata, refuse_packed
from .typed import quoted

COPIED = ("LICENSE", "docs", "configs")
PACKAGE = Path(__file__).parents[1]


def shipped() -> Path:
    """The folder of the bundles: within an installed package, or beside the package in a clone."""
    installed = PACKAGE / "_bundles"
    return installed if installed.is_dir() else PACKAGE.parent / "bundles"


def names() -> list[str]:
    return sorted(path.parent.name for path in shipped().glob("*/configs"))


def find(bundle: str) -> Path:
    """The folder of a bundle: of one that comes with the package, by its name, or of any other, by its path."""
    path = shipped() / bundle if bundle in names() else Path(bundle)
    refuse_packed(bundle)
    if not (path / "configs").is_dir():
        raise InputError(
            f"{bundle} is no bundle: there is no folder {path / 'configs'}. Give the folder of one, or a name: "
            f"{', '.join(names())}"
        )
    read_metadata(path)
    return path


def new(bundle: str, output: str | Path) -> Path:
    """Write a bundle's folder, to train and change: configurations, documents and licence of one that is there, without
    its weights."""
    source = find(bundle)
    with new_folder(output) as part:
        copy(source, part)
        old = read_json(part / "configs" / "train.json").get("bundle_root")
        for file in (part / "configs").glob("*.json"):
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace(json.dumps(old), json.dumps(default_root(Path(output)))), encoding="utf-8")
        readme = part / "docs" / "README.md"
        if readme.is_file():
            readme.write_text(elsewhere(readme.read_text(encoding="utf-8"), source.name, output), encoding="utf-8")
    return Path(output)


def copy(source: Path, target: Path) -> None:
    """What a bundle is made of besides its weights."""
    if absent := [name for name in COPIED if not (source / name).exists()]:
        raise InputError(f"{source} is no bundle of sam_monai: it has no {', '.join(absent)}")
    for name in COPIED:
        files = sorted((source / name).rglob("*")) if (source / name).is_dir() else [source / name]
        for file in files:
            if not file.is_file() or file.name.startswith("."):
                continue
            # Without their rights: one that nobody may write must not be one that nobody may change.
            (to := target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to)


def elsewhere(readme: str, name: str, output: str | Path) -> str:
    """A bundle's README for a folder outside the repository: commands name that folder, links out of it are words."""
    words = re.sub(r"\[([^]]*)\]\(\.\./[^)]*\)", r"\1 in sam_monai's repository", readme)
    words = words.replace("from the repository's root,", f"from the folder that holds `{from_here(output)}`,")
    return words.replace(f"bundles/{name}", str(from_here(output)))


@contextmanager
def new_folder(output: str | Path) -> Iterator[Path]:
    """A folder to fill, which takes its place when it is complete. Whatever fails, nothing is left. Of an empty folder
    that is there the place stays, which may be a mount, or where a shell is: it is filled at the end."""
    output = Path(output)
    target = Path(os.path.abspath(output))
    inside = target / "bundle"
    if target.is_dir() and {path.name for path in target.iterdir()} <= {
        f".{inside.name}.part"
    }:  # of one that was killed
        with beside(inside, "making a bundle") as part:
            if any(entry != part.parent for entry in target.iterdir()):  # another process was quicker
                raise InputError(f"{output} exists already: give a new or an empty folder")
            yield part
            for entry in sorted(part.iterdir(), key=lambda path: (path.name == "configs", path.name)):
                entry.replace(target / entry.name)  # without its configurations it is no bundle
        return
    with beside(target, "making a bundle") as part:
        if os.path.lexists(target):
            raise InputError(f"{output} exists already: give a new or an empty folder")
        yield part
        part.replace(target)


def default_root(output: Path) -> str:
    """The key ``bundle_root``."""
    return f"$sam_monai.bundle.folder.root({quoted(str(from_here(output)))})"


def from_here(path: str | Path) -> Path:
    """Where something lies from the current folder, with nothing more of this machine's folders."""
    path = Path(path)
    if not path.is_absolute():
        return path
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(path.name)
