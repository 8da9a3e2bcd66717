"""How good the answers to clicks and boxes are on the validation cases: a table, a CSV file and a curve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import ignite.distributed as idist
import numpy as np
import torch
from matplotlib.figure import Figure
from monai.data import Dataset
from monai.inferers import SimpleInferer
from monai.metrics import compute_dice
from torch import Tensor
from tqdm.auto import tqdm

from ..data.frames import parts_of
from ..data.instances import KEY as INSTANCES
from ..data.names import CaseNames
from ..data.unlabelled import UNLABELLED
from ..distributed import first_process, gathered
from ..inference.outputs import Outputs
from ..inference.slabs import SlabInferer
from ..networks.medsa import MedSA
from ..networks.resemblance import named
from ..prompts.answering import answered_by
from ..prompts.drawn import KINDS, Prompts, Rng, corrective_click, draw_box, draw_clicks
from ..prompts.prompted_inference import in_parts
from .tables import write_table

ANSWERS, CURVE = "prompts.csv", "corrective_clicks.png"
AUTOMATIC = "no prompt"
ASKED: dict[str, Callable[[Tensor, Rng], Prompts]] = {
    "1 click": lambda mask, rng: draw_clicks(mask, rng, 1),
    "3 clicks": lambda mask, rng: draw_clicks(mask, rng, 3),
    "box 50 %": KINDS["box 50 %"],
    "box 75 %": KINDS["box 75 %"],
}
ONE_SLICE = "1 click on one slice, followed"
NAMED = f"{ONE_SLICE}, its label named"
MOST = 10  # corrective clicks
WANTED = (0.85, 0.90)  # Dice to which clicks are counted
DRAWS = {name: 9 if name == "box 50 %" else 3 for name in ASKED}  # answers to loose boxes differ by a hundredth


def answers(
    network: MedSA,
    image: Tensor,
    embedding: Tensor,
    automatic: Tensor | None,
    mask: Tensor,
    rng: Rng,
    known: Tensor,
    label: str,
) -> Iterator[tuple[str, Tensor]]:
    """Names of prompts for one object, and what the trained network answers: bool (1, 1, *spatial).

    Args:
        network: a Med-SA.
        image: (1, C, *spatial).
        embedding: of the image.
        automatic: the network's answer without a prompt; ``None`` for a volume that is answered in parts.
        mask: bool (1, 1, *spatial), the object.
        rng: all randomness of the prompts.
        known: bool (1, 1, *spatial), the voxels that are annotated; answers elsewhere do not count.
        label: the object's name, which one of the prompts says.
    """

    def ask(prompts: Prompts, label: str | None = None) -> Tensor:
        if label is not None:
            prompts = {**prompts, "meant": named(network.labels, label).to(image.device)}
        return answered_by(network, image, embedding, automatic, prompts)[None, None]

    for name, draw in ASKED.items():
        for _ in range(DRAWS[name]):
            yield name, (ask(draw(mask, rng)) > 0) & known
    if image.ndim == 5:
        click = draw_clicks(mask, rng, 1, share=0.0)
        yield ONE_SLICE, (ask(click) > 0) & known
        yield NAMED, (ask(click, label) > 0) & known
    prompts = draw_box(mask, rng, 0.5)
    for clicks in range(MOST + 1):
        answer = (ask(prompts) > 0) & known
        yield correction_name(clicks), answer
        prompts = corrective_click(mask, answer, prompts)


def correction_name(clicks: int) -> str:
    return f"box 50 %, {clicks} corrective click{'s' * (clicks != 1)}"


@torch.no_grad()
def evaluate_prompts(
    network: MedSA, dataset: Dataset, labels: Sequence[str], folder: str | Path, device: torch.device, seed: int = 0
) -> dict[str, float]:
    """Dice of every prompt for every case and label, on the grid that the network, a Med-SA, sees. Image and label map
    of a case are on one grid, as of :func:`sam_monai.inference.pipeline.on_one_grid`. ``prompts.csv`` and the curve
    ``corrective_clicks.png`` go to ``folder``.

    In a volume "1 click" is one on every slice that shows the object, and a corrective click one in the whole volume.
    Corrective clicks follow a box, up to :data:`MOST` of them, each where the answer was most wrong. How many an object
    needs is counted too: :func:`number_of_clicks`.

    Networks that see patches, number objects or were trained without prompts are not asked.

    Returns:
        Mean Dice by prompt: over the cases, or parts of frames, that show a label, then over the labels. Likewise the
        mean numbers of clicks.
    """
    images, outputs = network.preprocessing, Outputs(folder)
    if images.get("scale") == "patch" or images.get(INSTANCES) or not network.prompted:
        why = "a training in patches" if images.get("scale") == "patch" else "one that numbers objects"
        return nothing_asked(outputs, f"there are no figures of prompts for {why}" if network.prompted else "")
    network.eval()
    mine = range(idist.get_rank(), len(dataset), idist.get_world_size())
    parts = []
    for i in tqdm(mine, desc="prompting", unit="case", disable=not first_process()):
        case, rows = dataset[i], []
        rng = np.random.RandomState(seed + i)
        file, number = str(case["image"].meta["filename_or_obj"]), parts_of(case["image"])
        whole = (case[key].as_tensor()[None].to(device) for key in ("image", "label"))
        for image, label in zip(*(x.chunk(number, -1) if number > 1 else [x] for x in whole), strict=True):
            embedding = network.encode(image)
            automatic = None if in_parts(image, network) else network(image, embedding)
            found = SlabInferer(SimpleInferer())(image, network) if automatic is None else automatic
            found = found.argmax(1, keepdim=True) if found.shape[1] > 1 else found
            known = label != UNLABELLED
            for value, label_name in enumerate(labels, 1):
                mask = label == value
                if not mask.any():
                    continue
                asked = answers(network, image, embedding, automatic, mask, rng, known, label_name)
                for prompt, answer in [(AUTOMATIC, (found == value) & known), *asked]:
                    dice = compute_dice(answer.float(), mask.float()).item()
                    rows.append({"case": file, "label": label_name, "prompt": prompt, "dice": dice})
        parts.append((file, rows))
    parts = gathered(parts)
    rows = [row for _, part in parts for row in part]
    if not rows:
        return nothing_asked(outputs, "no validation case shows any label: there is nothing to prompt for")
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    means = {prompt: mean_over_labels([row for row in rows if row["prompt"] == prompt], labels) for prompt in prompts}
    counts = {f"clicks to Dice {wanted:.2f}": number_of_clicks(rows, labels, wanted) for wanted in WANTED}
    if not first_process():
        return {**means, **counts}
    folder, names = Path(folder), CaseNames()
    for file, _ in parts:  # in their order, so that names are those of cases.csv
        names(file)
    rows = [{**row, "case": names(row["case"])} for row in rows]
    with outputs.writing(folder / ANSWERS) as part:
        write_table(part, ["case", "label", "prompt", "dice"], rows)
    with outputs.writing(folder / CURVE) as part:
        draw_curve([means[correction_name(clicks)] for clicks in range(MOST + 1)], counts, part)
    width = max(map(len, means))
    print("\n".join([f"{'prompt':{width}}  mean Dice", *(f"{p:{width}}  {dice:9.4f}" for p, dice in means.items())]))
    print(*(f"{name}, on average: {clicks:.1f}" for name, clicks in counts.items()), sep="\n")
    print(f"every answer: {folder / ANSWERS}", flush=True)
    return {**means, **counts}


def nothing_asked(outputs: Outputs, why: str) -> dict[str, float]:
    """No figures; those of another adapter, which an earlier evaluation left, are removed."""
    if first_process():
        if why:
            print(why, flush=True)
        for name in (ANSWERS, CURVE):
            outputs.remove(outputs.folder / name)
    return {}


def number_of_clicks(rows: Sequence[dict], labels: Sequence[str], wanted: float) -> float:
    """Corrective clicks until the Dice of an object, in a volume that of the whole, is ``wanted``; :data:`MOST` where
    it is not reached by then. The mean over the objects, then over the labels: NoC in papers on interactive
    segmentation. They mostly begin with a click, which counts. Here the first answer is that to a box, which does not.
    """
    curves = [[row for row in rows if row["prompt"] == correction_name(clicks)] for clicks in range(MOST + 1)]
    each = [(curve[0]["label"], [row["dice"] >= wanted for row in curve]) for curve in zip(*curves, strict=True)]
    counted = [{"label": label, "clicks": there.index(True) if any(there) else MOST} for label, there in each]
    return mean_over_labels(counted, labels, "clicks")


def mean_over_labels(rows: Sequence[dict], labels: Sequence[str], key: str = "dice") -> float:
    each = [[row[key] for row in rows if row["label"] == name] for name in labels]
    return float(np.mean([np.mean(values) for values in each if values]))


def draw_curve(dice: Sequence[float], counts: Mapping[str, float], path: Path) -> None:
    """Mean Dice against corrective clicks, with the mean numbers of clicks above."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(dice, marker="o")
    axes.set(xlabel="corrective clicks after a box", ylabel="mean Dice", xticks=range(len(dice)))
    axes.set_title("; ".join(f"{name}: {clicks:.1f}" for name, clicks in counts.items()), fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150, format="png")
