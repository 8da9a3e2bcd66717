"""Many studies: a manifest, a report, broken and finished ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pydicom
import pytest
from bad_itk_files import mha, nrrd
from bundle_runner import ROOT, SMALL, run, volumes
from dicom_maker import write_series

from sam_monai import PTSAM, InputError
from sam_monai.inference.masks import SaveMasks
from sam_monai.inference.records import fingerprint
from sam_monai.networks.adapter_files import read_adapter, read_training, write_adapter
from sam_monai.results.html_report import evaluation_report
from sam_monai.results.page import cell
from sam_monai.results.tables import read_table

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    volumes(folder / "data")
    run(
        "ptsam",
        "train",
        dataset_dir=f"{folder}/data",
        ckpt_dir=f"{folder}/models",
        output_dir=f"{folder}/output",
        **SMALL,
    )
    return folder


@pytest.fixture
def studies(tmp_path):
    """Three studies in folders of their own, of which two have the same file names, and a broken one."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        array = rng.normal(0, 50, (24, 20, 6)).astype(np.int16)
        array[6:14, 5:12, 2:5] += 400
        write_series(tmp_path / "studies" / name / "series", array, np.diag([1.0, 1.0, 3.0, 1.0]))
    nib.save(
        nib.Nifti1Image(rng.normal(0, 50, (24, 20, 6)), np.diag([1.0, 1.0, 3.0, 1.0])), tmp_path / "studies/c.nii.gz"
    )
    (tmp_path / "studies/broken.nii.gz").write_bytes(b"no image")
    return tmp_path / "studies"


def settings(trained, studies, out) -> dict[str, str]:
    return {"dataset_dir": str(studies), "adapter": f"{trained}/models/model.pt", "output_dir": str(out)}


def records(out) -> dict[str, dict]:
    return {file.stem: json.loads(file.read_text()) for file in (out / "manifest").glob("*.json")}


def test_a_broken_study_is_reported_and_the_rest_is_segmented_once(trained, studies, tmp_path):
    out = tmp_path / "out"
    with pytest.raises((InputError, RuntimeError)) as caught:
        run("ptsam", "inference", **settings(trained, studies, out))
    message = str(caught.value.__cause__ or caught.value)
    assert "1 of 4 studies could not be segmented" in message and "broken.nii.gz: cannot be read" in message
    found = records(out)
    assert set(found) == {"series", "b_series", "c", "broken"}
    assert "cannot be read" in found["broken"]["error"] and not found["c"]["error"]
    assert all((out / found[name]["mask"]).is_file() and (out / f"{name}.png").is_file() for name in ("series", "c"))
    page = (out / "report.html").read_text()
    assert page.index("broken.nii.gz") < page.index("c.nii.gz") and "3 studies segmented, 1 not" in page

    (studies / "broken.nii.gz").unlink()
    masks = {name: (out / found[name]["mask"]) for name in ("series", "b_series", "c")}
    times = {name: mask.stat().st_mtime_ns for name, mask in masks.items()}
    masks["c"].unlink()  # as if the run had been killed before it
    run("ptsam", "inference", **settings(trained, studies, out))
    again = {name: mask.stat().st_mtime_ns for name, mask in masks.items()}
    assert {name for name in masks if again[name] != times[name]} == {"c"}
    run("ptsam", "inference", fill_holes=True, **settings(trained, studies, out))
    assert all(mask.stat().st_mtime_ns != again[name] for name, mask in masks.items())


@pytest.mark.parametrize("made", [nrrd(b"", "x.nhdr", data_file="x.raw"), mha(b"", "x.mhd", ElementDataFile="x.raw")])
def test_a_change_of_the_values_beside_a_header_is_seen(made, tmp_path):
    path, values = made(tmp_path), tmp_path / "x.raw"
    values.write_bytes(b"0" * 100)
    before = fingerprint(path)
    assert fingerprint(path) == before
    values.write_bytes(b"0" * 101)
    assert fingerprint(path) != before


def test_a_slice_that_is_exchanged_for_an_older_one_of_its_size_is_seen(tmp_path):
    files = write_series(tmp_path / "x", np.zeros((8, 8, 4), np.int16), np.eye(4))
    before = fingerprint(tmp_path / "x")
    os.utime(files[1], ns=(1, 1))
    assert fingerprint(tmp_path / "x")[:2] == before[:2] and fingerprint(tmp_path / "x") != before


