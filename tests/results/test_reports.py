"""The report of an evaluation: settings, sizes beside those of the reference, the worst cases in pictures."""

from __future__ import annotations

import math
import re
import time
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from monai.data import MetaTensor

from sam_monai import PTSAM
from sam_monai.inference.records import SEEN
from sam_monai.networks.adapter_files import training_summary, write_adapter
from sam_monai.results.drawing import case_rows, label_colours, view
from sam_monai.results.html_report import evaluation_report, figures, in_short, studies_report
from sam_monai.results.metrics import CaseTable
from sam_monai.results.pictures import Pictures
from sam_monai.results.report import write_report

SETTINGS = {"spatial_dims": 3, "orientation": "axial", "channels": None}
AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])


def evaluated(folder, shifts, most=2, labels=("ball",)):
    """An evaluation of made volumes, a case a shift of the mask; `None` misses it."""
    (folder / "images").mkdir(exist_ok=True)
    cases = []
    for name, shift in shifts.items():
        file = folder / "images" / f"{name}.nii.gz"
        if not file.exists():
            noise = np.random.default_rng(0).random((16, 12, 8), np.float32)
            nib.save(nib.Nifti1Image(noise, AFFINE), file)
        label = torch.zeros(1, 16, 12, 8)
        label[:, 4:9, 3:8, 2:6] = 1
        pred = torch.zeros_like(label) if shift is None else label.roll(shift, 1)
        meta = {"filename_or_obj": str(file)}
        one = [MetaTensor(x, affine=torch.tensor(AFFINE), meta=meta) for x in (pred, label)]
        cases.append({"image": one[1], "pred": one[0], "label": one[1]})
    table = CaseTable(labels, folder / "out")
    pictures = Pictures(labels, folder / "out", SETTINGS, most=most)
    pictures.begin()
    for case in cases:
        engine = SimpleNamespace(state=SimpleNamespace(output=[case]))
        table.collect(engine)
        pictures.draw(engine)
    table.finish()
    pictures.draw_worst()
    return table, pictures


def words(page) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    network = PTSAM("lite_medsam", labels=["ball"], image_size=64, preprocessing=None)
    training = training_summary(40, 30, 0.8, 7, 3) | {"settings": {"seed": 11, "learning_rate": 0.0075}}
    path = tmp_path_factory.mktemp("models") / "model.pt"
    write_adapter(network.state_dict(), path, training)
    return path


def test_the_worst_cases_are_drawn_and_no_picture_of_an_earlier_run_stays(tmp_path):
    _, pictures = evaluated(tmp_path, {"a": 0, "b": 3, "c": 1, "d": None})
    assert [file.name for file in pictures.written] == ["d.png", "b.png"]
    _, pictures = evaluated(tmp_path, {"a": 2, "b": 0, "c": 3, "d": 1})
    assert [file.name for file in pictures.written] == ["c.png", "a.png"]
    assert sorted(file.name for file in (tmp_path / "out").glob("*.png")) == ["a.png", "c.png"]


def test_a_picture_that_somebody_changed_stays(tmp_path):
    evaluated(tmp_path, {"a": 3, "b": 0}, most=1)
    (tmp_path / "out/a.png").write_bytes(b"mine")
    evaluated(tmp_path, {"a": 0, "b": 3}, most=1)
    assert (tmp_path / "out/a.png").read_bytes() == b"mine" and (tmp_path / "out/b.png").is_file()


@pytest.mark.parametrize("flip, first", [(1, 0), (-1, 7)])
def test_slices_are_numbered_as_in_the_file_and_directions_are_the_patients(flip, first):
    affine = np.diag([1.0, 2.0, 3.0 * flip, 1.0])
    volume = MetaTensor(torch.zeros(1, 16, 12, 8), affine=torch.tensor(affine))
    volume[..., first] = 1
    seen = view(volume, "axial")
    (k,) = np.flatnonzero(seen.planes.any((0, 1, 2)))
    assert seen.numbers[k] == first and sorted(seen.numbers) == list(range(8))
    assert seen.planes.shape[1:3] == (12, 16) and seen.aspect == 2  # rows are 2 mm apart, columns 1 mm
    assert (seen.plane, seen.axis, seen.sides) == ("axial", "k", "RLAP")
    click, maps = ([4, 9, first], 1), {"prediction": seen.planes[0]}
    (row,) = case_rows(seen, maps, clicks=[click, ([4, 9, 3], 0)])
    assert row.note == f"axial, k = {first} of 0 to 7" and row.sides == "RLAP"
    assert row.clicks == [(pytest.approx(11 - 9), pytest.approx(15 - 4), 1)]  # rows from the front, columns from right
    assert view(volume, "coronal").sides == "RLSI" and view(volume, "sagittal").sides == "APSI"


def test_the_report_says_what_was_computed_with_and_how_sizes_agree(tmp_path, adapter):
    table, _ = evaluated(tmp_path, {"a": 0, "b": 3, "c": 1, "d": None})
    settings = SETTINGS | {"spacing": [1.0, 1.0, 3.0]}
    notes = ['in 9 of the 33 masks that hold "x" it is only a rim, as in /somewhere/private/my_scans/labelsTr/a.png']
    run = {
        "dataset_dir": "/somewhere/private/my_scans",
        "device": "cpu",
        "begun": time.monotonic() - 90,
        "notes": notes,
    }
    page = write_report(tmp_path / "out", adapter.parent, settings, adapter=adapter, run=run)
    said, volume = words(page), 5 * 5 * 4 * 3 / 1000
    for text in ("lite_medsam", "image_size 64", "epochs 40", "epoch 30", "seed 11", "learning_rate 0.0075",
                 "training cases 7", "Evaluation on my_scans", "device cpu", "surface Dice at 2 mm",
                 "HD95, mm", "1 was missed", "mean of reference and prediction, ml", "4 of 4",
                 "only a rim, as in my_scans/labelsTr/a.png"):  # fmt: skip
        assert text in said, text
    assert re.search(r"0:01:[3-5]\d", said)
    assert "private" not in said and "inf" not in said.replace("information", "")
    assert [row["reference_ml"] for row in table.rows] == [pytest.approx(volume)] * 4
    assert page.read_text().count("<svg") == 3 and page.read_text().count("data:image/png") == 2
    text = page.read_text()
    assert text.index("<h3>d<") < text.index("<h3>b<") and "width=device-width" in text and "color-scheme: dark" in text


