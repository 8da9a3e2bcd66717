"""The benchmarks' command runs, and its measures measure."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from bundle_runner import volumes
from folder_maker import pairs
from matplotlib.axes import Axes
from monai.transforms import Compose

from benchmarks import accuracy, inference, job, measure, time_to_dice, unet
from benchmarks.__main__ import table
from benchmarks.picture import draw_dice
from sam_monai.backbones import onednn
from sam_monai.data import read_dataset
from sam_monai.errors import InputError

ROOT = Path(__file__).parents[1]


def test_runs_take_turns_and_the_longer_one_takes_longer():
    order = []
    runs = {name: lambda name=name, s=s: order.append(name) or time.sleep(s) for name, s in (("a", 0.01), ("b", 0.2))}
    seconds = measure.alternating(runs, rounds=4, most_seconds=5)
    assert order == ["a", "b"] * 6 and len(seconds["a"]) == 4  # two rounds more, uncounted
    assert sum(seconds["a"]) < sum(seconds["b"])


def test_work_counts_the_operations_of_a_matrix_product():
    a, b = torch.rand(20, 30), torch.rand(30, 40)
    assert measure.counted(lambda: a @ b)[1] == 2 * 20 * 30 * 40
    assert measure.counted(lambda: torch.zeros(20, 40).addmm_(a, b))[1] == 2 * 20 * 30 * 40


def test_work_counts_the_operations_that_only_cpus_have():
    x, weight, bias = torch.rand(20, 32), torch.rand(48, 32), torch.rand(48)
    if not onednn.known(torch.float32):
        pytest.skip("this processor or this torch does not have them")
    with torch.no_grad():
        assert measure.counted(lambda: onednn.linear(x, weight, bias, gelu=True))[1] == 2 * 20 * 32 * 48
        image, layer = torch.rand(1, 8, 10, 10), torch.nn.Conv2d(8, 16, 3, padding=1)
        activated = measure.counted(lambda: onednn.convolution_gelu(layer, image, layer.weight, layer.bias))[1]
        assert activated == 2 * 10 * 10 * 16 * 8 * 3 * 3
    q = torch.rand(2, 3, 64, 16)
    assert measure.counted(lambda: F.scaled_dot_product_attention(q, q, q))[1] == 2 * (2 * 2 * 3 * 64 * 64 * 16)


def test_beside_a_gpu_nothing_is_timed_that_computes_on_the_cpu(monkeypatch):
    jobs = [inference.encoder_vit_t, inference.exported]
    assert all(any("openvino" in name.lower() for name in one(128, 1).builders) for one in jobs)
    monkeypatch.setattr(job, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(inference, "own_precision", lambda: "bf16")
    for made in (*(one(128, 1) for one in jobs), inference.volume(1)):
        assert not any("openvino" in name.lower() or "onnx" in name for name in made.builders)
        assert "sam_monai bf16" in made.builders or "sam_monai S-SAM" in made.builders


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell a process's peak")
def test_peak_memory_is_the_runs_own():
    code = """
import torch
from benchmarks.measure import peak_memory
def build():
    held = torch.ones(2**26)  # a quarter GiB that loading takes
    return lambda: torch.ones(2**27).sum() + held[0]
print(peak_memory(build))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert 0.45 < float(done.stdout) < 0.6


@pytest.mark.thorough
def test_the_command_writes_table_json_and_picture(tmp_path):
    words = ["second click", "growth with labels"]
    options = ["--rounds", "3", "--seconds", "1", "--output", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "benchmarks", *words, *options], cwd=ROOT, check=True)
    found = json.loads((tmp_path / "benchmarks.json").read_text())
    click = found["jobs"]["second click, vit_b 256 px"]["runs"]
    assert all(run["median"] > 0 and run["memory"] is not None for run in click.values()) and len(click) == 2
    table = (tmp_path / "benchmarks.md").read_text()
    assert "segment-anything" in table and "sam_monai S-SAM, 16 labels" in table
    assert (tmp_path / "benchmarks.png").stat().st_size > 1000


def test_each_dice_is_noted_with_the_time_at_which_it_was_printed():
    lines = "".join(f"time.sleep(0.5); print('\\rtraining: 1%', 'epoch {i}: validation Dice 0.{i}');" for i in (2, 7))
    points = time_to_dice.curve(["-c", f"import time; {lines}"], threads=1)
    assert [dice for _, dice in points] == [0.2, 0.7] and 0.4 < points[1][0] - points[0][0] < 5
    with pytest.raises(RuntimeError, match="ended with 3: so it is"):
        time_to_dice.curve(["-c", "print('so it is'); raise SystemExit(3)"], threads=1)


