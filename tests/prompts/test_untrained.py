"""An object that is none of the labels is answered as the network answered it before training."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from network_tester import LABELS, tiny_backbone

from sam_monai import InputError, MedSA
from sam_monai.prompts import untrained
from sam_monai.prompts.answering import answered
from sam_monai.prompts.following import ABSENT, answered_without
from sam_monai.prompts.untrained import finds

BOX, BOX_3D = torch.tensor([[[10.0, 20, 40, 50]]]), torch.tensor([[[10.0, 20, 1, 40, 50, 3]]])


class Answers:
    """Answers each prompt by a rectangle, or by nothing."""

    image_size = 64

    def __init__(self, rows, columns):
        self.rows, self.columns = rows, columns

    def unguided(self, image, *others, automatic, **prompts):
        logits = torch.full((1, *image.shape[2:]), -5.0)
        logits[:, self.rows, self.columns] = 5.0
        return logits, automatic


def nothing_known(_):
    return torch.tensor([5.0, -5.0]).view(1, 2, 1, 1).expand(1, 2, 60, 70)


def found_by(rows, columns, prompts, x=None):
    x = torch.rand(1, 1, 60, 70) if x is None else x
    known = nothing_known if x.ndim == 4 else lambda here: nothing_known(here)[..., None]
    return finds(Answers(slice(*rows), slice(*columns)), x, x, known, prompts)


@pytest.mark.parametrize(
    "rows, columns, there",
    [
        ((12, 38), (22, 49), True),
        ((8, 44), (18, 50), True),  # a loose answer to a loose box
        ((0, 0), (0, 0), False),  # nothing
        ((12, 20), (22, 30), False),  # a corner of the box
        ((12, 58), (22, 69), False),  # most of it beside the box
    ],
)
def test_an_answer_that_leaves_its_box_empty_is_none(rows, columns, there):
    assert found_by(rows, columns, {"boxes": BOX}) == there
    volume = torch.rand(1, 1, 60, 70, 6)
    assert found_by(rows, columns, {"boxes": BOX_3D}, volume) == there
    lasso = torch.full((1, 1, 60, 70, 6), torch.nan)
    lasso[..., 2] = -1
    lasso[..., 10:41, 20:51, 2] = 1
    assert found_by(rows, columns, {"masks": lasso}, volume) == there


def test_a_click_that_the_network_denies_is_none():
    click = {"point_coords": torch.tensor([[[20.0, 30.0]]]), "point_labels": torch.tensor([[1]])}
    assert found_by((12, 38), (22, 49), click)
    assert not found_by((30, 38), (22, 49), click)
    known = torch.tensor([-5.0, 5.0]).view(1, 2, 1, 1).expand(1, 2, 60, 70)
    x = torch.rand(1, 1, 60, 70)
    assert finds(Answers(slice(30, 38), slice(22, 49)), x, x, lambda _: known, click)  # a label holds it


@pytest.mark.parametrize("size, near", [(60, 31), (15, 34)])  # of an image that is shrunk fourfold, four pixels
def test_a_click_beside_a_label_or_in_the_slice_after_its_last_is_on_it(size, near):
    """The network ends a label a slice too early, or a pixel."""
    nothing = Answers(slice(0), slice(0))
    nothing.image_size = size
    for dims in (2, 3):
        shape = (60, 60, 9)[:dims]
        automatic = torch.stack([torch.zeros(shape), torch.full(shape, -5.0)])[None]
        label = automatic[0, 1, ..., 3:6] if dims == 3 else automatic[0, 1]
        label[20:30, 20:31] = 5.0
        known = partial(answered_without, nothing, automatic, automatic, automatic)
        for column, k, on in ((near, 5, True), (near, 6, True), (near + 1, 5, False), (25, 7, False)):
            if dims == 2 and k > 5:
                continue
            click = {"point_coords": torch.tensor([[[25.0, column, k][:dims]]]), "point_labels": torch.tensor([[1]])}
            assert finds(nothing, automatic[:, :1], automatic, known, click) == on


def test_corrections_do_not_change_who_answers():
    box = {"boxes": BOX, "point_coords": torch.tensor([[[20.0, 30.0], [2, 2]]]), "point_labels": torch.tensor([[1, 0]])}
    assert found_by((12, 38), (22, 49), box) and not found_by((0, 0), (0, 0), box)


@pytest.fixture(scope="module")
def blind():
    """A LiteMedSAM that was trained to find nothing, whatever the prompt, and without one."""
    network = MedSA("lite_medsam", labels=LABELS, image_size=64, amp=False).eval()

    def unguided(image, embedding, point_coords, point_labels, boxes, automatic=None, part=None, masks=None):
        return torch.full((1, *image.shape[2:]), -5.0), automatic

    def segment(image, *_):
        return (
            torch.tensor([0.0, *[-5.0] * len(LABELS)])
            .view(1, -1, *[1] * (image.ndim - 2))
            .expand(len(image), -1, *image.shape[2:])
        )

    network.unguided, network.segment = unguided, segment
    return network


@pytest.fixture(scope="module")
def plain():
    return MedSA("lite_medsam", labels=["object"], image_size=128, amp=False).eval()


@pytest.fixture
def fast(blind, plain, monkeypatch):
    """The same; what answers in its place sees 128 px, which takes a quarter of the time."""
    found = untrained.Untrained(blind)
    found.network = plain
    monkeypatch.setitem(untrained.FOUND, blind, found)
    return blind


def asked(network, x, prompts, label=None):
    with torch.no_grad():
        embedding = network.encode(x)
        return answered(network, x, embedding, network(x, embedding), prompts, label)


def test_an_object_that_is_no_label_is_answered_by_the_base_at_its_own_size(blind):
    x, plain = torch.rand(1, 1, 60, 70), MedSA("lite_medsam", labels=["object"], amp=False).eval()
    assert torch.equal(asked(blind, x, {"boxes": BOX}), asked(plain, x, {"boxes": BOX}))
    named = asked(blind, x, {"boxes": BOX}, LABELS[0])
    assert not torch.equal(named, asked(plain, x, {"boxes": BOX}))


def test_a_box_in_a_volume_ends_the_object_and_a_click_corrects_its_slice_alone(fast, plain, monkeypatch):
    volume = torch.rand(1, 1, 60, 70, 6)
    found = asked(fast, volume, {"boxes": BOX_3D})
    for k in range(1, 4):
        assert torch.allclose(found[..., k], asked(plain, volume[..., k], {"boxes": BOX}), atol=1e-4)
    assert (found[..., [0, 4, 5]] == ABSENT).all()
    encoded, encode = [], MedSA.encode
    monkeypatch.setattr(MedSA, "encode", lambda self, x: encoded.append(self.backbone.image_size) or encode(self, x))
    click = {"point_coords": torch.tensor([[[30.0, 40.0, 2.0]]]), "point_labels": torch.tensor([[0]])}
    after = asked(fast, volume, {"boxes": BOX_3D, **click})
    assert 128 not in encoded  # its slices' embeddings were kept
    assert after[30, 40, 2] < 0
    assert torch.allclose(after[..., [0, 1, 3, 4, 5]], found[..., [0, 1, 3, 4, 5]], atol=1e-3)
    assert not torch.equal(after[..., 2], found[..., 2])
    assert torch.equal(asked(fast, volume, {"boxes": BOX_3D}), found)  # the click undone


@pytest.mark.parametrize("kept, times", [(2**29, 1), (3 * 4, 2)])
def test_as_many_embeddings_are_kept_as_there_is_room_for(monkeypatch, kept, times):
    monkeypatch.setattr(untrained, "KEPT", kept)
    encoded, volume = [], torch.arange(20.0).view(1, 1, 1, 1, 20)

    class Network:
        def encode(self, x):
            encoded.append(int(x))
            return 2 * x

    found = untrained.Embeddings(Network(), volume)
    for _ in range(2):
        assert torch.equal(found[..., 0:20], 2 * volume)
    assert [encoded.count(k) for k in range(20)] == [1] * 3 + [times] * 17


def test_a_box_in_one_slice_is_followed(fast):
    volume = torch.zeros(1, 1, 60, 70, 5)
    volume[:, :, 15:36, 25:46, 1:4] = 1
    found = asked(fast, volume, {"boxes": torch.tensor([[[14.0, 24, 2, 36, 46, 2]]])}) > 0
    disc = volume[0, 0] > 0
    for k in (1, 2, 3):
        assert 2 * (found & disc)[..., k].sum() > 0.7 * (found[..., k].sum() + disc[..., k].sum())


def square(at):
    """A bright square in noise, and its mask."""
    x = 0.2 * torch.rand(1, 1, 60, 70, generator=torch.Generator().manual_seed(0))
    x[..., at[0] : at[0] + 20, at[1] : at[1] + 20] += 0.7
    return x, x[0, 0] > 0.5


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


@pytest.mark.parametrize("at", [(10, 30), (25, 12)])
def test_a_click_finds_an_object_though_the_base_knows_boxes_alone(fast, at):
    x, mask = square(at)
    click = {"point_coords": torch.tensor([[[at[0] + 9.0, at[1] + 11]]]), "point_labels": torch.tensor([[1]])}
    assert dice(asked(fast, x, click) > 0, mask) > 0.8
    lasso = torch.full((1, 1, 60, 70), -1.0)
    lasso[..., at[0] - 2 : at[0] + 22, at[1] - 2 : at[1] + 22] = 1
    assert dice(asked(fast, x, {"masks": lasso}) > 0, mask) > 0.8


def test_a_correction_of_such_an_object_counts_where_it_is_made(fast):
    x, mask = square((10, 30))
    box = {"boxes": torch.tensor([[[8.0, 28, 31, 51]]])}
    before = asked(fast, x, box)
    wrong = torch.tensor([[[50.0, 10.0], [20.0, 40.0]]])
    after = asked(fast, x, {**box, "point_coords": wrong, "point_labels": torch.tensor([[1, 0]])})
    assert after[50, 10] > 0 > after[20, 40] and before[50, 10] < 0 < before[20, 40]
    assert torch.equal(after[:, 60:], before[:, 60:]) and torch.equal(after[:5], before[:5])


def test_prompts_that_point_at_nothing_are_no_error(fast):
    volume, nothing = torch.rand(1, 1, 60, 70, 4), torch.full((1, 1, 60, 70, 4), -1.0)
    assert (asked(fast, volume, {"masks": nothing}) < 0).all()
    nothing[..., 10:41, 20:51, 2] = 1
    found = asked(fast, volume, {"masks": nothing}) > 0
    assert found[..., 2].any() and not found[..., [0, 1, 3]].any()


def test_a_base_that_no_file_holds_cannot_be_asked_which_is_told(monkeypatch, caplog):
    network = MedSA(tiny_backbone(), labels=LABELS, amp=False).eval()
    monkeypatch.setattr(untrained, "finds", lambda *_: False)
    x = torch.rand(1, 1, 60, 70)
    with torch.no_grad():
        one = answered(network, x, network.encode(x), network(x), {"boxes": BOX})
    assert one.shape == (60, 70) and "none of the labels, and SAM itself cannot be asked for it: " in caplog.text


def test_a_base_that_is_back_is_asked_again(monkeypatch):
    network, there = MedSA(tiny_backbone(), labels=LABELS, amp=False).eval(), []

    def build(_):
        if not there:
            raise InputError("no such file")
        return SimpleNamespace(device=network.backbone.pixel_mean.device)

    monkeypatch.setattr(untrained, "Untrained", build)
    assert untrained.untrained(network) is None
    there.append(True)
    assert (found := untrained.untrained(network)) is not None and untrained.untrained(network) is found
