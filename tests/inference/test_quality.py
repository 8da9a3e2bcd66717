"""A guess at Dice where there is no reference: what the probabilities let expect, for pictures, slabs and regions."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from bundle_runner import SMALL, run, volumes
from monai.inferers import SimpleInferer
from network_tester import image, tiny_backbone

from sam_monai import PTSAM, MedSA
from sam_monai.inference import quality
from sam_monai.inference.quality import CERTAINTY, KEY, GuessDice, by_label, in_words, validated
from sam_monai.inference.records import read_record
from sam_monai.inference.slabs import SlabInferer
from sam_monai.networks.adapter_files import read_training
from sam_monai.networks.regions import label_map_of, masks_of, probabilities_of
from sam_monai.prompts.prompted_inference import PromptedInference
from sam_monai.results.html_report import studies_report
from sam_monai.results.tables import read_table


def guessed(pred, regions=None):
    engine = SimpleNamespace(state=SimpleNamespace(output={"pred": pred}), network=SimpleNamespace(regions=regions))
    GuessDice()(engine)
    return engine.state.output.get(KEY)


@pytest.mark.parametrize("regions", [None, [[1, 2], [2]]])
def test_the_guess_is_the_mean_dice_over_references_that_are_as_probable_as_the_network_says(regions):
    rng = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1, 3, 50, 50, generator=rng)
    logits[:, 0] = 0
    p = probabilities_of(logits[0], regions)[1:]
    mask = masks_of(label_map_of(logits[0], regions), 2, regions)
    found = torch.zeros(2)
    for _ in range(200):
        drawn = torch.rand(p.shape, generator=rng) < p
        found += 2 * (drawn & mask).sum((1, 2)) / (drawn.sum((1, 2)) + mask.sum((1, 2))) / 200
    assert torch.allclose(guessed(logits, regions)[0].float(), found, atol=0.003)
    assert 0.5 < found.min() and found.max() < 0.95


def test_a_label_that_is_not_marked_has_no_guess():
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, 1] = -5
    logits[:, 2, :4] = 20
    logits[:, 2, 4:] = -20
    none, one = guessed(logits)[0].tolist()
    assert math.isnan(none) and one == pytest.approx(1, abs=1e-3)
    assert by_label({KEY: torch.tensor([none, one])}, KEY) == {"1": None, "2": pytest.approx(1, abs=1e-3)}
    assert guessed(logits.argmax(1, keepdim=True).to(torch.int16)) is None


def test_each_image_of_a_batch_has_a_guess_of_its_own():
    logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    both = guessed(logits)
    assert both.shape == (2, 2) and torch.equal(both, torch.cat([guessed(one[None]) for one in logits]))


def test_slabs_of_which_labels_alone_are_kept_have_the_same_guess():
    torch.manual_seed(0)
    network = PTSAM(tiny_backbone(), labels=["a", "b"], amp=False).eval()
    x = image(1, 1, 40, 40, 23)
    with torch.no_grad():
        whole, labels = (SlabInferer(SimpleInferer(), slices=5, most_bytes=most)(x, network) for most in (2**30, 1000))
    assert whole.shape[1] == 3 and labels.shape[1] == 1
    assert torch.allclose(guessed(whole), guessed(labels), atol=1e-5, equal_nan=True)


def test_a_guess_is_moved_by_what_validation_showed():
    pairs = [(0.9, 0.7), (0.5, 0.3), (math.nan, 0.0), (0.7, math.nan), (0.8, 0.6), (0.7, 0.5), (0.6, 0.5)]
    found = validated(pairs)
    assert found == {"masks": 5, "guess": 0.7, "dice": 0.52, "error": 0.032, "correlation": 0.9594}
    assert "off by 0.032" in in_words(found) and validated(pairs[:6]) is None
    alike = validated([(0.9, 0.8)] * 5)
    assert alike is not None and alike["correlation"] is None


def test_answers_to_prompts_have_no_guess():
    network = MedSA(tiny_backbone(), labels=["a", "b"], amp=False).eval()
    click = {"point_coords": torch.tensor([[[9.0, 9.0]]]), "point_labels": torch.tensor([[1]])}
    for prompts in ({}, click, {**click, "label": ["b"], "correct": True}):
        with torch.no_grad():
            pred = PromptedInference(SimpleInferer())(image(1, 1, 30, 30), network, **prompts)
        engine = SimpleNamespace(state=SimpleNamespace(output={"pred": pred}), network=network)
        GuessDice()(engine)
        assert (KEY in engine.state.output) == (CERTAINTY in engine.state.output) == (not prompts)


def test_the_lowest_guess_comes_first_after_what_failed(tmp_path):
    studies = {"a": {"1": 0.9}, "b": {"1": 0.95, "2": 0.2}, "c": {"1": None}, "d": {"1": 0.6}}
    records = [{"image": n, "error": "", "mask": f"{n}.png", "voxels": {}, KEY: g} for n, g in studies.items()]
    records.append({"image": "e", "error": "broken"})
    page = studies_report(records, dict.fromkeys(studies, ["x", "y"]), {}, {}, tmp_path / "report.html").read_text()
    order = [page.index(f"<h3>{name}</h3>") for name in "ebdac"]
    assert order == sorted(order)
    rows = read_table(tmp_path / "studies.csv")
    assert [row["study"] for row in rows] == ["e", "b", "b", "d", "d", "a", "a", "c", "c"]
    assert rows[0]["error"] == "broken" and [rows[1][KEY], rows[2][KEY], rows[8][KEY]] == ["0.95", "0.2", ""]


def test_training_evaluation_and_inference_tell_it(tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "LEAST", 1)
    folder, models = volumes(tmp_path / "data"), str(tmp_path / "models")
    where = {"dataset_dir": str(folder), "ckpt_dir": models, "scale": "whole", "mirror": "none", **SMALL}
    run("ptsam", "train", output_dir=str(tmp_path / "out"), **where)
    rows = read_table(tmp_path / "out/cases.csv")
    pairs = [(float(row[KEY] or "nan"), float(row["dice"])) for row in rows]
    summary = read_training(f"{models}/model.pt")
    assert summary is not None and summary.get(KEY) == validated(pairs) is not None
    assert "guessed Dice" in (tmp_path / "out/report.html").read_text()
    run("ptsam", "inference", dataset_dir=str(folder), adapter=f"{models}/model.pt", output_dir=str(tmp_path / "masks"))
    record = read_record(tmp_path / "masks/manifest/d.json")
    assert record is not None and set(record[KEY]) == {"1", "2"}
    assert all((record[KEY][label] is not None) == (label in record["voxels"]) for label in "12")
    sure = record[CERTAINTY]
    assert all(1 / 3 <= sure[label] <= 1 if label in record["voxels"] else sure[label] is None for label in "12")
    assert [
        row[CERTAINTY] for row in read_table(tmp_path / "masks/studies.csv") if row["study"] == record["image"]
    ] == [str(sure[label] or "") for label in "12"]
    shift = summary[KEY]["dice"] - summary[KEY]["guess"]
    run("ptsam", "train", "evaluate", output_dir=str(tmp_path / "evaluated"), **where)
    moved = [float(row[KEY] or "nan") for row in read_table(tmp_path / "evaluated/cases.csv")]
    assert abs(shift) > 0.01
    assert moved == pytest.approx([min(1, max(0, guess + shift)) for guess, _ in pairs], abs=2e-4, nan_ok=True)
    assert in_words(summary[KEY]) in (tmp_path / "masks/report.html").read_text()
    (tmp_path / "bad.json").write_text(json.dumps(record | {KEY: {"1": "high"}}))
    assert read_record(tmp_path / "bad.json") is None
