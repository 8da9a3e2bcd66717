"""Kept embeddings: never stale, never half a file, never more than there is room for."""

from __future__ import annotations

import math
import os
import pickle
import time
from multiprocessing import get_context

import pytest
import torch
from network_tester import LABELS, image, tiny_backbone

from sam_monai import PTSAM
from sam_monai.backbones import backbone
from sam_monai.data.sides import mirrored_with_sides
from sam_monai.networks.embeddings import EmbeddingCache
from sam_monai.training.samples import mirroring, views

BASE = ("base", 64, "pad", False)


class Encoder:
    """Stands for an image encoder and counts the slices it sees."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, slices: torch.Tensor) -> torch.Tensor:
        self.seen += len(slices)
        return slices.mean(1, keepdim=True).repeat(1, 256, 1, 1)


@pytest.mark.parametrize("room", [12, 13])
def test_files_unused_for_a_day_go_first(tmp_path, room):
    cache = EmbeddingCache(tmp_path)
    keys = [f"{i:064x}" for i in range(20)]
    for key in keys:
        cache.write(key, torch.zeros(1, 8, 4, 4))
    for key in keys[:10]:
        os.utime(cache.path(key), (time.time() - 2 * 86400,) * 2)
    again = EmbeddingCache(tmp_path, disk_bytes=room * cache.path(keys[0]).stat().st_size)
    assert again.find(keys[0]) is not None  # so it was used today
    again.make_room()
    left, fresh = {file.stem for file in tmp_path.iterdir()}, {keys[0], *keys[10:]}
    assert left == fresh if room == 13 else left < fresh


def test_what_was_seen_in_memory_or_on_disk_is_not_encoded_again(tmp_path):
    encoder, x = Encoder(), image(3, 3, 8, 8)
    cache = EmbeddingCache(tmp_path)
    first = cache.encode(x, BASE, encoder)
    assert torch.equal(cache.encode(x.flip(0), BASE, encoder), first.flip(0)) and encoder.seen == 3
    assert torch.equal(EmbeddingCache(tmp_path).encode(x, BASE, encoder), first) and encoder.seen == 3
    cache.encode(torch.cat([x, image(1, 3, 8, 8, seed=1).repeat(2, 1, 1, 1)]), BASE, encoder)
    assert encoder.seen == 3 + 4


def test_a_batch_of_which_some_were_kept_when_the_process_was_killed_is_as_if_none_was(tmp_path):
    """The last bits of an embedding depend on how many slices there are."""

    def encoder(slices: torch.Tensor) -> torch.Tensor:
        return (slices.mean(1, keepdim=True) + 1e-6 * len(slices)).repeat(1, 256, 1, 1)

    x = image(5, 3, 8, 8)
    whole = EmbeddingCache(tmp_path).encode(x, BASE, encoder)
    for file in sorted(tmp_path.iterdir())[:3]:
        file.unlink()
    assert torch.equal(EmbeddingCache(tmp_path).encode(x, BASE, encoder), whole)


def test_another_pixel_shape_base_size_or_precision_finds_nothing(tmp_path):
    encoder, x = Encoder(), image(1, 3, 8, 8)
    cache = EmbeddingCache(tmp_path)
    cache.encode(x, BASE, encoder)
    nudged = x.clone()
    nudged[0, 2, 7, 7] += 1e-6
    cache.encode(nudged, BASE, encoder)
    cache.encode(x.reshape(1, 3, 4, 16), BASE, encoder)
    cache.encode(x.double(), BASE, encoder)
    for i, other in enumerate(("other", 128, "stretch", True)):
        cache.encode(x, (*BASE[:i], other, *BASE[i + 1 :]), encoder)
    assert encoder.seen == 8


def test_a_truncated_or_foreign_file_is_made_again(tmp_path):
    encoder, x = Encoder(), image(1, 3, 8, 8)
    expected = EmbeddingCache(tmp_path).encode(x, BASE, encoder)
    (file,) = tmp_path.iterdir()
    for content in (file.read_bytes()[:-100], b"", b"nonsense"):
        file.write_bytes(content)
        assert torch.equal(EmbeddingCache(tmp_path).encode(x, BASE, encoder), expected)
    assert encoder.seen == 4


def test_room_is_bounded_in_memory_and_on_disk(tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(bytes(10**7))  # not ours to delete
    entry = 256 * 8 * 8 * 4
    cache = EmbeddingCache(tmp_path, disk_bytes=100 * entry, memory_bytes=5 * entry)
    cache.encode(image(300, 3, 8, 8), BASE, Encoder())
    assert len(cache.entries) == 5 and cache.held == 5 * entry
    assert len(list(tmp_path.iterdir())) <= 1 + 100 + 64 and (tmp_path / "scan.nii.gz").is_file()


def test_an_embedding_larger_than_the_room_is_not_kept():
    cache = EmbeddingCache(memory_bytes=100)
    cache.encode(image(3, 3, 8, 8), BASE, Encoder())
    assert not cache.entries and cache.held == 0


@pytest.mark.parametrize("disk", [False, True])
def test_data_larger_than_the_room_are_found_in_part_at_every_pass(tmp_path, disk):
    entry, x = 256 * 8 * 8 * 4, image(300, 3, 8, 8)
    room = {"disk_bytes": 150 * entry, "memory_bytes": entry} if disk else {"memory_bytes": 150 * entry}
    cache = EmbeddingCache(tmp_path if disk else None, **room)
    for number in range(4):
        encoder = Encoder()
        for part in x.split(1):
            cache.encode(part, BASE, encoder)
        assert encoder.seen == 300 if number == 0 else encoder.seen < 270
    other, encoder = image(300, 3, 8, 8, seed=1), Encoder()
    for _ in range(10):  # and other data take their place in the end
        encoder.seen = 0
        for part in other.split(1):
            cache.encode(part, BASE, encoder)
    assert encoder.seen < 250


def test_a_folder_that_cannot_be_written_leaves_memory(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    encoder, cache, x = Encoder(), EmbeddingCache(tmp_path / "file/folder"), image(2, 3, 8, 8)
    cache.encode(x, BASE, encoder)
    cache.encode(x, BASE, encoder)
    assert encoder.seen == 2 and "cannot be kept" in caplog.text


def fill(folder: str) -> None:
    EmbeddingCache(folder).encode(image(20, 3, 8, 8), BASE, Encoder())


def test_two_processes_fill_one_folder(tmp_path):
    workers = [get_context("spawn").Process(target=fill, args=(str(tmp_path),)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(600)
        assert worker.exitcode == 0
    encoder = Encoder()
    EmbeddingCache(tmp_path).encode(image(20, 3, 8, 8), BASE, encoder)
    assert encoder.seen == 0 and len(list(tmp_path.iterdir())) == 20


def test_a_network_with_a_cache_answers_as_one_without(tmp_path):
    torch.manual_seed(0)
    plain = PTSAM(tiny_backbone(), labels=LABELS, amp=False)
    cached = PTSAM(tiny_backbone(), labels=LABELS, amp=False, embedding_cache=tmp_path)
    cached.load_state_dict(plain.state_dict())
    for x in (image(2, 1, 50, 40), image(1, 3, 64, 64, 5)):
        for _ in range(2):
            torch.testing.assert_close(cached(x), plain(x))
    assert pickle.loads(pickle.dumps(cached)).embedding_cache.folder == tmp_path


def test_gradients_of_the_image_and_of_a_thawed_encoder_do_not_end_at_the_cache(tmp_path):
    network = PTSAM(tiny_backbone(), labels=LABELS, amp=False, embedding_cache=tmp_path)
    x = image(1, 1, 64, 64).requires_grad_()
    with torch.no_grad():
        expected = network(x)
    found = network(x)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.grad(found.sum(), x)[0].abs().sum() > 0
    network.backbone.image_encoder.requires_grad_()
    network(x.detach()).sum().backward()
    assert all(p.grad is not None for p in network.backbone.image_encoder.parameters())


def test_another_version_of_the_encoders_code_finds_nothing(tmp_path, monkeypatch):
    network = PTSAM(tiny_backbone(), labels=LABELS, amp=False, embedding_cache=tmp_path)
    network(image(1, 1, 20, 20))
    monkeypatch.setattr("sam_monai.networks.ptsam.ENCODER", "another")
    network(image(1, 1, 20, 20))
    assert len(list(tmp_path.iterdir())) == 2


def waves(*shape):
    """Numbers that are the same whatever random generator torch has."""
    return torch.arange(math.prod(shape), dtype=torch.float64).mul(0.7).sin().view(shape).float()


# A few numbers of each encoder's embedding of a fixed image, over their spread, by the version of the code.
NUMBERS = {
    "1": {
        "vit": [0.973, 0.744, 2.256, 3.004, -0.235, -0.055, 0.983, -0.114, 0.121, 0.825, 0.786, 1.229],
        "tiny_vit": [-0.108, 0.556, 0.339, 0.991, -0.931, 0.477, -0.363, 0.153, 0.242, 1.248, -0.685, -0.0],
    }
}


@pytest.mark.parametrize("kind", ["vit", "tiny_vit"])
def test_what_an_encoder_computes_does_not_change_without_another_version(kind):
    """Where this fails and the new numbers are right, raise ENCODER, or kept embeddings of the old code are served."""
    if kind == "vit":
        base = tiny_backbone()
        for parameter in base.image_encoder.parameters():
            scale = 0.5 / max(1, parameter[0].numel()) ** 0.5
            parameter.data = waves(*parameter.shape) * scale + (parameter.ndim == 1)
    else:
        base = backbone.build_backbone("lite_medsam", image_size=64)
    with torch.no_grad():
        found = base.encode(waves(2, 3, 50, 40).abs()).flatten()
    found = found[:: len(found) // 12 - 1][:12] / found.std()
    torch.testing.assert_close(found, torch.tensor(NUMBERS[backbone.ENCODER][kind]), rtol=1e-2, atol=5e-3)


@pytest.mark.parametrize(
    "labels", [LABELS, ("left kidney",), ("left kidney", "right kidney"), ("lung li", "lung re"), ("a", "kidneyL")]
)
@pytest.mark.parametrize(("shape", "dims"), [((1, 5, 5), 2), ((1, 5, 5, 2), 3)])
@pytest.mark.parametrize("mirror", ["turns", "flips", "sides", "none"])
def test_views_are_all_that_flips_and_turns_can_show(labels, shape, dims, mirror):
    """Labels of a side are neither mirrored in training nor embedded mirrored."""
    x = image(*shape)
    known = [view(x) for view in views(labels, dims, True, mirror)]
    seen = set()
    for _ in range(200):
        sample = {"image": x, "label": x}
        for step in mirrored_with_sides(mirroring(dims == 3, mirror), labels, image_alone=True):
            sample = step(sample)
        (match,) = [i for i, view in enumerate(known) if torch.equal(torch.as_tensor(sample["image"]), view)]
        seen.add(match)
    number = {"turns": 8, "flips": 4, "sides": 2, "none": 1}[mirror] if labels == LABELS else 1
    assert len(seen) == len(known) == min(number, 8 if dims == 2 else 2)
    assert len(views(labels, dims, False)) == 1
