"""The PTSAM bundle as its users run it."""

from __future__ import annotations

import pytest
import torch
from bundle_runner import SMALL, run, start, volumes
from bundle_tester import BundleTester

from sam_monai import InputError
from sam_monai.errors import told


class TestPTSAMBundle(BundleTester):
    bundle = "ptsam"
    most_bytes = 2 * 2048 * 4 + 8192


@pytest.fixture
def encoded(monkeypatch):
    """How many slices entered an image encoder, a number a call."""
    from sam_monai.backbones.tiny_vit import SeamedTinyViT as TinyViT

    counts, forward = [], TinyViT.forward
    monkeypatch.setattr(TinyViT, "forward", lambda self, x: counts.append(len(x)) or forward(self, x))
    return counts


def test_epochs_never_run_the_encoder_and_a_second_run_encodes_nothing(tmp_path, encoded):
    volumes(tmp_path / "data")
    where = {"dataset_dir": f"{tmp_path}/data", "output_dir": f"{tmp_path}/o", "embedding_cache": f"{tmp_path}/e"}
    workflow = start("ptsam", "train", ckpt_dir=f"{tmp_path}/m", **where, **SMALL | {"epochs": 4, "val_interval": 2})
    workflow.initialize()
    before_epochs = []
    trainer = workflow.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler("EPOCH_STARTED", lambda _: before_epochs.append(sum(encoded)))
    workflow.run()
    # two training volumes of 6 slices, each as it is and mirrored, and one for validation
    assert before_epochs == [30] * 4 and sum(encoded) == 30
    run("ptsam", "train", ckpt_dir=f"{tmp_path}/again", **where, **SMALL)
    assert sum(encoded) == 30


def test_false_keeps_no_embeddings_and_brings_the_full_augmentation_back(tmp_path, encoded):
    volumes(tmp_path / "data")
    where = {"dataset_dir": f"{tmp_path}/data", "ckpt_dir": f"{tmp_path}/m", "output_dir": f"{tmp_path}/o"}
    workflow = start("ptsam", "train", embedding_cache=False, **where, **SMALL)
    workflow.initialize()
    workflow.run()
    steps = [type(step).__name__ for step in workflow.parser.get_parsed_content("train#preprocessing").transforms]
    assert "RandAffined" in steps and len(encoded) > 2 and not (tmp_path / "False").exists()
    assert workflow.parser.get_parsed_content("train#settings")["embedding_cache"] is False
    with pytest.raises((InputError, RuntimeError)) as refused:  # which would bring other samples
        run("ptsam", "train", embedding_cache=f"{tmp_path}/e", resume=True, **where, **SMALL | {"epochs": 3})
    assert "embedding_cache was false and is true" in str(told(refused.value))


def test_embeddings_of_patches_are_not_kept_wherever_their_folder_is(tmp_path):
    volumes(tmp_path / "data", (40, 40, 6))
    where = {"dataset_dir": f"{tmp_path}/data", "ckpt_dir": f"{tmp_path}/m", "output_dir": f"{tmp_path}/o"}
    workflow = run("ptsam", "train", embedding_cache=f"{tmp_path}/e", scale="patch", **where, **SMALL | {"epochs": 1})
    assert not (tmp_path / "e").exists()
    steps = [type(step).__name__ for step in workflow.parser.get_parsed_content("train#preprocessing").transforms]
    assert "RandAffined" in steps


def test_encoder_prompts_train_and_inference_takes_them_over(tmp_path):
    volumes(tmp_path / "data")
    where = {"dataset_dir": f"{tmp_path}/data", "ckpt_dir": f"{tmp_path}/m", "output_dir": f"{tmp_path}/o"}
    run("ptsam", "train", encoder_prompts=4, **where, **SMALL)
    state = torch.load(tmp_path / "m/model.pt", weights_only=True)
    assert sum("blocks" in name for name in state) == 10
    adapter = {"adapter": f"{tmp_path}/m/model.pt", "output_dir": f"{tmp_path}/masks"}
    run("ptsam", "inference", dataset_dir=f"{tmp_path}/data", **adapter)
    assert (tmp_path / "masks/d_seg.nii.gz").is_file()
