"""The reports of an evaluation and of a segmentation, each one page."""

from __future__ import annotations

import html
import math
import os
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..data.matching import IOU, OBJECTS, matched_in_all
from ..data.names import told_apart
from ..errors import counted
from ..inference import quality
from ..inference.outputs import Outputs
from ..inference.records import CORRECTED, SEEN
from .drawing import label_colours
from .figures import agreement, boxes, curve
from .metrics import LENGTHS, METRICS, TOLERANCE, badness, finite, mean, summary, unit_of
from .page import about, cell, picture, section, table, words, write_page
from .tables import write_table

GUESS, CERTAINTY = quality.KEY, quality.CERTAINTY
TABLE = "studies.csv"
OBJECT_HEADS = dict(
    zip(OBJECTS, (f"average precision at IoU {IOU:g}", "objects found", "missed", "invented"), strict=True)
)
NOT_MEASURED = "How good such guesses are was not measured in this adapter's training."
MOST = 24  # labels with a figure of their own


def evaluation_report(
    rows: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, Path],
    settings: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
    path: str | Path,
    curves: Sequence[Path] = (),
    tolerance: float = TOLERANCE,
    title: str = "Evaluation",
    notes: Sequence[str] = (),
) -> Path:
    """Write what an evaluation found, the worst cases first.

    Args:
        rows: a case and label each, as in ``cases.csv``.
        pictures: of the cases, by their names.
        settings: whatever the reader should know of the run; a mapping among them is a table of its own.
        history: of the training, an epoch each: ``epoch``, ``loss`` and, where there was a validation, ``dice``.
        path: of the HTML file.
        curves: further pictures, as far as they are there.
        tolerance: of the surface Dice, in the unit of distances.
        title: of the page.
        notes: what the check of the data said.
    """
    unit = unit_of(rows)
    length = LENGTHS[unit]
    heads = {
        "dice": "Dice",
        "hd95": f"HD95, {length}",
        "surface_dice": f"surface Dice at {tolerance:g} {length}",
        f"reference_{unit}": f"reference, {unit}",
        unit: f"prediction, {unit}",
        "false_positive": f"false positive, {unit}",
        **OBJECT_HEADS,
        GUESS: "guessed Dice",
    }
    keys = [key for key in heads if any(is_number(row.get(key)) for row in rows)]
    labels = list(dict.fromkeys(row["label"] for row in rows))
    of_case: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        of_case.setdefault(row["case"], []).append(row)
    cases = sorted(of_case, key=lambda case: (badness(of_case[case]), case))
    drawn = [case for case in cases if case in pictures and pictures[case].is_file()]
    own_heads = ["label", *(heads[key] for key in keys)]

    def values(row: Mapping[str, Any]) -> list[Any]:
        return [row["label"], *(row.get(key) for key in keys)]

    body = [f"<p>{html.escape(in_short(rows, labels, len(cases)))}</p>"]
    if notes:
        said = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        body += [f"<p>What the check of the data says about these figures:</p><ul>{said}</ul>"]
    body += [means(rows, labels, heads, unit)]
    body += [f"<p>{matched_in_all(rows)}</p>"] if OBJECTS[0] in rows[0] else []
    body += [figures(rows, labels, unit, heads["surface_dice"])]
    body += [f'<h2>Training</h2><div class="figures">{curve(history)}</div>'] if history else []
    more = [picture(file.read_bytes(), file.stem) for file in curves if file.is_file()]
    body += [f'<h2>Prompts</h2><div class="figures">{"".join(more)}</div>'] if more else []
    pairs = [(row.get(GUESS, math.nan), row["dice"]) for row in rows]
    found = quality.validated(pairs)
    body += [f'<p class="note">Guessed Dice: {quality.WHAT} {quality.in_words(found, pairs)}</p>'] if found else []
    if drawn:
        worst = "The case" if len(cases) == 1 else "All cases" if len(drawn) == len(cases) else "Cases"
        body += [f"<h2>{worst}{', the worst first' * (len(cases) > 1)}</h2>"]
        body += ['<p class="note">By the mean Dice of the labels that a case holds.</p>'] if len(cases) > 1 else []
        body += [section(c, table([values(row) for row in of_case[c]], own_heads), pictures[c]) for c in drawn]
    body += [f"<h2>{'Every case, the worst first' if len(cases) > 1 else 'In numbers'}</h2>"]
    body += [table([[case, *values(row)] for case in cases for row in of_case[case]], ["case", *own_heads])]
    return write_page(path, title, [*body, about(settings)])


