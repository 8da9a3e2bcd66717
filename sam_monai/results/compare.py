"""Several evaluations of the same cases side by side."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError, counted, shown
from ..inference.outputs import Outputs
from .metrics import finite, mean, short
from .report import about_cases, read_rows

MOST = 10  # cases told by name
USUAL = {"output", "evaluation"}  # names of folders that tell no evaluation from another


class Run(NamedTuple):
    """An evaluation: Dice by (case, label), NaN where the reference lacks the label."""

    name: str
    folder: Path
    dice: dict[tuple[str, str], float]
    images: Mapping[str, str]
    """Hashes by case; none of an older version's."""
    references: Mapping[str, str]
    """Likewise."""
    sizes: dict[tuple[str, str], float]
    """Of the references, likewise."""


def compare(paths: Sequence[str | Path], picture: str | Path | None = None) -> str:
    """A table of evaluations, and a picture of it. The first is what the others are compared with. Evaluations of the
    same labels that have no case in common are folds: their table ends with the mean over them.

    Args:
        paths: ``report.html``, ``cases.csv``, or the folder that they are in; two or more.
        picture: file to draw; ``None``: no picture.

    Returns:
        The mean Dice of each label, over the same cases; for each further evaluation the paired difference with the
        number of better and worse cases; and the cases that differ most.

    Raises:
        InputError: fewer than two evaluations, a folder without one, or evaluations of other cases or labels; those
            are named.
    """
    runs = named([Path(path) for path in paths])
    if are_folds(runs):
        if picture is not None:
            raise InputError("no case is in two of these evaluations, so there is no picture of differences")
        return folds(runs)
    refuse_others(runs)
    first, *others = runs
    keys = [key for key, dice in first.dice.items() if dice == dice]
    if not keys:
        raise InputError(f"{first.folder}: no case holds a label, so there is no Dice to compare")
    labels = list(dict.fromkeys(label for _, label in keys))
    rows = [["", *(short(label, 20) for label in labels), "mean", "difference", "better in", "worse in"]]
    for run in runs:
        means = [mean([run.dice[key] for key in keys if key[1] == label]) for label in labels]
        rows.append([run.name, *(f"{one:.4f}" for one in (*means, mean(means))), *difference(first, run, keys)])
    cases = len({case for case, _ in keys})
    lines = [f"Dice over the same {cases} case{'s' * (cases != 1)}, compared with {first.name}", *aligned(rows)]
    lines += ["±: standard error of the difference, by paired cases"] if cases > 1 else []
    apart = sorted(keys, key=lambda key: -max(abs(run.dice[key] - first.dice[key]) for run in others))
    apart = [key for key in apart if any(run.dice[key] != first.dice[key] for run in others)][:MOST]
    if apart:
        found = [["case", "label", *(run.name for run in runs)]]
        found += [[short(c), short(n, 20), *(f"{run.dice[c, n]:.4f}" for run in runs)] for c, n in apart]
        lines += ["", "where they differ most", *aligned(found)]
    if picture is not None:
        draw(runs, keys, labels, Path(picture))
        lines += ["", f"picture: {picture}"]
    return "\n".join(lines)


def are_folds(runs: Sequence[Run]) -> bool:
    """Whether evaluations are of the same labels and no case is in two of them, nor one whose image was saved again."""
    pairs = itertools.permutations((run.references.items() for run in runs), 2)
    if any(some and some <= others for some, others in pairs):
        return False
    hashed = all(run.images for run in runs)  # else names are what all have
    cases = [{(hashed and run.images.get(case)) or case for case, _ in run.dice} for run in runs]
    labels = [{label for _, label in run.dice} for run in runs]
    return len(set().union(*cases)) == sum(map(len, cases)) and all(one == labels[0] for one in labels)


def folds(runs: Sequence[Run]) -> str:
    """Dice of each evaluation by label, and at the end their mean and spread."""
    labels = list(dict.fromkeys(label for _, label in runs[0].dice))
    means = [[mean([d for key, d in run.dice.items() if key[1] == label]) for label in labels]
             for run in runs]  # fmt: skip
    columns = [*zip(*means, strict=True), [mean(one) for one in means]]
    rows = [["", "cases", *(short(label, 20) for label in labels), "mean"]]
    for i, run in enumerate(runs):
        rows.append([run.name, str(len({case for case, _ in run.dice})), *(as_cell(column[i]) for column in columns)])
    rows.append(["mean over folds", "", *(as_cell(mean(column)) for column in columns)])
    spread = [finite(column) for column in columns]
    rows.append(["standard deviation", "", *(as_cell(statistics.stdev(x) if x[1:] else math.nan) for x in spread)])
    return "\n".join([f"Dice of {len(runs)} evaluations without a case in common, taken for folds", *aligned(rows)])


