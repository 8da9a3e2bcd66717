"""Segmenting a folder replaces no file of others, segments no result of its own, and says all that it left out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from bundle_runner import ROOT, SMALL, run, start, write_json
from PIL import Image

from sam_monai import InputError
from sam_monai.inference.records import fingerprint, read_record
from sam_monai.locks import locked
from sam_monai.prompts.prompt_files import prompts_beside


def picture(path, seed=0):
    array = np.random.default_rng(seed).integers(60, 100, (24, 28, 3)).astype(np.uint8)
    array[5:13, 10:19] = (200, 150, 120)
    Image.fromarray(array).save(path)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    for i, name in enumerate("abc"):
        picture(folder / f"{name}.png", i)
        mask = np.zeros((24, 28), np.uint8)
        mask[5:13, 10:19] = 1
        Image.fromarray(mask).save(folder / f"{name}_label.png")
    cases = [{"image": f"{n}.png", "label": f"{n}_label.png"} for n in "abc"]
    labels = {"0": "background", "1": "<b> $\\frac$ 肝臓"}
    write_json(folder, modality={"0": "RGB"}, labels=labels, training=cases[:2], validation=cases[2:])
    where = {"dataset_dir": str(folder), "ckpt_dir": f"{folder}/models", "output_dir": f"{folder}/output"}
    run("ptsam", "train", **where, **(SMALL | {"epochs": 1}))
    assert (folder / "output/validation/c_picture.png").is_file()
    return f"{folder}/models/model.pt"


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, name in enumerate("ab"):
        picture(folder / f"{name}.png", i)
    return folder


def segment(adapter, images, out, **more):
    return run("ptsam", "inference", dataset_dir=str(images), adapter=adapter, output_dir=str(out), **more)


def contents(folder) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("out", [".", "link", "results", ".."])
def test_results_beside_images_replace_none_and_are_not_segmented(adapter, images, tmp_path, out):
    (tmp_path / "link").symlink_to(images)
    out = tmp_path / "link" if out == "link" else images / out
    before = contents(images)
    for _ in range(2):
        segment(adapter, images, out)
        after = contents(images)
        assert {name: after[name] for name in before} == before
        assert {file.stem for file in (out / "manifest").iterdir()} == {"a", "b"}
    segment(adapter, images, tmp_path / "other")
    assert {file.stem for file in (tmp_path / "other/manifest").iterdir()} == {"a", "b"}


@pytest.mark.parametrize("name", ["a_seg.png", "a_picture.png", "report.html", "manifest/a.json", "manifest"])
def test_what_is_already_there_is_named_before_the_work(adapter, images, tmp_path, name):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("somebody's")
    with pytest.raises(InputError, match=re.escape(f"{out / name}")):
        segment(adapter, images, out)
    assert (out / name).read_text() == "somebody's" and not list(out.glob("b*"))


def test_a_mask_that_somebody_corrected_stays(adapter, images, tmp_path):
    out = tmp_path / "out"
    segment(adapter, images, out)
    corrected = (out / "a_seg.png").read_bytes() + b"corrected"
    (out / "a_seg.png").write_bytes(corrected)
    segment(adapter, images, out)  # done already
    with pytest.raises(InputError, match=r"a_seg\.png: is there already and has been changed"):
        segment(adapter, images, out, fill_holes=True)
    assert (out / "a_seg.png").read_bytes() == corrected


def test_an_image_with_the_name_of_anothers_mask_has_a_mask_of_its_own(adapter, images, tmp_path):
    picture(images / "a_seg.png", 7)
    picture(images / "A.png", 8)
    out = tmp_path / "out"
    segment(adapter, images, out)
    found = {record["image"]: record["mask"] for record in map(json.loads, contents(out / "manifest").values())}
    assert len(found) == 4 and len({mask.casefold() for mask in found.values()}) == 4
    for mask in found.values():
        with Image.open(out / mask) as shown:
            assert shown.mode == "L" and shown.size == (28, 24)


@pytest.mark.parametrize(
    "content", [b"[]", b"{", b"null", b"{}", b'{"image": 3}', b'{"image": "a", "error": ""}', b"\xff\xfe", b"[" * 99999]
)
def test_a_record_that_was_damaged_costs_no_mask(adapter, images, tmp_path, content):
    out = tmp_path / "out"
    segment(adapter, images, out)
    mask = (out / "a_seg.png").read_bytes()
    (out / "manifest/a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"manifest/a\.json: is there already and has been changed"):
        segment(adapter, images, out)
    assert (out / "a_seg.png").read_bytes() == mask and (out / "manifest/a.json").read_bytes() == content
    (out / "manifest/a.json").unlink()
    segment(adapter, images, out)
    assert json.loads((out / "manifest/a.json").read_text())["mask"] == "a_seg.png"


def test_a_record_that_cannot_be_written_stops_no_other_study(adapter, images, tmp_path, monkeypatch):
    workflow = start("ptsam", "inference", dataset_dir=str(images), adapter=adapter, output_dir=f"{tmp_path}/out")
    workflow.initialize()
    studies = workflow.parser.get_parsed_content("studies")
    real = type(studies.outputs).write

    def full(self, content, path, case=""):
        if path.name == "a.json":
            raise InputError("the disk is full")
        real(self, content, path, case)

    monkeypatch.setattr(type(studies.outputs), "write", full)
    with pytest.raises(InputError, match="(?s)1 of 2 studies.*a.png: its record is missing: the disk is full"):
        studies.run()
    assert (tmp_path / "out/b_seg.png").is_file() and (tmp_path / "out/manifest/b.json").is_file()


def test_a_report_that_cannot_be_written_is_no_study(adapter, images, tmp_path, monkeypatch):
    """Else a run in which each study fails counts one more than there are."""
    workflow = start("ptsam", "inference", dataset_dir=str(images), adapter=adapter, output_dir=f"{tmp_path}/out")
    workflow.initialize()
    studies = workflow.parser.get_parsed_content("studies")

    def full(*_):
        raise InputError("report.html: the disk is full")

    monkeypatch.setattr(studies, "write_report", full)
    with pytest.raises(InputError, match=r"^the report is missing: report\.html: the disk is full$"):
        studies.run()
    monkeypatch.setattr(type(studies.outputs), "write", full)
    (images / "a.png").write_bytes(b""), (images / "b.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"(?s)^2 of 2 studies.*\nthe report is missing: report\.html"):
        studies.run()


def test_what_was_passed_over_is_in_the_report_and_in_the_exit(adapter, images, tmp_path):
    workflow = start("ptsam", "inference", dataset_dir=str(images), adapter=adapter, output_dir=f"{tmp_path}/out")
    workflow.initialize()
    studies = workflow.parser.get_parsed_content("studies")
    studies.passed_over = [("/d/odd<b>.dcm", "it has no orientation")]
    with pytest.raises(InputError, match=r"/d/odd<b>\.dcm: not segmented, it has no orientation"):
        studies.run()
    page = (tmp_path / "out/report.html").read_text()
    assert "odd&lt;b&gt;.dcm" in page and "/d/odd" not in page  # the page is handed on
    assert "it has no orientation" in page and "2 studies segmented, 1 not" in page


def test_a_folder_in_use_is_refused_and_the_other_process_named(adapter, images, tmp_path):
    holder = (
        "import sys; from sam_monai.locks import locked\n"
        "with locked(sys.argv[1], 'segmenting'):\n print('held', flush=True); sys.stdin.read()"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", holder, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout.readline().strip() == "held"
        with pytest.raises(InputError, match=str(other.pid)):
            segment(adapter, images, out)
        other.kill()
    segment(adapter, images, out)
    with locked(out, "segmenting"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_found_before_the_work(adapter, images, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(InputError, match="output_dir"):
        segment(adapter, images, tmp_path / "out")


def test_a_file_in_place_of_the_folder_is_found_before_the_work(adapter, images, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="output_dir"):
        segment(adapter, images, tmp_path / "out")


def test_the_time_of_the_others_is_told_after_the_first(adapter, images, tmp_path, capfd):
    segment(adapter, images, tmp_path / "out")
    assert re.search(r"a study took .*; 1 more take about", "".join(capfd.readouterr()))


def test_a_name_that_is_no_utf8_is_segmented_and_told_of_as_any_other(adapter, images, tmp_path):
    """As of an old archive, unpacked on Linux."""
    odd = os.fsdecode(os.fsencode(images) + b"/K\xf6hler.png")
    try:
        picture(odd, 3)
    except OSError:
        pytest.skip("this file system takes no such names")
    (images / os.fsdecode(b"r\xe9sum\xe9.docx")).touch()
    for _ in range(2):
        with pytest.raises(InputError, match="1 of 4 studies could not be segmented"):
            segment(adapter, images, tmp_path / "out")
        records = [read_record(file) for file in (tmp_path / "out/manifest").iterdir()]
        assert {record["image"] for record in records if record} == {f"{images}/a.png", f"{images}/b.png", odd}
        assert "K\\udcf6hler" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_prompts_beside_the_file_that_is_named_are_looked_at_whichever_channel_it_is(tmp_path):
    image, first = tmp_path / "case_FLAIR.png", tmp_path / "case_T1.png"
    for file in (image, first):
        picture(file)
    before = fingerprint(first, image, prompts=prompts_beside(image))
    prompts_beside(image).write_text("{}")
    assert fingerprint(first, image, prompts=prompts_beside(image)) != before
