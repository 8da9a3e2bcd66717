"""A training planned from the data, the machine and a budget of minutes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from torch import nn

from ..backbones.weights import KNOWN_WEIGHTS
from ..data.check import Examined
from ..data.demo import is_demo
from ..data.fingerprint import Fingerprint
from ..distributed import alone, first_process, from_first, processes
from ..errors import InputError
from ..networks import identity
from .handlers import validation_interval
from .machine import PROBES, Cost, Costs, cost_of, free_on
from .patches import resampled
from .resume import REMEDY, read_resume
from .room import REPORT, Room, steps_of_a_visit
from .rules import rules
from .sizes import SIZES, SMALL_BATCH

MINUTES = 15.0  # a coffee break: long enough for a specialist, short enough to wait for
DEMO_MINUTES = 4.0  # small enough to try, long enough for a picture

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan(Mapping[str, Any]):
    """Values by their key, of those that a user gave too; and why, of those that were planned."""

    values: dict[str, Any]
    why: dict[str, str] = field(default_factory=dict)
    about: str = ""
    minutes: float | None = None
    """Of the whole command; ``None`` where a number of epochs or steps was given."""
    seconds: float = 0.0
    """Of them that had passed when the plan was made."""
    validation: float = 0.0
    """Seconds that a validation should take."""
    advice: str = ""
    """On another method."""

    def __getitem__(self, key: str) -> Any:
        return self.all[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    @property
    def all(self) -> dict[str, Any]:
        timing = {"minutes": self.minutes, "seconds": self.seconds, "validation": self.validation}
        return {**self.values, **timing}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"for": self.about, "plan": dict(self), "why": self.why}

    def __str__(self) -> str:
        width = max((len(str(self.values.get(key, ""))) for key in self.why), default=0)
        rows = [f"  {key.ljust(14)}{str(self.values.get(key, '')).ljust(width)}  {w}" for key, w in self.why.items()]
        end = "change any of these by its key (--image_size 256), or the time by --minutes 60"
        return "\n".join([f"plan for {self.about}", *rows, *filter(None, [self.advice]), end])


def is_held(measure: Callable[..., Cost], values: Mapping[str, Any], samples: int) -> bool:
    """Whether steps as planned fit a GPU's memory, by taking some: other programs and fragments take their part."""
    try:
        measure(values["image_size"], values["checkpointing"], *[samples] * (values["scale"] == "patch"))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    return True


def smaller_than(size: int) -> int:
    """The next smaller image size.

    Raises:
        InputError: there is none.
    """
    smaller = [one for one in SIZES if one < size]
    if not smaller:
        raise InputError(f"a step of {size} px does not fit the GPU's memory: give a smaller --batch_size")
    return smaller[-1]


def advised(method: str, data: Fingerprint) -> str:
    """A line on the method that was mostly better on such data in the same time (docs/which_method.md), if another."""
    if method != "ssam" or (len(data.labels) < 2 and data.spatial_dims == 3):
        return ""
    such = "with several labels" if len(data.labels) > 1 else "in pictures"
    return f"{such} Med-SA was mostly better in the same time: sam-monai train FOLDER --bundle medsa --draws 0"


def warn_of_lost(data: Fingerprint, values: Mapping[str, Any]) -> None:
    """Name the labels whose structures are smaller than a pixel of whole slices."""
    for label in data.labels:
        across = label.extent * values["image_size"] / data.side
        if values["scale"] == "whole" and across < 1:
            logger.warning(
                "%s is only %.2g px across in whole slices of %d px and will hardly be found: give a larger "
                "--image_size, or --scale patch",
                label.name,
                across,
                values["image_size"],
            )


def plan_kept_in(path: Path) -> dict[str, Any] | None:
    """The plan in a training's state; ``None`` in that of an older version.

    Raises:
        InputError: it holds what no plan does.
    """
    clock = read_resume(path).get("clock")
    if clock is None:
        return None
    plan = clock.get("plan") if isinstance(clock, Mapping) else None
    if not isinstance(plan, Mapping):
        raise InputError(f"{path}: its plan was changed by hand; {REMEDY}")
    return identity.checked(plan, identity.PLAN, f"{path}: its plan")


def refuse_other_length(
    state: str | Path, old: Mapping[str, Any], minutes: float | None, steps: int | None, training: int
) -> None:
    """Refuse minutes or steps that are not those of the training that is resumed, whose plan holds."""
    batch = old.get("batch_size")
    visits = max(1, round(steps / steps_of_a_visit(training, batch))) if steps and training and batch else None
    if minutes in (None, old["minutes"]) and visits in (None, old["epochs"]):
        return
    given = f"--minutes {minutes:g}" if minutes not in (None, old["minutes"]) else f"--steps {steps}"
    length = f"{old['epochs']} epochs" + (f", in {old['minutes']:g} minutes" if old["minutes"] else "")
    raise InputError(
        f"{state}: a resumed training keeps its plan ({length}), so {given} would do nothing: leave it out, or give "
        "--epochs for a longer one"
    )