def as_cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def read_run(path: Path) -> Run:
    folder = path.parent if path.suffix in (".html", ".csv") else path
    if not (folder / "cases.csv").is_file() and (folder / "output" / "cases.csv").is_file():  # of a bundle
        folder = folder / "output"
    if not (folder / "cases.csv").is_file():
        raise InputError(f"{folder}: there is no cases.csv in it; give the output_dir of a training or an evaluation")
    dice, sizes = {}, {}
    for row in read_rows(folder / "cases.csv"):
        key = (row["case"], row["label"])
        if key in dice:
            raise InputError(
                f"{folder / 'cases.csv'}: has the case {key[0]} twice for {key[1]}; it was changed by hand"
            )
        dice[key] = row["dice"]
        size = next((row[name] for name in ("reference_ml", "reference_pixels") if name in row), None)
        if size is not None:
            sizes[key] = size
    images, references = (about_cases(folder).get(key, {}) for key in ("images", "references"))
    images, references = (known if isinstance(known, dict) else {} for known in (images, references))
    return Run(str(folder), folder, dice, images, references, sizes)


def named(paths: Sequence[Path]) -> list[Run]:
    """Evaluations with the shortest names that tell them apart."""
    runs = [read_run(path) for path in paths]
    if len({run.folder.resolve() for run in runs}) < max(2, len(runs)):
        raise InputError("give two or more different evaluations to compare")
    parts = [run.folder.resolve().parts for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len({*names}) == len(names) and all({*part[-length:]} - USUAL for part in parts):
            break
    return [run._replace(name=name) for run, name in zip(runs, names, strict=True)]


def refuse_others(runs: Sequence[Run]) -> None:
    """Refuse evaluations whose cases, images, labels or references are not those of the first."""
    first = runs[0]
    for run in runs[1:]:
        both = f"{first.folder} and {run.folder} cannot be compared"
        for what, at in (("cases", 0), ("labels", 1)):
            one, other = ({key[at]: None for key in x.dice} for x in (first, run))
            if one.keys() != other.keys():
                raise InputError(
                    f"{both}, because their {what} differ: only the first has {listed(one, other)}, only the second "
                    f"{listed(other, one)}. Evaluate both on the same validation cases: sam-monai evaluate FOLDER"
                )
        changed = [case for case, image in first.images.items() if image != run.images.get(case, image)]
        if changed:
            raise InputError(f"{both}: the images of {listed(changed, ())} are others, though they have the same name")
        held = [{key for key, dice in x.dice.items() if dice == dice} for x in (first, run)]
        relabelled = {case for case, _ in held[0] ^ held[1]}
        relabelled |= {case for case, label in first.references.items() if label != run.references.get(case, label)}
        relabelled |= {key[0] for key, size in first.sizes.items() if abs(run.sizes.get(key, size) - size) > 1e-6}
        if relabelled:
            raise InputError(f"{both}: the references of {listed(sorted(relabelled), ())} are others")


def listed(some: Any, without: Any, most: int = 5) -> str:
    return shown([name for name in some if name not in without], most) or "none"


def difference(first: Run, run: Run, keys: Sequence[tuple[str, str]]) -> list[str]:
    """The difference of the two means, over cases and then over labels, with its standard error by paired cases; and
    in how many cases Dice, averaged over the case's own labels, is better or worse."""
    if run is first:
        return ["", "", ""]
    holding = Counter(label for _, label in keys)
    by_case: dict[str, list[float]] = {}
    parts: dict[str, float] = defaultdict(float)  # what each case adds; more, where a label is one that few hold
    for key in keys:
        apart = run.dice[key] - first.dice[key]
        by_case.setdefault(key[0], []).append(apart)
        parts[key[0]] += apart / holding[key[1]] / len(holding)
    number = len(by_case)
    error = f" ± {statistics.stdev(number * part for part in parts.values()) / number**0.5:.4f}" if number > 1 else ""
    each = [mean(values) for values in by_case.values()]
    better, worse = sum(one > 0 for one in each), sum(one < 0 for one in each)
    return [f"{sum(parts.values()):+.4f}{error}", counted(better, "case"), counted(worse, "case")]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def draw(runs: Sequence[Run], keys: Sequence[tuple[str, str]], labels: Sequence[str], path: Path) -> None:
    """A panel a label: Dice of every run, the cases joined by lines."""
    from matplotlib.figure import Figure

    from .drawing import label_colours, legible

    columns = min(len(labels), 4)
    lines = -(-len(labels) // columns)
    figure = Figure(figsize=(1 + 2.6 * columns, 0.4 + 2.8 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axes in panels[len(labels) :]:
        axes.set_axis_off()
    every = list(dict.fromkeys(label for _, label in runs[0].dice))
    colours = dict(zip(every, label_colours(len(every)), strict=True))
    for axes, label in zip(panels, labels, strict=False):
        values = [[run.dice[key] for run in runs] for key in keys if key[1] == label]
        places = range(len(runs))
        for of_case in values:
            axes.plot(places, of_case, color="0.75", linewidth=0.8, marker=".", zorder=1)
        axes.plot(
            places,
            [mean(column) for column in zip(*values, strict=True)],
            color=colours[label],
            linewidth=2,
            marker="o",
        )
        axes.set_xticks(places, [legible(run.name, 18) for run in runs], rotation=20, ha="right", fontsize=8)
        axes.set(ylim=(-0.02, 1.02))
        axes.set_title(legible(label, 24), fontsize=10, parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("Dice")
    with Outputs(path.parent).writing(path) as part:
        figure.savefig(part, dpi=110, format="png")
