"""The commands that stand for a line of MONAI's program: train, segment, evaluate.

A mistake is answered before torch and MONAI are imported, so this module must not import them at once.
"""

from __future__ import annotations

import logging
import os
import re
import runpy
import shlex
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..files import from_home
from . import keys, shipped
from .folder import AS_SHIPPED, read_json, refuse_packed
from .key_list import in_words
from .trained import DEMO_LABELS, RESUMED, labels_of, models_of, refuse_missing_adapter
from .typed import arguments, is_expression, is_flag, refuse_lone, refuse_single_dash, refuse_unknown, refuse_valueless

BUNDLE = "ssam"
# Of MONAI's run. Which configuration it reads is decided here.
OPTIONS = ("run_id", "init_id", "final_id", "meta_file", "logging_file", "tracking", "args_file")


class Front(NamedTuple):
    """``configs``: what MONAI runs. ``folder``: what is looked at. ``output``: within the bundle's folder."""

    help: str
    configs: tuple[str, ...]
    folder: str
    output: str


FRONTS = {
    "train": Front(
        "Train an adapter on a folder of labelled images.",
        ("train",),
        "a folder of labelled images (default: the demonstration)",
        "output",
    ),
    "segment": Front(
        "Write the masks of new images.",
        ("inference",),
        "a folder of images or of DICOM studies, or one file (default: the demonstration)",
        "output/inference",
    ),
    "evaluate": Front(
        "Measure an adapter on the cases that were set aside in training.",
        ("train", "evaluate"),
        "the folder that it was trained on (default: the demonstration)",
        "output/evaluation",
    ),
}


def start(name: str, words: Sequence[str]) -> None:
    """Check a command, print the line of MONAI's program that it stands for, and run that."""
    if "--" in words:
        raise InputError("-- stands alone: keys are given as --key value")
    refuse_single_dash(words)
    refuse_valueless(words, ["bundle", *OPTIONS, *keys.with_value()])
    given, others = arguments(words)
    given = {key: from_home(value) if key in keys.PATHS else value for key, value in given.items()}
    others = [from_home(word) for word in others]
    bundle = shipped.find(from_home(given.pop("bundle", BUNDLE)))
    front = FRONTS[name]
    wanted = front.folder.partition(" (")[0]
    files = [bundle / "configs" / f"{config}.json" for config in front.configs]
    config = merged(files)
    if "network_def" not in config:
        raise InputError(f"{files[0]}: there is no network_def in it; {AS_SHIPPED}")
    if given.keys() & {"h", "help"}:
        print(usage(name, config))
        return
    if others:
        if "dataset_dir" in given:
            raise InputError(f"two folders are given: {others[0]} and, by --dataset_dir, {given['dataset_dir']}")
        if not os.path.lexists(others[0]):
            raise InputError(f"{others[0]}: no such file or folder")
        refuse_packed(others[0])
        if (Path(others[0]) / "configs" / "metadata.json").is_file():
            like = shlex.join(["sam-monai", name, "FOLDER", "--bundle", others[0]])
            raise InputError(f"{others[0]} is a bundle and not {wanted}: {like}")
        refuse_lone(others[1:])
        given = {"dataset_dir": others[0], **given}
    from_file = args_file(given["args_file"]) if "args_file" in given else {}
    if "config_file" in given or "config_file" in from_file:
        raise InputError(f"{name} reads the configuration of --bundle; for another one run python -m monai.bundle run")
    refuse_misplaced([*from_file, *given], config, front.configs)
    refuse_unknown([*from_file, *given], config, OPTIONS)
    alone = "dataset_dir" not in {*from_file, *given}
    demo = alone and "demo_dataset" in str(config.get("dataset_dir"))
    if alone:
        own = bundle.parent != shipped.shipped()
        if own and read_json(bundle / "configs" / "train.json").get("dataset_dir") is None:
            raise InputError(f"this bundle has no data of its own: give {wanted}")
    if wrong := keys.problems(plain(given) | {k: v for k, v in from_file.items() if not is_expression(v)}):
        raise InputError("; ".join(wrong))
    given = {key: as_typed(key, in_folder(v) if key == "adapter" else v) for key, v in given.items()}
    if not is_own(bundle):
        given = beside(name, bundle, config, {**from_file, **given}) | given
    models = models_of(from_file | given, bundle, config)
    if name != "train":
        adapter = refuse_missing_adapter(from_file | given, models)
        if demo and adapter is not None:
            import_quietly()
        if demo and adapter is not None and (labels := labels_of(adapter)) != DEMO_LABELS:
            raise InputError(f"no folder is given, and {adapter} is for {', '.join(labels)}: give {wanted}")
    elif models and str((from_file | given).get("resume")) == "True" and not (models / RESUMED).exists():
        raise InputError(f"{models} holds no interrupted training: leave out --resume, or give its --ckpt_dir")
    if demo:
        print("no folder is given: the data are those of the demonstration", flush=True)
    tell_trust(bundle)
    run(["run", "--config_file", listed(files), *(word for pair in given.items() for word in as_words(*pair))])