def in_short(rows: Sequence[Mapping[str, Any]], labels: Sequence[str], cases: int) -> str:
    """The first sentences of a report."""
    each = [summary([row for row in rows if row["label"] == label]) for label in labels]
    dice, missed = mean([found["dice"] for found in each]), sum(found["missed"] for found in each)
    of = f"{counted(cases, 'validation case')} and {counted(len(labels), 'label')}"
    if math.isnan(dice):
        return f"{of}: none of the cases holds a label, so there is no Dice."
    what = "Mean Dice" if cases > 1 or len(labels) > 1 else "Dice"
    beside = sum(row["dice"] == 0 and not math.isinf(row["hd95"]) for row in rows)
    held = counted(sum(not math.isnan(row["dice"]) for row in rows), "mask of a label", "masks of labels")
    lost = [f"{missed} {'was' if missed == 1 else 'were'} missed: nothing is marked there"] if missed else []
    lost += (
        [f"{beside} {'has' if beside == 1 else 'have'} Dice 0: what is marked does not touch them"] if beside else []
    )
    found = f"Of {held}, {'; '.join(lost)}." if lost else "No label was missed."
    return f"{what} {dice:.3f}, over {of}. {found}"


def means(rows: Sequence[Mapping[str, Any]], labels: Sequence[str], heads: Mapping[str, str], unit: str) -> str:
    """Of each label the mean and the spread over the cases that hold it."""
    sizes = [key for key in (f"reference_{unit}", unit) if any(is_number(row.get(key)) for row in rows)]
    lacking = any(math.isnan(row["dice"]) for row in rows)
    lines = []
    for label in labels:
        of = [row for row in rows if row["label"] == label]
        found, held = summary(of), [row for row in of if not math.isnan(row["dice"])]
        line = [label, *(with_spread([row[key] for row in held]) for key in METRICS)]
        line += [f"{found['held']} of {len(of)}", found["missed"] if held else None]
        if lacking:
            false = [f"{found['false_cases']} of {len(of) - len(held)}", found["false_positive"]]
            line += false if len(held) < len(of) else [None, None]
        lines.append([*line, *(with_spread([row.get(key, math.nan) for row in of]) for key in sizes)])
    names = ["label", *(heads[key] for key in METRICS), "cases that hold it", "of these missed"]
    names += ["marked in cases without it", f"marked there in all, {unit}"] * lacking
    names += [heads[key] for key in sizes]
    notes = "A label that was missed has Dice 0 and no distance; it is counted apart."
    if any("±" in str(value) for line in lines for value in line):
        notes = f"Mean ± standard deviation over the cases. {notes}"
    notes += " HD95: of both outlines, 95 % lie nearer to the other than this. Surface Dice: the share of both outlines"
    notes += " that lies within the tolerance of the other."
    return f'<h2>By label</h2>{table(lines, names)}<p class="note">{notes}</p>'


def with_spread(values: Sequence[float]) -> str:
    known = finite(values)
    if not known:
        return cell(None)
    middle = mean(known)
    digits = 3 if abs(middle) < 1 else 2 if abs(middle) < 100 else 0
    spread = f"\u00a0±\u00a0{statistics.stdev(known):,.{digits}f}" if len(known) > 1 else ""
    return f"{middle:,.{digits}f}{spread}"


def figures(rows: Sequence[Mapping[str, Any]], labels: Sequence[str], unit: str, surface: str) -> str:
    """Box plots over the cases, and how sizes agree, where there are cases to compare."""
    drawn = []
    held = [label for label in labels if sum(is_number(r["dice"]) for r in rows if r["label"] == label) > 1][:MOST]
    colours = dict(zip(labels, label_colours(len(labels)), strict=True))
    if held:
        shown = {label: colours[label] for label in held}
        drawn += [boxes(rows, shown, "dice", "Dice"), boxes(rows, shown, "surface_dice", surface)]
    for label, colour in list(colours.items())[:MOST]:
        pairs = [r for r in rows if r["label"] == label and {unit, f"reference_{unit}"} <= r.keys()]
        pairs = [r for r in pairs if is_number(r[unit]) and r[unit] + r[f"reference_{unit}"] > 0]
        if len(pairs) > 1:
            drawn.append(agreement(pairs, label, unit, colour))
    more = f'<p class="note">Figures of the first {MOST} labels.</p>' if len(labels) > MOST else ""
    return f'<h2>Over the cases</h2><div class="figures">{"".join(drawn)}</div>{more}' if drawn else ""


