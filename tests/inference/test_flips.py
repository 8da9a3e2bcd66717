"""An answer averaged over mirrored images is as the image is turned, and never that of another side."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from monai.data import MetaTensor
from network_tester import image, tiny_backbone

from sam_monai import PTSAM
from sam_monai.errors import InputError
from sam_monai.inference import pipeline
from sam_monai.networks.adapter_files import training_summary, write_adapter


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return PTSAM(tiny_backbone(), labels=["a", "b"], amp=False).eval()


def answer(network, x, scale="whole", flips="flips"):
    with torch.no_grad():
        return torch.as_tensor(pipeline.inferer(scale, 32, x.ndim - 2, 0.25, flips)(x, network))


@pytest.mark.parametrize("scale", ["whole", "patch"])
@pytest.mark.parametrize("flips, axes", [("sides", (3,)), ("flips", (3,)), ("flips", (2,)), ("flips", (2, 3))])
def test_a_mirrored_picture_gets_the_mirrored_answer(network, scale, flips, axes):
    x = image(1, 1, 40, 48)
    there, back = answer(network, x, scale, flips), answer(network, x.flip(axes), scale, flips).flip(axes)
    torch.testing.assert_close(there, back, atol=1e-4, rtol=1e-4)
    plain = answer(network, x, scale, "none")
    assert not torch.allclose(plain, answer(network, x.flip(axes), scale, "none").flip(axes), atol=1e-3)
    assert not torch.allclose(plain, there, atol=1e-3)


def test_a_volume_is_mirrored_along_the_axis_of_its_sides(network):
    x = image(1, 1, 40, 48, 5)
    for affine, axis in ((torch.eye(4), 2), (torch.eye(4)[[1, 0, 2, 3]], 3)):
        found = answer(network, MetaTensor(x, affine=affine.double()))
        with torch.no_grad():
            torch.testing.assert_close(found, (network(x) + network(x.flip(axis)).flip(axis)) / 2)


def test_labels_of_a_side_are_refused():
    network = PTSAM(tiny_backbone(), labels=["left lung", "right lung"], amp=False).eval()
    with pytest.raises(InputError, match="average_flips"):
        answer(network, image(1, 1, 40, 48))


@pytest.mark.parametrize(("mirror", "dims", "told"), [("sides", 2, True), ("flips", 2, False), ("sides", 3, False)])
def test_pictures_upside_down_are_named_where_the_training_showed_none(mirror, dims, told, tmp_path, caplog):
    network = PTSAM(tiny_backbone(), labels=["a"], preprocessing={"spatial_dims": dims})
    summary = training_summary(1, 1, 0.5, 2, 1) | {"plan": {"mirror": mirror}}
    write_adapter(network.state_dict(), tmp_path / "a.pt", summary)
    inferer = pipeline.inferer("whole", 32, dims, 0.25, "flips")
    loader = pipeline.AdapterCheckpointLoader(tmp_path / "a.pt", network)
    loader(SimpleNamespace(inferer=inferer))  # pyright: ignore[reportArgumentType]
    assert ("mirrored from left to right alone (mirror sides)" in caplog.text) == told
