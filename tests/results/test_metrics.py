"""Metrics in millimetres, and a label that a case lacks is left out of the means and counted."""

from __future__ import annotations

import csv
import math
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from image_files import volume
from monai.data import MetaTensor
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from monai.transforms import Orientation

from sam_monai import InputError
from sam_monai.data import LoadCased
from sam_monai.data.channels import case_of
from sam_monai.data.frames import FRAMES
from sam_monai.data.unlabelled import UNLABELLED, LeaveOutUnlabelled
from sam_monai.results import metrics
from sam_monai.results.html_report import evaluation_report
from sam_monai.results.metrics import METRICS, CaseTable, case_metrics
from sam_monai.results.page import cell
from sam_monai.training.cases import content


def ball(centre, shape=(20, 20, 20), radius=5.0):
    grid = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")).float()
    return ((grid - torch.tensor(centre).view(3, 1, 1, 1)).norm(dim=0) < radius).long()[None]


def test_distances_are_in_millimetres():
    truth, moved = ball((10.0, 10, 10)), ball((10.0, 10, 12))
    near = case_metrics(moved, truth, 1, [1.0, 1.0, 1.0], tolerance=2.0)[0]
    far = case_metrics(moved, truth, 1, [1.0, 1.0, 3.0], tolerance=2.0)[0]
    assert near["dice"] == far["dice"] < 1
    assert abs(near["hd95"] - 2) < 0.5 and far["hd95"] > 2 * near["hd95"]
    assert far["surface_dice"] < near["surface_dice"]


def test_distances_are_monais():
    rng = torch.Generator().manual_seed(0)
    for spacing in ([1.0, 1.0, 3.0], [0.5, 0.8]):
        shape = (18, 16, 14)[: len(spacing)]
        pred, truth = (torch.rand(1, *shape, generator=rng) > 0.9 for _ in range(2))
        row = case_metrics(pred, truth, 1, spacing, tolerance=1.0)[0]
        given, options = (pred[None].float(), truth[None].float()), {"include_background": True, "spacing": spacing}
        assert row["hd95"] == compute_hausdorff_distance(*given, percentile=95, **options).item()
        assert row["surface_dice"] == pytest.approx(compute_surface_dice(*given, [1.0], **options).item())


def test_a_perfect_mask_is_perfect_and_a_missed_label_is_not():
    truth = ball((10.0, 10, 10))
    perfect = case_metrics(truth, truth, 1, [1.0] * 3, tolerance=1.0)[0]
    assert {key: perfect[key] for key in METRICS} == {"dice": 1.0, "hd95": 0.0, "surface_dice": 1.0}
    missed = case_metrics(torch.zeros_like(truth), truth, 1, [1.0] * 3, tolerance=1.0)[0]
    assert {key: missed[key] for key in METRICS} == {"dice": 0.0, "hd95": math.inf, "surface_dice": 0.0}


def test_a_label_that_the_truth_lacks_is_left_out_and_counted():
    truth = ball((10.0, 10, 10))
    table = CaseTable(("a", "b"))
    for pred in (truth, 2 * truth):
        metrics = case_metrics(pred, truth, 2, [1.0] * 3, tolerance=1.0)
        assert all(math.isnan(metrics[1][key]) for key in METRICS)
        table.rows += [{"case": "x", "label": n, **m} for n, m in zip("ab", metrics, strict=True)]
    lines = table.table().splitlines()
    assert "0.5000" in lines[1] and "2 of 2" in lines[1] and "0 of 2" in lines[2]


class Engine:
    """What a table needs of an evaluator."""

    def __init__(self, *cases):
        def tensor(label):
            return MetaTensor(label.float(), torch.diag(torch.tensor([2.0, 1, 1, 1])))

        images = [MetaTensor(label, meta={"filename_or_obj": f"/d/{i}"}) for i, (_, label) in enumerate(cases)]
        self.state = SimpleNamespace(
            output=[
                {"pred": tensor(pred), "label": tensor(label), "image": image}
                for image, (pred, label) in zip(images, cases, strict=True)
            ]
        )


