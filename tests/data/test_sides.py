"""Labels of the body's sides are known in the languages and atlases in use, and keep their side in mirrored samples."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, RandFlipd, RandRotate90d

from sam_monai.data import has_sides, side_pairs
from sam_monai.data.sides import mirrored_values, mirrored_with_sides
from sam_monai.data.slicing import sides_axis
from sam_monai.training import samples


@pytest.mark.parametrize(
    "name",
    [
        "left kidney", "Kidney_Right", "RightLung", "LEFT", "kidney_L", "kidney L", "R eye", "kidneyL",
        "lh hippocampus", "ctx-rh-insula", "Lt kidney", "Lung_L_upper", "ren dexter", "Niere links", "linke Niere",
        "LKidney", "RUL",
        "lefthippocampus", "riñón izquierdo", "rein gauche", "rim direito", "rene destro", "linker nier",
        "左腎", "左 肾",
        "L_V1_ROI", "Left-Thalamus", "wm-lh-insula", "Precentral_R", "NIERE RECHTS", "левая почка", "AMYGDALA-LEFT",
        "левый желудочек", "nerka lewa", "levá ledvina", "vänster njure", "højre nyre", "oikea munuainen", "bal vese",
        "sağ böbrek", "rinichiul stâng", "αριστερός νεφρός", "ліва нирка", "왼쪽 신장", "오른쪽신장", "الكلية اليسرى",
        "כליה ימנית", "ginjal kiri", "thận phải", "ronyó esquerre", "Linksniere", "riñón dcho",
    ],
)  # fmt: skip
def test_a_label_with_a_side_is_recognised(name):
    assert has_sides(["liver", name])


@pytest.mark.parametrize(
    "name",
    [
        "liver", "bright spot", "vertebra L1", "L1 vertebra", "cleft", "LV", "rectum", "all", "vertebra L 1", "T1w",
        "destruction", "dirt", "os sacrum", "lesion", "Restharn", "sinus", "C2", "larynx", "",
    ],
)  # fmt: skip
def test_a_label_without_a_side_is_not_mistaken_for_one(name):
    assert not has_sides([name])


@pytest.mark.parametrize(
    "left, right",
    [
        ("left kidney", "right kidney"), ("kidney_L", "kidney_R"), ("lh insula", "rh insula"),
        ("KidneyLeft", "KidneyRight"),
        ("linke Niere", "rechte Niere"), ("ren sinister", "ren dexter"), ("rein gauche", "rein droit"),
        ("左肾", "右肾"),
        ("Lung_L_upper", "Lung_R_upper"), ("riñón izquierdo", "riñon derecho"), ("lefteye", "righteye"), ("L", "R"),
        ("Left-Lateral-Ventricle", "Right-Lateral-Ventricle"), ("kidney left", "Right kidney"),
        ("левая почка", "правая почка"), ("nerka lewa", "nerka prawa"), ("왼쪽 신장", "오른쪽 신장"),
    ],
)  # fmt: skip
def test_labels_that_differ_in_their_side_alone_are_partners(left, right):
    assert side_pairs(["liver", left, "spleen", right]) == {left: right, right: left}
    assert mirrored_values(["liver", left, "spleen", right]).tolist() == [0, 1, 4, 3, 2]


@pytest.mark.parametrize(
    "labels",
    [
        ["left kidney"], ["left kidney", "right lung"], ["left kidney", "right kidney", "left lung"],
        ["left ventricle", "right ventricle"], ["liver left", "liver right"], ["left a", "a left", "right a"],
        ["LUL", "RUL"], ["Niere li", "Niere re"], ["rein g", "rein d"], ["lkidney", "rkidney"], ["RV", "MYO", "LV"],
        ["lrenal", "rrenal"], ["kidneyleft", "kidneyright"], ["hippl", "hippr"], ["left right x", "right left x"],
    ],
)  # fmt: skip
def test_labels_without_a_sure_partner_are_not_mirrored(labels, caplog):
    with caplog.at_level(logging.INFO):
        assert mirrored_values(labels) is None
    assert "not mirrored" in caplog.text
    assert mirrored_with_sides([RandFlipd(("image", "label"), prob=1)], labels) == []


def sample() -> dict[str, MetaTensor]:
    label = MetaTensor(torch.from_numpy(np.random.default_rng(0).integers(0, 4, (1, 6, 7))).float())
    return {"image": label.clone(), "label": label}


def test_a_flip_gives_labels_the_values_of_the_other_side_and_a_turn_does_not(caplog):
    keys, labels, table = ("image", "label"), ["left k", "liver", "right k"], torch.tensor([0.0, 3, 2, 1])
    with caplog.at_level(logging.INFO):
        flip, turn = mirrored_with_sides(
            [RandFlipd(keys, prob=0.5, spatial_axis=0), RandRotate90d(keys, prob=1)], labels
        )
    assert "left k and right k" in caplog.text
    flip.set_random_state(0)
    flipped = 0
    for _ in range(20):
        out = turn(flip(sample()))
        mirrored = not any(torch.equal(torch.rot90(sample()["image"], k, (1, 2)), out["image"]) for k in range(4))
        flipped += mirrored
        expected = table[torch.as_tensor(out["image"]).long()] if mirrored else out["image"]
        assert torch.equal(torch.as_tensor(out["label"]), torch.as_tensor(expected))
    assert 4 < flipped < 16


def test_without_sides_the_steps_stay_as_they_are():
    steps = [RandFlipd(("image", "label"), prob=0.5)]
    assert mirrored_with_sides(steps, ["liver", "spleen"]) == mirrored_with_sides(steps, ["liver"], True) == steps
    assert mirrored_with_sides(steps, ["left k", "right k"], image_alone=True) == []


def test_the_same_seed_mirrors_the_same_samples():
    (flip,) = mirrored_with_sides([RandFlipd(("image", "label"), prob=0.5, spatial_axis=0)], ["left k", "x", "right k"])
    runs = []
    for _ in range(2):
        flip.set_random_state(7)
        runs.append([flip(sample())["label"] for _ in range(10)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("labels", [["liver"], ["left k", "right k"]])
def test_volumes_of_other_axes_are_mirrored_at_once_each_along_its_own(monkeypatch, labels):
    """In threads that wait for each other between the choice of the axis and the flip."""
    gate, randomize = threading.Barrier(2, timeout=20), RandFlipd.randomize

    def wait(self, data):
        gate.wait()
        randomize(self, data)

    monkeypatch.setattr(samples.RandMirrord, "randomize", wait)
    (step,) = mirrored_with_sides([samples.RandMirrord(("image", "label"), prob=1.0)], labels)

    def is_right(codes: str) -> bool:
        volume = Orientation(codes, labels=None)(MetaTensor(torch.rand(1, 3, 3, 3), torch.eye(4)))
        out = step({"image": volume, "label": volume.round()})
        return torch.equal(out["image"].as_tensor(), volume.as_tensor().flip(1 + sides_axis(volume)))

    with ThreadPoolExecutor(2) as pool:
        assert all(all(pool.map(is_right, ("LPS", "PLS"))) for _ in range(5))


@pytest.mark.parametrize("codes, swapped", [("IPL", False), ("PLS", True), ("LPS", True)])
def test_slices_that_follow_each_other_from_side_to_side_are_not_shown_as_those_of_the_other_side(codes, swapped):
    volume = Orientation(codes, labels=None)(MetaTensor(torch.rand(1, 4, 4, 6), torch.eye(4)))
    label = MetaTensor(torch.ones(tuple(volume.shape)), meta=dict(volume.meta))
    (step,) = mirrored_with_sides([samples.RandMirrord(("image", "label"), prob=1.0)], ["left k", "right k"])
    out = step({"image": volume, "label": label})
    assert out["label"].unique().tolist() == [2.0 if swapped else 1.0]
    assert torch.equal(out["image"].as_tensor(), volume.as_tensor()) is not swapped


def test_letters_before_a_number_are_sides_where_there_are_both():
    assert has_sides(["MC_L_2", "MC_R_2"]) and not has_sides(["vertebra L 1", "vertebra L 2", "vertebra S 1"])
