"""A plan says why, and names the time or the cases with which it would be better."""

from __future__ import annotations

import dataclasses
import re

import pytest
from plan_maker import LARGE, MIXED, SMALL, data, machine, planned

from sam_monai.training.plan import Plan, advised, warn_of_lost
from sam_monai.training.room import FEW, Room
from sam_monai.training.rules import rules
from sam_monai.training.sizes import wanted_size


@pytest.mark.parametrize("labels, helps", [(((12, 14),), True), (((12, 14), (60, 119)), False)])
def test_patches_that_the_time_does_not_allow_are_not_planned_and_a_time_is_told_that_does(labels, helps):
    deep = dataclasses.replace(data(512, *labels, dims=3), shape=(512, 512, 300))
    values, why = rules(Room(deep, machine(), 900, 4), {}, 256, 900)
    told = re.search(r"try --minutes (\d+)", why["scale"])
    assert values["scale"] == "whole" and bool(told) == helps
    assert not told or planned(deep, machine(), minutes=int(told[1]))["scale"] == "patch"


def test_where_one_visit_of_each_case_takes_too_long_the_plan_says_so():
    many = data(512, *LARGE, training=10000)
    why = rules(Room(many, machine(), 900, 4), {}, 256, 900)[1]["epochs"]
    minutes, cases = map(int, re.findall(r"--(?:minutes|train_cases) (\d+)", why))
    assert minutes > 15 and "in all" not in why
    for better in ((many, 60 * minutes), (dataclasses.replace(many, training=cases), 900)):
        told = rules(Room(better[0], machine(), better[1], 4), {}, 256, better[1])[1]["epochs"]
        assert "in all, validation included" in told


def test_the_label_that_no_patch_holds_is_the_one_that_is_named():
    large = data(3200, (22, 40), (520, 600))
    why = rules(Room(large, machine(2.0), 900, 4), {}, 256, 900)[1]["scale"]
    assert why.startswith("in a whole slice of 128 px, label 0 is 0.88 px across")
    assert why.endswith("a patch of 128 px does not hold label 1, which is 600 px")


def test_numbers_are_written_as_people_write_them():
    vessels = data(900, (700, 850), thick=120)
    why = rules(Room(vessels, machine(4000.0), 900, 4), {}, 256, 900)[1]
    assert "120 px thick" in str(vessels) and not any("e+" in reason for reason in why.values())
    assert "takes 1000 s here" in why["image_size"]


def test_the_plan_names_no_size_larger_than_the_bases():
    deep = data(512, (13, 32), dims=3)
    for step, told in (
        (2.0, "; 256 would leave "),
        (0.01, "the labels ask for 640, but more than 256 is not planned"),
    ):
        values, why = rules(Room(deep, machine(step), 900, 4), {"scale": "whole"}, 256, 900)
        assert told in why["image_size"] and ("640" in why["image_size"]) == (values["image_size"] == 256)


@pytest.mark.parametrize("training", [4, 16, 90, 160])
@pytest.mark.parametrize("step", [80.0, 160.0, 400.0])
def test_where_few_steps_fit_the_plan_names_a_time_for_enough(training, step):
    case, costs = data(512, *LARGE, training=training), machine(step)
    values, why = rules(Room(case, costs, 180, 4), {}, 256, 180)
    assert values["epochs"] == 1 or values["epochs"] * -(-training // values["batch_size"]) < FEW
    minutes = int(re.search(r"(?:try|give about) --minutes (\d+)", why["epochs"])[1])
    values, why = rules(Room(case, costs, 60 * minutes, 4), {}, 256, 60 * minutes)
    assert values["epochs"] * -(-training // values["batch_size"]) >= FEW and "--minutes" not in why["epochs"]


@pytest.mark.parametrize(
    ("method", "labels", "dims", "told"),
    [("ssam", MIXED, 3, True), ("ssam", LARGE, 3, False), ("ssam", LARGE, 2, True), ("medsa", MIXED, 2, False)],
)
def test_a_method_that_was_better_on_such_data_is_named(method, labels, dims, told):
    assert bool(line := advised(method, data(512, *labels, dims=dims))) is told
    assert ("--bundle medsa --draws 0" in str(Plan({}, {}, "", advice=line))) is told


@pytest.mark.parametrize(("step", "dims"), [(2.0, 2), (6.0, 2), (4.0, 3), (1000.0, 2)])
def test_where_a_larger_image_needs_more_time_the_plan_names_it(step, dims):
    case, costs = data(512, *LARGE, *SMALL, dims=dims), machine(step)
    values, why = rules(Room(case, costs, 870, 4), {}, 256, 900)
    assert values["image_size"] < wanted_size(case) and "would leave" in why["image_size"]
    told = re.search(r"try --minutes (\d+)", why["image_size"])
    assert bool(told) is (step < 1000)
    if told:
        more = 60 * int(told[1])
        larger = rules(Room(case, costs, more, 4), {}, 256, more)[0]["image_size"]
        assert more > 900 and values["image_size"] < larger == min(256, wanted_size(case))


def test_validations_that_take_much_of_the_time_are_told_of():
    many = dataclasses.replace(data(512, *LARGE, dims=3), validation=200)
    for case, told in ((many, True), (data(512, *LARGE), False)):
        why = rules(Room(case, machine(), 900, 4), {}, 256, 900)[1]["val_interval"]
        assert ("fewer validation cases" in why) == told


def test_a_label_that_is_lost_at_the_planned_size_is_named(caplog):
    for scale, size, named in (("whole", 64, True), ("whole", 256, False), ("patch", 64, False)):
        caplog.clear()
        warn_of_lost(data(1000, *LARGE, (8, 9)), {"scale": scale, "image_size": size})
        assert ("label 1 is only 0.51 px across" in caplog.text) == named and "label 0" not in caplog.text