@pytest.mark.parametrize(
    "key, value",
    [("intensity", "ct"), ("spacing", [1, 1, 2]), ("ct_window", [0, 9]), ("spatial_dims", 2), ("scale", "patch"),
     ("labels", ["x", "y"]), ("image_size", 96), ("depth_attention", True)],
)  # fmt: skip
def test_images_that_would_be_prepared_otherwise_than_in_training_are_refused_before_the_work(
    trained, studies, tmp_path, key, value
):
    with pytest.raises(InputError, match=f"model.pt: the adapter was made for (images prepared with )?{key} "):
        run("ptsam", "inference", **settings(trained, studies, tmp_path / "out"), **{key: value})
    assert not (tmp_path / "out/manifest").exists()


def test_masks_of_an_earlier_run_are_not_overwritten_by_another_study_of_the_same_name(trained, studies, tmp_path):
    where = settings(trained, studies, tmp_path / "o")
    run("ptsam", "inference", **(where | {"dataset_dir": f"{studies}/a/series"}))
    first = (tmp_path / "o/series_seg.nii.gz").read_bytes()
    run("ptsam", "inference", **(where | {"dataset_dir": f"{studies}/b/series"}))
    assert (tmp_path / "o/series_seg.nii.gz").read_bytes() == first
    assert (tmp_path / "o/b_series_seg.nii.gz").is_file()


def test_what_another_adapter_left_and_this_run_does_not_write_is_gone(trained, studies, tmp_path):
    shutil.copy(f"{trained}/models/model.pt", tmp_path / "model.pt")
    where = settings(trained, studies, tmp_path / "o") | {
        "dataset_dir": f"{studies}/a",
        "adapter": f"{tmp_path}/model.pt",
    }
    run("ptsam", "inference", **where, probabilities=True, mask_format="dicom_seg")
    assert {"series.png", "series_seg.dcm", "series_prob.nii.gz"} <= {f.name for f in (tmp_path / "o").iterdir()}
    change(tmp_path / "model.pt")
    run("ptsam", "inference", **where, pictures=0)
    left = {f.name for f in (tmp_path / "o").iterdir() if f.is_file()}
    assert left == {"series_seg.nii.gz", "report.html", "studies.csv"}


def test_of_a_study_that_fails_now_nothing_of_another_adapter_stays(trained, studies, tmp_path):
    """Its mask would pass for one of this run, and the report would show its picture."""
    shutil.copy(f"{trained}/models/model.pt", tmp_path / "model.pt")
    where = settings(trained, studies, tmp_path / "o") | {
        "dataset_dir": f"{studies}/c.nii.gz",
        "adapter": f"{tmp_path}/model.pt",
    }
    run("ptsam", "inference", **where, probabilities=True)
    assert {"c.png", "c_seg.nii.gz", "c_prob.nii.gz"} <= {f.name for f in (tmp_path / "o").iterdir()}
    change(tmp_path / "model.pt")
    (studies / "c.nii.gz").write_bytes(b"no image")
    with pytest.raises((InputError, RuntimeError)):
        run("ptsam", "inference", **where)
    left = {f.name for f in (tmp_path / "o").iterdir() if f.is_file()}
    assert left == {"report.html", "studies.csv"}
    assert "data:image/png" not in (tmp_path / "o/report.html").read_text()


def test_an_adapter_that_is_replaced_meanwhile_leaves_no_mask_that_passes_for_the_old_ones(
    trained, studies, tmp_path, monkeypatch
):
    shutil.copy(f"{trained}/models/model.pt", tmp_path / "model.pt")
    save = SaveMasks.save

    def replaced(self, mask, source):
        if "series" in source:
            change(tmp_path / "model.pt")
        return save(self, mask, source)

    monkeypatch.setattr(SaveMasks, "save", replaced)
    where = settings(trained, studies, tmp_path / "o") | {"adapter": f"{tmp_path}/model.pt"}
    (studies / "broken.nii.gz").unlink()
    with pytest.raises(InputError, match=r"model\.pt: was replaced while images were segmented with it; run the same"):
        run("ptsam", "inference", **where)
    monkeypatch.undo()
    run("ptsam", "inference", **where)
    found = records(tmp_path / "o")
    assert len({record["made by"]["adapter"] for record in found.values()}) == 1
    assert not any(record["error"] for record in found.values())


def change(adapter) -> None:
    state = read_adapter(adapter)
    name = next(key for key in state if key != "identity")
    write_adapter({**state, name: state[name] * 1.5}, adapter, read_training(adapter))


