"""Every text that the page on troubleshooting quotes is one that the code can say."""

from __future__ import annotations

import ast
import re

import pytest
from bundle_runner import ROOT

QUOTED = re.findall(r"^### `(.+)`$", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.M)


@pytest.fixture(scope="module")
def said() -> list[str]:
    """The texts in the code, with a null where something is put in."""
    texts = []
    for file in (ROOT / "sam_monai").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value.replace("%s", "\0"))
    return texts


def test_there_are_enough():
    assert len(QUOTED) >= 25 and len({*QUOTED}) == len(QUOTED)


@pytest.mark.parametrize("quoted", QUOTED)
def test_the_code_can_say_it(quoted, said):
    pattern = "\0.*?".join(map(re.escape, quoted.split("…")))
    assert any(re.search(pattern, text, re.S) for text in said)
