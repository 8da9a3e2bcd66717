"""What every bundle must do as its users run it. A bundle's tests subclass BundleTester and name it."""

from __future__ import annotations

import csv
import shutil
from contextlib import contextmanager

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import ROOT, SMALL, run, start, volumes, write_json
from monai.bundle import ConfigParser, load
from PIL import Image

from sam_monai import InputError
from sam_monai.bundle.folder import read_metadata
from sam_monai.networks import identity
from sam_monai.results.metrics import METRICS
from sam_monai.training.checkpoints import Checkpoints


def weights(folder) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_resume.pt", weights_only=True)["network"]


class Killed(Exception):
    pass


@contextmanager
def killed_in_epoch_3():
    """A training within ends before the files of its third epoch are written."""
    save = Checkpoints.save

    def die(self, engine):
        if engine.state.epoch == 3:
            raise Killed
        save(self, engine)

    with pytest.MonkeyPatch.context() as patch, pytest.raises((Killed, RuntimeError)) as ended:
        patch.setattr(Checkpoints, "save", die)
        yield
    assert isinstance(ended.value, Killed) or "Killed" in str(ended.getrepr(chain=True))


class BundleTester:
    bundle: str
    most_bytes: int  # of a trained adapter

    @pytest.fixture(scope="class")
    def trained(self, tmp_path_factory):
        """A dataset of volumes and the folder where the bundle was trained on it."""
        folder = tmp_path_factory.mktemp("trained")
        data = volumes(folder / "data")
        run(
            self.bundle,
            "train",
            dataset_dir=str(data),
            ckpt_dir=f"{folder}/models",
            output_dir=f"{folder}/output",
            **SMALL,
        )
        return folder

    @pytest.fixture(scope="class")
    def pictures(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("pictures")
        rng = np.random.default_rng(0)
        items = []
        for name, (h, w) in {"a": (40, 60), "b": (64, 48), "c": (50, 70)}.items():
            mask = np.zeros((h, w), np.uint8)
            mask[h // 4 : h // 2, w // 2 : w - 5] = 255
            colour = np.where(mask[..., None] > 0, (200, 60, 60), (80, 120, 80)) + rng.normal(0, 8, (h, w, 3))
            Image.fromarray(colour.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.jpg")
            Image.fromarray(mask).save(folder / f"{name}_mask.png")
            items.append({"image": f"{name}.jpg", "label": f"{name}_mask.png"})
        write_json(folder, modality={"0": "RGB"}, labels={"0": "background", "1": "left polyp"}, training=items[:2],
                   validation=items[2:], test=[])  # fmt: skip
        return folder

    def test_training_leaves_an_adapter_a_table_and_a_picture(self, trained):
        state = torch.load(trained / "models/model.pt", weights_only=True)
        assert (trained / "models/model.pt").stat().st_size < self.most_bytes
        assert (trained / "output/training_cases.txt").read_text() == "a.nii.gz\nb.nii.gz\n"
        record = identity.from_tensor(state["identity"])
        assert record["labels"] == ["bright", "dark"] and record["preprocessing"]["intensity"] == "mr"
        rows = list(csv.DictReader((trained / "output/cases.csv").open()))
        assert [(r["case"], r["label"]) for r in rows] == [("c", "bright"), ("c", "dark")]
        with Image.open(trained / "output/validation/c.png") as picture:
            assert min(picture.size) > 200 and len(picture.getcolors(1 << 24)) > 100

    def test_masks_lie_on_the_grid_of_their_files(self, trained):
        out = trained / "masks"
        where = {"dataset_dir": f"{trained}/data", "adapter": f"{trained}/models/model.pt", "output_dir": str(out)}
        run(self.bundle, "inference", **where)
        image, mask = nib.load(trained / "data/images/d.nii.gz"), nib.load(out / "d_seg.nii.gz")
        assert mask.shape == image.shape
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)
        assert set(np.unique(mask.dataobj)) <= {0, 1, 2} and (out / "d.png").is_file()
        assert not list(out.glob(".*"))

    def test_evaluation_writes_every_metric_of_every_case_and_label(self, trained):
        out = trained / "evaluation"
        run(
            self.bundle,
            "train",
            "evaluate",
            dataset_dir=f"{trained}/data",
            ckpt_dir=f"{trained}/models",
            output_dir=str(out),
        )
        rows = list(csv.DictReader((out / "cases.csv").open()))
        assert len(rows) == 2 and set(rows[0]) == {
            "case",
            "label",
            *METRICS,
            "ml",
            "reference_ml",
            "false_positive",
            "guess",
        }
        assert [r["dice"] for r in rows] == [r["dice"] for r in csv.DictReader((trained / "output/cases.csv").open())]

    def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(self, tmp_path, trained):
        settings = SMALL | {"epochs": 4, "dataset_dir": f"{trained}/data", "output_dir": f"{tmp_path}/o"}
        run(self.bundle, "train", ckpt_dir=f"{tmp_path}/whole", **settings)

        with killed_in_epoch_3():
            run(self.bundle, "train", ckpt_dir=f"{tmp_path}/killed", **settings)
        torch.manual_seed(123)
        run(self.bundle, "train", ckpt_dir=f"{tmp_path}/killed", resume=True, **settings)
        whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
        assert all(torch.equal(whole[k], resumed[k]) for k in whole)
        best = [torch.load(tmp_path / f / "model.pt", weights_only=True) for f in ("whole", "killed")]
        assert all(torch.equal(best[0][k], best[1][k]) for k in best[0])

        before = {p.name: p.read_bytes() for p in (tmp_path / "killed").iterdir()}
        run(self.bundle, "train", ckpt_dir=f"{tmp_path}/killed", resume=True, **settings)
        assert {p.name: p.read_bytes() for p in (tmp_path / "killed").iterdir()} == before

    @pytest.mark.parametrize("scale", ["whole", "patch"])
    def test_pictures_train_whole_and_in_patches_and_masks_have_their_rows_and_columns(self, pictures, tmp_path, scale):
        run(self.bundle, "train", dataset_dir=str(pictures), ckpt_dir=f"{tmp_path}/models", output_dir=f"{tmp_path}/o",
            scale=scale, **SMALL)  # fmt: skip
        run(self.bundle, "inference", dataset_dir=f"{pictures}/c.jpg", adapter=f"{tmp_path}/models/model.pt",
            output_dir=f"{tmp_path}/masks")  # fmt: skip
        with Image.open(tmp_path / "masks/c_seg.png") as mask:
            assert mask.size == (70, 50) and mask.mode == "L" and set(np.unique(mask)) <= {0, 1}
        with Image.open(pictures / "c.jpg") as colour:
            colour.convert("L").save(tmp_path / "grey.png")
        with pytest.raises(InputError, match=r"grey\.png is grey .* the adapter is for images that are in colour"):
            run(self.bundle, "inference", dataset_dir=f"{tmp_path}/grey.png", adapter=f"{tmp_path}/models/model.pt",
                output_dir=f"{tmp_path}/others")  # fmt: skip
        assert not list((tmp_path / "others").glob("*.png"))

    @pytest.mark.parametrize("configs", [("train",), ("train", "evaluate"), ("inference",)])
    def test_monai_finds_every_property_it_requires(self, trained, configs):
        workflow = start(self.bundle, *configs, dataset_dir=f"{trained}/data", image_size=32)
        workflow.initialize()
        assert not workflow.check_properties()

    def test_inference_initialises_elsewhere_and_without_an_adapter(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        workflow = start(self.bundle, "inference", adapter=str(tmp_path / "none.pt"))
        workflow.initialize()
        network = workflow.network_def
        metadata = read_metadata(ROOT / f"bundles/{self.bundle}")
        pred = metadata["network_data_format"]["outputs"]["pred"]
        image = metadata["network_data_format"]["inputs"]["image"]
        logits = network(torch.rand(1, image["num_channels"], *image["spatial_shape"]))
        assert type(logits) is torch.Tensor and logits.shape == (1, pred["num_channels"], *pred["spatial_shape"])
        with pytest.raises(InputError, match=r"none\.pt: train one first"):
            run(self.bundle, "inference", adapter=str(tmp_path / "none.pt"), output_dir=str(tmp_path / "o"))

    def test_monai_loads_the_trained_network_from_any_folder(self, trained, tmp_path, monkeypatch):
        copy = tmp_path / "bundles" / self.bundle
        shutil.copytree(ROOT / "bundles" / self.bundle / "configs", copy / "configs")
        shutil.copytree(trained / "models", copy / "models")
        monkeypatch.chdir(trained)
        network = load(self.bundle, bundle_dir=tmp_path / "bundles", workflow_type="inference")
        state = torch.load(trained / "models/model.pt", weights_only=True)
        assert network.labels == ("bright", "dark") and network.image_size == 32
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())

    def test_training_and_inference_agree(self):
        train, infer = (
            ConfigParser.load_config_file(ROOT / f"bundles/{self.bundle}/configs/{n}.json")
            for n in ("train", "inference")
        )
        for section in ("preparation", "network_def"):  # what training plans, inference takes from the record
            for key, value in train[section].items():
                train[section][key] = f"@{key}" if value == f"$@plan['{key}']" else value
        assert train["preparation"].pop("channels").startswith("$sam_monai.data.channels_picked(")
        assert infer["preparation"].pop("channels") == "@channels"  # the record's
        assert train["preparation"] == infer["preparation"]
        assert train["network_def"].pop("labels").endswith("else @labels")
        assert infer["network_def"]["labels"] == "@labels"
        shared = set(train["network_def"]) & set(infer["network_def"])
        assert set(train["network_def"]) - shared <= {"preprocessing", "embedding_cache", "checkpointing", "prompted"}
        assert all(train["network_def"][key] == infer["network_def"][key] for key in shared)
