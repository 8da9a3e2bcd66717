"""Prompts that cannot be meant so are refused by name, in a file and in a request."""

from __future__ import annotations

import json

import pytest
import torch
from monai.data import MetaTensor

from sam_monai import InputError
from sam_monai.prompts.monai_label import KeepClicks, clicks_of_request
from sam_monai.prompts.prompt_files import read_prompts

NAN, INF = float("nan"), float("inf")
CLICK = {"points": [[1, 2]], "labels": [1]}


def refused(path, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_prompts(path, MetaTensor(torch.zeros(1, 8, 8)))
    assert str(caught.value).startswith(str(path)) and said in str(caught.value), caught.value


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff\xfe{}", "cannot be read"),
        (b"[" * 100_000, "nested too deep"),
        (b"[]", 'holds no "objects"'),
        (b"3", 'holds no "objects"'),
        (b"null", 'holds no "objects"'),
        (b'{"object": []}', 'holds no "objects"'),
        (b'{"objects": [], "objets": []}', "did you mean 'objects'"),
        (b'{"objects": []}', "no list with at least one"),
        (b'{"objects": {}}', "no list with at least one"),
        (b'{"objects": [%s]}' % b",".join([b'{"points": [[1, 2]], "labels": [1]}'] * 10_001), "more than 10000 clicks"),
    ],
)
def test_a_file_that_holds_no_prompts_is_named(tmp_path, content, said):
    path = tmp_path / "p.png.prompts.json"
    path.write_bytes(content)
    refused(path, said)


def test_whatever_lies_there_and_is_no_file_is_named(tmp_path):
    path = tmp_path / "p.png.prompts.json"
    path.mkdir()
    refused(path, "is no file")
    path.rmdir()
    path.symlink_to(tmp_path / "nowhere")
    refused(path, "is no file")


def test_a_file_of_a_thousand_million_points_is_not_even_read(tmp_path):
    path = tmp_path / "p.png.prompts.json"
    with path.open("wb") as file:
        file.truncate(2**35)
    refused(path, "larger than 16 MB")


@pytest.mark.parametrize(
    ("one", "said"),
    [
        ([], "no object with points, a box"),
        (None, "no object with points, a box"),
        ({}, "neither points nor a box"),
        ({"points": [], "labels": []}, "neither points nor a box"),
        ({"points": [[1, 2]], "lables": [1]}, "did you mean 'labels'"),
        ({"boxs": [1, 2, 3, 4]}, "did you mean 'box'"),
        ({**CLICK, "_target_": "os.system"}, "unknown key"),
        *[({"points": [[1, x]], "labels": [1]}, "finite numbers") for x in (NAN, INF, "2", True, None)],
        *[({"points": [[1, x]], "labels": [1]}, "finite numbers") for x in (1e30, 10**400, [2])],
        *[({"points": p, "labels": [1]}, "finite numbers") for p in ([[1]], [[1, 2, 3]], [1, 2], {"0": [1, 2]}, "12")],
        *[({"points": [[1, 2]], "labels": [x]}, "whole numbers") for x in (1.5, "1", True, 2, -1, None, float("nan"))],
        ({"points": [[1, 2]], "labels": 1}, "whole numbers"),
        ({"points": [[1, 2]], "labels": []}, "1 points and 0 labels"),
        ({"points": [[1, 2]]}, "1 points and 0 labels"),
        ({"points": [[1, 2]], "label": [1]}, 'stands in "labels"'),
        ({"labels": [1]}, "0 points and 1 labels"),
        *[({"box": b}, "4 finite numbers") for b in ([1, 2, 3], None, [1, 2, 3, NAN], "1234", [[1, 2], [3, 4]])],
        ({"box": [3, 4, 1, 2]}, "corners swapped"),
        ({"box": [1, 4, 3, 2]}, "corners swapped"),
        ({"points": [[1, 9]], "labels": [1]}, "lies outside the image"),
        ({"points": [[-1, 2]], "labels": [0]}, "lies outside the image"),
        ({"box": [20, 2, 25, 4]}, "lies outside the image"),
    ],
)  # fmt: skip
def test_an_object_that_cannot_be_meant_is_named_by_its_number(tmp_path, one, said):
    path = tmp_path / "p.png.prompts.json"
    path.write_text(json.dumps({"objects": [CLICK, one]}))
    refused(path, said)
    refused(path, "object 2")


