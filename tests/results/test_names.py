"""Any name can be a label's or a case's: in pictures, tables, CSV files and pages."""

from __future__ import annotations

import csv
import warnings

import numpy as np
import pytest
from PIL import Image

from sam_monai.results.drawing import View, case_rows, draw_rows, legible
from sam_monai.results.html_report import evaluation_report
from sam_monai.results.metrics import CaseTable
from sam_monai.results.tables import read_table, write_table

NAMES = [
    "$\\frac$",
    "$x",
    "<b>bold</b>",
    "x" * 300,
    "肝臓",
    "الكبد",
    "_hidden",
    'a,"b"\n c',
    "{}%s\\",
    "=1+1",
    "\U0001f9e0",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_drawn_without_a_warning(tmp_path, name):
    image, mask = np.random.default_rng(0).random((1, 20, 20, 1)), np.zeros((20, 20, 1), int)
    mask[5:12, 5:12] = 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = case_rows(View(image, [1], 1.0), {"prediction": mask})
        draw_rows(rows, ["other", name], name, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width < 1500 and picture.height < 1500


def test_what_the_font_has_is_written_as_it_is():
    assert legible("Leber, links $5") == "Leber, links $5" and legible("печень") == "печень"
    assert legible("肝臓") == "??" and len(legible("x" * 300)) <= 40


def test_tables_and_pages_hold_any_name(tmp_path):
    table = CaseTable(tuple(NAMES), tmp_path)
    values = {"dice": 0.5, "hd95": 1.0, "surface_dice": 1.0, "false_positive": float("nan")}
    table.rows = [{"file": "/d/case", "label": name, **values} for name in NAMES]
    table.finish()
    lines = table.table().splitlines()
    assert len(lines) == len(NAMES) + 1 and max(map(len, lines)) < 140
    assert [row["label"] for row in read_table(tmp_path / "cases.csv")] == NAMES
    page = evaluation_report(table.rows, {}, {"key": "<script>"}, [], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<b>bold" not in page and "<script" not in page and "肝臓" in page


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "'=1", "=cmd|' /C calc'!A0"])
def test_a_table_holds_nothing_that_a_spreadsheet_would_compute(tmp_path, name):
    write_table(tmp_path / "t.csv", ["case", "label", "dice"], [{"case": name, "label": name, "dice": -0.5, "more": 1}])
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["case"] == row["label"] == f"'{name}" and row["dice"] == "-0.5"
    assert read_table(tmp_path / "t.csv") == [{"case": name, "label": name, "dice": "-0.5"}]