def test_volumes_in_subfolders_keep_the_tree_and_results_in_it_are_never_segmented(trained, tmp_path):
    top = tmp_path / "studies"
    rng = np.random.default_rng(0)
    files = ("ct.nii.gz", "p1/ct.nii.gz", "p1/2024/ct.nii.gz", "p2/ct.nii.gz", "p2/CT.nii.gz")
    for name in files:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(rng.normal(0, 50, (24, 20, 6)), np.diag([1.0, 1.0, 3.0, 1.0])), top / name)
    before = {name: (top / name).read_bytes() for name in files}
    masks = {"ct", "p1/ct", "p1/2024/ct", "p2/CT", "p2/p2_ct"}
    for out in (tmp_path / "out", top, top / "results"):
        run("ptsam", "inference", **settings(trained, top, out))
        found = {file.relative_to(out).as_posix() for file in out.rglob("*_seg.nii.gz")}
        assert masks == {name.removesuffix("_seg.nii.gz") for name in found if not name.startswith("results/")}
        made = [json.loads(file.read_text()) for file in (out / "manifest").rglob("*.json")]
        assert {record["image"] for record in made} == {f"{top}/{name}" for name in files}
        assert all(
            (out / record["mask"]).with_name(f"{(out / record['mask']).name[:-11]}.png").is_file() for record in made
        )
        times = {file: file.stat().st_mtime_ns for file in out.rglob("*_seg.nii.gz")}
        run("ptsam", "inference", **settings(trained, top, out))  # all is done already
        assert times == {file: file.stat().st_mtime_ns for file in out.rglob("*_seg.nii.gz")}
    assert before == {name: (top / name).read_bytes() for name in files}
    corrected = top / "p1/ct_seg.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((24, 20, 6), np.uint8), np.diag([1.0, 1.0, 3.0, 1.0])), corrected)
    with pytest.raises(InputError, match=r"p1/ct_seg\.nii\.gz: not segmented, has the name of a result"):
        run("ptsam", "inference", **settings(trained, top, tmp_path / "out"))


def test_a_series_that_no_dicom_seg_can_be_made_for_is_told_at_the_end(trained, studies, tmp_path):
    for file in (studies / "a/series").iterdir():
        dataset = pydicom.dcmread(file)
        dataset.StudyInstanceUID = ""
        dataset.save_as(file)
    where = settings(trained, studies, tmp_path / "o") | {"dataset_dir": f"{studies}/a"}
    with pytest.raises(InputError, match="(?s)1 of 1 studies.*has no StudyInstanceUID.*kept as NIfTI"):
        run("ptsam", "inference", **where, mask_format="dicom_seg")
    assert (tmp_path / "o/series_seg.nii.gz").is_file()
    assert "StudyInstanceUID" in (tmp_path / "o/report.html").read_text()


def test_millilitres_are_those_of_the_mask(trained, studies, tmp_path):
    bright = "$lambda case: {**case, 'pred': (case['image'] > 0.6).long() + (case['image'] > 0.8).long()}"
    where = settings(trained, studies, tmp_path / "o") | {"dataset_dir": f"{studies}/c.nii.gz"}
    run("ptsam", "inference", postprocessing=bright, orientation="RAS", **where)
    record = records(tmp_path / "o")["c"]
    mask = np.asarray(nib.load(tmp_path / "o" / record["mask"]).dataobj)
    assert mask.any()
    for value in (1, 2):
        assert record["millilitres"].get(str(value), 0) == pytest.approx((mask == value).sum() * 3 / 1000, rel=1e-5)


def test_an_object_that_is_answered_with_nothing_is_listed_as_empty(trained, studies, tmp_path, caplog, capsys):
    objects: list[dict] = [{"points": [[3, 4, i]], "labels": [1]} for i in range(3)]
    objects[1]["label"] = "bright"
    (studies / "d.nii.gz.prompts.json").write_text(json.dumps({"objects": objects}))
    (studies / "c.nii.gz.prompts.json").write_text(json.dumps({"objects": objects}))
    two = "$lambda case: {**case, 'pred': (case['image'] > 0.6).long() + (case['image'] > 0.8).long()}"
    where = settings(trained, studies, tmp_path / "o") | {"dataset_dir": f"{studies}/c.nii.gz"}
    run("ptsam", "inference", postprocessing=two, **{"masks#prompted": "$lambda file: True"}, **where)
    assert records(tmp_path / "o")["c"]["prompted"] == 3
    rows = read_table(tmp_path / "o/studies.csv")
    assert [row["label"] for row in rows] == ["object 1", "object 2, bright", "object 3"]
    assert "d.nii.gz.prompts.json: is not used, for there is no d.nii.gz" in caplog.text
    assert "prompts found for 1 of 1 image" in capsys.readouterr().out
    assert [int(row["voxels"]) > 0 for row in rows] == [True, True, False] and rows[2]["ml"] == "0.0"


