"""Long work for the tests of kills and of memory, in a process of its own: ``endurance_jobs.py JOB FOLDER``.

The jobs of kills fork a child for every kill, which costs no start of Python; the process itself runs no torch, whose
threads a child would lack.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from bundle_runner import ROOT, SMALL, run, volumes
from tiny_training import Tiny, make_cases, tiny_training

from sam_monai.bundle.package import package
from sam_monai.networks.adapter_files import read_adapter, training_summary, write_adapter


def job(name: str, folder: Path) -> str:
    """Do one of the jobs below in a process of its own; what it prints."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, name, str(folder)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=1000,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def child(work: Callable[[], object], seconds: float = 400.0) -> bool:
    """Run something in a fork and kill it after a while; whether it had ended by then."""
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            assert status == 0, f"the child ended with {status}"
            return True
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def kill(work: Callable[[], object], times: int, longest: float, check: Callable[[], object]) -> None:
    """Kill something at so many random moments, look each time at what it left, and let it end."""
    rng = random.Random(0)
    kills = 0
    while kills < times:
        kills += not child(work, rng.uniform(0.01, longest))
        assert child(check)
    assert child(work)
    assert child(check)
    print(f"killed {kills} times")


def training(folder: Path) -> None:
    cases = make_cases(folder / "data")
    assert child(lambda: tiny_training(folder / "whole", cases, epochs=400, interval=3).run())
    kill(
        lambda: tiny_training(folder / "killed", cases, epochs=400, interval=3, resume=True).run(),
        30,
        0.6,
        lambda: readable(folder / "killed"),
    )


def readable(folder: Path) -> None:
    from sam_monai.networks.adapter_files import read_adapter

    for file in ("model.pt", "model.safetensors"):
        if (folder / file).is_file():
            read_adapter(folder / file)
    if (folder / "model_resume.pt").is_file():
        assert torch.load(folder / "model_resume.pt", weights_only=True)["epoch"] > 0


def saving(folder: Path) -> None:
    def work() -> None:
        state = Tiny().state_dict()
        for i in range(100):
            state["layer.bias"] = torch.full((300_000,), float(i))
            write_adapter(state, folder / "model.pt", training_summary(i + 1, i + 1, None, 2, 1))

    def check() -> None:
        readable(folder)
        for file in ("model.pt", "model.safetensors"):
            if (folder / file).is_file():
                bias = read_adapter(folder / file)["layer.bias"]
                assert len(bias) == 300_000 and (bias == bias[0]).all()

    kill(work, 8, 0.3, check)


def trained(folder: Path) -> Path:
    """An adapter, and the volumes it was trained on."""
    data = volumes(folder / "data", shape=(20, 18, 4))
    run("ptsam", "train", dataset_dir=str(data), ckpt_dir=f"{folder}/models", output_dir=f"{folder}/o",
        embedding_cache=None, **SMALL | {"epochs": 1})  # fmt: skip
    return data


def studies(folder: Path) -> None:
    assert child(lambda: trained(folder))
    images = folder / "images"
    images.mkdir()
    for i in range(12):
        (images / f"{i}.nii.gz").write_bytes((folder / "data/images/d.nii.gz").read_bytes())
    where = {"dataset_dir": str(images), "adapter": f"{folder}/models/model.pt", "pictures": 2}

    def masks(out: Path) -> dict[str, bytes]:
        import nibabel as nib

        return {file.name: nib.load(file).get_fdata().tobytes() for file in out.glob("*_seg.nii.gz")}

    def compare() -> None:
        whole, killed = masks(folder / "whole"), masks(folder / "killed")
        assert len(whole) == 12 and all(whole[name] == killed[name] for name in killed)

    assert child(lambda: run("ptsam", "inference", **where, output_dir=f"{folder}/whole"))
    kill(lambda: run("ptsam", "inference", **where, output_dir=f"{folder}/killed"), 6, 6.0, compare)
    assert len(list((folder / "killed").glob("*_seg.nii.gz"))) == 12


def packaging(folder: Path) -> None:
    assert child(lambda: trained(folder))
    output = folder / "bundle"

    def work() -> None:
        import shutil

        if output.exists():
            shutil.rmtree(output)
        package(ROOT / "bundles/ptsam", output, folder / "models/model.pt")

    def check() -> None:
        if output.exists() and any(output.iterdir()):  # whole, or not there
            assert {path.name for path in output.iterdir()} >= {"LICENSE", "configs", "docs", "models"}
            assert (output / "models/model.pt").is_file() and (output / "models/model.safetensors").is_file()
            readable(output / "models")

    kill(work, 6, 0.15, check)
    assert (output / "models/model.safetensors").is_file() and (output / "configs/train.json").is_file()


def resident() -> float:
    """Megabytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


class Watch:
    """Notes the process's memory at every iteration of an engine; with ``leak`` it keeps 1 MB each time."""

    def __init__(self, leak: bool) -> None:
        self.leak, self.seen, self.kept = leak, [], []

    def attach(self, engine) -> None:
        from ignite.engine import Events

        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine) -> None:
        self.seen.append(resident())
        if self.leak:
            self.kept.append(torch.ones(250_000))

    def growth(self) -> float:
        """Megabytes from the third to the last fifth of the run."""
        fifth = len(self.seen) // 5
        return sum(self.seen[-fifth:]) / fifth - sum(self.seen[2 * fifth : 3 * fifth]) / fifth


def memory(folder: Path, steps: int = 500, studies: int = 200, leak: bool = False) -> None:
    from bundle_runner import start

    data = volumes(folder / "data", shape=(20, 18, 4))
    where = {"dataset_dir": str(data), "ckpt_dir": f"{folder}/models", "output_dir": f"{folder}/o", "image_size": 32}
    length = {"epochs": steps // 2, "val_interval": steps // 10, "batch_size": 1}
    workflow = start("ptsam", "train", **where, **length, embedding_cache=None)
    workflow.initialize()
    watch = Watch(leak)
    watch.attach(workflow.parser.get_parsed_content("train#trainer"))
    workflow.run()
    print(f"steps {len(watch.seen)} growth {watch.growth():.2f}")
    images = folder / "images"
    images.mkdir()
    for i in range(studies):
        (images / f"{i}.nii.gz").write_bytes((data / "images/d.nii.gz").read_bytes())
    workflow = start("ptsam", "inference", dataset_dir=str(images), adapter=f"{folder}/models/model.pt", pictures=0,
                     output_dir=f"{folder}/masks")  # fmt: skip
    workflow.initialize()
    watch = Watch(leak)
    watch.attach(workflow.parser.get_parsed_content("evaluator"))
    workflow.run()
    print(f"studies {len(watch.seen)} growth {watch.growth():.2f}")


def leaking(folder: Path) -> None:
    memory(folder, 60, 30, leak=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    globals()[sys.argv[1]](Path(sys.argv[2]))
