"""The inferer for prompts: it never serves an embedding that is out of date, and answers each object as if alone."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer
from network_tester import LABELS, image, perturb, tiny_backbone

from sam_monai import InputError, MedSA
from sam_monai.prompts import prompted_inference
from sam_monai.prompts.prompted_inference import PromptedInference

CLICK = {"point_coords": torch.tensor([[[9.0, 9.0]]]), "point_labels": torch.tensor([[1]])}


def build(**others):
    torch.manual_seed(0)
    return MedSA(tiny_backbone(), labels=LABELS, **{"amp": False} | others).eval()


@pytest.fixture
def network():
    return build()


def assign(network, x):
    other = build()
    perturb(other)
    network.load_state_dict(other.state_dict(), assign=True)


def assign_while_the_old_lives(network, x):
    network.kept = dict(network.named_parameters())
    assign(network, x)


def edit(network, x):
    network.backbone.image_encoder.blocks[0].mlp_adapter.up.bias.data += 1
    network.forget()


def replace_data(network, x):
    parameter = network.backbone.image_encoder.blocks[0].mlp_adapter.up.bias
    parameter.data = parameter.data + 1


def thaw(network, x):
    with torch.no_grad():
        network.backbone.image_encoder.neck[0].weight.mul_(1.5)


CHANGES = {
    "the same buffer with another image": lambda network, x: x.copy_(image(1, 1, 30, 30, seed=1)),
    "one pixel": lambda network, x: x[0, 0, 3, 4].add_(0.5),
    "an adapter, by assignment": assign,
    "an adapter, by assignment, while the old one lives": assign_while_the_old_lives,
    "an adapter, by copy": lambda network, x: perturb(network) or network.load_state_dict(network.state_dict()),
    "base weights": thaw,
    "a number through .data, and forget": edit,
    "the data of a parameter": replace_data,
    "precision": lambda network, x: setattr(network, "amp", True),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_changed_is_encoded_anew(network, monkeypatch, change, mode):
    monkeypatch.setattr("sam_monai.networks.slicewise.fast_bfloat16", lambda device: True)
    inferer, x = PromptedInference(SimpleInferer()), image(1, 1, 30, 30)
    with mode():
        before = inferer(x, network, **CLICK)
        change(network, x)
        after = inferer(x, network, **CLICK)
        expected = PromptedInference(SimpleInferer())(x, network, **CLICK)
    assert torch.equal(after, expected) and not torch.equal(after, before)


def test_what_did_not_change_is_not(network):
    inferer, seen = PromptedInference(SimpleInferer()), []
    network.backbone.image_encoder.register_forward_pre_hook(lambda *_: seen.append(1))
    x = image(1, 1, 30, 30)
    with torch.no_grad():
        for same in (x, x.clone(), x):
            inferer(same, network, **CLICK)
    assert len(seen) == 1


@pytest.mark.parametrize("large", [True, False])
def test_a_further_click_on_a_volume_answers_the_slices_clicked_alone(network, monkeypatch, large):
    monkeypatch.setattr("sam_monai.prompts.prompted_inference.MOST_BYTES", 0 if large else 2**30)
    perturb(network)
    inferer, seen, x = PromptedInference(SimpleInferer()), [], image(1, 1, 30, 30, 12)
    network.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-1]))
    coords, labels = torch.tensor([[[9.0, 9, 6], [14, 11, 6]]]), torch.tensor([[1, 0]])

    def ask(inferer, clicks):
        clicks = {"point_coords": coords[:, :clicks], "point_labels": labels[:, :clicks]}
        return inferer(x, network, **clicks, label=LABELS[:1])

    with torch.no_grad():
        ask(inferer, 1)
        assert sum(seen) > 12
        seen.clear()
        found = ask(inferer, 2)
        assert set(seen) == {1} and len(seen) <= 4
        assert torch.equal(found, ask(PromptedInference(SimpleInferer()), 2))


def test_a_network_built_in_inference_mode_answers():
    with torch.inference_mode():
        network, inferer = build(), PromptedInference(SimpleInferer())
        first = inferer(image(1, 1, 30, 30), network, **CLICK)
        network.backbone.image_encoder.blocks[0].mlp_adapter.up.bias.add_(1)
        assert not torch.equal(inferer(image(1, 1, 30, 30), network, **CLICK), first)


@pytest.mark.parametrize("mask_prompts", [True, False])
def test_each_object_has_the_answer_that_it_has_alone_whatever_the_volumes_size(network, monkeypatch, mask_prompts):
    network.mask_prompts = mask_prompts
    perturb(network)
    volume = image(1, 1, 32, 30, 5)
    coords = torch.tensor([[[9.0, 9, 1], [14, 11, 3]], [[20.0, 5, 4], [0, 0, 0]], [[25.0, 25, 0], [3, 20, 0]]])
    labels = torch.tensor([[1, 0], [1, -1], [1, 1]])
    with torch.no_grad():

        def ask(k):
            prompts = {"point_coords": coords[k], "point_labels": labels[k]}
            return PromptedInference(SimpleInferer())(volume, network, **prompts)

        alone = [ask([k])[0, 1] for k in range(3)]
        together = ask([0, 1, 2])
        monkeypatch.setattr(prompted_inference, "MOST_BYTES", 0)
        singly = ask([0, 1, 2])
    torch.testing.assert_close(together[0, 1:], torch.stack(alone), rtol=1e-3, atol=1e-3)
    assert (singly == together.argmax(1, keepdim=True)).float().mean() > 0.999


NOTHING = torch.full((1, 1, 30, 30), torch.nan)
HALF = torch.where(torch.arange(30) < 9, torch.tensor(-4.0), torch.tensor(torch.nan)).expand(1, 1, 30, 30)
WRONG = {
    "a name that is almost right": (
        {"point_coord": [[[9.0, 9]]], "point_labels": [[1]]},
        "did you mean 'point_coords'",
    ),
    "a name of another library": ({"input_boxes": [[[1.0, 1, 9, 9]]]}, "unknown key 'input_boxes'"),
    "a word": ({"boxes": "middle"}, "boxes of the prompts is no array"),
    "rows of different lengths": ({"boxes": [[[1.0, 1, 9, 9]], [[1.0, 1]]]}, "boxes of the prompts is no array"),
    "a click below the image": ({**CLICK, "point_coords": [[[30.0, 9.0]]]}, "lies outside the image"),
    "a click above it": ({**CLICK, "point_coords": [[[9.0, -1.0]]]}, "lies outside the image"),
    "a box beside it": ({"boxes": [[[31.0, 2, 40, 9]]]}, "box lies outside"),
    "a box and two objects' clicks": ({"boxes": [[[1.0, 1, 9, 9]]], "point_coords": [[[9, 9]]] * 2}, "come together"),
    "two lassos and a click": ({**CLICK, "lasso": [[[1.0, 1], [9, 1], [9, 9]]] * 2}, "different numbers of objects"),
    "a mask of 0 and 1": ({"masks": (HALF.isnan()).float()}, "no number below 0"),
    "a mask that is bool": ({"masks": HALF.isnan()}, "no number below 0"),
    "NaN in a part of a mask": ({"masks": HALF}, "NaN in a part"),
}


@pytest.mark.parametrize(("prompts", "said"), WRONG.values(), ids=WRONG)
def test_prompts_that_mean_nothing_are_refused(network, prompts, said):
    with torch.no_grad(), pytest.raises(InputError, match=said):
        PromptedInference(SimpleInferer())(image(1, 1, 30, 30), network, **prompts)


def test_whole_numbers_lists_and_boxes_that_reach_beyond_mean_what_they_say(network):
    inferer, x, box = PromptedInference(SimpleInferer()), image(1, 1, 30, 30), torch.tensor([[[3.0, 4.0, 29.0, 29.0]]])
    with torch.no_grad():
        expected = inferer(x, network, **CLICK, boxes=box)
        for same in (
            {**CLICK, "boxes": box.double(), "masks": None},
            {"point_coords": [[[9, 9]]], "point_labels": [[1]], "boxes": [[[3, 4, 90, 31]]]},
            {**{key: value.numpy() for key, value in CLICK.items()}, "boxes": box.long(), "masks": NOTHING},
        ):
            assert torch.equal(inferer(x, network, **same), expected)


def test_what_is_logged_of_an_inferer_has_no_value_of_the_image(network):
    inferer, x = PromptedInference(SimpleInferer()), image(1, 1, 30, 30)
    with torch.no_grad():
        inferer(x, network, **CLICK)  # MONAI Label logs the attributes before each request
    assert inferer.last is not None and "tensor" not in str(vars(inferer)) and len(str(vars(inferer))) < 300


def test_prompts_of_several_images_at_once_are_refused(network):
    with pytest.raises(InputError, match="give batches of one, not 2"):
        PromptedInference(SimpleInferer())(image(2, 1, 20, 24), network, **CLICK)


@pytest.mark.parametrize("automatic", [SimpleInferer(), SlidingWindowInferer(64)])
def test_an_answer_lies_where_its_image_lies(network, automatic):
    x = MetaTensor(image(1, 1, 90, 100), affine=torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0])))
    with torch.no_grad():
        found = PromptedInference(automatic)(x, network, **CLICK)
    assert isinstance(found, MetaTensor) and torch.equal(found.affine, x.affine)


@pytest.mark.parametrize(
    "prompts",
    [
        {"point_coords": [[[9.0, 9]], [[0.0, 0]]], "point_labels": [[1], [-1]]},
        {"boxes": [[[4.0, 5, 20, 30]], [[float("nan")] * 4]]},
    ],
)
def test_an_object_without_a_prompt_is_refused(network, prompts):
    with pytest.raises(InputError, match="object 2 of the prompts has no click, box, lasso or mask"):
        PromptedInference(SimpleInferer())(image(1, 1, 40, 40), network, **prompts)
