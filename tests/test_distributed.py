"""Several processes on one machine, started by torchrun as users start them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import ROOT, run, start, volumes, write_json

# Patches that hold all of a slice or volume, in order, and five plain steps: nothing is left to chance.
EXACT = {
    "image_size": 32,
    "epochs": 5,
    "val_interval": 5,
    "slices": 4,
    "augment": False,
    "amp": False,
    "train#dataloader#shuffle": False,
    "optimizer": {
        "_target_": "torch.optim.SGD",
        "params": "$[p for p in @network.parameters() if p.requires_grad]",
        "lr": 0.01,
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two volumes to train on and three to validate on."""
    folder = volumes(tmp_path_factory.mktemp("data") / "volumes", shape=(32, 32, 4))
    items = json.loads((folder / "dataset.json").read_text())
    more = []
    for name in ("e", "f"):
        for part in ("images", "labels"):
            volume = nib.load(folder / f"{part}/c.nii.gz")
            nib.save(nib.Nifti1Image(np.asarray(volume.dataobj)[::-1], volume.affine), folder / f"{part}/{name}.nii.gz")
        more.append({"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"})
    write_json(folder, validation=items["validation"] + more)
    return folder


def torchrun(bundle: str, configs: list[str], folder: Path, **overrides: object) -> subprocess.Popen[str]:
    """Two processes that run a bundle; the overrides come as one more configuration."""
    (folder / "overrides.json").write_text(json.dumps(overrides))
    files = [str(ROOT / f"bundles/{bundle}/configs/{name}.json") for name in configs] + [str(folder / "overrides.json")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run", "--config_file", str(files)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def flat(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([state[key].double().flatten() for key in sorted(state) if key != "identity"])


def finish(process: subprocess.Popen[str]) -> str:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output[-4000:]
    return output


@pytest.mark.slow
@pytest.mark.parametrize("bundle", ["ssam", "ptsam", "medsa"])
def test_two_processes_train_the_adapter_that_one_trains_with_twice_the_batch(bundle, data, tmp_path):
    settings = EXACT | {"dataset_dir": str(data)}
    if bundle == "medsa":
        settings["train#inferer"] = {"_target_": "fixed_prompts.FixedPrompts", "labels": 2}
    if bundle == "ptsam":
        settings["embedding_cache"] = str(tmp_path / "embeddings")
    alone = {"ckpt_dir": f"{tmp_path}/one", "output_dir": f"{tmp_path}/one/out", "batch_size": 2}
    run(bundle, "train", **settings, **alone)
    both = {"ckpt_dir": f"{tmp_path}/two", "output_dir": f"{tmp_path}/two/out", "batch_size": 1}
    sampling = {"train#sampler#shuffle": False}
    output = finish(torchrun(bundle, ["train", "multi_gpu_train"], tmp_path, **settings, **both, **sampling))
    untrained = start(bundle, "train", **settings)
    untrained.initialize()
    before = flat(untrained.parser.get_parsed_content("network_def").state_dict())
    ends = [torch.load(tmp_path / name / "model_resume.pt", weights_only=True)["network"] for name in ("one", "two")]
    one, two = map(flat, ends)
    assert (two - one).norm() < 1e-4 * one.norm()
    assert (two - one).norm() < 1e-2 * (one - before).norm()  # of what training changed, too
    rows = [list(csv.DictReader((tmp_path / n / "out/cases.csv").open())) for n in ("one", "two")]
    assert [[r["case"], r["label"]] for r in rows[0]] == [[r["case"], r["label"]] for r in rows[1]]
    assert len(rows[0]) == 6 and output.count("adapter:") == 1
    logs = [len(list((tmp_path / name / "out/tensorboard").iterdir())) for name in ("one", "two")]
    assert logs[0] == logs[1]  # the first process alone writes


@pytest.mark.slow
@pytest.mark.parametrize("bundle", ["ssam", "medsa"])
def test_two_processes_evaluate_as_one(bundle, data, tmp_path):
    where = {"dataset_dir": str(data), "ckpt_dir": f"{tmp_path}/models", "image_size": 32, "amp": False}
    run(bundle, "train", **where, output_dir=f"{tmp_path}/out", epochs=1, val_interval=1, slices=4)
    del where["image_size"]
    run(bundle, "train", "evaluate", **where, output_dir=f"{tmp_path}/one")
    configs = ["train", "evaluate", "multi_gpu_evaluate"]
    finish(torchrun(bundle, configs, tmp_path, **where, output_dir=f"{tmp_path}/two"))
    for name in ["cases.csv", *(["prompts.csv"] if bundle == "medsa" else [])]:
        one, two = (list(csv.DictReader((tmp_path / n / name).open())) for n in ("one", "two"))
        names = [k for k in one[0] if k not in ("dice", "hd95", "surface_dice", "ml")]
        assert [[r[k] for k in names] for r in one] == [[r[k] for k in names] for r in two]
        assert [float(r["dice"]) for r in one] == pytest.approx([float(r["dice"]) for r in two], abs=0.02)


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_which_can_be_resumed(data, tmp_path):
    settings = EXACT | {"dataset_dir": str(data), "ckpt_dir": f"{tmp_path}/models", "output_dir": f"{tmp_path}/out"}
    settings |= {"batch_size": 1, "val_interval": 1, "train#sampler#shuffle": False, "epochs": 20}
    process = torchrun("ssam", ["train", "multi_gpu_train"], tmp_path, **settings)
    resume = tmp_path / "models/model_resume.pt"
    deadline = time.monotonic() + 240
    while not resume.is_file():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.5)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and "SIGKILL" in output, output[-3000:]
    epoch = torch.load(resume, weights_only=True)["epoch"]
    assert epoch < 20
    output = finish(torchrun("ssam", ["train", "multi_gpu_train"], tmp_path, **settings | {"resume": True}))
    assert f"resuming after epoch {epoch}" in output
    assert torch.load(resume, weights_only=True)["epoch"] == 20


def test_multi_gpu_configurations_say_who_starts_them(data):
    with pytest.raises(Exception, match="torchrun"):
        run("ssam", "train", "multi_gpu_train", dataset_dir=str(data), image_size=32)


@pytest.mark.slow
def test_one_process_plans_for_all_of_them(data, tmp_path):
    """Each would take another number of steps, and wait for the others for ever."""
    where = {"dataset_dir": str(data), "ckpt_dir": f"{tmp_path}/m", "output_dir": f"{tmp_path}/o", "steps": 1}
    process = torchrun("ssam", ["train", "multi_gpu_train"], tmp_path, **where)
    try:
        said, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, said[-2000:]
    assert said.count("plan for volumes") == 1 and (tmp_path / "m/model.pt").is_file()
