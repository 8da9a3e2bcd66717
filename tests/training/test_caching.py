"""Prepared cases take no more memory than there is."""

from __future__ import annotations

import pytest
import torch
from monai.transforms import Compose, Lambda, RandScaleIntensityd

from sam_monai import memory
from sam_monai.memory import free_memory
from sam_monai.training import caching
from sam_monai.training.caching import BoundedCache, tensor_bytes
from sam_monai.training.handlers import prepared


def cache(cases: int = 10, **options):
    def load(i):
        made.append(i)
        return {"image": torch.full((1, 256), float(i)), "label": torch.zeros(1, 256)}  # 2 KiB

    made: list[int] = []
    return BoundedCache(list(range(cases)), Compose([Lambda(load), RandScaleIntensityd("image", 0.1)]), **options), made


@pytest.mark.parametrize(("most", "kept"), [(0, 0), (2047, 0), (2048, 1), (9000, 4), (10**6, 10)])
def test_as_many_cases_are_kept_as_fit_and_the_others_are_read_anew(most, kept, caplog, monkeypatch):
    monkeypatch.setattr(caching, "SHARE", 1)
    monkeypatch.setattr(caching, "free_memory", lambda: most)
    data, made = cache(progress=False)
    assert made == list(range(max(1, kept))) and data.cache_num == len(data._cache) == kept
    made.clear()
    assert [round(float(data[i]["image"].mean()) / max(i, 1)) for i in range(1, 10)] == [1] * 9
    assert made == [i for i in range(1, 10) if i >= kept]
    assert (f"{kept} of 10 prepared cases are kept" in caplog.text) == (kept < 10)


def test_what_comes_before_chance_is_kept_where_a_compose_lies_in_another():
    data, made = cache(progress=False)
    nested = Compose([data.transform, RandScaleIntensityd("image", 0.1)])
    made.clear()
    again = BoundedCache(list(range(10)), nested, progress=False)
    assert len(made) == 10 and prepared(again, 3)["image"].mean() == 3
    made.clear()
    assert again[3]["image"].shape == (1, 256) and not made


@pytest.mark.parametrize("sizes", [[1, 50, 50, 50], [50, 1, 1, 1], [1, 1, 1, 500]])
def test_cases_of_different_sizes_do_not_take_more_than_there_is(sizes, monkeypatch):
    """The first is not like the others."""
    load = Lambda(lambda i: {"image": torch.zeros(sizes[i], 256)})
    monkeypatch.setattr(caching, "SHARE", 1)
    monkeypatch.setattr(caching, "free_memory", lambda: 60 * 1024)
    data = BoundedCache(range(4), Compose([load]), progress=False)
    assert tensor_bytes(data._cache) <= 60 * 1024 and data.cache_num >= 1
    assert [len(data[i]["image"]) for i in range(4)] == sizes


def test_the_room_is_a_share_of_what_is_free_and_a_smaller_rate_wins(monkeypatch):
    monkeypatch.setattr(caching, "free_memory", lambda: 2048 * 10)
    assert cache(progress=False)[0].cache_num == 4
    assert cache(progress=False, cache_rate=0.2)[0].cache_num == 2
    assert cache(progress=False, cache_rate=0.0)[0].cache_num == 0
    monkeypatch.setattr(caching, "free_memory", lambda: None)
    assert cache(progress=False)[0].cache_num == 10
    assert cache(0, progress=False)[0].cache_num == 0


def test_free_memory_and_the_bytes_of_a_case_are_right():
    assert free_memory() is None or 2**20 < free_memory() < 2**50
    assert tensor_bytes({"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.uint8)], "c": "name"}) == 14


def test_the_memory_of_a_clusters_job_is_that_of_its_own_control_group_and_those_above(tmp_path, monkeypatch):
    own = tmp_path / "system/job/step"
    own.mkdir(parents=True)
    (tmp_path / "groups").write_text("5:cpu:/\n0::/system/job/step\n")
    found = memory.groups(str(tmp_path / "groups"), str(tmp_path))
    assert {own, own.parent, own.parent.parent} <= {*found} and tmp_path.parent not in found
    for group, limit in ((own, "max"), (own.parent, 3 * 2**20)):
        for name, text in (("memory.max", limit), ("memory.current", 2**21), ("memory.stat", f"inactive_file {2**19}")):
            (group / name).write_text(f"{text}\n")
    monkeypatch.setattr(memory, "groups", lambda: found)
    assert free_memory() in (None, 2**20 + 2**19)


def test_processes_that_share_a_machine_share_its_memory(monkeypatch):
    alone = free_memory()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    shared = free_memory()
    assert alone is None or shared == pytest.approx(alone / 4, rel=0.2)