def tell_trust(bundle: Path) -> None:
    """Say of a bundle that did not come with the package what it is to use one."""
    if bundle.parent != shipped.shipped():
        print(f"MONAI runs what is in {bundle}: use only bundles that you trust", flush=True)


def refuse_misplaced(
    given: Iterable[str], config: Mapping[str, Any], configs: Sequence[str], remedy: str = "add --bundle {}"
) -> None:
    """Refuse a key that some of the bundles, or another command, have, and say which. One that all have is missing in a
    bundle of an older version."""
    for key in given:
        if key not in keys.KEYS or key in config:
            continue
        for command in (configs, ("train",)):
            paths = {
                name: [shipped.shipped() / name / "configs" / f"{c}.json" for c in command] for name in shipped.names()
            }
            files = {name: [path for path in each if path.is_file()] for name, each in paths.items()}
            having = [name for name in files if key in merged(files[name])]
            if 0 < len(having) < len(files) or having and command != configs:
                where = f"the bundle {' and '.join(having)}: {remedy.format(having[0])}"
                where = where if command == configs else "sam-monai train"
                raise InputError(f"unknown key --{key} here: it is a key of {where}")


def as_taken(words: Sequence[str], config: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a command line, with values as MONAI takes them."""
    from fire.parser import DefaultParseValue

    refuse_single_dash(words)
    refuse_valueless(words, keys.with_value())
    given, others = arguments(words)
    refuse_lone(others)
    refuse_misplaced(given, config, ("train",))
    refuse_unknown(given, config, ())
    if wrong := keys.problems(plain(given)):
        raise InputError("; ".join(wrong))
    given = {key: as_typed(key, value) for key, value in given.items()}
    return {key: value if key in keys.PATHS else DefaultParseValue(value) for key, value in given.items()}


def run(words: Sequence[str]) -> None:
    """Run MONAI's program in this process, and say how the same is typed."""
    print(" ".join(["python", "-m", "monai.bundle", *map(as_typed_in_a_shell, words)]), flush=True)
    sys.argv[1:] = words
    import_quietly()
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


def as_typed_in_a_shell(word: str) -> str:
    """A word that a shell hands on as it is; a list of texts in double quotes, where these alter nothing in it."""
    return f'"{word}"' if "'" in word and not re.search(r'["$`\\!\n]', word) else shlex.quote(word)


def import_quietly() -> None:
    """Import MONAI's bundles without their own words on a start: the keys that were given, which the printed line
    holds, and that a configuration is to be trusted, which :func:`start` says in one line where it is a question."""
    with without("transformers"):  # a tenth of the time of all imports, for a network that no bundle has
        import monai.bundle  # noqa: F401
    warnings.filterwarnings("ignore", "parsing config_file")
    for module in ("scripts", "workflows"):
        logging.getLogger(f"monai.bundle.{module}").setLevel(logging.WARNING)


@contextmanager
def without(package: str) -> Iterator[None]:
    """Lets imports go without a package that they only try to import. One that is imported already stays."""
    known = package in sys.modules
    if not known:
        sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if not known:
            del sys.modules[package]


def usage(name: str, config: Mapping[str, Any]) -> str:
    front = FRONTS[name]
    return (
        f"{front.help}\n\nsam-monai {name} [FOLDER] [--bundle BUNDLE] [--KEY VALUE ...]\n\n"
        f"FOLDER    {front.folder}\n"
        f"--bundle  {', '.join(shipped.names())}, or the folder of a bundle (default: {BUNDLE})\n\n"
        f"{in_words(config)}"
    )


def merged(files: Sequence[Path]) -> dict[str, Any]:
    """The keys of some configurations; of nested ones that are changed, those of the first."""
    config: dict[str, Any] = {}
    for file in files:
        for key, value in read_json(file).items():
            if not key.startswith("+") and not re.search("#|::", key):
                config[key] = value
    return config


def args_file(path: str) -> dict[str, Any]:
    """Keys and values that are kept in a file."""
    remedy = "give the file that holds keys and values"
    if not path.lower().endswith((".yml", ".yaml")):
        return read_json(Path(path), remedy)
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no object; {remedy}")
    return content


def plain(given: Mapping[str, str]) -> dict[str, Any]:
    """The values that can be checked at once, as MONAI will take them."""
    from fire.parser import DefaultParseValue

    # Whether a device is there only torch can say.
    known = [key for key in given if key in keys.KEYS and key not in (*keys.PATHS, "device")]
    return {key: DefaultParseValue(given[key]) for key in known if not is_expression(given[key])} | {
        key: given[key] for key in given if key in keys.PATHS and given[key] == ""
    }


def as_typed(key: str, value: str) -> str:
    """A value that MONAI does not take for something else than what it is. One that MONAI would read from a file is
    refused."""
    if not is_expression(value):
        return value
    if key in keys.PATHS and (value[0] == "%" or os.path.lexists(value)):
        return f"./{value}"
    if value[0] == "%":
        raise InputError(f"the key {key} is {value!r}, which MONAI would read from another file: give the value itself")
    return value


def is_own(bundle: Path) -> bool:
    """Whether what is trained may lie in the bundle's folder: not in an installed package, whose next version would
    come without it, nor where nothing can be written."""
    return bundle.parent != shipped.PACKAGE / "_bundles" and os.access(bundle, os.W_OK)


def in_folder(path: str) -> str:
    """The file of an adapter, which may be named by its bundle's folder, or the name of one that comes with the
    package."""
    if path in shipped.names() and is_own(shipped.find(path)):
        path = str(shipped.find(path))  # in a clone, where it is trained
    return os.path.join(path, "models", "model.pt") if os.path.isdir(path) else path


def beside(name: str, bundle: Path, config: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, str]:
    """Where adapters and results lie that may not lie in the bundle's folder: in one of its name in the current one.
    An adapter that a bundle holds is read there. Keys that are ``given`` stay as they are."""
    if "bundle_root" in given:
        return {}
    own = bundle / "models" / "model.pt"
    holds_one = name != "train" and own.is_file()
    home = Path(bundle.name)
    quick = ["quick"] * (name == "train" and str(given.get("quick")) == "True")
    places = {"output_dir": home.joinpath(FRONTS[name].output, *quick)}
    trained_here = home / "models" / "model.pt"
    another = trained_here.is_file() and not trained_here.samefile(own)
    if holds_one and not {"adapter", "ckpt_dir"} & given.keys() and another:
        print(f"the adapter is {own}; for the one that was trained here give --adapter {trained_here}", flush=True)
    if "ckpt_dir" in config and not holds_one:  # which the adapter's place follows
        places["ckpt_dir"] = home / "models"
    elif not holds_one:
        places["adapter"] = home / "models" / "model.pt"
    chosen = {key: str(place) for key, place in places.items() if key not in given}
    if chosen:
        said = ", ".join(f"{key} is {place}" for key, place in chosen.items())
        print(f"in the current folder, {said}; the bundle at {bundle} is not changed", flush=True)
    return chosen


def listed(files: Sequence[Path]) -> str:
    """Files as an argument of MONAI's program."""
    texts = [str(Path(os.path.relpath(file)) if Path(os.path.abspath(file)).is_relative_to(Path.cwd()) else file)
             for file in files]  # fmt: skip
    simple = len(texts) == 1 and re.fullmatch(r"[\w./-]*[a-zA-Z][\w./-]*", texts[0])
    return texts[0] if simple else str(texts)


def as_words(key: str, value: str) -> list[str]:
    return [f"--{key}={value}"] if is_flag(value) else [f"--{key}", value]