def studies_report(
    records: Sequence[Mapping[str, Any]],
    labels: Mapping[str, Sequence[str]],
    pictures: Mapping[str, Path],
    settings: Mapping[str, Any],
    path: str | Path,
    validated: Mapping[str, Any] | None = None,
) -> Path:
    """Write what :class:`sam_monai.inference.studies.Studies` did: volumes of each label, failures first, then the
    studies with the lowest guess at their Dice. ``studies.csv`` beside it holds the same as a table.

    Labels and pictures are by the image's path, labels being the names of what its mask's values mean. ``settings`` are
    whatever the reader should know of the run, and ``validated`` is what the training found of such guesses.
    """
    records = sorted(records, key=lambda record: (not record["error"], lowest_guess(record)))
    rows = [row for record in records for row in rows_of(record, labels.get(record["image"], ()))]
    heads = {"label": "label", "objects": "objects", "ml": "volume, ml", "voxels": "volume, voxels",
             "pixels": "area, pixels", GUESS: "guessed Dice",
             CERTAINTY: "mean probability in the mask"}  # fmt: skip
    heads = {key: head for key, head in heads.items() if any(row.get(key) is not None for row in rows)}
    sections = []
    images = [record["image"] for record in records]
    names = dict(zip(images, told_apart(images), strict=True))  # the page is handed on, the table is for programs
    folders = [os.path.dirname(os.path.abspath(path))]
    with suppress(ValueError):  # no images, or on several drives
        folders.append(os.path.dirname(os.path.commonpath(images)))
    of_study: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        of_study[row["study"]].append(row)
    for record in records:
        image = record["image"]
        if record["error"]:
            error = record["error"].replace(image, names[image])
            for folder in folders:
                if folder != os.path.dirname(folder):  # the root is part of every path
                    error = re.sub(rf"(?<![\w.\\/-]){re.escape(folder + os.sep)}", "", error)
            content = f'<p class="error">{html.escape(error)}</p>'
        else:
            own = [[row.get(key) for key in heads] for row in of_study[image]]
            content = table(own, list(heads.values())) + f"<p>mask: {html.escape(record['mask'])}</p>"
            corrections = html.escape(words(record.get(CORRECTED, [])))
            content += f"<p>Corrected by prompts: {corrections}.</p>" if corrections else ""
        sections.append(section(names[image], content, pictures.get(image)))
    failed, seen = (sum(bool(record.get(key)) for record in records) for key in ("error", SEEN))
    said = [f"<p>{counted(len(records) - failed, 'study', 'studies')} segmented, {failed} not.</p>"]
    if about_it := settings.get("Adapter"):
        known = [about_it["method"], words(about_it["labels"])]
        known += [f"{key} {about_it[key]}" for key in ("validation Dice", "trained") if key in about_it]
        said += [f"<p>By the adapter {html.escape('; '.join(known))}.</p>"]
    if seen:
        said += [f"<p>The adapter was trained on {seen} of these images. Masks of such are better than of others.</p>"]
    if GUESS in heads:
        what = f"In validation: {quality.in_words(validated)} It is taken off here." if validated else NOT_MEASURED
        said += [f"<p>The study with the lowest guessed Dice of a label comes first. {quality.WHAT} {what}</p>"]
    with Outputs(Path(path).parent).writing(Path(path).parent / TABLE) as part:
        write_table(part, ["study", "mask", *heads, "error"], rows)
    title = f"Segmentation of {settings['data']}" if settings.get("data") else "Segmentation"
    return write_page(path, title, [*said, *sections, about(settings)])


def rows_of(record: Mapping[str, Any], labels: Sequence[str]) -> list[dict[str, Any]]:
    """A study's record as rows of a table, a label each; one row of a study that was not segmented."""
    if record["error"]:
        return [{"study": record["image"], "error": record["error"]}]
    size, sizes = "voxels" if "millilitres" in record else "pixels", record.get("millilitres", {})
    return [
        {"study": record["image"], "mask": record["mask"], "label": name, size: record["voxels"].get(str(i), 0)}
        | ({"ml": sizes.get(str(i), 0.0)} if "millilitres" in record else {})
        | {key: record.get(key, {}).get(str(i)) for key in (GUESS, CERTAINTY)}
        | {"objects": record.get("objects")}
        for i, name in enumerate(labels, 1)
    ]


def lowest_guess(record: Mapping[str, Any]) -> float:
    return min((guess for guess in record.get(GUESS, {}).values() if guess is not None), default=2.0)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not math.isnan(value)
