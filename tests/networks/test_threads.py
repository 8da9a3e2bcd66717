"""One network asked from several threads at once: every answer is the one that is given alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from monai.inferers import SimpleInferer
from network_tester import LABELS, image, perturb, tiny_backbone

from sam_monai import PTSAM, SSAM, MedSA
from sam_monai.networks.embeddings import EmbeddingCache
from sam_monai.prompts.prompted_inference import PromptedInference

THREADS = 4


def at_once(ask, requests):
    """Answers to requests, each asked several times from one of several threads that start together."""
    barrier = Barrier(THREADS)

    def work(first):
        barrier.wait()
        with torch.no_grad():
            return [(i, ask(requests[i])) for _ in range(3) for i in range(first, len(requests), THREADS)]

    with ThreadPoolExecutor(THREADS) as pool:
        return [pair for found in pool.map(work, range(THREADS)) for pair in found]


def check(network, ask, requests):
    perturb(network)
    network.eval()
    with torch.no_grad():
        alone = [ask(request) for request in requests]
    for i, answer in at_once(ask, requests):
        torch.testing.assert_close(answer, alone[i], rtol=1e-4, atol=1e-4)


def clicks(number, dims, size=24):
    generator = torch.Generator().manual_seed(number)
    coords = torch.rand(1, 1 + number % 3, dims, generator=generator) * torch.tensor([size, size, 3.0])[:dims] - 0.5
    return {"point_coords": coords, "point_labels": torch.ones(coords.shape[:2], dtype=torch.long)}


@pytest.mark.parametrize("size", [32, 40])
def test_clicks_of_several_users(size):
    network = MedSA(tiny_backbone(), labels=LABELS, depth_attention=False, amp=False)
    requests = [(image(1, 1, size, size, seed=i), clicks(i, 2) if i % 4 else {}) for i in range(12)]
    check(network, lambda request: network(request[0], **request[1]), requests)


@pytest.mark.parametrize("kind", [MedSA, SSAM, PTSAM])
def test_volumes_of_different_depth_and_pictures_among_them(kind):
    network = kind(tiny_backbone(), labels=LABELS, depth_attention=True, amp=False)
    requests = [image(1, 1, 24, 24, *([1 + i % 7] if i % 5 else []), seed=i) for i in range(12)]
    check(network, network, requests)


def test_an_inferer_that_keeps_the_last_image():
    network = MedSA(tiny_backbone(), labels=LABELS, amp=False)
    inferer = PromptedInference(SimpleInferer())
    requests = [(image(1, 1, 24, 24, 3, seed=i % 3), clicks(i, 3)) for i in range(8)]
    check(network, lambda request: inferer(request[0], network, **request[1]), requests)


def test_a_training_step_beside_an_answer():
    """The backward pass of checkpointed blocks computes them again, whatever volume is asked meanwhile."""
    network = MedSA(tiny_backbone(), labels=LABELS, amp=False, checkpointing=True)
    perturb(network)
    volumes = [image(1, 1, 24, 24, depth, seed=depth) for depth in (2, 3, 4, 5)]

    def gradients(volume):
        with torch.enable_grad():
            trained = [p for p in network.backbone.image_encoder.parameters() if p.requires_grad]
            return torch.cat(
                [g.flatten() for g in torch.autograd.grad(network.encode(volume).square().mean(), trained)]
            )

    alone = [gradients(volume) for volume in volumes]
    for i, found in at_once(gradients, volumes):
        torch.testing.assert_close(found, alone[i], rtol=1e-3, atol=1e-5)


def test_a_cache_of_embeddings_counts_what_it_holds(tmp_path):
    cache = EmbeddingCache(tmp_path, memory_bytes=20 * 256 * 16 * 4)
    network = PTSAM(tiny_backbone(), labels=LABELS, amp=False, embedding_cache=cache)
    check(network, network, [image(2, 1, 20, 20, seed=i % 9) for i in range(40)])
    assert cache.held == sum(entry.nbytes for entry in cache.entries.values()) <= cache.memory_bytes
