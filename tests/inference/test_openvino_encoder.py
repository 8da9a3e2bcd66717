"""OpenVINO in place of torch gives the same answers, and is made once for the same weights."""

from __future__ import annotations

import pytest
import torch
from network_tester import LABELS, image, perturb, tiny_backbone

from sam_monai import PTSAM, SSAM, InputError, MedSA
from sam_monai.inference import openvino_encoder as engine
from sam_monai.inference.openvino_encoder import EncoderEngine


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAM_MONAI_CACHE", str(tmp_path))


@pytest.mark.parametrize("kind, others", [(SSAM, {}), (PTSAM, {"encoder_prompts": 2})])
def test_the_encoder_computes_the_same_and_follows_new_weights(kind, others, monkeypatch):
    torch.manual_seed(0)
    network = kind(tiny_backbone(blocks=2), labels=LABELS, amp=False, **others).eval()
    perturb(network)
    made, convert = [], engine.convert
    monkeypatch.setattr(engine, "convert", lambda *args: made.append(1) or convert(*args))
    handler = EncoderEngine(network, "openvino")
    for expected_made in (1, 2):
        volume = image(1, 1, 40, 48, 3)
        network.backbone.image_encoder.__dict__.pop("forward", None)
        with torch.no_grad():
            expected = network(volume)
            handler()
            assert "forward" in network.backbone.image_encoder.__dict__
            torch.testing.assert_close(network(volume), expected, atol=1e-3, rtol=1e-3)
        again = EncoderEngine(network, "openvino")
        again()
        assert len(made) == expected_made
        perturb(network)


def test_with_depth_attention_the_encoder_stays_in_torch(capsys):
    network = MedSA(tiny_backbone(), labels=LABELS, amp=False)
    EncoderEngine(network, "openvino")()
    assert "stays in torch" in capsys.readouterr().out and "forward" not in network.backbone.image_encoder.__dict__


def test_an_unknown_engine_is_refused():
    with pytest.raises(InputError, match="torch, openvino"):
        EncoderEngine(MedSA(tiny_backbone(), labels=LABELS), "onnx")


def test_an_encoder_that_openvino_cannot_convert_is_one_line(tmp_path, monkeypatch):
    import openvino.frontend

    def fail(_):
        raise openvino.frontend.OpConversionFailure("aten.slice.Tensor")

    monkeypatch.setattr(openvino, "convert_model", fail)
    with pytest.raises(InputError, match=r"OpenVINO [\d.]+ cannot convert .* torch .*: install a newer torch"):
        engine.convert(torch.nn.Identity(), 32, tmp_path / "encoder.xml")
    assert not list(tmp_path.iterdir())
