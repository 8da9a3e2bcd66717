"""Evaluations side by side: of the same cases alone, and each number from the tables."""

from __future__ import annotations

import json
import re

from PIL import Image

from sam_monai.__main__ import main
from sam_monai.results.metrics import METRICS
from sam_monai.results.tables import write_table


def evaluation(folder, dice, images="ab", labels=("liver",), size=4.0, references="xy"):
    """Of cases c0, c1, ...; `images`, `references`: a letter each, what the image and its label hold."""
    folder.mkdir(parents=True)
    rows = [
        {"case": f"c{i}", "label": label, "dice": one, "hd95": 1.0, "surface_dice": 0.5, "reference_ml": size}
        for i, one in enumerate(dice)
        for label in labels
    ]
    write_table(folder / "cases.csv", ["case", "label", *METRICS, "reference_ml"], rows)
    about = {"unit": "ml", "surface_tolerance": 2.0}
    about |= {
        key: {f"c{i}": x for i, x in enumerate(of)} for key, of in (("images", images), ("references", references))
    }
    (folder / "evaluation.json").write_text(json.dumps(about))
    return folder


def test_means_paired_differences_and_the_cases_that_differ_most(tmp_path, capsys):
    one, other = evaluation(tmp_path / "one", [0.5, 0.7]), evaluation(tmp_path / "other", [0.6, 0.9])
    (one / "report.html").touch()
    picture = tmp_path / "both.png"
    assert main(["compare", str(one / "report.html"), str(other), "--picture", str(picture)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"\none +0\.6000 +0\.6000\n", said)
    assert re.search(r"\nother +0\.7500 +0\.7500 +\+0\.1500 ± 0\.0500 +2 cases +0 cases\n", said)
    assert re.search(r"c1 +liver +0\.7000 +0\.9000\nc0 +liver +0\.5000 +0\.6000", said) and "same 2 cases" in said
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"


def test_a_bundle_stands_for_its_output(tmp_path, capsys):
    evaluation(tmp_path / "bundle/output", [0.5, 0.7]), evaluation(tmp_path / "other", [0.6, 0.9])
    assert main(["compare", str(tmp_path / "bundle"), str(tmp_path / "other")]) == 0
    assert "0.6000" in capsys.readouterr().out


def test_the_difference_is_that_of_the_means_where_few_cases_hold_a_label(tmp_path, capsys):
    """Case 0 alone holds b: the mean over labels rises by it, though most cases are worse."""
    for name, b, a in (("one", 0.2, 0.8), ("other", 0.8, 0.7)):
        folder = evaluation(tmp_path / name, [a, a, a, a])
        rows = [{"case": f"c{i}", "label": "liver", "dice": a, "hd95": 1.0, "surface_dice": 0.5} for i in range(4)]
        rows.append({"case": "c0", "label": "b", "dice": b, "hd95": 1.0, "surface_dice": 0.5})
        write_table(folder / "cases.csv", ["case", "label", *METRICS], rows)
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "other")]) == 0
    assert re.search(r"\nother .* 0\.7500 +\+0\.2500 ± 0\.3000 +1 case +3 cases\n", capsys.readouterr().out)


def refused(capsys, *folders) -> str:
    assert main(["compare", *map(str, folders)]) == 1
    return capsys.readouterr().err


