"""Which flips and turns leave labels where they are in other cases."""

from __future__ import annotations

from ..data.fingerprint import VIEWS, Fingerprint, LabelPrint
from ..data.sides import side_pairs, without_partner
from ..errors import shown
from ..networks.identity import MIRROR

MOVED = 0.2  # less alike than this, a label's place in a mirrored case is another one
SHOWN = dict(zip(MIRROR, (tuple(VIEWS), tuple(VIEWS)[:3], tuple(VIEWS)[:1], ()), strict=True))  # views of each
VIEWED = dict(zip(MIRROR, (8, 4, 2, 1), strict=True))  # images that it makes of one, itself included
SCATTERED = 8  # structures in a picture: so many have no place of their own


def chosen_mirror(data: Fingerprint, scale: str) -> tuple[str, str]:
    """The most views that leave every label where it is in the other cases, for whole pictures.

    Of an organ that lies at one side in all pictures, a mirrored picture shows what no patient has, and takes from the
    network what tells the organ from its like. Cells lie anywhere, and more views of few cases are more cases, also
    where all cases are of one field of view, in which each cell keeps its place. A patch does not show where in the
    picture it lies. Volumes, and pictures with a left and a right label, are mirrored from side to side or not at all,
    as no patient lies upside down.
    """
    names = [label.name for label in data.labels]
    if alone := without_partner(names):
        return "none", f"{shown(alone, 3)} would be on the wrong side"
    if scale == "patch" and data.spatial_dims == 2:
        return "turns", "a patch does not show where in the picture it lies"
    paired = side_pairs(names)  # those change places when they are mirrored
    decisive = [label for label in data.labels if label.name not in paired and not is_scattered(label, data)]
    told = all(label.moved for label in decisive)
    why = f"labels lie anywhere, or as they do when they are mirrored{'' if told else ', as far as few cases tell'}"
    for kind in MIRROR if data.spatial_dims == 2 and not paired else ("sides", "none"):
        views = SHOWN[kind]
        moved = {(label.moved.get(view, 0.0), label.name, view) for label in decisive for view in views}
        most, name, view = max(moved, default=(0.0, "", ""))
        if most <= MOVED:
            return kind, why
        why = f"{in_words(view)}, an image would show {name} where it hardly ever lies"
    raise AssertionError("no view moves nothing")


def is_scattered(label: LabelPrint, data: Fingerprint) -> bool:
    """Whether a picture that shows the label holds :data:`SCATTERED` of its structures or more."""
    pixels = data.shape[0] * data.shape[1]
    return label.share * pixels >= SCATTERED * label.extent * label.thickness


def in_words(view: str) -> str:
    if view.startswith("by "):
        return f"turned {view}"
    return {"sideways": "mirrored from left to right", "upside down": "mirrored upside down"}.get(
        view, "turned and mirrored"
    )
