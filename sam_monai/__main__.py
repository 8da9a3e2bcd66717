"""The command line: ``sam-monai COMMAND``, or ``python -m sam_monai COMMAND``.

The words are looked at here, before torch and MONAI are imported; each command imports what it needs.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .bundle import commands
from .bundle.front import FRONTS, start
from .errors import InputError, tell_any_name, told

DESCRIPTION = "Adapting SAM to medical images."
ADAPTER = {"metavar": "ADAPTER", "help": "its file, a bundle's folder, or ssam: the one last trained"}
CHECKPOINT = {"help": "the base weights, if not in the cache folder"}
BUNDLE = {"metavar": "BUNDLE", "help": "ssam, ptsam, medsa, or the folder of a bundle"}
# Each command is described by its function's docstring.
COMMANDS: dict[Callable[[argparse.Namespace], None], dict[str, dict[str, Any]]] = {
    commands.new: {
        "bundle": BUNDLE,
        "output": {"metavar": "OUTPUT", "help": "the folder to make"},
    },
    commands.package: {
        "bundle": BUNDLE | {"help": "the bundle that the adapter was trained with: ssam, or its folder"},
        "output": {"metavar": "OUTPUT", "help": "the folder to make"},
        "--adapter": {"help": "the trained adapter (default: the bundle's models/model.pt)"},
        "--picture": {"help": "for the model card, as output/validation/CASE.png; whoever gets the bundle sees it"},
    },
    commands.show: {"adapter": ADAPTER},
    commands.verify: {"adapter": ADAPTER, "--checkpoint": CHECKPOINT},
    commands.verify_bundle: {"bundle": BUNDLE | {"help": "a bundle's folder"}},
    commands.keys: {"bundle": BUNDLE},
    commands.weights: {},
    commands.download: {
        "name": {"metavar": "NAME", "help": "as listed by the command weights"},
        "--folder": {"help": "where to put the file (default: the cache folder, where it is looked for)"},
    },
    commands.plan: {
        "folder": {"metavar": "FOLDER", "help": "of labelled images"},
        "--bundle": {"default": "ssam", "help": "ssam, ptsam, medsa, or the folder of a bundle (default: ssam)"},
        "--json": {"metavar": "FILE", "help": "write it there too"},
    },
    commands.adapters: {
        "folder": {"nargs": "?", "default": ".", "metavar": "FOLDER", "help": "default: the current one"},
    },
    commands.compare: {
        "outputs": {"nargs": "+", "metavar": "OUTPUT", "help": "an output_dir, or a report.html in it; the first is "
                    "what the others are compared with"},
        "--picture": {"metavar": "FILE", "help": "draw it, as compared.png"},
    },
    commands.series: {"folder": {"metavar": "FOLDER"}},
    commands.dataset: {
        "folder": {"metavar": "FOLDER", "help": "of images and labels, or a CSV or JSON list of them"},
        "--labels": {"metavar": "NAME,NAME", "help": "names in the order of the masks' values 1, 2, ...; where each "
                     "label has a mask file, those to take"},
        "--modality": {"help": "of the images, such as CT, MR or RGB, or of each channel: T1,T2 (default: as the "
                       "folder says)"},
        "--channel": {"metavar": "CHANNEL", "help": "to take alone where a case has several files: its number, counted "
                      "from 0, or its name"},
        "--output": {"help": "the folder to write to (default: FOLDER)"},
    },
    commands.merge: {
        "adapter": ADAPTER,
        "output": {"metavar": "OUTPUT", "help": "the checkpoint to write, as sam_merged.pth"},
        "--checkpoint": CHECKPOINT,
    },
    commands.export: {
        "adapter": ADAPTER,
        "output": {"metavar": "OUTPUT", "help": "the file to write: .onnx, .xml (OpenVINO) or .pt2"},
        "--checkpoint": CHECKPOINT,
        "--size": {"type": int, "nargs": "+", "metavar": "N", "help": "H W, or H W D for volumes (default: the "
                   "encoder's square, and for volumes any number of slices)"},
        "--channels": {"type": int, "choices": (1, 3), "help": "of the image, grey or colours (default: what it was "
                       "trained on)"},
        "--prompted": {"action": "store_true", "help": "Med-SA by clicks and a box, which become inputs"},
        "--opset": {"type": int, "default": 18, "help": "of ONNX (default: 18)"},
    },
}  # fmt: skip


def listed() -> str:
    """Every command, a line each."""
    known = {name: front.help for name, front in FRONTS.items()}
    known |= {command.__name__: command.__doc__ or "" for command in COMMANDS}
    lines = [f"  {name.ljust(max(map(len, known)))}  {help}" for name, help in known.items()]
    return "\n".join([DESCRIPTION, "", *lines, "", f"{program()} COMMAND --help says more of one."])


def program() -> str:
    return "sam-monai" if Path(sys.argv[0]).stem == "sam-monai" else "python -m sam_monai"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(program(), description=DESCRIPTION)
    subparsers = top.add_subparsers(metavar="COMMAND", required=True)
    for name in FRONTS:  # named here among the others; their words are read by themselves
        subparsers.add_parser(name)
    for run, options in COMMANDS.items():
        command = subparsers.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        command.set_defaults(run=run)
        for name, settings in options.items():
            command.add_argument(name, **settings)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 1 after printing what was wrong with the input as the last line of stderr. Without one,
    list them all."""
    words = list(sys.argv[1:] if argv is None else argv)
    tell_any_name()
    try:
        if words[:1] == ["help"] and len(words) > 1:
            words = [*words[1:], "--help"]
        if not words or words[0] in ("-h", "--help", "help"):
            print(listed())
        elif words[0] == "--version":
            print("\n".join(f"{name} {version(name)}" for name in ("sam_monai", "monai", "torch")))
        elif words[0] in FRONTS:
            start(words[0], words[1:])
        elif words[0] not in (known := [command.__name__ for command in COMMANDS]):
            near = difflib.get_close_matches(words[0], [*FRONTS, *known], n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InputError(f"there is no command {words[0]!r}: {hint}`{program()}` lists all of them")
        else:
            top = parser()
            args, args.keys = top.parse_known_args(words)
            if args.keys and args.run is not commands.plan:
                top.error(f"unrecognized arguments: {' '.join(args.keys)}")
            args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # of a reader such as head, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if (line := told(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
