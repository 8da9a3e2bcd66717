"""The site's notebooks lie in the repository without outputs, and its build runs them as a notebook does."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from bundle_runner import ROOT

HOOK = ROOT / ".ci/notebooks.py"
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))
CELLS = [
    "# A heading",
    ["name = 'three'\n", "!echo two $((1 + 1))\n", "print('one', name)"],
    ["len(name)"],
    ["from matplotlib import pyplot as plt\n", "plt.plot([1, 2])\n", "plt.show()"],
    ["from PIL import Image\n", "Image.new('L', (4, 4))"],
]


def page(folder, cells):
    kinds = [{"cell_type": "markdown" if isinstance(cell, str) else "code", "source": cell} for cell in cells]
    (folder / "made.ipynb").write_text(json.dumps({"cells": kinds}))
    command = [sys.executable, str(HOOK), "made.ipynb", "."]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_page_holds_what_the_cells_say_print_and_draw(tmp_path):
    done = page(tmp_path, CELLS)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "made.md").read_text(encoding="utf-8")
    assert text.startswith("# A heading") and "```text\ntwo 2\n\none three\n```" in text and "```text\n5\n```" in text
    assert [name for name in ("made_1.png", "made_2.png") if f"({name})" in text and (tmp_path / name).is_file()] == [
        "made_1.png",
        "made_2.png",
    ]


@pytest.mark.parametrize("cell", [["1 / 0"], ["!exit 3"], ["!sam-monai nonsense"]])
def test_a_cell_that_fails_ends_the_build(cell, tmp_path):
    assert page(tmp_path, [cell]).returncode != 0 and not (tmp_path / "made.md").exists()


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_lies_there_without_outputs_and_in_the_menu(file):
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert f"notebooks/{file.stem}.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_there_is_one():
    assert NOTEBOOKS
