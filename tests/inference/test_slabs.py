"""Big volumes: slabs give what the whole volume gives, in memory that does not grow with depth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dicom_maker import AFFINE, SETTINGS
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from monai.transforms import Compose
from network_tester import image, tiny_backbone
from torch.utils._python_dispatch import TorchDispatchMode

from sam_monai import PTSAM, InputError
from sam_monai.data import preparing
from sam_monai.data.frames import FRAMES
from sam_monai.inference import pipeline
from sam_monai.inference.file_grid import ToFileGridd
from sam_monai.inference.slabs import SLAB_BYTES, SlabInferer


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return PTSAM(tiny_backbone(), labels=["a", "b"], amp=False).eval()


def test_slabs_give_the_logits_of_the_whole_volume(network):
    x = image(1, 1, 40, 40, 23)
    with torch.no_grad():
        torch.testing.assert_close(SlabInferer(SimpleInferer(), slices=5)(x, network), network(x))


@pytest.mark.parametrize("depth", [5, 6])
@pytest.mark.parametrize("most_bytes", [2**30, 1000])
def test_an_answer_lies_where_its_volume_lies_whatever_the_depth(network, depth, most_bytes):
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0]))
    x = MetaTensor(image(1, 1, 32, 32, depth), affine=affine, meta={"filename_or_obj": "a.nii.gz"})
    with torch.no_grad():
        found = SlabInferer(SimpleInferer(), slices=5, most_bytes=most_bytes)(x, network)
    assert isinstance(found, MetaTensor) and torch.equal(found.affine, x.affine)
    assert found.meta["filename_or_obj"] == "a.nii.gz"


def test_several_big_volumes_at_once_are_refused(network):
    with pytest.raises(InputError, match="give batches of one, not 2"):
        SlabInferer(SimpleInferer(), slices=5)(image(2, 1, 32, 32, 6), network)


def test_labels_are_kept_where_logits_would_be_large(network):
    x = image(1, 1, 40, 40, 23)
    with torch.no_grad():
        labels = SlabInferer(SimpleInferer(), slices=5, most_bytes=1000)(x, network)
        assert not labels.is_floating_point() and torch.equal(labels, network(x).argmax(1, keepdim=True))


def test_slabs_overlap_and_are_blended_where_slices_see_each_other():
    torch.manual_seed(0)
    network = PTSAM(tiny_backbone(), labels=["a"], amp=False, depth_attention=True, slices_per_batch=64).eval()
    for name, parameter in network.named_parameters():
        if "depth_attention" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    seen = []

    def counted(volume):
        seen.append(volume.shape[-1])
        return network(volume)

    counted.depth_attention = True
    x = image(1, 1, 32, 32, 30)
    with torch.no_grad():
        logits = SlabInferer(SimpleInferer(), slices=10)(x, counted)
        assert seen == [14, 18, 14] and logits.shape[-1] == 30
        torch.testing.assert_close(logits[..., :6], network(x[..., :14])[..., :6])
        torch.testing.assert_close(logits[..., 14:16], network(x[..., 6:24])[..., 8:10])
        a, b = network(x[..., :14])[..., 10], network(x[..., 6:24])[..., 4]
    assert not torch.allclose(a, b)
    torch.testing.assert_close(logits[..., 10], a + (b - a) * 5 / 9)


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 2.0)])
def test_kept_labels_lie_where_logits_would_have_put_them(spacing):
    truth = torch.zeros(1, 40, 36, 12)
    truth[:, 10:30, 8:28, 3:9] = 100
    truth[:, 12:20, 10:18, 5:8] = 200
    steps = preparing.preparing(SETTINGS | {"spacing": spacing})
    preparation = pipeline.Compose(steps)
    prepared = preparation({"image": MetaTensor(truth.clone(), torch.tensor(AFFINE), {"filename_or_obj": "a"})})
    levels = [0.4, 0.65, 0.9]  # of 0, 100 and 200 HU in the window
    logits = torch.cat([-(prepared["image"].as_tensor() - level).abs() for level in levels])
    finish = pipeline.postprocessing(preparation)
    out = {}
    for name, pred in (("logits", logits), ("labels", logits.argmax(0, keepdim=True).to(torch.uint8))):
        out[name] = np.asarray(finish({**prepared, "pred": MetaTensor(pred, prepared["image"].affine)})["pred"])
    expected = truth.numpy() / 100
    if spacing is None:
        assert np.array_equal(out["labels"], expected) and np.array_equal(out["logits"], expected)
    for value in (1, 2):
        a, b = out["labels"] == value, expected == value
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.85
        np.testing.assert_allclose(np.argwhere(a).mean(0), np.argwhere(b).mean(0), atol=0.6)  # half a voxel is a tie


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that is made within."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        there = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
        for tensor in made if isinstance(made, (list, tuple)) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in there:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return made


@pytest.mark.parametrize("labels", [1, 104])
@pytest.mark.parametrize("depth", [32, 200])
def test_no_array_grows_with_labels_or_depth_but_the_result(labels, depth):
    def network(volume):
        return torch.zeros(1, labels + 1, *volume.shape[2:]).index_fill_(1, torch.tensor([labels]), 1.0)

    network.labels = [str(i) for i in range(labels)]
    volume = torch.zeros(1, 1, 96, 96, depth)
    with Largest() as inferring:
        out = SlabInferer(SimpleInferer(), most_bytes=0)(volume, network)
    found = out if out.shape[1] == 1 else out.argmax(1, keepdim=True)
    assert found.shape == (1, 1, 96, 96, depth) and (found == labels).all()
    assert inferring.bytes <= max(SLAB_BYTES, out.nbytes)


def test_labels_are_chosen_without_a_second_array_of_their_size():
    logits = torch.randn(3, 256, 64, 16)
    finish = ToFileGridd(Compose([]))
    with Largest() as finishing:
        found = finish({"pred": logits})["pred"]
    assert torch.equal(found.as_tensor().long(), logits.argmax(0, keepdim=True))
    assert finishing.bytes <= 2 * found.nbytes


@pytest.mark.parametrize("most_bytes", [2**30, 1000])
def test_slices_of_a_frame_do_not_see_those_of_another(most_bytes):
    torch.manual_seed(0)
    network = PTSAM(tiny_backbone(), labels=["a"], amp=False, depth_attention=True).eval()
    for name, parameter in network.named_parameters():
        if "depth_attention" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    x = image(1, 1, 32, 32, 6)
    inferer = SlabInferer(SimpleInferer(), most_bytes=most_bytes)
    with torch.no_grad():
        found = inferer(MetaTensor(x, meta={FRAMES: torch.tensor([3])}), network)
        alone = torch.cat([network(one) for one in x.chunk(3, -1)], -1)
        assert not torch.allclose(network(x), alone, atol=1e-3)
    if most_bytes > 1000:
        torch.testing.assert_close(found, alone)
    else:
        assert torch.equal(found, alone.argmax(1, keepdim=True))