def test_one_case_is_told_in_words_that_fit(tmp_path, adapter):
    evaluated(tmp_path, {"a": 1})
    page = write_report(tmp_path / "out", adapter.parent, SETTINGS, adapter=adapter)
    said = words(page)
    measured = said.split("Settings and versions")[0]
    assert "over 1 validation case and 1 label" in said and "cases" not in measured.replace("cases that hold it", "")
    assert "worst" not in said and "±" not in said and "<svg" not in page.read_text() and "The case" in said


def test_a_label_has_one_colour_in_all_figures():
    """Also where one of the others is held by a single case, and so has no box."""
    rows = [
        {"case": f"c{i}", "label": label, "dice": math.nan if label == "A" and i else 0.5, "surface_dice": 0.4,
         "ml": 1.0 + i, "reference_ml": 2.0 * (i + 1)}
        for i in range(3) for label in "ABC"
    ]  # fmt: skip
    _, dice, *_, of_c = figures(rows, "ABC", "ml", "Surface Dice").split("<svg")
    used = [set(re.findall(r"fill: (#[0-9a-f]{6})", one)) for one in (dice, of_c)]
    colours = [to_hex(colour) for colour in label_colours(3)]
    assert [[colour in one for colour in colours] for one in used] == [[False, True, True], [False, False, True]]


def test_dice_of_0_is_told_of_where_no_distance_was_measured():
    row = {"case": "a", "label": "x", "dice": 0.0, "hd95": math.nan}
    assert "1 has Dice 0" in in_short([{**row, "surface_dice": math.nan, "false_positive": math.nan}], ["x"], 1)


def test_a_picture_shows_a_channel_that_was_taken(tmp_path):
    """Of one that is not, it need not be an image."""
    file = tmp_path / "a.nii.gz"
    channels = np.random.default_rng(0).random((16, 12, 8, 3), np.float32)
    channels[..., 0] = 0
    nib.save(nib.Nifti1Image(channels, AFFINE), file)
    mask = MetaTensor(torch.ones(1, 16, 12, 8), affine=torch.tensor(AFFINE), meta={"filename_or_obj": str(file)})
    settings = SETTINGS | {"channels": [2, 1], "channel_names": ["FLAIR", "T2"]}
    _, (row, *_) = Pictures(["x"], tmp_path, settings).rows({"image": mask, "pred": mask}, file)
    taken = view(MetaTensor(channels[..., 2][None], affine=torch.tensor(AFFINE)), "axial").planes
    assert max(np.corrcoef(row.plane.ravel(), taken[..., k].ravel())[0, 1] for k in range(8)) > 0.99


def test_nothing_measured_makes_a_report_too(tmp_path):
    row = {
        "case": "a",
        "label": "x",
        "dice": math.nan,
        "hd95": math.nan,
        "surface_dice": math.nan,
        "false_positive": 2.0,
    }
    page = evaluation_report([row], {}, {"group": {"key": [1, 2]}}, [], tmp_path / "r.html")
    assert "no Dice" in words(page) and "false positive, pixels" in words(page) and "[1, 2]" in words(page)


def test_a_page_of_studies_names_the_adapter_and_the_images_that_it_was_trained_on_and_no_folder(tmp_path):
    records = [
        {
            "image": f"/home/somebody/scans/{name}.nii.gz",
            "error": "",
            "mask": f"{name}_seg.nii.gz",
            "voxels": {},
            **more,
        }
        for name, more in {"a": {SEEN: True}, "b": {}}.items()
    ]
    adapter = {"method": "S-SAM", "labels": ["liver"], "validation Dice": "0.812 over 4 cases"}
    page = words(studies_report(records, {}, {}, {"data": "scans", "Adapter": adapter}, tmp_path / "report.html"))
    assert "By the adapter S-SAM; liver; validation Dice 0.812" in page and "trained on 1 of these images" in page
    assert page.startswith(" Segmentation of scans") and "a.nii.gz" in page and "somebody" not in page


def test_a_page_of_studies_that_failed_holds_no_folder_of_this_machine_either(tmp_path):
    top = "/data/patients/Mueller_Hans/ct"
    said = f"not segmented, its series lies in several folders: {top}/DIR0 (4 files), {top}/DIR1 (4 files)"
    records = [{"image": f"{top}/DIR0", "error": said},
               {"image": f"{top}/a.nii.gz", "error": f"{tmp_path}/a_seg.nii.gz: is there already"}]  # fmt: skip
    for some in (records[:1], records):
        page = words(studies_report(some, {}, {}, {}, tmp_path / "report.html"))
        assert "Mueller" not in page and "DIR1 (4 files)" in page
    assert "a_seg.nii.gz: is there already" in page and str(tmp_path) not in page
    images = [f"/data/p{i}/ct.nii.gz" for i in (1, 2)]  # as in a container
    records = [{"image": image, "error": f"{image}: see /mnt/a/b"} for image in images]
    assert "p1/ct.nii.gz: see /mnt/a/b" in words(studies_report(records, {}, {}, {}, tmp_path / "report.html"))