def test_a_box_of_one_voxel_is_a_box(tmp_path):
    path = tmp_path / "p.png.prompts.json"
    path.write_text('{"objects": [{"box": [2, 3, 2, 3]}]}')
    found = read_prompts(path, MetaTensor(torch.zeros(1, 8, 8)))
    assert found["boxes"].tolist() == [[[2, 3, 2, 3]]]


@pytest.mark.parametrize(
    "points",
    [[3, 4], 5, "here", {"0": [1, 2]}, [[1, 2], 7], [["a", "b"]], [[1]], [[1, float("nan"), 1]], [[True, 1, 1]], 0],
)
@pytest.mark.parametrize("key", ["foreground", "background"])
@pytest.mark.parametrize("spatial", [(8, 8), (8, 8, 4)])
def test_clicks_of_a_request_that_are_no_voxels_are_refused(points, key, spatial):
    case = KeepClicks()({"image": MetaTensor(torch.zeros(1, *spatial)), key: points})
    with pytest.raises(InputError, match="the request's clicks"):
        clicks_of_request(case["image"])


def test_a_box_of_a_request_counts():
    picture, volume = MetaTensor(torch.zeros(1, 30, 20)), MetaTensor(torch.zeros(1, 30, 20, 5))
    volume.meta["original_affine"] = volume.affine

    def asked(image, **params):
        return clicks_of_request(KeepClicks()({"image": image.clone(), **params})["image"])

    assert asked(volume, box=[4, 6, 1, 9, 12, 3])["boxes"].tolist() == [[[4, 6, 1, 9, 12, 3]]]
    found = asked(picture, box=[4, 6, 9, 12], foreground=[[5, 7]])  # column and row
    assert found["boxes"].tolist() == [[[6, 4, 12, 9]]] and found["point_coords"].tolist() == [[[7, 5]]]
    assert asked(picture, box=[4, 6, 0, 9, 12, 0])["boxes"].tolist() == [[[6, 4, 12, 9]]]  # with a slice
    for wrong in ([4, 6, 9], [4, 6, 9, 12, 13], [[4, 6, 9, 12]], "4 6 9 12", {"a": 1}, [9, 12, 4, 6]):
        with pytest.raises(InputError, match="the request's clicks: object 1: its box"):
            asked(picture, box=wrong)


@pytest.mark.parametrize(
    ("key", "right"),
    [
        ("boxes", "box"),
        ("points", "foreground"),
        ("point_coords", "foreground"),
        ("foregroud", "foreground"),
        ("Background", "background"),
        ("backgroud", "background"),
        ("scribble", "scribbles"),
    ],
)
def test_a_misspelt_key_of_a_request_is_refused_and_not_passed_over(key, right):
    image = MetaTensor(torch.zeros(1, 8, 8, 4))
    for more in ({}, {"foreground": [[1, 2, 3]]}):
        case = KeepClicks()({"image": image.clone(), key: [[1, 2, 3]], **more})
        with pytest.raises(InputError, match=f"{key!r} is no key of a request; did you mean {right!r}"):
            clicks_of_request(case["image"], ("liver",))
    case = KeepClicks()({"image": image.clone(), key: []})  # as viewers send keys that hold nothing
    assert clicks_of_request(case["image"]) == {}


def test_what_a_server_sends_besides_is_no_prompt():
    besides = {"model": "m", "image_path": "/a", "device": "cpu", "label_names": ["a"], "logging": "info"}
    besides |= {"pipeline": [], "largest_cc": True, "roi": [1, 2, 3], "result_extension": ".nrrd"}
    case = KeepClicks()({"image": MetaTensor(torch.zeros(1, 8, 8)), **besides})
    assert "clicks" not in case["image"].meta