def test_a_method_is_judged_by_when_it_had_what_the_better_u_net_ends_with():
    rivals = [("U-Net whole", [(60, 0.9), (90, 0.6)]), ("U-Net patch", [(200, 0.5)])]
    methods = [("S-SAM", [(30, 0.4), (45, 0.6), (60, 0.8)]), ("PTSAM", [(30, 0.5)])]
    cells = [{"dataset": "a", "contender": name, "points": points} for name, points in (*rivals, *methods)]
    rows = {row.split(" | ")[1]: row.split(" | ")[2:] for row in time_to_dice.table(cells).splitlines()[2:]}
    assert rows["S-SAM"] == ["0.800", "1.0", "0.8 |"] and rows["PTSAM"] == ["0.500", "0.5", " |"]


@pytest.mark.parametrize("kind", ["cpu_bf16", "cpu_fp32", "gpu"])
def test_the_results_in_the_repository_say_the_same_as_json_and_as_a_table(kind):
    found = json.loads((ROOT / f"benchmarks/results/{kind}.json").read_text())
    times = [line.split("|")[1:3] for line in table(found).splitlines() if " to " in line and line.startswith("|")]
    text = (ROOT / f"benchmarks/results/{kind}.md").read_text()
    assert len(times) > 70 - 10 * (kind == "gpu")
    assert [name for name, time in times if f"|{name}|{time}|" not in text] == []


def test_each_contender_is_trained_by_its_own_bundle_and_keys(tmp_path):
    found = accuracy.contenders(str(volumes(tmp_path)), list(accuracy.METHODS), ["--minutes", "8"])
    for name, (bundle, *keys) in accuracy.METHODS.items():
        command = found[f"{name} --minutes 8"]
        assert f"bundles/{bundle}/configs/train.json" in command[4].replace("\\", "/")
        assert command[-2 - len(keys) :] == [*keys, "--minutes", "8"]
    assert [*accuracy.METHODS["Med-SA, labels alone"]] == ["medsa", "--draws", "0"]


def test_the_rival_is_trained_on_the_same_cases_and_named_by_them(tmp_path):
    settings = ["--train_cases", "2", "--minutes", "8", "--fold", "1"]
    found = accuracy.contenders(str(volumes(tmp_path)), ["S-SAM"], settings)
    command = found["U-Net 48 --train_cases 2 --fold 1"]
    assert command[-4:] == ["--cases", "2", "--fold", "1"]
    seeded = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unet, "read_dataset", lambda *given, **more: seeded.append((given, more)) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            unet.run("folder", 3, 32, 1, False, cases=2, fold=1)
    assert seeded == [(("folder", 2, 3), {"fold": 1})]  # as the bundles' training reads it


@pytest.mark.parametrize("suffix", [".png", ".nii.gz"])
def test_the_rival_gets_images_between_0_and_1(tmp_path, suffix):
    data = read_dataset(pairs(tmp_path, 2, suffix=suffix))
    training, loading = unet.transforms(data.labels, data.spatial_dims, 16, False)
    image = Compose(loading)(dict(data.training[0]))["image"]
    assert image.min() == 0 and image.max() == 1 and float(image.mean()) == pytest.approx(0.5, abs=0.1)
    assert training(dict(data.training[0]))["image"].max() < 1.5


def test_regions_are_no_labels_for_the_rival(tmp_path):
    folder = pairs(tmp_path, 3)
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    cases = [{"image": f"images/c{i}.png", "label": f"labels/c{i}.png"} for i in range(3)]
    content = {"labels": labels, "regions_class_order": [1, 2], "training": cases[:2], "validation": cases[2:]}
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="has regions or channels of its own"):
        unet.run(str(folder), 0, 16, 1, False)


def test_cells_that_fail_are_told_at_the_end_and_two_folders_of_one_name_are_refused(tmp_path, monkeypatch, capsys):
    folder = str(volumes(tmp_path / "scans"))
    monkeypatch.setattr(accuracy, "contenders", lambda *_: {"S-SAM": ["-c", "raise SystemExit(3)"]})
    monkeypatch.setattr(sys, "argv", ["accuracy", folder, "--output", str(tmp_path / "o")])
    with pytest.raises(SystemExit, match=r"not measured: scans S-SAM 0 \(ended with 3\)"):
        accuracy.main()
    monkeypatch.setattr(sys, "argv", ["accuracy", folder, str(volumes(tmp_path / "b" / "scans"))])
    with pytest.raises(SystemExit):
        accuracy.main()
    assert "two folders are called scans" in capsys.readouterr().err


def test_a_picture_shows_no_u_net_where_none_was_trained(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes, "scatter", lambda self, x, y, **style: drawn.append((style["label"], *x)))
    monkeypatch.setattr(Axes, "legend", lambda *_, **__: None)
    draw_dice([{"dataset": "a", "contender": "S-SAM", "dice": {"x": 0.8}}], tmp_path / "a.png")
    assert drawn == [("S-SAM", 0.8)]
