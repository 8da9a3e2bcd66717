"""An object whose label is named is that label, whatever it resembles, from a file, a request and from Python."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.inferers import SimpleInferer
from network_tester import LABELS, image, perturb, tiny_backbone

from sam_monai import InputError, MedSA
from sam_monai.inference import pipeline
from sam_monai.networks.resemblance import named
from sam_monai.prompts import prompted_inference
from sam_monai.prompts.answering import answered
from sam_monai.prompts.monai_label import KeepClicks, clicks_of_request
from sam_monai.prompts.prompt_files import prompts_beside, read_prompts, with_prompts
from sam_monai.prompts.prompted_inference import PromptedInference

SETTINGS = {"spatial_dims": 3, "intensity": "mr", "ct_window": (-160, 240), "orientation": "PLS", "spacing": None,
            "channels": None, "scale": "whole"}  # fmt: skip
CLICK = {"point_coords": torch.tensor([[[9.0, 9.0, 2.0]]]), "point_labels": torch.tensor([[1]])}


class Halves:
    """What is bright is labelled "left" up to row 10 and "right" from there on. A click is answered by the square about
    it, as far as that is bright."""

    labels, mask_prompts = ("left", "right"), True

    def __call__(self, image, embedding=None, point_coords=None, point_labels=None, automatic=None, part=(0, 0),
                 resemblance=None, meant=None):  # fmt: skip
        bright = image[0, 0] > 0.5
        if point_coords is None:
            left = torch.arange(image.shape[2])[:, None, None] < 10
            masks = [torch.zeros_like(image[0, 0]), *(torch.where(bright & on, 5.0, -5.0) for on in (left, ~left))]
            return torch.stack(masks)[None]
        i, j, k = (point_coords[0, 0] - torch.tensor([0, 0, part[0]])).int().tolist()
        inside = torch.zeros_like(bright)
        inside[i - 2 : i + 3, j - 2 : j + 3, k] = True
        answer = torch.where(inside & bright, 5.0, -5.0)
        return torch.stack([torch.zeros_like(answer), answer])[None]

    def encode(self, image):
        return image

    def resemblance(self, image, embedding, **prompts):
        return torch.zeros(1, 2, 5)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = MedSA(tiny_backbone(), labels=LABELS, amp=False).eval()
    perturb(network)
    network.label_gains.data.fill_(1.0)
    return network


@pytest.mark.parametrize("large", [False, True])
def test_a_click_in_the_neighbouring_label_finds_the_label_that_is_named(monkeypatch, large):
    if large:
        monkeypatch.setattr(prompted_inference, "MOST_BYTES", 0)
    volume = torch.zeros(1, 1, 20, 20, 5)
    volume[..., 4:16, 7:12, :] = 1

    def other_slices(row=9.0, **label):
        click = {**CLICK, "point_coords": torch.tensor([[[row, 9.0, 2.0]]])}
        answer = PromptedInference(SimpleInferer())(volume, Halves(), **click, **label)
        rows = (answer.argmax(1) if answer.shape[1] > 1 else answer[:, 0])[0, :, 9, 0].nonzero().flatten().tolist()
        return rows[0], rows[-1]

    assert other_slices() == other_slices(label=[None]) == other_slices(label="left") == (4, 9)
    assert other_slices(label=["right"]) == (10, 15)
    assert other_slices(5.0, label=["right"]) == (10, 15)  # which the click's own square does not touch


@pytest.mark.parametrize("shape", [(24, 20), (24, 20, 5)])
def test_the_named_label_alone_takes_part_in_the_answer(network, monkeypatch, shape):
    x, click = image(1, 1, *shape), {**CLICK, "point_coords": CLICK["point_coords"][..., : len(shape)]}
    with torch.no_grad():
        embedding, automatic = network.encode(x), network(x)
        answers = {name: answered(network, x, embedding, automatic, click, name) for name in (*LABELS, None)}
        expected = network(x, embedding, **click, meant=named(LABELS, "spleen"))[0, 1]
        here = (..., 2) if len(shape) == 3 else ...
        torch.testing.assert_close(answers["spleen"][here], expected[here], rtol=1e-3, atol=1e-3)
        assert not torch.allclose(answers["spleen"], answers["liver"], atol=1e-2)
        both = {key: value.repeat(2, *[1] * (value.ndim - 1)) for key, value in click.items()}
        together = PromptedInference(SimpleInferer())(x, network, **both, label=["spleen", None])
        torch.testing.assert_close(together[0, 1], answers["spleen"], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(together[0, 2], answers[None], rtol=1e-3, atol=1e-3)
        if len(shape) == 3:
            parts = answered(network, x, embedding, None, click, "spleen")
            torch.testing.assert_close(parts, answers["spleen"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (["kidney"], "object 1.*'kidney'.*liver, spleen"),
        (["Liver"], "'Liver'.*liver, spleen"),
        ("", "liver, spleen"),
        ([1], "liver, spleen"),
        (["liver", "spleen"], "one name, or None, for each"),
        ([], "one name, or None, for each"),
    ],
)
def test_what_names_no_label_is_refused_before_the_image_is_encoded(network, monkeypatch, label, said):
    monkeypatch.setattr(network, "encode", None)
    with pytest.raises(InputError, match=said):
        PromptedInference(SimpleInferer())(image(1, 1, 24, 20, 5), network, **CLICK, label=label)
    with pytest.raises(InputError, match="prompted objects"):
        PromptedInference(SimpleInferer())(image(1, 1, 24, 20, 5), network, label=label)


def test_a_name_in_a_file_reaches_the_answer(network, tmp_path):
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.random.RandomState(0).rand(24, 20, 5).astype(np.float32), np.eye(4)), path)
    one = {"points": [[9, 9, 2]], "labels": [1]}

    def ask(**label):
        prompts_beside(path).write_text(json.dumps({"objects": [one | label, one]}))
        batch = list_data_collate([pipeline.preprocessing((), SETTINGS)({"image": str(path)})])
        x, _, _, prompts = with_prompts(batch, torch.device("cpu"))
        with torch.no_grad():
            return PromptedInference(SimpleInferer())(x, network, **prompts)

    answer = ask(label="spleen")
    assert torch.equal(answer[0, 2], ask()[0, 1]) and not torch.allclose(answer[0, 1], answer[0, 2], atol=1e-2)
    with pytest.raises(InputError, match="object 1.*'spleeen'.*liver, spleen"):
        ask(label="spleeen")
    for wrong in (1, [1], None, {"spleen": 1}):
        with pytest.raises(InputError, match=r"scan.nii.gz.prompts.json: object 1: its label is no name"):
            ask(label=wrong)


def test_a_viewers_segment_names_the_label_and_is_not_read_as_a_file(tmp_path):
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.random.RandomState(0).rand(24, 20, 5).astype(np.float32), np.eye(4)), path)

    def asked(segment, **clicks):
        request = {"image": str(path), "image_path": str(path), "label": segment, **clicks}
        case = pipeline.preprocessing((), SETTINGS)(request)
        assert not isinstance(case.get("label"), str)
        return clicks_of_request(case["image"], ("Liver", "tumour", "Tumour")).get("label")

    click = {"foreground": [[9, 9, 2]], "background": []}
    assert asked("liver", **click) == asked("Liver", **click) == ["Liver"] and asked("Tumour", **click) == ["Tumour"]
    for anything in ("Segment_1", "", "background", None, "TUMOUR", 3):  # a segment of the user's own, or no name
        assert asked(anything, **click) is None
    assert asked("liver", foreground=[], background=[]) is None


def test_clicks_under_the_labels_names_are_not_passed_over():
    case = KeepClicks()({"image": MetaTensor(torch.zeros(1, 8, 8, 4)), "liver": [[1, 2, 3]], "background": []})
    with pytest.raises(InputError, match=r"labels' names \(liver\).*deepgrow"):
        clicks_of_request(case["image"], ("Liver", "spleen"))
    assert clicks_of_request(case["image"], ("kidney",)) == {}


def test_without_names_prompts_are_as_they_were(tmp_path):
    path = tmp_path / "p.png.prompts.json"
    path.write_text('{"objects": [{"points": [[1, 2]], "labels": [1]}]}')
    assert "label" not in read_prompts(path, MetaTensor(torch.zeros(1, 8, 8)))