def test_mistakes_in_prompts_are_all_told_once_before_the_image_is_read(trained, studies, tmp_path, capsys):
    objects = [{"points": [[3, 4]], "labels": [1]}, {"box": [1, 1, 1, 2, 2, 2]}, {"bux": []}]
    (studies / "broken.nii.gz.prompts.json").write_text(json.dumps({"objects": objects}))
    where = settings(trained, studies, tmp_path / "o") | {"dataset_dir": f"{studies}/broken.nii.gz"}
    with pytest.raises((InputError, RuntimeError)) as caught:
        run("ptsam", "inference", **{"masks#prompted": "$lambda file: True"}, **where)
    message = str(caught.value.__cause__ or caught.value)
    assert "object 1: its points" in message and "object 3: unknown key 'bux'" in message
    assert message.count("write it like") == 1 and "object 1: its points" not in "".join(capsys.readouterr())


def test_prompts_of_an_adapter_that_takes_none_are_refused_before_the_first_study(
    trained, studies, tmp_path, monkeypatch
):
    monkeypatch.setattr(PTSAM, "prompted", False, raising=False)
    file = studies / "c.nii.gz.prompts.json"
    file.write_text(json.dumps({"objects": [{"points": [[3, 4, 1]], "labels": [1]}]}))
    with pytest.raises((InputError, RuntimeError)) as caught:
        run("ptsam", "inference", **{"masks#prompted": f"$lambda f: str(f) == '{studies}/c.nii.gz'"},
            **settings(trained, studies, tmp_path / "o"))  # fmt: skip
    message = str(caught.value.__cause__ or caught.value)
    assert message.startswith(f"{file}: ") and "leave them out, or train again without --draws 0" in message
    assert not list((tmp_path / "o").rglob("*.nii.gz"))


def test_processes_share_the_studies_out(trained, studies, tmp_path):
    (studies / "broken.nii.gz").unlink()
    out = tmp_path / "out"
    for rank in range(2):
        environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        arguments = [f"--{k}={v}" for k, v in settings(trained, studies, out).items()]
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "bundles/ptsam/configs/inference.json"]
        done = subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("mask: ") + done.stderr.count("mask: ") == 2 - rank
    assert set(records(out)) == {"series", "b_series", "c"}
    assert "3 studies segmented, 0 not" in (out / "report.html").read_text()


@pytest.mark.slow
def test_processes_of_torchrun_end_together_and_the_exit_status_tells_of_a_failure(trained, studies, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run", "--config_file", "bundles/ptsam/configs/inference.json"]
    command += [f"--{key}={value}" for key, value in settings(trained, studies, out).items()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode and "error: 1 of 4 studies" in done.stderr
    made = re.findall(r"mask: \S*/(\w+)_seg", done.stdout + done.stderr)
    assert sorted(made) == ["b_series", "c", "series"]  # none of them twice
    assert set(records(out)) == {"series", "b_series", "c", "broken"}
    assert "3 studies segmented, 1 not" in (out / "report.html").read_text()


@needs_browser
def test_the_report_of_an_evaluation_opens_in_a_browser_and_shows_the_tables_numbers(trained, tmp_path):
    out = tmp_path / "evaluation"
    run("ptsam", "train", "evaluate", dataset_dir=f"{trained}/data", ckpt_dir=f"{trained}/models", output_dir=str(out))
    page = out / "report.html"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}/profile"]  # fmt: skip
    shown = subprocess.run([CHROMIUM, *flags, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    text = re.sub(r"<[^>]+>", " ", shown.stdout)
    rows = (out / "cases.csv").read_text().splitlines()[1:]
    assert rows
    for row in rows:
        _, label, dice, *_ = row.split(",")
        assert re.search(rf"{label}\s+{cell(float(dice))}\s", text)
    assert "Training" in text and "The case" in text and "torch" in text
    assert not re.search(r"(src|href)=\"(?!data:|#)", page.read_text())
    picture = tmp_path / "page.png"
    subprocess.run([CHROMIUM, *flags, f"--screenshot={picture}", "--window-size=1000,1600", page.as_uri()],
                   check=True, timeout=120, capture_output=True)  # fmt: skip
    from PIL import Image

    with Image.open(picture) as image:
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 200


def test_the_worst_case_comes_first(tmp_path):
    dice = {"x": 0.9, "y": 0.2, "z": 0.5}
    rows = [{"case": c, "label": "a", "dice": d, "hd95": 1.0, "surface_dice": 1.0} for c, d in dice.items()]
    page = evaluation_report(rows, {}, {}, [], tmp_path / "r.html").read_text()
    assert page.index("<td>y<") < page.index("<td>z<") < page.index("<td>x<")
