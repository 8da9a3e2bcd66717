"""Every public name has an example in its docstring, and the examples give what they say."""

from __future__ import annotations

import doctest
import sys

import pytest

import sam_monai
from sam_monai import data

PUBLIC = {name: getattr(room, name) for room in (sam_monai, data) for name in room.__all__ if name != "__version__"}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_of_a_public_name_gives_what_it_says(name):
    public = PUBLIC[name]
    names = vars(sys.modules[public.__module__])
    (found,) = doctest.DocTestFinder(recurse=False).find(public, name, globs=dict(names))
    assert found.examples
    said: list[str] = []
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found, out=said.append).failed == 0, "".join(said)
