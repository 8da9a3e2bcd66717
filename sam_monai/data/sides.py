"""Labels of the body's sides: which they are, and which become which when a sample is mirrored."""

from __future__ import annotations

import copy
import logging
import re
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import RandFlipd, RandomizableTransform, Transform
from torch import Tensor

from ..networks.regions import Regions
from .slicing import sides_axis
from .unlabelled import UNLABELLED

logger = logging.getLogger(__name__)


def plain(text: str) -> str:
    """Without accents, which not everybody writes."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return unicodedata.normalize("NFC", bare)


# In the languages of Europe and in Latin, in Chinese, Japanese, Korean, Arabic, Persian, Hebrew, Malay and Vietnamese,
# and what atlases write.
LEFT = plain("""
    left l lt lft lh links linke linker linkes linken lks gauche gauches gche izquierda izquierdo
    izq izqda izqdo sinistra sinistro sinistri sinistre sx esquerda esquerdo esq esquerra esquerre
    sinister sinistrum sin stang stanga vänster vänstra venstre vasen vasemman vasak bal sol lewy
    lewa lewe lewej lewego levý levá levé ľavý ľavá ľavé levi levo lijevi lijeva lijevo kreisais
    kreisa kairys kairė лев левая левый левое левой левого лівий ліва ліве ляв лява ляво αριστερός
    αριστερή αριστερό 左 左側 왼쪽 좌측 좌 يسار أيسر الأيسر اليسرى اليسار چپ שמאל שמאלי שמאלית kiri trái
""").split()
RIGHT = plain("""
    right r rt rgt rh rechts rechte rechter rechtes rechten rts droit droite droits droites dte dt
    derecha derecho dcha dcho destra destro destri destre dx direita direito dir dreta dret dexter
    dextra dextrum dext dex drept dreapta höger högra højre høyre oikea oikean parem jobb sağ prawy
    prawa prawe prawej prawego pravý pravá pravé pravi pravo desni desna desno labais laba dešinys
    dešinė прав правая правый правое правой правого правий права праве десен дясна дясно δεξιός
    δεξιά δεξιό δεξί 右 右側 오른쪽 우측 우 يمين أيمن الأيمن اليمنى اليمين راست ימין ימני ימנית kanan phải
""").split()
GLUED = (("left", "right"), ("links", "rechts"), ("l", "r"))  # to another word, as in "linksniere"
# Words that may mean something else: perhaps a side if two labels differ in them alone. Those are not mirrored.
UNSURE = (("li", "re"), ("g", "d"), ("os", "od"), ("e", "d"))
# Lobes of the lungs, of which a mirrored one is none of the others.
SIDED = {"lul", "lll", "rul", "rml", "rll"}
# Their left and right parts are not each other's mirror image.
UNLIKE = """heart cardiac coronary atrium atria atrial ventricle ventricular auricle auricular appendage myocardium
    liver hepatic colon herz vorhof ventrikel leber coeur foie oreillette corazon higado auricula ventriculo cuore
    fegato atrio coracao figado hart lever boezem cor hepar""".split()


def words_of(label: str) -> list[str]:
    """A label's words in lower case and without accents, told by spaces, signs and camel case: "kidneyL" has two."""
    apart = re.sub(r"([左右]側?|왼쪽|오른쪽|좌측|우측)", r" \1 ", plain(label))
    words = re.findall(r"[A-Z](?=[A-Z][a-z])|[A-Z]?[^\W\d_A-Z]+\d*|[A-Z]+(?![a-z])\d*|\d+", apart)
    return [word.lower() for word in words]


def side_of(words: Sequence[str], place: int) -> str:
    """ "left", "right" or nothing: the side that the word at a place stands for."""
    word = words[place]
    if len(word) == 1 and words[place + 1 : place + 2] and words[place + 1].isdigit():
        return ""  # "vertebra L 1"
    begun = next((i for pair in GLUED[:2] for i in (0, 1) if re.match(rf"{pair[i]}\w{{3}}", word)), None)
    if word in LEFT or begun == 0:
        return "left"
    return "right" if word in RIGHT or begun == 1 else ""


def without_side(words: Sequence[str]) -> tuple[list[str], str]:
    """Words without the one that says a side, and "left" or "right"; all of them and nothing where none or several
    say one."""
    sides = _sides(words)
    if len(sides) != 1:
        return list(words), ""
    ((place, side),) = sides.items()
    glued = [] if words[place] in LEFT + RIGHT else [re.sub(r"^(left|right|links|rechts)", "", words[place])]
    return [*words[:place], *glued, *words[place + 1 :]], side


def has_sides(labels: Sequence[str]) -> bool:
    """Tell whether any label's name holds a side of the body: "left kidney", "ctx-rh-insula", "Niere links", "R eye".

    A mirrored sample shows such a label on the other side.

    Example:
        >>> has_sides(["liver", "left kidney"]), has_sides(["liver"])
        (True, False)
    """
    return any(_sides(words) or SIDED & set(words) for words in map(words_of, labels)) or bool(_unsure(labels))


