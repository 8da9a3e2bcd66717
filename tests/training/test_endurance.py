"""Fifty kills: nothing is lost."""

from __future__ import annotations

import pytest
from endurance_jobs import job
from tiny_training import same

pytestmark = pytest.mark.slow


def test_a_training_killed_thirty_times_ends_bit_for_bit_as_one_that_was_not(tmp_path):
    assert "killed 30 times" in job("training", tmp_path)
    assert same(tmp_path / "whole", tmp_path / "killed")
    assert not list((tmp_path / "killed").glob("replaced_*"))


@pytest.mark.parametrize(("name", "kills"), [("saving", 8), ("studies", 6), ("packaging", 6)])
def test_whatever_is_killed_leaves_whole_files_and_can_be_run_again(name, kills, tmp_path):
    assert f"killed {kills} times" in job(name, tmp_path)
