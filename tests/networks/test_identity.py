"""An adapter's record is data: known keys, each of its type and range, wherever it is read or written."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from network_tester import LABELS, image, perturb, tiny_backbone

from sam_monai import PTSAM, SSAM, InputError, MedSA
from sam_monai.__main__ import main
from sam_monai.networks import adapter_files, identity
from sam_monai.networks.adapter_files import read_adapter, write_adapter
from sam_monai.networks.base import AdaptedSAM

PREPARATION = {
    "spatial_dims": 3,
    "intensity": "ct",
    "ct_window": [-160, 240],
    "orientation": "coarsest",
    "spacing": [1.0, 1.0, 2.5],
    "channels": [0],
    "channel_names": None,
    "regions": None,
    "scale": "whole",
}
PLANTED = [
    {"_target_": "os.system", "command": "touch /tmp/planted"},
    {"_requires_": "$import os", "_import_": "os"},
    ["$__import__('os').abort()"],
    "$__import__('os').abort()",
    "  $x",
    "@seed",
    "%configs/train.json::seed",
    "a @x#y",
    "a@::b",
    "a%#b",
    "_target_",
    "liver\x1b[2J",
    "\ud800",
    {},
    [[["deep"]]],
    float("nan"),
    10**30,
    -1,
    None,
    "",
]


def network_of(kind):
    return kind(tiny_backbone(), labels=LABELS, preprocessing=PREPARATION)


@pytest.fixture(scope="module", params=[SSAM, PTSAM, MedSA])
def network(request):
    return network_of(request.param)


@pytest.fixture(scope="module")
def small():
    return network_of(PTSAM)


def raw(record):
    """A record as tensor, whatever is in it."""
    return torch.frombuffer(bytearray(json.dumps(record).encode().ljust(identity.LENGTH)), dtype=torch.uint8)


def planted(record):
    """Records with something planted, each with the key that its refusal names."""
    for key, value in record.items():
        for thing in PLANTED:
            if thing not in ({}, None) or key not in ("preprocessing", "channel_names"):
                yield key, {**record, key: thing}
            if isinstance(value, list):
                yield key, {**record, key: [*value[:-1], thing]}
    for key in PREPARATION:
        for thing in PLANTED:
            if thing is not None or key not in ("ct_window", "spacing", "channels", "channel_names", "regions"):
                yield key, {**record, "preprocessing": {**PREPARATION, key: thing}}
    for key in ("train", "network_def", "imports", "_target_", "$x", "bundle_root", "dataset_dir"):
        yield key, {**record, key: {"_target_": "os.system"}}
        yield key, {**record, "preprocessing": {**PREPARATION, key: 1}}


def test_whatever_is_planted_is_refused_by_name_where_it_is_read_and_where_it_is_written(network):
    record = network.describe()
    assert identity.from_tensor(identity.to_tensor(record)) == record
    for key, spoilt in planted(record):
        for door in (identity.to_tensor, identity.check, lambda r: identity.from_tensor(raw(r))):
            with pytest.raises(InputError) as error:
                door(spoilt)
            said = str(error.value)
            assert (key in said or "preprocessing" in said) and "\n" not in said and len(said) < 700, (key, spoilt)


def test_every_door_refuses_a_spoilt_record(small, tmp_path, capsys):
    path = tmp_path / "model.pt"
    state = small.state_dict() | {"identity": raw(small.describe() | {"train": {"_target_": "os.system"}})}
    torch.save(state, path)
    doors = [
        lambda: adapter_files.read_adapter(path),
        lambda: adapter_files.load_network(path),
        lambda: adapter_files.verify(path),
        lambda: adapter_files.describe(path),
        lambda: adapter_files.write_adapter(state, tmp_path / "other.pt"),
        lambda: PTSAM(tiny_backbone()).load_state_dict(state),
    ]
    for door in doors:
        with pytest.raises(InputError, match="'train'"):
            door()
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
    for command in ("show", "verify"):
        assert main([command, str(path)]) == 1
        assert "'train'" in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("thing", [7, "$x", {"_target_": "os.system"}, ["@x"], {"epochs": "$x"}, {"more": 1}])
@pytest.mark.parametrize("part", ["identity", "training"])
def test_the_header_is_checked_too(small, tmp_path, part, thing):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(
        {key: value.contiguous() for key, value in small.state_dict().items()}, path, {part: json.dumps(thing)}
    )
    with pytest.raises(InputError, match="model.safetensors"):
        adapter_files.header(path)
    with pytest.raises(InputError, match="summary"):
        adapter_files.write_adapter(small.state_dict(), tmp_path / "other.pt", {"thing": thing})
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(identity.LENGTH, dtype=torch.uint8),
        torch.zeros(7, dtype=torch.uint8),
        torch.zeros(2, 2048),
        torch.full((identity.LENGTH,), torch.nan),
        torch.zeros(identity.LENGTH, dtype=torch.complex64),
        torch.full((identity.LENGTH,), ord("["), dtype=torch.uint8),
        raw([1, 2]),
        raw("ptsam"),
        raw({}),
        raw({"method": ["ptsam"]}),
        raw({"method": "ptsam"}),
        raw({"method": "lora", "rank": 4}),
    ],
)
def test_what_is_no_record_is_a_line(tensor):
    with pytest.raises(InputError) as error:
        identity.from_tensor(tensor)
    assert "\n" not in str(error.value)


def test_a_key_is_missed_by_name(small):
    later = {key for key, field in identity.COMMON.items() if field.absent is not ...}
    for key in small.describe().keys() - later:
        record = {k: v for k, v in small.describe().items() if k != key}
        with pytest.raises(InputError, match=key):
            identity.check(record)


def test_an_unusual_dice_does_not_lose_an_adapter(small, tmp_path):
    summary = adapter_files.training_summary(3, 1, float("nan"), 1, 0)
    adapter_files.write_adapter(small.state_dict(), tmp_path / "model.pt", summary)
    assert adapter_files.read_training(tmp_path / "model.pt")["validation_dice"] is None


def test_another_method_declares_its_keys_and_nothing_else_changes(monkeypatch):
    monkeypatch.setattr(identity, "METHODS", dict(identity.METHODS))

    class Fourth(AdaptedSAM):
        method = "fourth"
        own = {"rank": identity.whole(1, 64), "later": identity.FLAG._replace(absent=False)}

        def __init__(self, *args, rank=4, later=False, **others):
            self.rank, self.later = rank, later
            super().__init__(*args, **others)

        def adapt(self):
            self.gain = torch.nn.Parameter(torch.ones(1))

        def adapt_to_labels(self):
            self.tokens = torch.nn.Parameter(torch.zeros(len(self.labels), 1, 256))

        def prompt_tokens(self):
            return self.tokens

    state = Fourth(tiny_backbone(), labels=LABELS).state_dict()
    Fourth(tiny_backbone()).load_state_dict(state)
    old = {key: value for key, value in identity.from_tensor(state["identity"]).items() if key != "later"}
    Fourth(tiny_backbone()).load_state_dict(state | {"identity": raw(old)})
    with pytest.raises(InputError, match="rank 4.*rank 8"):
        Fourth(tiny_backbone(), rank=8).load_state_dict(state)
    with pytest.raises(InputError, match="rank is 65"):
        Fourth(tiny_backbone(), rank=65)
    with pytest.raises(InputError, match="'rank'"):
        identity.check(PTSAM(tiny_backbone(), labels=LABELS).describe() | {"rank": 4})


@pytest.mark.filterwarnings("error")
def test_numbers_of_numpy_are_numbers(network, tmp_path):
    spacing, window = [np.float32(1), np.float16(1), np.float64(2.5)], (np.int16(-160), np.int16(240))
    theirs = type(network)(
        tiny_backbone(), labels=LABELS, preprocessing=PREPARATION | {"spacing": spacing, "ct_window": window}
    )
    write_adapter(theirs.state_dict(), tmp_path / "adapter.pt")
    for one, other in ((network, theirs), (theirs, network)):
        one.load_state_dict(other.state_dict())
    assert read_adapter(tmp_path / "adapter.pt")["identity"].equal(network.state_dict()["identity"])


@pytest.mark.parametrize("kind", [SSAM, PTSAM, MedSA])
def test_a_network_stays_what_it_was_where_an_adapter_of_other_labels_is_refused(kind):
    first, second = (kind(tiny_backbone(), labels=[name], amp=False).eval() for name in ("liver", "left kidney"))
    perturb(first)
    network, x = kind(tiny_backbone(), amp=False).eval(), image(1, 1, 40, 40)
    network.load_state_dict(first.state_dict())
    with torch.no_grad():
        before = network(x)
        broken = second.state_dict()
        broken.pop(next(name for name in broken if name != "identity"))
        for _ in range(2):
            with pytest.raises(InputError, match="lacks"):
                network.load_state_dict(broken)
            assert network.labels == ("liver",) and torch.equal(network(x), before)
            assert torch.equal(network.state_dict()["identity"], first.state_dict()["identity"])
        network.load_state_dict(second.state_dict())
        assert network.labels == ("left kidney",) and torch.equal(network(x), second(x))