def side_pairs(labels: Sequence[str]) -> dict[str, str]:
    """Each label with a partner and its partner: labels that differ in one word alone, which names the side.

    Parts of the heart, the liver and the colon have none, as the left one is no mirror image of the right one.

    Example:
        >>> side_pairs(["kidney left", "kidney right", "spleen"])
        {'kidney left': 'kidney right', 'kidney right': 'kidney left'}
    """
    groups: dict[tuple, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for label in labels:
        words = words_of(label)
        sides = _sides(words)
        alike = not set(words) & set(UNLIKE) or "lateral" in words
        if len(sides) == 1 and alike:
            (place, side), *_ = sides.items()
            rest = sorted([*words[:place], *words[place + 1 :]])
            rest = [re.sub(r"^(left|right)", "", word) for word in [*rest, words[place]] if word not in LEFT + RIGHT]
            groups[tuple(rest)][side].append(label)
    pairs: dict[str, str] = {}
    for sides in groups.values():
        if len(sides["left"]) == len(sides["right"]) == 1:
            left, right = sides["left"][0], sides["right"][0]
            pairs |= {left: right, right: left}
    return pairs


def without_partner(labels: Sequence[str]) -> list[str]:
    """The labels of one side that have no partner on the other."""
    pairs, unsure = side_pairs(labels), _unsure(labels)
    return [name for name in labels if name not in pairs and (has_sides([name]) or name in unsure)]


def mirrored_values(labels: Sequence[str]) -> Tensor | None:
    """What each value of a label map becomes in a mirrored sample, as a table of L + 1 values: ``table[label.long()]``.

    The values themselves where no label has a side; ``None`` where one has no partner: such samples cannot be mirrored.
    What was decided is logged.
    """
    table = torch.arange(len(labels) + 1)
    if not has_sides(labels):
        return table
    pairs = side_pairs(labels)
    if alone := without_partner(labels):
        logger.info("samples are not mirrored: %s would be on the wrong side and has no partner", ", ".join(alone))
        return None
    numbers = {name: number for number, name in enumerate(labels, 1)}
    for name, partner in pairs.items():
        table[numbers[name]] = numbers[partner]
    shown = [f"{a} and {b}" for a, b in pairs.items() if numbers[a] < numbers[b]]
    logger.info("labels that are swapped in mirrored samples: %s", ", ".join(shown))
    return table


def mirrored_with_sides(
    steps: Sequence[Transform], labels: Sequence[str], image_alone: bool = False, regions: Regions | None = None
) -> list[Transform]:
    """Random flips and turns that keep the sides of labels right: none, if a label of a side has no partner.

    Args:
        steps: of which the instances of ``RandFlipd`` mirror.
        labels: names of the foreground labels.
        image_alone: what these steps make of images is known beforehand, without labels: none where a label has a side.
        regions: the values of each label where they are several: none where a label has a side.
    """
    if regions is not None:
        if has_sides(labels):
            logger.info("samples are not mirrored: labels have a side, and values of regions do not change places")
        return [] if has_sides(labels) else list(steps)
    table = None if image_alone and has_sides(labels) else mirrored_values(labels)
    if table is None:
        return []
    if torch.equal(table, torch.arange(len(table))):
        return list(steps)
    return [SwapSides(step, table) if isinstance(step, RandFlipd) else step for step in steps]


class SwapSides(RandomizableTransform):
    """A random flip of "image" and "label", after which each value of a flipped label is that of the other side, by the
    table of :func:`mirrored_values`. Volumes whose slices follow each other from side to side stay as they are:
    flipped, the very same slices would show the other side."""

    def __init__(self, flip: RandFlipd, table: Tensor) -> None:
        super().__init__()
        self.flip, self.table = flip, table

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> SwapSides:
        self.flip.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if data["image"].ndim == 4 and sides_axis(data["image"]) == 2:
            return dict(data)
        flip = copy.copy(self.flip)  # which keeps whether it flipped, and may be asked from several threads
        out = flip(data)
        if flip._do_transform:
            label = out["label"]
            values = torch.as_tensor(label)
            known = values != UNLABELLED
            swapped = self.table.to(label.device)[torch.where(known, values, 0).long()].to(label.dtype)
            out["label"] = MetaTensor(torch.where(known, swapped, values), meta=getattr(label, "meta", None))
        return out


def _sides(words: Sequence[str]) -> dict[int, str]:
    return {place: side for place in range(len(words)) if (side := side_of(words, place))}


def _unsure(labels: Sequence[str]) -> set[str]:
    """Labels of which two differ in words of :data:`UNSURE` alone, or in a side that a word begins or ends with."""
    known = {tuple(words_of(label)): label for label in labels}
    found: set[str] = set()
    for words, label in known.items():
        for left, right in UNSURE:
            other = tuple(right if word == left else word for word in words)
            if len(words) > 1 and other != words and other in known:
                found |= {label, known[other]}
        for place, word in enumerate(words):
            for left, right in GLUED:
                changed = {re.sub(end, right, word) for end in (f"^{left}|{left}$", f"^{left}", f"{left}$")} - {word}
                others = {(*words[:place], one, *words[place + 1 :]) for one in changed}
                others = {other for other in others if not side_of(other, place)}  # those are sure
                found |= {x for other in others & known.keys() for x in (label, known[other])}
    return found
