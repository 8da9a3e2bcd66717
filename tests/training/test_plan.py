"""What is planned fits the data, the machine and the budget; what a user gives wins."""

from __future__ import annotations

import dataclasses
import re

import pytest
from plan_maker import LARGE, MIXED, SMALL, THIN, data, frozen, machine, planned, seconds

from sam_monai.training import room
from sam_monai.training.machine import Cost, Costs
from sam_monai.training.room import Room
from sam_monai.training.rules import rules
from sam_monai.training.sizes import SIZES, wanted_size


def test_a_validation_of_labels_that_each_have_a_file_is_not_reckoned_twice_for_each():
    """To open a case is to read all of its files, and to measure a label is not."""
    many = dataclasses.replace(data(512, *[(20, 30)] * 100), seconds=10.0)
    one, each = (Room(dataclasses.replace(many, files=n), machine(), 0, 4).validation(128, "whole") for n in (2, 101))
    assert one > 4 * 100 * 10 and each < 4 * 5 * 10


@pytest.mark.parametrize("labels", [LARGE, SMALL, THIN, MIXED])
@pytest.mark.parametrize("side", [100, 512, 3000])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("minutes", [2, 15, 60])
@pytest.mark.parametrize("training", [3, 16, 200])
@pytest.mark.parametrize("step", [0.01, 1.0, 3.0])
def test_a_plan_fits_its_budget(labels, side, dims, minutes, training, step):
    case, costs = data(side, *labels, dims=dims, training=training), machine(step)
    plan = planned(case, costs, minutes)
    shrunk = case if plan["spacing"] is None else case.resampled(plan["spacing"])
    validation = Room(shrunk, costs, 0, 4).validation(plan["image_size"], plan["scale"])
    least = -(-training // 4) * costs(plan["image_size"]).step + validation
    assert seconds(case, costs, plan) <= max(1.15 * 60 * minutes, 1.01 * least)
    assert plan["image_size"] in SIZES and plan["epochs"] >= 1 and 1 <= plan["val_interval"] <= plan["epochs"]


def test_small_structures_of_large_pictures_are_trained_in_patches_that_hold_them():
    plan = planned(data(2000, *SMALL), machine())
    assert plan["scale"] == "patch" and plan["image_size"] == 128
    assert planned(data(2000, *SMALL), machine(), minutes=1000)["scale"] == "patch"
    assert planned(data(200, *SMALL), machine())["scale"] == "whole"  # which shows them as large


@pytest.mark.parametrize(("share", "across", "scale"), [(0.1, 9, "patch"), (0.002, 9, "whole"), (0.002, 4, "patch")])
def test_small_structures_that_lie_apart_are_seen_with_their_surroundings(share, across, scale):
    made = data(512, (across * 512 / 160, across * 4))  # the time allows whole slices of 160 px
    made = dataclasses.replace(made, labels=(dataclasses.replace(made.labels[0], share=share),))
    assert planned(made, machine(1.5))["scale"] == scale


@pytest.mark.parametrize(("across", "batch", "size"), [(60, 1, 128), (60, 4, 128), (24, 1, 192), (24, 4, 192)])
def test_a_larger_image_is_worth_few_steps_only_where_smaller_ones_do_not_show_a_label(across, batch, size):
    """The time allows about 400 pictures of 192 px, whatever the number in a step."""
    made = data(512, (across, across))
    made = dataclasses.replace(made, labels=(dataclasses.replace(made.labels[0], share=0.002),))
    costs = machine(0.8 * batch)
    room = Room(made, costs, 60.0 * 15, batch, free=int(1e11))
    values, _ = rules(room, {}, 256, 60.0 * 15)
    assert (values["image_size"], values["scale"]) == (size, "whole")


def test_a_method_whose_prompts_need_whole_slices_gets_them():
    for only in (True, False):
        room = Room(data(2000, *SMALL), machine(), 900, 4, whole_only=only)
        assert rules(room, {}, 256, 900)[0]["scale"] == ("whole" if only else "patch")


@pytest.mark.parametrize("dims", [2, 3])
def test_enlarged_images_are_shrunk_to_the_patches_of_those_that_they_were(dims):
    """So a patch holds the largest structure in both."""
    small, large = data(1000, (31, 60), dims=dims), data(4000, (124, 240), dims=dims)
    plans = [planned(one, machine(0.1), 60) for one in (small, large)]
    assert [plan["scale"] for plan in plans] == ["patch", "patch"] and plans[0]["spacing"] is None
    spacing = plans[1]["spacing"]
    assert spacing == pytest.approx([3.8, 3.8, 3.0][:dims]) and plans[1]["image_size"] == plans[0]["image_size"]
    tiny = dataclasses.replace(large, spacing=(3e-5, 3e-5, 1e-4)[: len(large.spacing)])
    assert planned(tiny, machine(0.1), 60)["spacing"][0] == pytest.approx(3.8 * (3e-5 if large.spacing else 1))
    shrunk = large.resampled(spacing)
    assert shrunk.labels[0].large <= plans[1]["image_size"] / 2 and shrunk.shape[2:] == large.shape[2:]
    given = Room(large.resampled([1.0, 1.0, 3.0][:dims]), machine(0.1), 3600, 4, given_spacing=True)
    assert rules(given, {"spacing": [1.0] * dims}, 256, 3600)[0]["scale"] == "whole"  # and no other spacing


def test_a_slice_that_a_patch_would_hold_is_no_patch():
    assert planned(data(100, (3, 5)), machine(), image_size=128)["scale"] == "whole"


def test_a_structure_that_no_patch_holds_is_trained_in_whole_slices():
    assert planned(data(2000, *LARGE), machine())["scale"] == "whole"
    assert planned(data(2000, *THIN), machine())["scale"] == "whole"


def test_long_thin_structures_of_large_pictures_are_trained_in_patches():
    vessels = data(900, (500, 800), thick=4)
    assert planned(vessels, machine())["scale"] == "patch"
    assert planned(data(900, (500, 800), thick=60), machine())["scale"] == "whole"
    assert wanted_size(vessels) > wanted_size(data(900, (500, 800), thick=60))


@pytest.mark.parametrize(("share", "scale"), [(0.08, "patch"), (0.02, "whole")])
def test_a_network_of_vessels_is_trained_in_patches_and_a_single_ring_is_not(share, scale):
    made = data(500, (370, 480), thick=7.7)  # 2.5 px in the whole slices of 160 px that the time allows
    made = dataclasses.replace(made, labels=(dataclasses.replace(made.labels[0], share=share),))
    assert planned(made, machine(1.5))["scale"] == scale


def test_a_short_time_alone_does_not_lead_to_patches():
    """Also where the size that is wanted for any data is not affordable."""
    for dims in (2, 3):
        assert planned(data(200, (45, 50), dims=dims), machine(10.0))["scale"] == "whole"


def test_a_smaller_structure_a_larger_budget_and_a_faster_machine_make_the_size_larger():
    sizes = [wanted_size(data(512, (extent, 400))) for extent in (400, 60, 30, 15)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    for better in ({"minutes": 60}, {"minutes": 240}):
        assert planned(data(512, *THIN), machine(), **better)["image_size"] > 128
    assert planned(data(512, *THIN), machine(0.1))["image_size"] == 256
    assert planned(data(512, *THIN), machine(60))["image_size"] == 64


@pytest.mark.parametrize(("labels", "scale", "batch"), [(LARGE, "whole", 1), (SMALL, "patch", 2)])
def test_few_pictures_of_the_usual_size_are_better_than_many_small_ones(labels, scale, batch):
    plan = planned(data(700, *labels), machine(10))  # some seventy steps of four
    assert (plan["image_size"], plan["scale"], plan["batch_size"]) == (128, scale, batch)


def test_a_small_volume_is_not_blown_up():
    assert planned(data(40, (4, 9), dims=3), machine(0.01))["image_size"] <= 96


@pytest.mark.parametrize(
    "asked", [{"image_size": 224}, {"scale": "patch"}, {"epochs": 7}, {"val_interval": 3}, {"checkpointing": True},
              {"scale": "patch", "image_size": 64, "epochs": 3, "mirror": "sides", "val_interval": 1,
               "checkpointing": False}]
)  # fmt: skip
def test_what_is_given_wins_and_the_rest_is_planned_around_it(asked):
    plan = planned(data(512, *LARGE), machine(), **asked)
    assert {key: plan[key] for key in asked} == asked
    if "epochs" not in asked:
        assert seconds(data(512, *LARGE), machine(), plan) == pytest.approx(900, rel=0.15)


def test_nothing_is_timed_where_size_and_epochs_are_given():
    def never(size):
        raise AssertionError("timed")

    plan = planned(data(512, *LARGE), Costs(never), image_size=64, epochs=12)
    fixed = {"scale": "whole", "image_size": 64, "epochs": 12, "val_interval": 2, "checkpointing": False}
    assert plan == fixed | {"mirror": "turns", "spacing": None, "batch_size": 4}


def test_where_a_cpu_has_time_for_few_steps_they_are_smaller_and_more():
    slowest, slow, quick = (planned(data(512, *LARGE), machine(step)) for step in (6.0, 4.7, 1.0))
    assert (slowest["batch_size"], slow["batch_size"], quick["batch_size"]) == (1, 2, 4)
    of_four = Room(data(512, *LARGE), machine(6.0), 890, 4).steps(slowest["image_size"], "whole")
    assert of_four < 150 and slowest["epochs"] * 16 > 3.8 * of_four
    volumes = rules(Room(data(512, *LARGE, dims=3), machine(20.0), 900, 4), {}, 256, 900)[0]
    patches = planned(data(512, *LARGE), machine(6.0), scale="patch")
    assert (volumes["batch_size"], patches["batch_size"]) == (2, 2)
    assert rules(Room(data(512, *LARGE, training=3), machine(6.0), 900, 3), {}, 256, 900)[0]["batch_size"] == 1
    for more in ({"on_gpu": True}, {"given_steps": 50}):
        room = Room(data(512, *LARGE), machine(6.0), 900, 4, **more)
        assert rules(room, {}, 256, 900)[0]["batch_size"] == 4
    assert rules(Room(data(512, *LARGE), machine(6.0), 900, 1), {}, 256, 900)[0]["batch_size"] == 1
    assert planned(data(512, *LARGE), machine(6.0), batch_size=4)["batch_size"] == 4


def test_of_volumes_smaller_steps_are_enough_for_a_larger_size():
    volumes, costs = data(512, *LARGE, dims=3), machine(9.0)
    sizes = [rules(Room(volumes, costs, 900, 4, smallest=smallest), {}, 256, 900)[0] for smallest in (None, 2)]
    assert [(plan["image_size"], plan["batch_size"]) for plan in sizes] == [(64, 4), (96, 2)]
    assert sizes[1]["epochs"] * 8 >= 290  # of two


def test_steps_are_those_of_the_optimiser_however_many_processes_share_the_cases(monkeypatch):
    monkeypatch.setattr(room, "processes", lambda: 2)  # 16 cases, two batches of four for each
    values, why = rules(Room(data(512, *LARGE), machine(1.0), 900, 4, 100), {}, 256, None)
    assert values["epochs"] == 50 and why["epochs"].endswith("; 100 steps")


def test_steps_in_place_of_minutes_fix_the_epochs_on_every_machine():
    for step in (0.1, 1.0, 5.0):
        values, why = rules(Room(data(512, *LARGE), machine(step), 900, 4, 100), {}, 256, None)
        assert values["epochs"] == 25 and why["epochs"].endswith("; 100 steps")
    deep = dataclasses.replace(data(512, *LARGE, dims=3, training=24), validation=200)
    values, why = rules(Room(deep, machine(), 900, 4, 4), {}, 256, None)
    assert values["epochs"] == 1 and why["epochs"].endswith("; 6 steps (--steps 4, in whole visits)")
    assert "needs more steps" in why["image_size"] and "would make it shorter" in why["val_interval"]
    assert not any(word in reason for reason in why.values() for word in ("budget", "minutes in all"))


def test_a_validation_takes_its_share_of_a_length_that_is_given():
    """And not of the default budget, which has nothing to do with it."""
    deep = dataclasses.replace(data(512, *LARGE, dims=3, training=24), validation=60)
    numbers = [rules(Room(deep, machine(), 870, 4, steps), {}, 256, None)[0] for steps in (20_000, 1000, 100)]
    assert [round(plan["epochs"] / plan["val_interval"]) for plan in numbers] == [6, 1, 1]


def test_a_step_of_a_single_case_is_not_taken_for_one_of_four():
    one = data(512, *LARGE, training=1)
    values, why = rules(Room(one, machine(0.25), 35, 1), {}, 256, 60)
    assert values["batch_size"] == 1 and "would fit" not in why["batch_size"]
    assert values["epochs"] * 0.25 < 40


def test_patches_of_a_picture_take_their_time_and_memory_each():
    small, costs = data(2000, *SMALL), machine(1.0, kept=2e9)
    one, four = (Room(small, costs, 900, 4, free=int(8e9), samples=n) for n in (1, 4))
    values = [rules(room, {}, 256, 900)[0] for room in (one, four)]
    assert [plan["scale"] for plan in values] == ["patch", "patch"]
    assert values[0]["epochs"] == pytest.approx(4 * values[1]["epochs"], rel=0.1)
    assert not values[0]["checkpointing"] and values[1]["checkpointing"]


@pytest.mark.parametrize("minutes", [1, 2, 5])
def test_the_time_that_is_advised_is_longer_than_the_one_that_is_given(minutes):
    budget = 60 * minutes
    for step in (0.5, 1.0, 2.0, 4.0, 8.0):
        for spent in (10, 240):
            room = Room(data(512, (60, 60), training=4), machine(step), budget - spent, 4, on_gpu=True, spent=spent)
            for reason in rules(room, {}, 256, budget)[1].values():
                advised = re.search(r"--minutes (\d+)", reason)
                assert advised is None or int(advised[1]) > minutes, reason


def test_a_step_that_would_not_fit_the_memory_keeps_less():
    assert not planned(data(512, *LARGE), machine(kept=1e9), free=8e9)["checkpointing"]
    assert planned(data(512, *LARGE), machine(kept=8e9), free=8e9)["checkpointing"]


def test_a_size_that_would_not_fit_the_memory_even_so_is_not_planned():
    def hungry(size):
        return Cost(size, 0.01, 0.001, 8e9 * (size / 128) ** 2)

    sizes = [planned(data(512, *THIN), Costs(hungry), free=free)["image_size"] for free in (4e9, 16e9, 1e12)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_where_images_are_embedded_once_their_time_is_taken_from_the_budget():
    few, many = (planned(data(512, *LARGE), costs, image_size=128)["epochs"] for costs in (frozen(4.0), frozen(0.01)))
    assert 0 < few < many
    mirrors = ("turns", "flips", "sides", "none")
    each = [planned(data(512, *LARGE), frozen(4.0), image_size=128, mirror=mirror)["epochs"] for mirror in mirrors]
    assert each[0] == few and each == sorted(set(each))  # fewer views are embedded sooner


def test_a_frozen_encoder_gets_whole_slices_of_the_size_it_was_trained_on():
    assert planned(data(512, *LARGE), machine())["image_size"] == 128
    assert planned(data(512, *LARGE), frozen())["image_size"] == 256
    assert planned(data(512, *LARGE), frozen(100.0))["image_size"] < 256  # as far as the time goes
    assert planned(data(50, *LARGE, dims=3), frozen(0.001))["image_size"] == 128  # and no slice is only blown up


def test_patches_enter_a_frozen_encoder_at_every_step():
    free, dear = (planned(data(512, *THIN), frozen(factor), scale="patch", image_size=128) for factor in (0.01, 10.0))
    assert dear["epochs"] < free["epochs"] / 2


def test_a_dataset_without_labels_is_planned():
    assert planned(data(512), machine())["scale"] == "whole"
