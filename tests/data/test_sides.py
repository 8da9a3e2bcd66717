from __future__ import annotations

import pytest

from sam_monai.data import has_sides


@pytest.mark.parametrize(
    "name", ["left kidney", "Kidney_Right", "RightLung", "LEFT", "kidney_L", "kidney L", "R eye", "kidneyL"]
)
def test_a_label_with_a_side_is_recognised(name):
    assert has_sides(["liver", name])


@pytest.mark.parametrize("name", ["liver", "bright spot", "vertebra L1", "L1 vertebra", "cleft", "LV", "rectum", "all"])
def test_a_label_without_a_side_is_not_mistaken_for_one(name):
    assert not has_sides([name])