def evaluated(tmp_path, *cases) -> tuple[CaseTable, list[dict[str, str]], str]:
    table = CaseTable(("a", "b"), tmp_path)
    table.collect(Engine(*cases))
    table.finish()
    with (tmp_path / "cases.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    page = evaluation_report([{**row} for row in table.rows], {}, {}, [], tmp_path / "report.html").read_text()
    return table, rows, re.sub(r"<[^>]+>", " ", page)


def test_what_is_marked_of_a_label_that_a_case_lacks_is_counted_and_shown(tmp_path):
    truth = ball((10.0, 10, 10))
    table, rows, page = evaluated(tmp_path, (truth, truth), (2 * torch.ones_like(truth), 0 * truth), (truth, 0 * truth))
    volume = 2 * 20**3 / 1000
    assert [float(row["false_positive"]) for row in rows if row["label"] == "b"] == [0, pytest.approx(volume), 0]
    wrong = 2 * float(truth.sum()) / 1000
    assert [row["false_positive"] for row in rows if row["label"] == "a"][0] == "nan"
    a, b = table.table().splitlines()[1:]
    assert "1.0000" in a and a.endswith(f"1 of 2, {cell(wrong)} ml") and b.endswith(f"1 of 3, {cell(volume)} ml")
    assert f"{volume:.4g}" in page and "marked there in all, ml" in page
    assert page.index(" 0 ") < page.index(" 1 ")


def test_a_missed_label_is_counted_and_leaves_the_mean_distance_finite(tmp_path):
    truth = ball((10.0, 10, 10))
    table, rows, page = evaluated(tmp_path, (truth, truth), (0 * truth, truth))
    assert {row["hd95"] for row in rows if row["label"] == "a"} == {"0.0", "inf"}
    assert "inf" not in table.table() and re.search(r"a +0\.5000 +0\.00 +0\.5000 +2 of 2 +1 ", table.table())
    assert "inf" not in page and "missed" in page


def collected(*cases: dict[str, Any]) -> CaseTable:
    table = CaseTable(("a", "b"))
    table.collect(SimpleNamespace(state=SimpleNamespace(output=list(cases))))  # pyright: ignore[reportArgumentType]
    return table


def at(label: torch.Tensor, affine: Any = None, file: str = "/d/x") -> MetaTensor:
    return MetaTensor(label.float(), torch.eye(4) if affine is None else affine, meta={"filename_or_obj": file})


def test_pictures_are_measured_in_pixels_whatever_their_size():
    truth, found = torch.zeros(1, 20, 24), torch.zeros(1, 20, 24)
    truth[:, 3:9, 4:20], found[:, 3:12, 4:20] = 1, 1
    sizes = [torch.eye(4), torch.diag(torch.tensor([0.5, 0.5, 1.0, 1.0]))]
    rows = [collected({"pred": at(found, s), "label": at(truth, s), "image": at(truth, s)}).rows[0] for s in sizes]
    assert all((row["hd95"], row["pixels"]) == (3.0, found.sum()) for row in rows)
    assert rows[0]["surface_dice"] == rows[1]["surface_dice"] < 1


@pytest.mark.parametrize("kind", ["channels", "place", "shape"])
def test_what_cannot_be_compared_is_refused(kind):
    truth = ball((10.0, 10, 8), (20, 20, 16)).float()
    flipped = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    flipped[0, 3] = 19
    pred, said = {
        "channels": (at(torch.cat([1 - truth, truth, 0 * truth])), "have 3 and 1 channels, not 1 label map"),
        "place": (at(truth.flip(1), flipped), "on different grids"),
        "shape": (at(truth[..., :-1]), "on different grids"),
    }[kind]
    with pytest.raises(InputError, match=f"/d/x: .*{said}"):
        collected({"pred": pred, "label": at(truth), "image": at(truth)})
    found: Any = Orientation(axcodes="RAS", labels=None)(at(truth.flip(1), flipped))
    assert collected({"pred": found, "label": at(truth), "image": at(truth)}).rows[0]["dice"] == 1


def test_a_volume_of_one_slice_has_the_distances_of_its_picture():
    truth, found = torch.zeros(1, 40, 44), torch.zeros(1, 40, 44)
    truth[:, 5:25, 5:30], found[:, 9:29, 5:30] = 1, 1
    picture, slice_ = (case_metrics(*pair, 1, mm, 2.0)[0] for pair, mm in (
        ((found, truth), [1.0, 1.0]), ((found[..., None], truth[..., None]), [1.0, 1.0, 5.0])))  # fmt: skip
    assert {key: picture[key] for key in METRICS} == {key: slice_[key] for key in METRICS}
    assert slice_["hd95"] == 4.0 and slice_["surface_dice"] < 0.8
    empty = case_metrics(found[..., None], 0 * truth[..., None], 1, [1.0, 1.0, 5.0], 2.0)[0]
    assert empty["false_positive"] == 5 * found.sum()


def test_surfaces_that_end_where_the_annotation_does_are_not_measured():
    truth = ball((10.0, 10, 10)).float()
    sparse = torch.full_like(truth, UNLABELLED)
    sparse[..., ::4] = truth[..., ::4]
    case = LeaveOutUnlabelled()({"pred": at(truth.roll(2, 1)), "label": at(sparse), "image": at(truth)})
    row = collected({**case}).rows[0]
    assert 0 < row["dice"] < 1 and math.isnan(row["hd95"]) and math.isnan(row["surface_dice"])
    missed = LeaveOutUnlabelled()({"pred": at(0 * truth), "label": at(sparse), "image": at(truth)})
    assert math.isinf(collected({**missed}).rows[0]["hd95"])


def test_a_reference_is_another_one_where_others_of_its_voxels_are_annotated():
    truth = ball((10.0, 10, 10)).float()
    partly = truth.clone()
    partly[..., 16:] = UNLABELLED
    hashes = set()
    for label in (truth, partly, partly.roll(1, -1)):
        case = LeaveOutUnlabelled()({"pred": at(truth), "label": at(label), "image": at(truth)})
        hashes.add(collected(case).rows[0]["reference"])
    assert len(hashes) == 3


def test_two_cases_of_one_file_are_not_counted_as_one():
    truth = torch.zeros(1, 20, 24)
    truth[:, 3:9, 4:20] = 1
    one, other = ({"pred": at(pred), "label": at(truth), "image": at(truth)} for pred in (truth, 0 * truth))
    with pytest.raises(InputError, match="/d/x: two cases of this run"):
        collected(one, other)
    other["image"] = at(truth, file="/d/y")
    assert len(collected(one, other).rows) == 4


def test_nothing_to_measure_is_no_number(tmp_path):
    truth = ball((10.0, 10, 10))
    table, _, _ = evaluated(tmp_path, (0 * truth, 0 * truth))
    assert all(re.search(r"- +- +- +0 of 1 +0 +0 of 1, 0 ml", line) for line in table.table().splitlines()[1:])


def test_pixels_are_the_unit_of_pictures():
    table = CaseTable(("a",))
    metrics = case_metrics(torch.ones(1, 8, 8).long(), torch.zeros(1, 8, 8).long(), 1, [1.0, 1.0], 1.0)
    table.rows = [{"case": "x", "label": "a", **metrics[0]}]
    assert table.table().endswith("1 of 1, 64 pixels")


def test_large_numbers_are_written_out(tmp_path):
    assert [cell(value) for value in (123456.0, 1000.4, 999.94, 0.1236, 4e-4)] == [
        "123,456", "1,000", "999.9", "0.124", "0.0004",
    ]  # fmt: skip
    table = CaseTable(("a",))
    table.rows = [{"case": "x", "label": "a", **dict.fromkeys(METRICS, math.nan), "false_positive": 123456.0}]
    assert table.table().endswith("1 of 1, 123,456 pixels")


def test_the_hash_of_a_case_is_of_all_its_channels(tmp_path):
    files = [volume(tmp_path / f"a_{i:04d}.nii.gz", np.arange(60.0).reshape(5, 4, 3) + i) for i in range(3)]
    case = case_of(list(map(str, files)))

    def hashed(case, **options) -> str:
        image = LoadCased("image", **options)(case)["image"]
        label = MetaTensor(torch.ones(1, 5, 4, 3), torch.eye(4))
        table = CaseTable(("a",))
        state = SimpleNamespace(output=[{"pred": label, "label": label, "image": image}])
        table.collect(SimpleNamespace(state=state))
        return table.rows[0]["image"]

    named, first = {"channel_names": ["x", "y", "z"]}, {"channels": [0]}
    before = hashed(case, **named)
    assert before == hashed(case, **first) and hashed({"image": case["image"]}) == content(files[0])
    volume(files[2], np.arange(60.0).reshape(5, 4, 3) + 7)
    assert before != hashed(case, **named) == hashed(case, **first)


def test_frames_are_measured_as_one_case_without_distances_across_them():
    here, there, nothing = ball((10.0, 10, 8)), ball((10.0, 10, 12)), torch.zeros(1, 20, 20, 20).long()
    label, pred = torch.cat([here, there, nothing]), torch.cat([here, here, here])
    (row,) = case_metrics(pred, label, 1, [1.0] * 3, tolerance=1.0)
    alone = [case_metrics(p, x, 1, [1.0] * 3, tolerance=1.0)[0] for p, x in ((here, here), (here, there))]
    held, both = label.sum(), ((pred > 0) & (label > 0)).sum()
    assert row["dice"] == pytest.approx(2 * float(both) / float(held + pred.sum()))
    for key in ("hd95", "surface_dice"):
        assert row[key] == pytest.approx(sum(one[key] for one in alone) / 2)
    assert math.isnan(row["false_positive"])
    (missed,) = case_metrics(0 * pred, label, 1, [1.0] * 3, tolerance=1.0)
    assert missed["dice"] == 0 and math.isinf(missed["hd95"])
    (absent,) = case_metrics(pred, 0 * label, 1, [1.0, 1.0, 2.0], tolerance=1.0)
    assert math.isnan(absent["dice"]) and absent["false_positive"] == pytest.approx(2 * float(here.sum()))


def test_the_memory_of_a_case_is_that_of_one_label(monkeypatch):
    """Of a hundred labels in a volume the masks of all would be fifty gigabytes."""
    held = []
    one = metrics.compute_dice
    monkeypatch.setattr(metrics, "compute_dice", lambda a, b: held.append(tuple(a.shape)) or one(a, b))
    label = torch.randint(0, 20, (1, 12, 11, 10), generator=torch.Generator().manual_seed(0)).float()
    rows = metrics.case_metrics(label, label, 19, [1.0] * 3, 2.0)
    assert held == [(1, 1, 12, 11, 10)] * 19 and all(row["dice"] == 1 for row in rows)


def test_a_surface_of_any_size_has_its_percentile():
    values = torch.rand(2**24 + 8, generator=torch.Generator().manual_seed(0))
    assert metrics.percentile_95(values) == pytest.approx(0.95, abs=1e-3)
    assert metrics.percentile_95(values[:1000]) == pytest.approx(
        float(np.quantile(values[:1000].numpy(), 0.95)), abs=1e-6
    )


def test_a_table_of_somebody_else_is_not_replaced(tmp_path):
    (tmp_path / "cases.csv").write_text("mine")
    table = CaseTable(("a", "b"), tmp_path)
    table.collect(Engine((ball((10.0, 10, 10)),) * 2))
    with pytest.raises(InputError, match=r"cases\.csv: is there already and was not written by this package"):
        table.finish()
    assert (tmp_path / "cases.csv").read_text() == "mine"


def test_volumes_of_frames_are_means_of_those_that_somebody_annotated():
    label = torch.full((30, 12, 12, 12), float(UNLABELLED))
    pred = torch.zeros_like(label)
    pred[:, 3:8, 3:8, 3:8] = 1
    for frame in (0, 12):
        label[frame] = 0
        label[frame, 3:8, 3:8, 3:8] = 1
    case = {key: MetaTensor(x, torch.eye(4), meta={"filename_or_obj": "/d/x", FRAMES: 30})
            for key, x in (("pred", pred), ("label", label), ("image", pred))}  # fmt: skip
    table = CaseTable(("lv",))
    table.collect(SimpleNamespace(state=SimpleNamespace(output=[LeaveOutUnlabelled()(case)])))
    (row,) = table.rows
    assert row["reference_ml"] == pytest.approx(0.125) == row["ml"] and row["dice"] == 1
