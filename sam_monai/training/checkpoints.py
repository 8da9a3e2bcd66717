"""The best adapter, and the state from which a killed training is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm.auto import tqdm

from ..distributed import first_process
from ..errors import InputError
from ..files import save_aside
from ..networks.adapter_files import training_summary, write_adapter


class Checkpoints:
    """Writes the best adapter and the state to resume from, at the ends of epochs.

    ``folder/model.pt``: the adapter with the best validation metric, or after the last epoch where nothing was
    validated, a plain state dict; ``folder/model.safetensors``: the same with words about it.
    ``folder/model_resume.pt``: adapter, optimiser, schedule, epoch and best metric after the last epoch.

    Args:
        folder: where the files go.
        network, optimizer, lr_scheduler: what is trained.
        evaluator: the engine whose ``best_metric`` says which adapter is best. Its validation handler comes first.
        resume: go on from ``model_resume.pt`` where there is one.
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
    ) -> None:
        self.folder = Path(folder)
        self.parts = {"network": network, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
        self.evaluator = evaluator
        self.resume = resume
        self.history: list[dict[str, float]] = []  # an epoch each: its mean loss and, where there is one, Dice
        self.losses: list[float] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.note)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def load(self, engine: Engine) -> None:
        path = self.folder / self.RESUME
        if not self.resume or not path.is_file():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged archive raises
            raise InputError(f"{path}: cannot be resumed from ({error}); start anew with resume false") from error
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["iteration"]
        self.history = state.get("history", [])
        self.evaluator.state.best_metric = state["best_metric"]
        self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]
        tqdm.write(f"resuming after epoch {state['epoch']}, best mean Dice so far {state['best_metric']:.4f}")

    def note(self, engine: Engine) -> None:
        output: Any = engine.state.output
        self.losses.append(float(output[0]["loss"]))

    def save(self, engine: Engine) -> None:
        epoch: dict[str, float] = {"epoch": engine.state.epoch, "loss": sum(self.losses) / len(self.losses)}
        if self.evaluator.state.epoch == engine.state.epoch:
            epoch["dice"] = float(next(iter(self.evaluator.state.metrics.values())))
        self.history.append(epoch)
        self.losses.clear()
        if not first_process():
            return
        network = getattr(self.parts["network"], "module", self.parts["network"])
        best = self.evaluator.state
        last_without_validation = best.best_metric_epoch < 1 and engine.state.epoch == engine.state.max_epochs
        if best.best_metric_epoch == engine.state.epoch or last_without_validation:
            write_adapter(network.state_dict(), self.folder / self.BEST, self.summary(engine))
        state = {name: part.state_dict() for name, part in self.parts.items()} | {
            "network": network.state_dict(),
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "best_metric": float(best.best_metric),
            "best_metric_epoch": best.best_metric_epoch,
            "history": self.history,
        }
        save_aside(state, self.folder / self.RESUME)

    def summary(self, engine: Engine) -> dict[str, Any]:
        best, loaders = self.evaluator.state, (engine.data_loader, self.evaluator.data_loader)
        dice = round(float(best.best_metric), 4) if best.best_metric_epoch == engine.state.epoch else None
        cases = (len(loader.dataset) for loader in loaders)
        return training_summary(engine.state.max_epochs or 0, engine.state.epoch, dice, *cases)
