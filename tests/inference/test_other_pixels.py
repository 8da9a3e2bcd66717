"""An adapter says by name which volumes have pixels of another size than those that it was trained on."""

from __future__ import annotations

import logging
import shutil

import nibabel
import numpy as np
import pytest
from bundle_runner import SMALL, run, start, volumes

from sam_monai import InputError
from sam_monai.networks.adapter_files import read_adapter, read_training, write_adapter
from sam_monai.prompts.prompt_files import prompts_beside
from sam_monai.results.metrics import CaseTable

AFFINE = np.diag([0.8, 0.8, 2.0, 1.0])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    data = volumes(folder / "data", affine=AFFINE)
    run("ptsam", "train", dataset_dir=str(data), ckpt_dir=f"{folder}/m", output_dir=f"{folder}/o", **SMALL)
    return folder


def with_pixels(source, target, times):
    """The same voxels under an affine that makes them so many times as wide and as high."""
    target.parent.mkdir(parents=True, exist_ok=True)
    affine = AFFINE @ np.diag([times, times, 1, 1])
    nibabel.save(nibabel.Nifti1Image(nibabel.load(source).get_fdata(dtype=np.float32), affine), target)


def said(caplog):
    return [record.getMessage() for record in caplog.records if "trained on about" in record.getMessage()]


def test_a_volume_of_other_pixels_is_named_once_and_one_like_those_of_the_training_is_not(trained, tmp_path, caplog):
    assert read_training(trained / "m/model.pt")["settings"]["pixel_mm"] == pytest.approx(0.8)
    for name, times in {"coarse": 5, "fine": 0.2, "like": 1, "twice": 2}.items():
        with_pixels(trained / "data/images/a.nii.gz", tmp_path / f"new/{name}.nii.gz", times)
    with caplog.at_level(logging.WARNING):
        run("ptsam", "inference", dataset_dir=f"{tmp_path}/new", adapter=f"{trained}/m/model.pt",
            output_dir=f"{tmp_path}/masks")  # fmt: skip
    told = said(caplog)
    assert [line.split()[0].rpartition("/")[2] for line in told] == ["coarse.nii.gz", "fine.nii.gz"]
    assert "pixels of 4 mm" in told[0] and "about 0.8 mm" in told[0] and "pixels of 0.16 mm" in told[1]


def test_an_evaluation_names_it_too(trained, tmp_path, caplog):
    data = shutil.copytree(trained / "data", tmp_path / "data")
    for file in (*data.glob("images/*"), *data.glob("labels/*")):
        with_pixels(file, file, 5)
    where = {"dataset_dir": str(data), "adapter": f"{trained}/m/model.pt", "ckpt_dir": f"{tmp_path}/m"}
    with caplog.at_level(logging.WARNING):
        run("ptsam", "train", "evaluate", output_dir=f"{tmp_path}/o", **where)
    assert len(said(caplog)) == 1


@pytest.mark.parametrize(("mirror", "named"), [("none", True), ("turns", False)])
def test_answers_to_mirrored_images_are_named_where_the_training_showed_none(mirror, named, trained, tmp_path, caplog):
    adapter = tmp_path / "m/model.pt"
    summary = read_training(trained / "m/model.pt")
    plan = summary["plan"] | {"mirror": mirror}
    adapter.parent.mkdir()
    write_adapter(read_adapter(trained / "m/model.pt"), adapter, summary | {"plan": plan})
    run("ptsam", "inference", dataset_dir=f"{trained}/data/images/d.nii.gz", adapter=str(adapter),
        output_dir=f"{tmp_path}/masks", average_flips="sides")  # fmt: skip
    assert any("average_flips is sides" in line for line in caplog.messages) == named


def test_what_an_adapter_cannot_be_asked_for_is_named(trained, tmp_path, caplog):
    adapter = tmp_path / "m/model.pt"
    summary = read_training(trained / "m/model.pt")
    adapter.parent.mkdir()
    write_adapter(read_adapter(trained / "m/model.pt"), adapter, summary | {"quick": True})
    image = shutil.copy(trained / "data/images/d.nii.gz", tmp_path / "d.nii.gz")
    prompts = prompts_beside(image)
    prompts.write_text('{"objects": [{"points": [[3, 4, 2]], "labels": [1]}]}')
    run("ptsam", "inference", dataset_dir=str(image), adapter=str(adapter), output_dir=f"{tmp_path}/masks")
    assert any("is of a quick run" in line for line in caplog.messages)
    assert any("d.nii.gz: has prompts, but ptsam takes none" in line for line in caplog.messages)


@pytest.mark.parametrize("bundle", ["ssam", "ptsam", "medsa"])
def test_what_images_are_resampled_to_is_what_was_trained_on(bundle, trained):
    where = {"dataset_dir": f"{trained}/data", **SMALL, "spacing": [0.5, 0.5, 2.0]}
    assert start(bundle, "train", **where).parser.get_parsed_content("train#settings#pixel_mm") == 0.5


def test_an_adapter_that_is_replaced_while_it_is_evaluated_has_no_figures(trained, tmp_path, monkeypatch):
    shutil.copytree(trained / "m", tmp_path / "m")
    collect = CaseTable.collect

    def replaced(self, engine):
        state = read_adapter(tmp_path / "m/model.pt")
        name = next(key for key in state if key != "identity")
        write_adapter(
            {**state, name: state[name] * 1.5}, tmp_path / "m/model.pt", read_training(trained / "m/model.pt")
        )
        return collect(self, engine)

    monkeypatch.setattr(CaseTable, "collect", replaced)
    where = {"ckpt_dir": f"{tmp_path}/m", "adapter": f"{tmp_path}/m/model.pt", "output_dir": f"{tmp_path}/e"}
    with pytest.raises(InputError, match=r"model\.pt: was replaced while"):
        run("ptsam", "train", "evaluate", dataset_dir=f"{trained}/data", **where)
    assert not (tmp_path / "e/report.html").exists() and not (tmp_path / "e/cases.csv").exists()
