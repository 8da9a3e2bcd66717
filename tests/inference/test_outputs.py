"""A result never replaces a file that was not written for that very case."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sam_monai import InputError
from sam_monai.data import made
from sam_monai.data.made import holds_outputs_alone, is_output
from sam_monai.inference.outputs import Outputs, picture_file


@pytest.fixture
def outputs(tmp_path):
    return Outputs(tmp_path / "out")


def write(outputs: Outputs, name: str, case: str, content: str = "result") -> None:
    outputs.write(content, outputs.folder / name, case)


def test_a_case_replaces_its_own_results_and_no_others(outputs):
    write(outputs, "a.png", "/d/a.png")
    write(outputs, "a.png", "/d/a.png", "again")
    with pytest.raises(InputError, match=r"a\.png: is there already and holds the results of /d/a\.png; .*/e/a\.png"):
        write(outputs, "a.png", "/e/a.png")
    assert (outputs.folder / "a.png").read_text() == "again"


def test_what_is_out_of_date_is_removed_if_it_is_of_that_very_case_and_unchanged(outputs):
    for name, case in (("a.png", "/d/a.png"), ("b.png", "/d/b.png")):
        write(outputs, name, case)
    outputs.remove(outputs.folder / "none.png", "/d/a.png")
    outputs.remove(outputs.folder / "a.png", "/d/b.png")
    assert (outputs.folder / "a.png").is_file()
    outputs.remove(outputs.folder / "a.png", "/d/a.png")
    assert not (outputs.folder / "a.png").exists()
    (outputs.folder / "b.png").write_text("somebody's")
    outputs.remove(outputs.folder / "b.png", "/d/b.png")
    assert (outputs.folder / "b.png").read_text() == "somebody's"


@pytest.mark.parametrize("there", ["file", "changed", "folder", "link", "broken link", "fifo"])
def test_whatever_else_is_there_stays_as_it_is(outputs, tmp_path, there):
    path, other = outputs.folder / "a.png", tmp_path / "other.png"
    other.write_text("somebody's")
    outputs.folder.mkdir()
    if there == "changed":
        write(outputs, "a.png", "/d/a.png")
    if there in ("file", "changed"):
        path.write_text("somebody's")
    elif there == "folder":
        path.mkdir()
    elif there == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(other if there == "link" else tmp_path / "nowhere")
    before = os.lstat(path)
    with pytest.raises(InputError, match=r"a\.png: is there already.*/d/a\.png"):
        outputs.check([(path, "/d/a.png")])
    with pytest.raises(InputError, match=r"a\.png: is there already.*/d/a\.png"):
        write(outputs, "a.png", "/d/a.png")
    assert os.lstat(path)[:3] == before[:3] and other.read_text() == "somebody's"
    assert there not in ("file", "changed") or path.read_text() == "somebody's"


def test_two_cases_that_would_share_a_file_are_named_whatever_the_letters_case(outputs):
    claims = [(outputs.folder / name, f"/d/{name}") for name in ("a_seg.png", "A_seg.png")]
    with pytest.raises(InputError, match=r"/d/a_seg\.png and /d/A_seg\.png"):
        outputs.check(claims)


def test_a_case_is_the_same_by_whatever_link_it_is_reached(outputs, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    write(outputs, "a.png", f"{tmp_path}/data/a.png")
    write(outputs, "a.png", f"{tmp_path}/link/a.png")
    (tmp_path / "out link").symlink_to(outputs.folder)
    write(Outputs(tmp_path / "out link"), "a.png", f"{tmp_path}/data/a.png")


def test_what_was_written_when_the_process_was_killed_is_known(outputs):
    """The list is ahead of the files, and a line that was cut short costs nothing but itself."""
    write(outputs, "a.png", "/d/a.png", "first")
    with pytest.raises(RuntimeError), outputs.writing(outputs.folder / "a.png", "/d/a.png") as part:
        part.write_text("second")
        raise RuntimeError
    with next((outputs.folder / "written").iterdir()).open("a") as file:
        file.write('\n{"file": "a.png", "ca')
    write(outputs, "a.png", "/d/a.png", "third")
    write(outputs, "a.png", "/d/a.png", "fourth")


@pytest.mark.parametrize("line", ["[]", '{"file": 1}', '{"file": "a", "case": [], "sha256": {}}', "\\xff", "[" * 9999])
def test_a_list_that_was_tampered_with_owns_nothing(outputs, line):
    outputs.folder.mkdir()
    (outputs.folder / "a.png").write_text("somebody's")
    (outputs.folder / "written").mkdir()
    (outputs.folder / "written/0.jsonl").write_text(line)
    with pytest.raises(InputError, match="not written by this package"):
        write(outputs, "a.png", "/d/a.png")


def test_results_are_told_from_images(outputs):
    write(outputs, "a_seg.png", "/d/a.png")
    write(outputs, "b_seg.png", "/d/b.png")
    (outputs.folder / "b_seg.png").write_text("corrected")
    (outputs.folder / "c.png").write_text("image")
    found = {name: is_output(outputs.folder / name, {}) for name in ("a_seg.png", "b_seg.png", "c.png")}
    assert found["a_seg.png"] == "" and found["c.png"] is None
    assert "result of /d/b.png and has been changed" in str(found["b_seg.png"])


def test_pictures_of_a_case_have_the_name_of_no_image_and_no_mask(tmp_path):
    names = ["a", "a_seg", "a_picture", "a_seg_picture", "a_picture_seg"]
    files = [f"{name}_seg.png" for name in names] + [picture_file(tmp_path, name, 2).name for name in names]
    assert len(set(files)) == len(files)


def test_processes_that_write_at_once_know_each_others_files(tmp_path):
    code = (
        "import sys; from pathlib import Path; from sam_monai.inference.outputs import Outputs\n"
        "out = Outputs(sys.argv[1])\n"
        "for i in range(200): out.write(f'{sys.argv[2]} {i}', out.folder / 'report.html')"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), rank], env=os.environ | {"RANK": rank})
        for rank in ("0", "1")
    ]
    assert [run.wait(120) for run in runs] == [0, 0]


def test_a_folder_that_cannot_be_read_is_told_of_and_ends_nothing(tmp_path, monkeypatch):
    def refused(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    assert not holds_outputs_alone(tmp_path, {})


def test_of_a_list_that_is_known_the_new_lines_alone_are_read(tmp_path, monkeypatch):
    """Of ten thousand pictures each asks for it several times."""
    outputs, parsed = Outputs(tmp_path), []
    monkeypatch.setattr(made.json, "loads", lambda text, real=json.loads: parsed.append(text) or real(text))
    for run in ("one", "two"):
        for i in range(30):
            outputs.write(run, tmp_path / f"{i}.txt", f"/in/{i}.png")
    assert len(parsed) < 200 and (tmp_path / "7.txt").read_text() == "two"
    (tmp_path / "7.txt").write_text("by hand")
    with pytest.raises(InputError, match=r"7\.txt: is there already and has been changed"):
        outputs.write("three", tmp_path / "7.txt", "/in/7.png")
    shutil.rmtree(tmp_path / "written")  # lists that are gone say nothing
    with pytest.raises(InputError, match="was not written by this package"):
        outputs.write("three", tmp_path / "8.txt", "/in/8.png")


@pytest.mark.parametrize("link", ["written", "written/0.jsonl"])
def test_a_list_that_is_a_link_adds_to_no_file_elsewhere(tmp_path, link):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/0.jsonl").write_text("mine")
    (tmp_path / "o" / link).parent.mkdir(parents=True)
    (tmp_path / "o" / link).symlink_to(tmp_path / "elsewhere" / ("" if link == "written" else "0.jsonl"))
    with pytest.raises(InputError):
        Outputs(tmp_path / "o").write("x", tmp_path / "o/a.txt", "/d/a.png")
    assert (tmp_path / "elsewhere/0.jsonl").read_text() == "mine" and len(list((tmp_path / "elsewhere").iterdir())) == 1
