"""A folder that one process writes to is not written to by another."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys

import pytest
from bundle_runner import ROOT, SMALL, run, volumes
from network_tester import tiny_backbone

from sam_monai import PTSAM, InputError
from sam_monai.bundle import configuration
from sam_monai.bundle.export import export
from sam_monai.bundle.shipped import new
from sam_monai.locks import LOCK, hold, locked, release
from sam_monai.results import report

NETWORK = PTSAM(tiny_backbone(), ("spot",))
HOLD = """
import sys, time
from sam_monai.locks import locked
with locked(sys.argv[1], "training"):
    print(1, flush=True)
    time.sleep(600)
"""
TAKE_TURNS = """
import os, sys
from pathlib import Path
from sam_monai import InputError
from sam_monai.locks import locked
folder, done = Path(sys.argv[1]), 0
while done < 100:
    try:
        with locked(folder / "models", "training"):
            os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
            (folder / "inside").unlink()
            done += 1
    except InputError:
        pass
"""


def holder(folder) -> subprocess.Popen[str]:
    """A process that has the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "1\n"
    return process


def test_the_other_process_is_named_and_a_killed_one_is_taken_over_from(tmp_path):
    folder = tmp_path / "models"
    other = holder(folder)
    try:
        said = (
            rf"models is in use by training \(process {other.pid} on {socket.gethostname()}, since 20.*another folder"
        )
        with pytest.raises(InputError, match=said), locked(folder, "inference"):
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert (folder / LOCK).is_file()
    with locked(folder, "inference"):
        assert f'"process": {os.getpid()}' in (folder / LOCK).read_text()
    assert not list(folder.iterdir())


def test_a_folder_is_free_again_whatever_ended_the_work(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path, "training"):
        with pytest.raises(InputError, match=f"process {os.getpid()}"), locked(tmp_path, "training"):
            pass
        raise KeyboardInterrupt
    with locked(tmp_path, "training"):
        pass


def test_forked_workers_do_not_keep_the_lock(tmp_path):
    with locked(tmp_path, "training"):
        worker = multiprocessing.get_context("fork").Process(target=signal.pause)
        worker.start()
    try:
        with locked(tmp_path, "training"):
            pass
    finally:
        worker.kill()
        worker.join()


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\xfe", b'{"process": {}}'])
def test_a_lock_that_cannot_be_read_locks_all_the_same(tmp_path, content):
    with locked(tmp_path, "training"):
        (tmp_path / LOCK).write_bytes(content)
        with pytest.raises(InputError, match="in use by another process"), locked(tmp_path, "training"):
            pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match="file/models.*cannot be written"),
        locked(tmp_path / "file/models", "training"),
    ):
        pass


def test_of_many_processes_one_has_the_folder_at_a_time(tmp_path):
    processes = [subprocess.Popen([sys.executable, "-c", TAKE_TURNS, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]


def test_a_folder_that_is_held_is_free_again_when_it_is_released_or_the_process_ends(tmp_path):
    hold(tmp_path, "training")
    hold(tmp_path / ".." / tmp_path.name, "training")  # whoever has it may ask again
    code = "import sys; from sam_monai.locks import hold; hold(sys.argv[1], 'evaluation')"
    command = [sys.executable, "-c", code, str(tmp_path)]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1 and f"in use by training (process {os.getpid()}" in refused.stderr
    release(tmp_path)
    release(tmp_path)
    subprocess.run(command, check=True)
    assert not list(tmp_path.iterdir())


def test_of_two_processes_one_makes_a_bundle_or_an_export(tmp_path):
    made = {
        tmp_path / "mine": lambda path: new("ptsam", path),
        tmp_path / "mine.pt2": lambda path: export(NETWORK, path),
    }
    for path, make in made.items():
        other = holder(tmp_path / f".{path.name}.part")
        try:
            with pytest.raises(InputError, match=rf"in use by training \(process {other.pid}"):
                make(path)
        finally:
            other.kill()
            other.wait()
        assert not path.exists()
    new("ptsam", tmp_path / "mine")  # what the killed process left is no hindrance
    assert [path.name for path in tmp_path.iterdir() if "pt2" not in path.name] == ["mine"]
    with pytest.raises(InputError, match="mine exists already"):
        new("ptsam", tmp_path / "mine")


@pytest.mark.slow
def test_two_runs_with_one_folder_of_results_are_refused_before_the_second_one_trains(tmp_path):
    """Or with one folder of adapters, until all is written that tells of them."""
    data = volumes(tmp_path / "data")
    other = holder(tmp_path / "held")
    try:
        for output, models, *more in (("held", "m"), ("held", "m", "evaluate"), ("o", "held"), ("held", "held")):
            files = [f"{ROOT}/bundles/ptsam/configs/{name}.json" for name in ["train", *more]]
            where = {"dataset_dir": data, "ckpt_dir": tmp_path / models, "output_dir": tmp_path / output}
            flags = [word for key, value in where.items() for word in (f"--{key}", str(value))]
            command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files), *flags]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            *_, last = done.stderr.strip().splitlines()
            assert done.returncode == 1 and f"held is in use by training (process {other.pid}" in last
            assert not any((tmp_path / folder / "plan.json").exists() for folder in (output, models))
    finally:
        other.kill()
        other.wait()
    assert not (tmp_path / "m").exists()


def test_a_training_has_the_folder_of_its_adapter_until_its_report_is_written(tmp_path, monkeypatch):
    there = []

    def asked(*_, **__):
        with pytest.raises(InputError, match="m is in use by training"), locked(tmp_path / "m", "another"):
            pass
        there.append((tmp_path / "m/model.pt").is_file())

    monkeypatch.setattr(report, "write_report", asked)
    monkeypatch.setattr(configuration, "will_run", lambda: True)
    data = volumes(tmp_path / "data")
    run("ptsam", "train", dataset_dir=str(data), ckpt_dir=f"{tmp_path}/m", output_dir=f"{tmp_path}/o", **SMALL)
    assert there == [True]
    with locked(tmp_path / "m", "another"), locked(tmp_path / "o", "another"):
        pass


def test_a_folder_on_a_full_disk_is_had_nevertheless(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)  # of who has it; the work itself will say what it cannot write
    with locked(tmp_path / "a", "training"), pytest.raises(InputError, match="in use"), locked(tmp_path / "a", "more"):
        pass


def test_a_lock_that_is_a_link_empties_no_file_elsewhere(tmp_path):
    (tmp_path / "precious").write_text("years of work")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="cannot be written"), locked(tmp_path / "m", "training"):
        pass
    assert (tmp_path / "precious").read_text() == "years of work"
