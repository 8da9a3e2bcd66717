"""Labels are measured in the cases that show them, and samples are mirrored where labels then stay in place."""

from __future__ import annotations

import dataclasses

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from sam_monai.data.fingerprint import Fingerprint, FingerprintTaker
from sam_monai.training.machine import Cost, Costs
from sam_monai.training.mirror import chosen_mirror
from sam_monai.training.room import Room
from sam_monai.training.rules import rules


def cases(draw, number: int = 10) -> Fingerprint:
    """The fingerprint of pictures of 64 px, of which ``draw(random)`` gives label maps (64, 64) of two labels."""
    taker, random = FingerprintTaker(["liver", "spleen"], "coarsest"), np.random.default_rng(0)
    for _ in range(number):
        label = torch.from_numpy(draw(random))[None]
        taker.add(MetaTensor(torch.zeros(1, 64, 64)), MetaTensor(label))
    found = taker.result(3, 0.1)
    assert found is not None
    return found


def disc(row: float, column: float, radius: float = 8) -> np.ndarray:
    rows, columns = np.mgrid[:64, :64]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def an_organ(random) -> np.ndarray:
    """Upper left in every picture, as a liver is in a slice."""
    return disc(*(18 + random.normal(0, 2, 2))).astype(np.float32)


def cells(random) -> np.ndarray:
    """Anywhere."""
    return sum(disc(*random.uniform(0, 64, 2), 5) for _ in range(6)).clip(0, 1).astype(np.float32)


def a_pair(random) -> np.ndarray:
    """On the right or on the left of the upper half."""
    return disc(16 + random.normal(0, 2), random.choice([12, 52]) + random.normal(0, 2)).astype(np.float32)


def a_belt(random) -> np.ndarray:
    """All the way from left to right, at half the height."""
    return (abs(np.mgrid[:64, :64][0] - 32 - random.normal(0, 2)) < 5).astype(np.float32)


def one_field(random) -> np.ndarray:
    """The same cells, ten of them, all but one in the upper half, and hardly moved from picture to picture."""
    places = [(8, 6), (8, 19), (8, 32), (8, 45), (8, 58), (22, 6), (22, 19), (22, 32), (22, 45), (50, 12)]
    return sum(disc(*(np.array(place) + random.normal(0, 0.5, 2)), 4) for place in places).astype(np.float32)


FIELDS = [(an_organ, "none"), (a_pair, "sides"), (a_belt, "flips"), (cells, "turns"), (one_field, "turns")]


@pytest.mark.parametrize("draw, mirror", FIELDS)
def test_samples_are_mirrored_where_no_label_then_lies_where_it_never_does(draw, mirror):
    found = cases(draw)
    assert chosen_mirror(found, "whole")[0] == mirror
    assert chosen_mirror(found, "patch")[0] == "turns"
    costs = Costs(lambda size: Cost(size, (size / 128) ** 2, 0.1 * (size / 128) ** 2, 1e9), (64, 128))
    planned, _ = rules(Room(found, costs, 900, 4), {}, 256, 900)
    assert planned["mirror"] == (mirror if planned["scale"] == "whole" else "turns")


def test_the_reason_says_what_a_mirrored_image_would_show():
    said = "mirrored from left to right, an image would show liver where it hardly ever lies"
    assert chosen_mirror(cases(an_organ), "whole") == ("none", said)
    assert chosen_mirror(cases(a_pair), "whole")[1].startswith("mirrored upside down, an image would show liver ")


def measured(*labels: np.ndarray) -> Fingerprint:
    taker = FingerprintTaker(["liver", "spleen"], "coarsest", cases=len(labels))
    for label in labels:
        taker.add(MetaTensor(torch.zeros(1, *label.shape)), MetaTensor(torch.from_numpy(label)[None].float()))
    found = taker.result(3, 0.1)
    assert found is not None
    return found


def test_a_label_that_only_the_last_of_many_cases_hold_is_measured():
    empty, first, second = np.zeros((64, 64)), disc(20, 20), 2.0 * disc(40, 40, 3)
    assert [label.name for label in measured(*[empty] * 100, first).labels] == ["liver"]
    sizes = {label.name: label.extent for label in measured(*[first] * 99, second).labels}
    assert sizes == {"liver": pytest.approx(15, abs=1), "spleen": pytest.approx(5, abs=1)}


