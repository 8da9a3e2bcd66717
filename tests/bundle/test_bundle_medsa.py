"""The Med-SA bundle as its users run it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import ROOT, run
from bundle_tester import BundleTester
from monai.data import Dataset, MetaTensor
from network_tester import tiny_backbone

from sam_monai import InputError, MedSA
from sam_monai.data.names import CaseNames
from sam_monai.errors import told
from sam_monai.inference.outputs import Outputs
from sam_monai.results import pictures
from sam_monai.results.prompted import evaluate_prompts


class TestMedSABundle(BundleTester):
    bundle = "medsa"
    most_bytes = 10_000_000

    def test_prompts_beside_an_image_are_answered(self, trained, tmp_path):
        """The mask lies in the box's slices, on the file's own grid, one value an object."""
        file = trained / "data/images/d.nii.gz"
        (tmp_path / "d.nii.gz").write_bytes(file.read_bytes())
        shape = nib.load(file).shape
        objects = [{"box": [4, 4, 1, 20, 20, 3]}, {"points": [[15, 13, 4]], "labels": [1], "label": "bright"}]
        (tmp_path / "d.nii.gz.prompts.json").write_text(json.dumps({"objects": objects}))
        adapter = f"{trained}/models/model.pt"
        run("medsa", "inference", dataset_dir=str(tmp_path), adapter=adapter, output_dir=f"{tmp_path}/prompted")
        run("medsa", "inference", dataset_dir=str(file), adapter=adapter, output_dir=f"{tmp_path}/automatic")
        prompted, automatic = (nib.load(tmp_path / f / "d_seg.nii.gz") for f in ("prompted", "automatic"))
        assert prompted.shape == shape and np.allclose(prompted.affine, nib.load(file).affine, atol=1e-5)
        assert not np.array_equal(np.asarray(prompted.dataobj), np.asarray(automatic.dataobj))
        assert (tmp_path / "prompted/d.png").is_file()

    def test_prompts_that_make_no_sense_are_all_told_before_the_network_is_loaded(self, trained, tmp_path):
        for name in ("a", "b", "c"):
            (tmp_path / f"{name}.nii.gz").write_bytes((trained / "data/images/d.nii.gz").read_bytes())
        (tmp_path / "a.nii.gz.prompts.json").write_text('{"objects": [{"points": [[1, 2]], "labels": [1]}]}')
        (tmp_path / "b.nii.gz.prompts.json").write_text("{")
        with pytest.raises(InputError) as caught:
            run("medsa", "inference", dataset_dir=str(tmp_path), adapter=f"{trained}/models/model.pt",
                checkpoint=f"{tmp_path}/none.pth", output_dir=f"{tmp_path}/masks")  # fmt: skip
        first, second = str(told(caught.value)).split("\nerror: ")
        assert "a.nii.gz.prompts.json: object 1" in first and "b.nii.gz.prompts.json: cannot be read" in second

    def test_a_correction_gives_a_mask_of_the_labels(self, trained, tmp_path, monkeypatch):
        file, prompts = trained / "data/images/d.nii.gz", tmp_path / "images/d.nii.gz.prompts.json"
        prompts.parent.mkdir()
        (prompts.parent / "d.nii.gz").write_bytes(file.read_bytes())
        one, two = ({"box": box, "label": "bright"} for box in ([4, 4, 1, 12, 12, 3], [9, 9, 1, 14, 14, 2]))
        legends, draw = [], pictures.draw_rows
        kept = lambda rows, names, *others: legends.append([*names]) or draw(rows, names, *others)  # noqa: E731
        monkeypatch.setattr(pictures, "draw_rows", kept)

        def segment(content):
            prompts.unlink() if content is None else prompts.write_text(json.dumps(content))
            out, adapter = tmp_path / f"masks {len(legends)}", f"{trained}/models/model.pt"
            run("medsa", "inference", dataset_dir=str(prompts.parent), adapter=adapter, output_dir=str(out))
            return np.asarray(nib.load(out / "d_seg.nii.gz").dataobj), json.loads((out / "manifest/d.json").read_text())

        found, record = segment({"correct": True, "objects": [one, two]})
        alone, of_objects = segment({"objects": [one, two]})
        automatic, plain = segment(None)
        others = (alone == 0) & (automatic != 1)
        assert automatic.any() and np.array_equal(found == 1, alone > 0)
        assert np.array_equal(found[others], automatic[others])
        assert record["corrected"] == ["bright"] and of_objects["prompted"] == 2 and "guess" in plain
        assert not {"prompted", "guess", "certainty"} & {*record} and not {"corrected", "guess"} & {*of_objects}
        assert record["voxels"] == {str(v): int((found == v).sum()) for v in (1, 2) if (found == v).any()}
        with (tmp_path / "masks 0/studies.csv").open() as table:
            assert [row["label"] for row in csv.DictReader(table)] == ["bright", "dark"]
        assert "Corrected by prompts: bright." in (tmp_path / "masks 0/report.html").read_text()
        assert legends[0] == legends[2] == ["bright", "dark"] and "object 1" in legends[1]

    def test_a_fresh_process_segments(self, trained, tmp_path):
        """Where no test has imported anything."""
        files = ["--adapter", f"{trained}/models/model.pt", "--output_dir", str(tmp_path)]
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "bundles/medsa/configs/inference.json"]
        done = subprocess.run([*command, "--dataset_dir", f"{trained}/data", *files], cwd=ROOT, capture_output=True)
        assert done.returncode == 0 and (tmp_path / "d_seg.nii.gz").is_file(), done.stderr.decode()[-2000:]

    def test_evaluation_asks_with_every_kind_of_prompt(self, trained):
        out = trained / "prompts"
        where = {"dataset_dir": f"{trained}/data", "ckpt_dir": f"{trained}/models", "output_dir": str(out)}
        run("medsa", "train", "evaluate", **where)
        rows = list(csv.DictReader((out / "prompts.csv").open()))
        assert {row["label"] for row in rows} == {"bright", "dark"} and len({row["prompt"] for row in rows}) == 18
        with (out / "cases.csv").open() as file:
            assert {row["case"] for row in rows} == {row["case"] for row in csv.DictReader(file)}
        assert all(0 <= float(row["dice"]) <= 1 for row in rows) and (out / "corrective_clicks.png").is_file()
        assert "<h2>Prompts</h2>" in (out / "report.html").read_text()
        evaluate_prompts(MedSA(tiny_backbone(), preprocessing={"scale": "patch"}), [], [], out, torch.device("cpu"))
        assert not (out / "prompts.csv").exists() and not (out / "corrective_clicks.png").exists()

    def test_a_report_has_no_curve_of_another_adapter(self, trained):
        out = trained / "later"
        for name in ("prompts.csv", "corrective_clicks.png"):
            Outputs(out).write("of an earlier run", out / name)
            os.utime(out / name, (1, 1))
        where = {"dataset_dir": f"{trained}/data", "ckpt_dir": f"{trained}/models", "output_dir": str(out)}
        run("medsa", "train", "evaluate", prompted_cases=None, **{"run#1": "$None"}, **where)
        assert "<h2>Prompts</h2>" not in (out / "report.html").read_text()
        assert not (out / "corrective_clicks.png").exists()


def prompted(tmp_path, labelled):
    """Evaluate the prompts of two cases of one file name, of which some show a label."""
    cases = []
    for i, shows in enumerate(labelled):
        meta = {"filename_or_obj": f"{tmp_path}/s{i}/mri.nii.gz"}
        label = torch.zeros(1, 40, 40)
        label[:, 10:20, 10:20] = float(shows)
        cases.append({"image": MetaTensor(torch.rand(1, 40, 40), meta=meta), "label": MetaTensor(label)})
    network = MedSA(tiny_backbone(), labels=["liver"], amp=False)
    return evaluate_prompts(network, Dataset(cases), ["liver"], tmp_path / "o", torch.device("cpu"))


def test_a_case_has_the_name_that_it_has_in_the_other_table(tmp_path):
    assert prompted(tmp_path, [False, True])
    names = CaseNames()
    for i in range(2):
        last = names(f"{tmp_path}/s{i}/mri.nii.gz")
    assert {row["case"] for row in csv.DictReader((tmp_path / "o/prompts.csv").open())} == {last}


def test_cases_without_a_label_are_evaluated_without_prompts(tmp_path, capsys):
    prompted(tmp_path, [True, True])
    assert prompted(tmp_path, [False, False]) == {} and "nothing to prompt for" in capsys.readouterr().out
    assert not (tmp_path / "o/prompts.csv").exists()
