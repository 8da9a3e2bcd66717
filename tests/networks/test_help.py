"""What Python's help says of a network names every argument of its constructor."""

from __future__ import annotations

import inspect
import re

import pytest

from sam_monai import PTSAM, SSAM, AdaptedSAM, MedSA


@pytest.mark.parametrize("network", [SSAM, PTSAM, MedSA])
def test_every_argument_is_explained_once(network):
    arguments = {*inspect.signature(network).parameters, *inspect.signature(AdaptedSAM).parameters} - {"others"}
    text = inspect.getdoc(network) or ""
    for name in arguments:
        assert len(re.findall(rf"^    (?:\w+, )?{name}(?:, \w+)?:", text, re.M)) == 1, name
    assert "see :class:`AdaptedSAM`" not in text
