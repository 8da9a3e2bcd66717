"""Files are whole or not there."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from sam_monai import InputError, files
from sam_monai.bundle import shipped
from sam_monai.errors import several, told


def test_several_problems_are_a_line_each_and_one_stays_one_line():
    try:
        try:
            raise several(["a.nii.gz: no such\nfile", "b.nii.gz: empty"])
        except InputError as error:
            raise RuntimeError("a loader failed") from error
    except RuntimeError as error:
        assert told(error) == "a.nii.gz: no such file\nerror: b.nii.gz: empty"
    assert told(InputError("one\nline")) == "one line"


def test_a_write_that_fails_leaves_the_previous_file_and_no_part(tmp_path):
    path = tmp_path / "a.json"
    files.write_json({"a": 1}, path)
    with pytest.raises(ZeroDivisionError), files.aside(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["a.json"] and "1" in path.read_text()


@pytest.mark.parametrize("kind", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("writer failed")])
def test_a_full_disk_is_named_with_what_is_needed(tmp_path, monkeypatch, kind):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage(2**40, 2**40, 1000))
    path = tmp_path / "model.pt"
    path.write_bytes(b"before")
    with pytest.raises(InputError, match="disk is full.*0 MB are left.*3 MB are needed"), files.aside(path) as part:
        part.write_bytes(b"0" * 3 * 2**20)
        raise kind
    assert os.listdir(tmp_path) == ["model.pt"] and path.read_bytes() == b"before"


def test_a_bundle_on_a_full_disk_is_a_line_that_says_what_is_needed_and_leaves_nothing(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage(2**40, 2**40, 1000))

    def full(source, target, **_):
        Path(target).write_bytes(b"0" * 2**20)
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)  # of a tree shutil's error is a list, without a number
    with pytest.raises(InputError, match=r"mine: the disk is full, 0 MB are left and more than [1-9]") as error:
        shipped.new("ssam", tmp_path / "mine")
    assert "\n" not in str(error.value) and os.listdir(tmp_path) == []


def test_a_tree_that_cannot_be_copied_is_a_line(tmp_path, monkeypatch):
    def refused(source, target, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(source))

    monkeypatch.setattr(shutil, "copyfile", refused)
    with pytest.raises(OSError) as error:
        shutil.copytree(shipped.find("ssam"), tmp_path / "mine")
    line = told(error.value)
    assert line and re.fullmatch(r".*: cannot be copied \(.*Permission denied.*\)", line) and "[(" not in line


def test_two_writers_of_one_file_do_not_meet_and_the_last_one_wins(tmp_path):
    path = tmp_path / "a.pt"
    with files.aside(path) as one:
        with files.aside(path) as other:
            assert one != other and other.suffix == ".pt"
            torch.save(torch.zeros(3), other)
        assert torch.load(path, weights_only=True).equal(torch.zeros(3))
        torch.save(torch.ones(3), one)
    assert torch.load(path, weights_only=True).equal(torch.ones(3)) and len(os.listdir(tmp_path)) == 1


def test_what_a_killed_process_left_is_removed_and_what_another_is_writing_is_not(tmp_path):
    path = tmp_path / "a.nii.gz"
    with files.aside(path) as old, files.aside(path) as fresh:
        old.touch(), fresh.touch()
        os.utime(old, (time.time() - 2 * files.STALE,) * 2)
        files.write_aside("new", path)
        assert not old.exists() and fresh.exists() and fresh.name.endswith(".nii.gz")
        old.touch()


def test_a_name_as_long_as_the_system_allows_is_written(tmp_path):
    files.write_aside("x", tmp_path / ("n" * 251 + ".txt"))


def test_a_folder_that_is_a_file_is_found_before_the_work(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(InputError, match="taken.*cannot be written.*key output_dir"):
        files.check_writable(tmp_path / "taken" / "out", "output_dir")
    files.check_writable(tmp_path / "free", "output_dir")
    assert os.listdir(tmp_path / "free") == []


def test_finding_out_whether_a_folder_can_be_written_touches_no_file_in_it(tmp_path):
    for name in ("probe", "test", ".probe", "tmp"):
        (tmp_path / name).write_text("of somebody else")
    files.check_writable(tmp_path, "output_dir")
    assert sorted(os.listdir(tmp_path)) == sorted(("probe", "test", ".probe", "tmp"))
    assert all(file.read_text() == "of somebody else" for file in tmp_path.iterdir())
