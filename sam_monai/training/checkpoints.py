"""The best adapter, and the state from which a killed training is resumed."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from tqdm.auto import tqdm

from ..backbones.weights import content_hash
from ..distributed import first_process
from ..errors import InputError
from ..files import save_aside
from ..locks import locked_or_held
from ..networks.adapter_files import at_temperature, read_adapter, read_training, training_summary, write_adapter
from ..networks.fields import plain
from . import resume as resuming
from .best import Best
from .cases import contents
from .clock import Schedule
from .handlers import at_end

ABOUT = "evaluation.json"  # beside cases.csv: what its numbers mean, which images and which adapter they are of
ADAPTER = "adapter"  # in it: the hash of its content
BESIDE_REPORT = ("cases.csv", ABOUT, "prompts.csv", "corrective_clicks.png")


class Checkpoints:
    """Writes the best adapter and the state to resume from, at the ends of epochs.

    ``folder/model.pt``: the adapter with the best validation metric, or after the last epoch where nothing could be
    measured, a plain state dict; ``folder/model.safetensors``: the same with words about it.
    ``folder/model_resume.pt``: adapter, optimiser, schedule, epoch and best metric after the last epoch, with the
    settings and cases that decided them.

    A training that does not go on from these files moves them, and the report about them, into a folder of their own
    before it writes the first of its own. One that begins as the adapter that is there, as a server's does, leaves that
    one where it is until it has its own. While it runs, no other training can use the folder.

    Args:
        folder: where the files go.
        network, optimizer, lr_scheduler: what is trained.
        evaluator: the engine whose key metric says which adapter is best. Its validation handler comes before this one.
        resume: go on from ``model_resume.pt`` where there is one.
        settings: of the training, by the names of the keys that a user gives; what is resumed must have had the same.
            What the network records need not be among them.
        voxels: what images show, by their paths, of :func:`sam_monai.data.examine`.
        report: file of the report that will be written at the end.
        teacher: file of the adapter as which the network begins, if that is not the one in ``folder``. The cases of
            either are among those that the new adapter was trained on.
    """

    BEST, RESUME = "model.pt", "model_resume.pt"

    def __init__(
        self,
        folder: str | Path,
        network: nn.Module,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        evaluator: Engine,
        resume: bool = False,
        settings: Mapping[str, Any] | None = None,
        voxels: Mapping[str, str] | None = None,
        report: str | Path | None = None,
        teacher: str | Path | None = None,
    ) -> None:
        self.folder, self.report, self.teacher = Path(folder), report, teacher
        self.parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
        self.network: Any = getattr(network, "module", network)
        images = getattr(self.network, "preprocessing", {})
        self.evaluator = evaluator
        self.best = Best(evaluator, images.get("instances", False), images.get("regions"))
        self.resume, self.settings, self.voxels = resume, dict(settings or {}), voxels or {}
        self.history: list[dict[str, float]] = []  # an epoch each: its mean loss and, where there is one, Dice
        self.losses: list[float] = []
        self.cases: dict[str, list[list[str]]] = {}
        self.adapter: str | None = ""  # content of model.pt; None where an older version did not note it
        self.ours = False  # whether what lies in the folder is of this training
        self.goes_on = False  # whether the network began as the adapter that lies there
        self.earlier: dict[str, list[str]] = {}  # hashes of the cases of the adapter as which it began
        self.lock = ExitStack()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_STARTED(once=1), self.note_origin)  # handlers have loaded what they load
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.note)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        at_end(engine, lambda: self.lock.close())

    def start(self, engine: Engine) -> None:
        if (clock := vars(engine).get("clock")) is not None:  # the time that passed and the plan are resumed too
            self.parts["clock"] = clock
        with ExitStack() as lock:
            if first_process():
                lock.enter_context(locked_or_held(self.folder, "training"))
                datasets = {"training": engine.data_loader.dataset, "validation": self.evaluator.data_loader.dataset}
                self.cases = {part: contents(getattr(x, "data", ())) for part, x in datasets.items()}
                warn_of_copies(self.cases)
            if self.resume and not self.ours:
                self.load(engine)
            self.lock = lock.pop_all()

    def note_origin(self) -> None:
        """Whether the network is an adapter that was trained already, and on what."""
        if self.ours or not first_process():
            return
        ours = tensors_hash(self.network.state_dict())
        for file in filter(None, (self.folder / self.BEST, self.teacher)):
            with suppress(InputError):  # a file that is damaged is none that was loaded
                if Path(file).is_file() and tensors_hash(read_adapter(file)) == ours:
                    known = read_training(file) or {}
                    self.earlier = {key: known.get(key, []) for key in ("training_hashes", "training_voxels")}
                    self.goes_on = file == self.folder / self.BEST
                    return

    def load(self, engine: Engine) -> None:
        path = self.folder / self.RESUME
        if not os.path.lexists(path):
            tqdm.write(f"there is no {path} to resume from: training starts anew")
            return
        state = resuming.read_resume(path)
        clock = self.parts.get("clock")
        if clock is not None and math.isinf(clock.budget):  # epochs are asked for, and a clock may have changed them
            state["settings"]["epochs"] = resuming.epochs_of(state)
        changes = resuming.check_same(state["settings"], self.decided(engine), path)
        if first_process():
            resuming.check_same_cases(state["cases"], self.cases, path)
            resuming.check_adapter(state, self.folder / self.BEST, path)
        schedule = self.parts["lr_scheduler"]
        planned = self.planned_epochs(engine)
        for name, part in {**self.parts, "network": self.network, "best": self.best}.items():
            if name in state or name != "clock":
                resuming.load_part(part, state[name], name, path)
        if isinstance(schedule, LambdaLR):  # whose rates depend on the number of epochs, which may have grown
            for factor in (f for f in schedule.lr_lambdas if isinstance(f, Schedule)):
                if planned != state["settings"]["epochs"]:
                    factor.restart(planned)
                engine.state.max_epochs = max(state["epoch"], factor.epochs)  # as the clock has decided
            rates = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
            for group, rate, factor in rates:
                group["lr"] = rate * factor(schedule.last_epoch)
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
        self.history, self.adapter, self.ours = state["history"], state.get("adapter"), True
        self.earlier = state.get("earlier", {})
        measured = f"best mean Dice so far {self.best.metric:.4f}" if self.best.epoch > 0 else "nothing measured so far"
        tqdm.write(f"resuming after epoch {state['epoch']}, {measured}" + (f"; changed: {changes}" if changes else ""))

    def decided(self, engine: Engine) -> dict[str, Any]:
        """All settings that decide what is learnt, as plain values."""
        from .. import __version__

        record = dict(self.network.describe())
        images = record.pop("preprocessing")
        record.pop("temperature", None)
        own = {f"{key} of the adapter" if key in images else key: value for key, value in record.items()}
        optimizer: Any = self.parts["optimizer"]
        loss = getattr(engine, "loss_function", None)
        groups = [{"lr": g.get("initial_lr", g["lr"]), "decay": g.get("weight_decay")} for g in optimizer.param_groups]
        return plain(
            {**own, **images, **self.settings}
            | {"epochs": self.planned_epochs(engine), "processes": idist.get_world_size()}
            | {"loss": getattr(loss, "words", type(loss).__name__)}
            | {"optimizer": {"kind": type(optimizer).__name__, "groups": groups}}
            | {"sam_monai": __version__, "torch": torch.__version__}
        )

    def planned_epochs(self, engine: Engine) -> int:
        """Before a clock changed them."""
        factors = getattr(self.parts["lr_scheduler"], "lr_lambdas", ())
        return next((f.planned for f in factors if isinstance(f, Schedule)), engine.state.max_epochs or 0)

    def note(self, engine: Engine) -> None:
        output: Any = engine.state.output
        loss = float(output[0]["loss"])
        if not math.isfinite(loss):
            raise self.broken(engine, f"the loss is {loss}")
        self.losses.append(loss)

    def broken(self, engine: Engine, what: str) -> InputError:
        batch: Any = engine.state.batch  # MONAI's trainer has made it a list of samples
        samples = batch if isinstance(batch, list) else []
        cases = dict.fromkeys(sample["case"] for sample in samples if "case" in sample)
        at = f" at {', '.join(cases)}" if cases else ""
        return InputError(
            f"{what} in epoch {engine.state.epoch}{at}: training stops, and what is in {self.folder} stays as it was. "
            "Give a smaller learning_rate, or see whether the images are as the keys intensity and ct_window say"
        )

    def save(self, engine: Engine) -> None:
        epoch: dict[str, float] = {"epoch": engine.state.epoch, "loss": sum(self.losses) / len(self.losses)}
        if self.evaluator.state.epoch == engine.state.epoch:
            metric = self.best.update()
            epoch |= {} if math.isnan(metric) else {"dice": metric}
        self.losses.clear()
        if not all(tensor.isfinite().all() for tensor in self.network.state_dict().values()):
            raise self.broken(engine, "trained parameters are not finite")
        self.history.append(epoch)
        if not first_process():
            return
        self.move_aside()
        last_without_measure = self.best.epoch < 1 and engine.state.epoch == engine.state.max_epochs
        if self.best.epoch == engine.state.epoch or last_without_measure:
            write_adapter(self.network.state_dict(), self.folder / self.BEST, self.summary(engine))
            self.adapter = content_hash(at_temperature(self.network.state_dict()))
        state = {name: part.state_dict() for name, part in self.parts.items()} | {
            "network": self.network.state_dict(),
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "best": self.best.state_dict(),
            "history": self.history,
            "settings": self.decided(engine),
            "cases": self.cases,
            "adapter": self.adapter,
            "earlier": self.earlier,
        }
        save_aside(state, self.folder / self.RESUME)

    def move_aside(self) -> None:
        """What another training left in the folder, before this one's first file."""
        names = (self.RESUME, self.BEST, str(Path(self.BEST).with_suffix(".safetensors")))
        there = [self.folder / name for name in names if os.path.lexists(self.folder / name)]
        if there and not self.ours:
            reports = self.reports_on(self.folder / self.BEST)
            stem = f"replaced_{datetime.now():%Y-%m-%d_%H%M%S}"
            taken = [file.name for file in self.folder.glob(f"{stem}*")]
            old = self.folder / next(n for n in (stem, *(f"{stem}_{i}" for i in range(2, 1000))) if n not in taken)
            old.mkdir()
            for file in (*there, *reports):
                kept = self.goes_on and file in there and file.name != self.RESUME
                (shutil.copy2 if kept else shutil.move)(file, old / file.name)
            tqdm.write(f"the adapter that was in {self.folder} is now in {old}{', with its report' * bool(reports)}")
            if self.goes_on:
                self.adapter = content_hash(at_temperature(read_adapter(self.folder / self.BEST)))
        self.ours = True

    def reports_on(self, adapter: Path) -> list[Path]:
        """The files of the report that lies where this training's will, if it is about an adapter."""
        if self.report is None or not adapter.is_file():
            return []
        report = Path(self.report)
        with suppress(OSError, ValueError, InputError):  # what is damaged may be about it
            about = json.loads(report.with_name(ABOUT).read_text(encoding="utf-8"))
            if about.get(ADAPTER, "") not in ("", content_hash(at_temperature(read_adapter(adapter)))):
                return []
        return [file for name in (report.name, *BESIDE_REPORT) if (file := report.with_name(name)).is_file()]

    def summary(self, engine: Engine) -> dict[str, Any]:
        dice = round(self.best.metric, 6) if self.best.epoch == engine.state.epoch else None
        counts = (len(loader.dataset) for loader in (engine.data_loader, self.evaluator.data_loader))
        summary = training_summary(engine.state.max_epochs or 0, engine.state.epoch, dice, *counts)
        if dice is not None and self.best.by_label:
            summary["dice_by_label"] = self.best.by_label
        summary["steps"] = summary["epochs"] * (engine.state.epoch_length or 0)
        numbers = {key: value for key, value in self.settings.items() if isinstance(value, bool | int | float | None)}
        summary["settings"] = {key: value for key, value in numbers.items() if key != "quick"}
        hashes = {f"{part}_hashes": [case[1] for case in cases] for part, cases in self.cases.items()}
        trained = getattr(engine.data_loader.dataset, "data", ())
        hashes["training_voxels"] = [self.voxels[case["image"]] for case in trained if case["image"] in self.voxels]
        for key, before in self.earlier.items():
            hashes[key] += [one for one in before if one not in hashes[key]]
        plan = {"plan": self.parts["clock"].plan} if "clock" in self.parts else {}
        return summary | hashes | plan | ({"quick": True} if self.settings.get("quick") else {})


def tensors_hash(state: Mapping[str, Tensor]) -> str:
    """Of what is trained, whatever the adapter's record says."""
    return content_hash({name: tensor for name, tensor in state.items() if name != "identity"})


def warn_of_copies(cases: Mapping[str, list[list[str]]]) -> None:
    """Say which validation images are training images under another name."""
    trained = {case[1]: case[0] for case in cases["training"]}
    both = [f"{case[0]} (as {trained[case[1]]})" for case in cases["validation"] if case[1] in trained]
    if both:
        tqdm.write(f"validation cases that are trained on, so their figures mean little: {', '.join(both)}")