def make_plan(
    examined: Examined,
    given: Mapping[str, Any],
    method: str,
    network: Mapping[str, Any],
    sample: Sequence[int],
    inferer: Inferer,
    loss: nn.Module,
    device: str | torch.device,
    otherwise: Mapping[str, Any],
    minutes: float | None = None,
    steps: int | None = None,
    resume: str | Path | None = None,
    begun: float | None = None,
    kept: bool = True,
    samples: int = 1,
) -> Plan:
    """Plan what a user did not give.

    Args:
        examined: the cases.
        given: ``scale``, ``spacing``, ``image_size``, ``batch_size``, ``epochs``, ``mirror``, ``val_interval`` and
            ``checkpointing``, ``None`` each where it is to be planned.
        method: of the network.
        network: arguments of its constructor, but labels, image size and checkpointing.
        sample: cases in a step, unless fewer are planned, and of volumes the slices of each.
        inferer, loss: the trainer's, to time a step.
        device: to train on.
        otherwise: values where there is no data to plan from, as when a server gives the cases.
        minutes: of the whole command; ``None``: 15, or 4 for the demonstration.
        steps: of the optimiser, in place of minutes.
        resume: a training's state, whose plan holds, if it is there.
        begun: when the command began, by ``time.monotonic``.
        kept: whether embeddings are, where the encoder stays frozen.
        samples: of volumes and patches, drawn from a case each time it is visited.

    Raises:
        InputError: the state to resume from is none, or holds no plan of ours.
    """
    asked = {key: value for key, value in given.items() if value is not None}
    device = torch.device(device)
    data = examined.fingerprint
    passed = 0.0 if begun is None else time.monotonic() - begun
    if resume and Path(resume).is_file() and (old := plan_kept_in(Path(resume))):
        timed = old["minutes"] if "epochs" not in asked else None
        refuse_other_length(resume, old, minutes, steps, 0 if data is None else data.training)
        values = {key: old.get(key, otherwise.get(key)) for key in given}  # none of a batch in states of before
        return Plan({**values, **asked}, {}, "", timed, passed, old["validation"])
    if data is None:
        values = {"spacing": None, **otherwise, **asked}
        return Plan({"val_interval": validation_interval(values["epochs"]), **values})
    if not first_process():  # which alone takes steps: each would take another number of them, and wait for the others
        return from_first(None)
    about = f"{examined.dataset.folder.name} ({data})"
    if "spacing" in asked and len(asked["spacing"]) == data.spatial_dims:  # else refused where images are prepared
        data = data.resampled(asked["spacing"])
    budget = 60 * (minutes or (DEMO_MINUTES if is_demo(examined.dataset.folder) else MINUTES))
    timed = "epochs" not in asked and steps is None

    network_class = identity.methods()[method]
    batch = min(sample[0], math.ceil(data.training / processes()))
    drawn = samples if data.spatial_dims == 3 else 1

    def measure(size: int, checkpointing: bool = False, drawn: int = drawn) -> Cost:
        channels = data.channels if network.get("channel_names") or data.channels == 1 else 3
        shape = (batch * drawn, channels, size, size, *sample[1 : data.spatial_dims - 1])
        # The network that will be trained starts from the same weights, whatever was timed before it.
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            built = network_class(
                default_labels=examined.dataset.labels, image_size=size, checkpointing=checkpointing, **network
            )
            with alone():
                return cost_of(built, shape, inferer, loss, device, kept)

    size = asked.get("image_size")
    costs = Costs(measure, (size,) if size and size <= PROBES[-1] else PROBES)
    largest = KNOWN_WEIGHTS[network["backbone"]].image_size if network["backbone"] in KNOWN_WEIGHTS else SIZES[-1]
    follows = network_class.takes_prompts and network.get("prompted", True) and data.spatial_dims == 3
    if timed:
        _ = costs.measured  # which takes a part of the time
        passed = 0.0 if begun is None else time.monotonic() - begun
    fixed = "spacing" in asked
    left, on_gpu = budget - passed - REPORT, device.type != "cpu"
    fewer = timed and data.spatial_dims == 3 and "batch_size" not in asked and not on_gpu
    room = Room(
        data,
        costs,
        left,
        batch=batch,
        given_steps=steps if "epochs" not in asked else asked["epochs"] * steps_of_a_visit(data.training, batch),
        given_size=size,
        whole_only=follows,
        free=free_on(device),
        given_interval=asked.get("val_interval"),
        mirror=asked.get("mirror"),
        slices=drawn * (sample[1] if data.spatial_dims == 3 else 1),
        given_spacing=fixed,
        on_gpu=on_gpu,
        smallest=SMALL_BATCH if fewer else None,
        samples=samples if data.spatial_dims == 2 else 1,
        spent=budget - left,
    )
    made = rules(room, asked, size or largest, budget if timed else None)
    while device.type == "cuda" and size is None and not is_held(measure, made[0], samples):
        largest = smaller_than(made[0]["image_size"])
        logger.warning("a step does not fit the GPU's memory: planned with an image_size of %d at most", largest)
        made = rules(room, asked, largest, budget if timed else None)
    warn_of_lost(data, made[0])
    shrunk = room if fixed else resampled(room, made[0]["spacing"])
    validation = shrunk.validation(made[0]["image_size"], made[0]["scale"]) if timed else 0.0
    passed = 0.0 if begun is None else time.monotonic() - begun  # steps have been timed meanwhile
    advice = advised(method, data)
    plan = Plan(*made, about, budget / 60 if timed else None, passed, validation, advice)
    return from_first(plan)
