"""Federated learning as MONAI does it: MonaiAlgo on the bundles as they are."""

from __future__ import annotations

import json

import pytest
import torch
from bundle_runner import ROOT, volumes
from folder_maker import pairs
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject

from sam_monai.networks import identity

ROUNDS = 2


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """Two hospitals with a training volume each."""
    folder = volumes(tmp_path_factory.mktemp("data") / "all")
    content = json.loads((folder / "dataset.json").read_text())
    for i, case in enumerate(content["training"]):
        (folder / str(i)).mkdir()
        parts = {key: [] for key in ("training", "validation", "test")}
        for key, cases in {"training": [case], "validation": content["validation"]}.items():
            parts[key] = [{k: str(folder / v) for k, v in c.items()} for c in cases]
        (folder / str(i) / "dataset.json").write_text(json.dumps(content | parts))
    return [folder / "0", folder / "1"]


def client(bundle: str, site, folder, **told) -> MonaiAlgo:
    settings = {"dataset_dir": str(site), "ckpt_dir": f"{folder}/models", "image_size": 32, "output_dir": f"{folder}/o"}
    algo = MonaiAlgo(
        bundle_root=str(ROOT / "bundles" / bundle),
        local_epochs=1,
        send_weight_diff=False,
        train_kwargs=settings | {"slices": 2, "epochs": ROUNDS},
        eval_kwargs=settings | told,
    )
    algo.initialize({ExtraItems.CLIENT_NAME: site.name})
    return algo


@pytest.mark.parametrize(
    "bundle, most_bytes",
    [("ssam", 600_000), ("ptsam", 25_000), pytest.param("medsa", 10_000_000, marks=pytest.mark.slow)],
)
def test_only_the_adapter_travels_and_two_sites_average_to_one(bundle, most_bytes, sites, tmp_path):
    algos = [client(bundle, site, tmp_path / site.name) for site in sites]
    weights = algos[0].get_weights().weights
    trained = {name for name, p in algos[0].trainer.network.named_parameters() if p.requires_grad}
    frozen = algos[0].trainer.network.frozen_keys
    assert trained <= set(weights) and not frozen & set(weights)
    assert sum(tensor.nbytes for tensor in weights.values()) < most_bytes
    for _ in range(ROUNDS):
        answers = []
        for algo in algos:
            algo.train(ExchangeObject(weights={name: tensor.clone() for name, tensor in weights.items()}))
            answers.append(algo.get_weights().weights)
        assert any(not torch.equal(answers[0][name], answers[1][name]) for name in trained)
        weights = {name: (answers[0][name].float() + answers[1][name].float()) / 2 for name in weights}
    assert identity.from_tensor(weights["identity"])["labels"] == ["bright", "dark"]
    for algo in algos:  # what a site has as a file of its own must not take the place of what it was sent
        dice = algo.evaluate(ExchangeObject(weights=weights)).metrics["val_mean_dice"]
        received = algo.evaluator.network.state_dict()
        assert all(torch.equal(received[name], weights[name]) for name in trained)
        assert 0 <= dice <= 1
        algo.finalize()


@pytest.mark.parametrize("bundle", ["ptsam", pytest.param("medsa", marks=pytest.mark.slow)])
def test_pictures_are_evaluated_where_the_site_is_told_what_they_are(bundle, tmp_path):
    """Before it has an adapter, its metadata say volumes of MR."""
    told = {"spatial_dims": 2, "intensity": "picture", "image_channels": 3}
    told |= {"depth_attention": False} if bundle == "medsa" else {}
    algo = client(bundle, pairs(tmp_path / "site", 3), tmp_path, scale="whole", **told)
    algo.train(ExchangeObject(weights=algo.trainer.network.state_dict()))
    assert 0 <= algo.evaluate(algo.get_weights()).metrics["val_mean_dice"] <= 1
    algo.finalize()


def test_weight_differences_travel_too(sites, tmp_path):
    algo = client("ptsam", sites[0], tmp_path)
    algo.send_weight_diff = True
    start = {name: tensor.clone() for name, tensor in algo.trainer.network.state_dict().items()}
    algo.train(ExchangeObject(weights=start))
    change = algo.get_weights().weights
    assert not change["identity"].any() and any(tensor.float().abs().sum() > 0 for tensor in change.values())
    ends = algo.trainer.network.state_dict()
    assert all(torch.allclose(start[k].float() + change[k].float(), ends[k].float(), atol=1e-6) for k in change)
    algo.finalize()