def test_evaluations_of_other_cases_are_refused_by_name(tmp_path, capsys):
    first = evaluation(tmp_path / "first", [0.5, 0.7])
    assert "only the second c2" in refused(capsys, first, evaluation(tmp_path / "more", [0.5, 0.7, 0.9], "abc"))
    assert "the images of c1 are others" in refused(capsys, first, evaluation(tmp_path / "image", [0.5, 0.7], "ax"))
    assert "only the first has liver, only the second spleen" in refused(
        capsys, first, evaluation(tmp_path / "label", [0.5, 0.7], labels=("spleen",))
    )
    assert "the references of c0" in refused(capsys, first, evaluation(tmp_path / "lacks", [float("nan"), 0.7]))
    larger = evaluation(tmp_path / "larger", [0.5, 0.7], size=5.0)
    assert "the references of c0, c1" in refused(capsys, first, larger)
    assert "two or more different" in refused(capsys, first, first)
    assert "no cases.csv" in refused(capsys, first, tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/cases.csv").write_text("case,label\na,b\n")
    assert "no table of an evaluation" in refused(capsys, first, tmp_path / "bad")


def test_a_table_that_is_none_or_holds_numbers_that_cannot_be_is_refused_by_a_line(tmp_path, capsys):
    first = evaluation(tmp_path / "first", [0.5, 0.7])
    whole = (first / "cases.csv").read_text()
    for number, (content, said) in enumerate(
        {
            whole.replace("0.7", "inf"): "c1 with dice inf",
            whole.replace("0.7", "1.7"): "c1 with dice 1.7",
            whole.replace("0.7", "-0.7"): "c1 with dice -0.7",
            whole.replace("1.0", "-1.0"): "c0 with hd95 -1",
            whole.replace("4.0", "4.0,5,6"): "line 2 has more cells",
            whole.replace("c1", f'"{"x" * 200_000}"'): "cannot be read (field larger",
        }.items()
    ):
        other = evaluation(tmp_path / str(number), [0.5, 0.7])
        (other / "cases.csv").write_text(content)
        assert said in (line := refused(capsys, first, other)) and str(other) in line and line.count("\n") == 1


def test_folds_end_with_the_mean_over_them(tmp_path, capsys):
    """Each fold counts once, however many cases it has; a label that a fold does not hold has no part in it."""
    nan = float("nan")
    folds = {"fold_1": [(0.2, 0.5), (0.4, 0.5)], "fold_2": [(0.8, nan)], "fold_3": [(0.7, 0.9), (0.7, nan)]}
    for name, cases in folds.items():
        (tmp_path / name).mkdir()
        rows = [
            {"case": f"{name}_{i}", "label": label, "dice": dice, "hd95": 1.0, "surface_dice": 0.5}
            for i, case in enumerate(cases)
            for label, dice in zip(("liver", "spleen"), case, strict=True)
        ]
        write_table(tmp_path / name / "cases.csv", ["case", "label", *METRICS], rows)
    folders = [str(tmp_path / name) for name in folds]
    assert main(["compare", *folders]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^fold_1 +2 +0\.3000 +0\.5000 +0\.4000$", said, re.M)
    assert re.search(r"^fold_2 +1 +0\.8000 +- +0\.8000$", said, re.M)
    assert re.search(r"^mean over folds +0\.6000 +0\.7000 +0\.6667$", said, re.M)
    assert re.search(r"^standard deviation +0\.2646 +0\.2828 +0\.2309$", said, re.M)
    assert main(["compare", *folders, "--picture", str(tmp_path / "all.png")]) == 1
    assert "no case is in two" in capsys.readouterr().err


def test_references_of_the_same_size_that_have_changed_are_refused(tmp_path, capsys):
    one, other = evaluation(tmp_path / "one", [0.5, 0.7]), evaluation(tmp_path / "other", [0.6, 0.9], references="xz")
    assert "the references of c1 are others" in refused(capsys, one, other)


def test_folds_whose_images_have_the_same_names_are_folds(tmp_path, capsys):
    one, other = (
        evaluation(tmp_path / "one", [0.5, 0.7]),
        evaluation(tmp_path / "other", [0.6, 0.9], "cd", references="zw"),
    )
    assert main(["compare", str(one), str(other)]) == 0
    assert "mean over folds" in capsys.readouterr().out


def test_the_same_cases_whose_images_were_saved_again_are_no_folds(tmp_path, capsys):
    one, other = evaluation(tmp_path / "one", [0.5, 0.7]), evaluation(tmp_path / "other", [0.6, 0.9], images="cd")
    assert "the images of c0, c1 are others" in refused(capsys, one, other)


def test_the_same_cases_are_no_folds_where_one_evaluation_has_but_its_table(tmp_path, capsys):
    one, other = evaluation(tmp_path / "one", [0.5, 0.7]), evaluation(tmp_path / "other", [0.6, 0.9])
    (one / "evaluation.json").unlink()
    assert main(["compare", str(one / "cases.csv"), str(other)]) == 0
    assert "+0.1500" in (said := capsys.readouterr().out) and "folds" not in said
