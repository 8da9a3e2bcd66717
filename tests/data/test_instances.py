"""Label files that number the objects of one label: read as they are meant or refused, and objects that touch are told
apart by their border."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from sam_monai import InputError
from sam_monai.__main__ import main
from sam_monai.data import check_dataset, read_dataset
from sam_monai.data.instances import PIECES, inside_and_border, merged, names_of, objects_in, objects_of
from sam_monai.data.load import LoadCased


def discs(radius: float = 8.0, size: int = 64) -> np.ndarray:
    """Three discs that touch, one alone, and one that is as small as its border."""
    rows, columns = np.indices((size, size))
    label = np.zeros((size, size), np.uint16)
    for number, (y, x, r) in enumerate([(20, 12, 1), (20, 28, 1), (34, 20, 1), (50, 50, 1), (8, 56, 0.25)], 1):
        label[(np.hypot(rows - y, columns - x) < r * radius + 0.5) & (label == 0)] = number
    return label


def logits_of(label: np.ndarray) -> torch.Tensor:
    """What a network answers that knows inside and border of these objects."""
    classes = inside_and_border(torch.as_tensor(label.astype(np.float32))[None])[0].long()
    return 8 * torch.nn.functional.one_hot(classes, 3).permute(2, 0, 1) - 4.0


def read(path, label: np.ndarray, **more) -> MetaTensor:
    Image.fromarray(label).save(path)
    return LoadCased("label", labels=("cell",), instances=True, **more)({"label": str(path)})["label"]


def same_objects(found: np.ndarray, label: np.ndarray) -> bool:
    pairs = {*zip(found.ravel().tolist(), label.ravel().tolist(), strict=True)}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_objects_that_touch_come_back_one_by_one():
    label = discs()
    found = objects_in(logits_of(label))
    pairs, count = np.unique(np.stack([found, label]).reshape(2, -1), axis=1, return_counts=True)
    assert found.max() == 5 and found.dtype == np.int32 and count[np.argsort(count)[-6:]].sum() > 0.995 * label.size
    assert np.array_equal(found > 0, label > 0) and len({*pairs[0]}) == len({*pairs[1]})
    alone = logits_of((label > 0).astype(np.uint16))  # a network that sees no border between them
    assert objects_in(alone).max() == 3


def test_an_object_may_reach_the_edge_and_a_border_lies_on_both_sides():
    label = torch.zeros(1, 1, 10, 20)
    label[..., :8], label[..., 8:] = 1, 2
    classes = inside_and_border(label, 2)
    assert classes[0, 0, 0].tolist() == [1] * 6 + [2] * 4 + [1] * 10
    assert torch.equal(inside_and_border(label[0], 2), classes[0])


def test_merged_logits_have_the_probability_of_both():
    logits = torch.randn(3, 50)
    logits[0] = 0
    assert torch.allclose(merged(logits).softmax(0)[1], logits.softmax(0)[1:].sum(0))


def test_any_numbers_become_1_to_n(tmp_path):
    label = discs()
    read_back = read(tmp_path / "a.png", label * 9000)
    assert same_objects(read_back[0].numpy(), label) and read_back.max() == 5 and PIECES not in read_back.meta
    high = label.astype(np.int32) * 3_000_000
    assert same_objects(read(tmp_path / "a.tif", high)[0].numpy(), label)


@pytest.mark.parametrize("value", [1, 255])
def test_pieces_of_a_mask_of_one_value_are_objects_and_that_is_kept(tmp_path, value):
    label = (discs() > 0).astype(np.uint8) * value
    found = read(tmp_path / "a.png", label)
    assert found.max() == 3 and found.meta[PIECES]
    one = read(tmp_path / "b.png", (discs() == 1).astype(np.uint8) * value)
    assert one.max() == 1 and PIECES not in one.meta
    assert read(tmp_path / "c.png", label * 0).max() == 0


def test_values_that_number_no_objects_are_refused(tmp_path):
    label = np.kron(np.arange(64).reshape(8, 8) % 2 + 1, np.ones((4, 4))) * (np.indices((32, 32))[0] % 4 > 1)
    with pytest.raises(InputError, match=r"a\.png: its 2 values lie in 64 separate pieces, and the key instances"):
        read(tmp_path / "a.png", label.astype(np.uint8))
    soft = (np.hypot(*(np.indices((40, 40)) - 20)) * 12).clip(0, 250)
    soft = (250 - soft + np.random.default_rng(0).integers(0, 4, soft.shape)).astype(np.uint8)
    with pytest.raises(InputError, match="separate pieces"):
        read(tmp_path / "b.png", soft)
    with pytest.raises(InputError, match="70000 objects, and 65534 is the most: cut"):
        objects_of(MetaTensor(torch.arange(70000.0).add(1).reshape(1, 700, 100)), "c.png")


def test_what_the_key_is_not_for_is_refused(tmp_path):
    assert names_of(("cell",), 2) == ("cell", "cell border")
    for wrong, why in (((("cell",), 3), "volumes"), ((("a", "b"), 2), "has a, b:"), ((("a",), 2, [[1, 2]]), "several")):
        with pytest.raises(InputError, match=f"key instances.*{why}"):
            names_of(*wrong)
    Image.fromarray(discs()).save(tmp_path / "a.png")
    case = {"label": str(tmp_path / "a.png")}
    with pytest.raises(InputError, match=r"known are 0 to 1.*; if they number the objects.*key instances"):
        LoadCased("label", labels=("cell",))(case)
    with pytest.raises(InputError, match="unlabelled voxels.*key instances"):
        LoadCased("label", labels=("cell",), instances=True)({**case, "ignore": 2})


def test_a_folder_of_numbered_objects_gets_its_labels_name(tmp_path, capsys):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    label = np.kron(np.arange(1, 26).reshape(5, 5), np.pad(np.ones((6, 6), np.uint8), 1)).astype(np.uint8)
    for name in ("a", "b", "c"):
        noise = np.random.default_rng(ord(name)).integers(0, 40, label.shape)
        Image.fromarray(((label > 0) * 150 + noise).astype(np.uint8)).save(tmp_path / f"images/{name}.png")
        Image.fromarray(label).save(tmp_path / f"masks/{name}.png")
    with pytest.raises(InputError, match="number their objects.*--labels NAME and train with the key instances"):
        read_dataset(tmp_path)
    assert main(["dataset", str(tmp_path), "--labels", "cell"]) == 0
    dataset = read_dataset(tmp_path)
    assert dataset.labels == ("cell",) and check_dataset(dataset, instances=True) == []
    with pytest.raises(InputError, match="key instances"):
        check_dataset(dataset)
    for name in ("a", "b", "c"):
        Image.fromarray((label > 0).astype(np.uint8)).save(tmp_path / f"masks/{name}.png")
    (note,) = check_dataset(dataset, instances=True)
    assert "3 masks with one value for all objects: each connected piece is taken for an object" in note