def test_lengths_are_those_in_a_slice_of_the_usual_size_whatever_the_sizes():
    small, large = disc(32, 32).repeat(1, 0), disc(32, 32).repeat(4, 0).repeat(4, 1)
    label = measured(*[small, large] * 10).labels[0]
    assert label.extent == pytest.approx(15 * 160 / 64, rel=0.1) and label.large == pytest.approx(60, rel=0.1)


def test_a_tree_of_bands_is_as_thin_as_its_bands_and_a_disc_as_thick_as_it_is_wide():
    rows, columns = np.mgrid[:256, :256]
    grid = ((rows % 40 < 3) | (columns % 40 < 3)) & (rows > 2) & (columns > 2)
    knot = grid | ((rows - 128) ** 2 + (columns - 128) ** 2 < 12**2)
    assert measured(knot).labels[0].thickness < 8
    assert measured(disc(32, 32, 12)).labels[0].thickness == pytest.approx(23, abs=2)
    assert measured((abs(rows - 90) < 4).astype(float)).labels[0].thickness == pytest.approx(7, abs=1)


@pytest.mark.parametrize("codes", ["RAS", "PIR", "ILA", "SRP"])
@pytest.mark.parametrize("orientation", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("middle, mirror", [(20, "sides"), (9, "none")])
def test_volumes_are_mirrored_where_no_label_is_on_one_side_alone(codes, orientation, middle, mirror):
    """Also where the label lies in front, above and in the file's last slices."""
    taker = FingerprintTaker(["tumour"], orientation)
    label = np.zeros((40, 40, 40), np.float32)
    label[middle - 4 : middle + 4, 26:34, 28:36] = 1
    file = nib.Nifti1Image(label, np.eye(4)).as_reoriented(
        nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    )
    for _ in range(6):
        volume = MetaTensor(torch.from_numpy(np.array(file.dataobj))[None], torch.from_numpy(file.affine))
        taker.add(volume, volume)
    found = taker.result(2, 0.1)
    assert found is not None and chosen_mirror(found, "whole")[0] == mirror


def test_a_few_cases_do_not_tell_where_labels_lie():
    assert chosen_mirror(cases(an_organ, 4), "whole")[0] == "turns"


def test_labels_that_change_places_when_mirrored_do_not_forbid_it():
    found = cases(lambda random: disc(32, 14).astype(np.float32) + 2 * disc(32, 50).astype(np.float32))
    assert chosen_mirror(found, "whole")[0] == "none"
    names = {"liver": "left kidney", "spleen": "right kidney"}
    sided = [dataclasses.replace(label, name=names[label.name]) for label in found.labels]
    assert chosen_mirror(dataclasses.replace(found, labels=tuple(sided)), "whole")[0] != "none"


@pytest.mark.parametrize("scale", ["whole", "patch"])
def test_a_label_of_one_side_without_a_partner_is_never_mirrored_and_the_plan_says_so(scale):
    data = cases(lambda random: disc(*random.uniform(10, 54, 2)).astype(np.float32))
    first, *others = data.labels
    one = dataclasses.replace(data, labels=(dataclasses.replace(first, name="left atrium"), *others))
    mirror, why = chosen_mirror(one, scale)
    assert mirror == "none" and "left atrium would be on the wrong side" in why
    assert chosen_mirror(data, scale)[0] != "none"


def test_pictures_with_a_left_and_a_right_are_mirrored_from_side_to_side_alone():
    """Turned upside down, the left one would lie on the right under its own name."""
    found = cases(lambda random: disc(20, 14).astype(np.float32) + 2 * disc(20, 50).astype(np.float32))
    names = {"liver": "left lung", "spleen": "right lung"}
    sided = [dataclasses.replace(label, name=names[label.name]) for label in found.labels]
    assert chosen_mirror(dataclasses.replace(found, labels=tuple(sided)), "whole")[0] == "sides"
