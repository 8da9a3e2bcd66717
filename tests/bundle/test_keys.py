"""Every key has a type and a range, checked before anything is read, at every door; the documentation says the same."""

from __future__ import annotations

import json
from pathlib import Path

import monai.bundle
import numpy as np
import pytest
import torch
from bundle_runner import ROOT
from folder_maker import pairs
from monai.bundle import ConfigParser, ConfigWorkflow
from monai_command import FILES, begun, config_files

from sam_monai import InputError
from sam_monai.__main__ import main
from sam_monai.bundle import keys
from sam_monai.bundle.key_list import default_of
from sam_monai.errors import input_error_in

BUNDLES = ("ssam", "ptsam", "medsa")
NAN, INF = float("nan"), float("inf")
NOT_WHOLE = ("abc", 1.5, 2.0, -1, True, None, [1], "1", {}, NAN)
NOT_WHOLE_OR_PLANNED = tuple(value for value in NOT_WHOLE if value is not None)
NOT_A_FLAG = ("maybe", "true", 1, 0, 3, None, [True], 1.0)
NOT_A_NUMBER = (-1, NAN, INF, "abc", None, True, [0.1])
NOT_A_PATH = (1, 2.5, True, [], ["a"], {"a": 1}, "", "a\0b")
BAD: dict[str, tuple] = {
    **dict.fromkeys(keys.PATHS, NOT_A_PATH),
    **dict.fromkeys(("batch_size", "epochs", "steps"), (0, *NOT_WHOLE_OR_PLANNED)),
    "minutes": (0, -1, "x", NAN, INF, True, [1]),
    **dict.fromkeys(("slices", "samples", "slices_per_batch", "tokens"), (0, *NOT_WHOLE)),
    **dict.fromkeys(("num_workers", "pictures", "encoder_prompts", "draws", "corrections", "seed"), NOT_WHOLE),
    **dict.fromkeys(("quick", "resume", "amp", "augment", "largest_component", "fill_holes", "probabilities",
                     "frames", "frames_together", "instances", "depth_attention", "thaw_decoder"), NOT_A_FLAG),
    "checkpointing": tuple(value for value in NOT_A_FLAG if value is not None),
    **dict.fromkeys(("learning_rate", "prompt_learning_rate", "weight_decay", "focal_gamma", "surface_tolerance"),
                    NOT_A_NUMBER),
    "image_size": (7, 16, 33, 0, 10**9, *NOT_WHOLE_OR_PLANNED),
    "tokens": (0, 10**6, *NOT_WHOLE),
    "seed": (2**32, *NOT_WHOLE),
    "train_cases": (0, "x", 1.5, -1, True),
    "train_cases_seed": (-1, "x", 0.5),
    "fold": ("x", -1, 0.5, True),
    "modality": ("CT", [], ["ct"], ["$A"], [1], True),
    "image_channels": (0, 65, "1", 1.0, [1], True),
    "channel_names": ("T1", [], ["T1"], ["T1", "T1"], [1, 2], ["T1", ""], ["T1", "$x"], {"0": "T1"}),
    "regions": ([], [1], [[1, 2], [2, 1]], [[0, 1]], [["1"]], [[1, [2]]], {"a": [1]}, "x", True, 1),
    "spatial_dims": (1, 4, "3", 3.0, None, True),
    "spacing": ([1, 1, 0], [1], [1, -1], 1, "abc", [1, 1, NAN], [1, 1, "x"], [1, 1, 1, 1], {}, [True, 1, 1]),
    "ct_window": ([5], [5, 5], [10, -10], None, 5, [0, INF], ["a", "b"], [NAN, 1], "ct"),
    "orientation": ("XYZ", "ra", "RRR", "RLS", "RASX", None, 3, ["RAS"], "Axial", "ras", ""),
    "channels": (0, [], [-1], [0.5], ["0"], "0", [True], [0] * 65),
    "intensity": ("CT", "", None, 1, ["ct"], ["ct", "CT"], [["ct", "mr"]]),
    "device": ("foo", "cuda:99", "meta", 3, None, "", [], "cpu:x", "gpu"),
    "labels": ("liver", [], ["liver", "liver"], [1], [""], [" "], ["liver", None], {"1": "liver"}, ["a @#b"]),
    "backbone": ("vit_q", None, 1, ["lite_medsam"], ""),
    "text_encoder": ("bert", None, 0),
    "scale": ("middle", None, 1.0, True),
    "mirror": ("left", "", True, 0, ["turns"]),
    "engine": ("x", None, 1),
    "mask_format": ("x", "dicom", None, 1),
    "val_interval": (0, -1, 0.5, NAN, INF, "abc", "1", None, True, [1]),
    "overlap": (1.5, 1, -0.1, NAN, "x", None, True),
    "average_flips": ("turns", "both", True, None, 1, ["sides"]),
    "cache_rate": (2, -0.1, NAN, "x", None, True),
    "ratio": (-1, 0, 2, NAN, "x", None),
}  # fmt: skip
GOOD: dict[str, tuple] = {
    "spacing": (None, [1, 1.0, 2.5], [2, 2.5]), "ct_window": ([-160, 240], (0.5, 1)), "seed": (0, np.int64(3)),
    "orientation": ("coarsest", "axial", "RAS", "PLS"), "device": ("cpu", torch.device("cpu")),
    "labels": (None, ["x y", "B's"], ("a$",)), "learning_rate": (0, 0.1), "dataset_dir": (None, "a", Path("b")),
    "channels": (None, [0], [2, 1, 0], [0, 3]), "intensity": ("ct", ["ct", "mr"]),
    "channel_names": (None, ["T1", "T2"]), "regions": (None, [[1, 2], [2]], ((2, 1, 3), (1, 3), (3,))),
    "embedding_cache": (None, False, "x"), "epochs": (1, 10**6), "image_size": (32, 1024),
}  # fmt: skip


def merged(bundle: str, config: str) -> dict:
    return ConfigParser.load_config_files(config_files(bundle, *FILES[config]))


def test_every_key_has_bad_examples_and_every_plain_key_of_the_bundles_is_in_the_table():
    assert BAD.keys() == keys.KEYS.keys()
    for bundle in BUNDLES:
        for config in FILES:
            plain = {k for k, v in merged(bundle, config).items() if not isinstance(v, dict | list | str)}
            assert plain <= keys.KEYS.keys()
    for key in keys.KEYS:
        assert any(key in merged(bundle, config) for bundle in BUNDLES for config in FILES), key


@pytest.mark.parametrize("key", list(BAD))
def test_a_bad_value_is_named_with_what_is_allowed(key):
    for value in BAD[key]:
        if value is None and keys.KEYS[key].kind.fits(None):
            continue
        found = keys.problems({key: value})
        assert len(found) == 1 and f"the key {key} is {value!r}; give {keys.KEYS[key].kind.words}" == found[0], value


def test_good_values_and_those_of_the_bundles_are_allowed():
    for key, values in GOOD.items():
        assert not [value for value in values if keys.problems({key: value})]


@pytest.mark.parametrize("key", list(BAD))
def test_a_program_is_told_before_data_are_read(key):
    home = next((b, c) for b in BUNDLES for c in ("train", "inference", "evaluate") if key in merged(b, c))
    value = next(v for v in BAD[key] if v != "" and not (isinstance(v, str) and "\0" in v))
    workflow = ConfigWorkflow(config_files(home[0], *FILES[home[1]]), logging_file=False, **{key: value})
    with pytest.raises(RuntimeError) as error:
        workflow.initialize()
    assert f"the key {key} is {value!r}; give" in str(input_error_in(error.value))


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize("config", list(FILES))
def test_every_bundle_and_overlay_checks(bundle, config, monkeypatch):
    with pytest.raises(RuntimeError) as error:
        begun(monkeypatch, bundle, config, "--device", "foo", "--amp", "3", "--image_size", "7")
    for key in ("device", "amp", "image_size"):
        assert f"the key {key} is" in str(input_error_in(error.value))


@pytest.mark.parametrize(
    "words, named",
    [
        (["--epochs", "$0"], "epochs is 0"), (["--epochs", "$1 / 0"], r"epochs is '\$1 / 0', an expression that fails"),
        (["--val_interval", "$@epochs - 99", "--epochs", "9"], "val_interval is -90"), (["--epochs"], "epochs is True"),
        (["--samples", "None"], "samples is None"),
        (["--train#trainer#max_epochs", "0"], "train#trainer#max_epochs is 0"),
        (["--train::dataloader::batch_size", "0"], "train#dataloader#batch_size is 0"),
        (["--network_def#image_size", "7"], "network_def#image_size is 7"), (["--seed=-1"], "seed is -1"),
        (["--labels", "liver"], "labels is 'liver'"), (["--spacing", "1,1,0"], r"spacing is \(1, 1, 0\)"),
        (["--epochs", "3", "5"], "'5' stands alone"), (["--no_such", "5"], "--no_such"), (["epochs=3"], "stands alone"),
    ],
)  # fmt: skip
def test_what_a_command_line_holds_is_checked_as_monai_takes_it(words, named, monkeypatch):
    with pytest.raises(RuntimeError) as error:
        begun(monkeypatch, "ssam", "train", *words)
    with pytest.raises(InputError, match=named):
        raise input_error_in(error.value) or AssertionError


def test_a_server_that_sets_monais_own_keys_is_told(tmp_path):
    with pytest.raises(RuntimeError) as error:
        monai.bundle.run(config_file=config_files("ssam", "train"), **{"train#trainer#max_epochs": "many"})
    assert "train#trainer#max_epochs is 'many'" in str(input_error_in(error.value))


@pytest.mark.parametrize("alone", ["evaluate", "multi_gpu_train", "multi_gpu_evaluate", "inference_trt"])
@pytest.mark.parametrize("bundle", BUNDLES)
def test_an_overlay_alone_says_what_it_belongs_to(alone, bundle):
    with pytest.raises(RuntimeError) as error:
        monai.bundle.run(config_file=config_files(bundle, alone))
    assert "Give both" in str(input_error_in(error.value))


def test_help_lists_the_keys_of_the_configuration_and_runs_nothing(monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        begun(monkeypatch, "ptsam", "train", "--help")
    said = capsys.readouterr().out
    assert end.value.code == 0 and "--tokens  (default: 8)" in said and "--ratio" not in said


def test_the_command_keys_lists_them_too(capsys):
    assert main(["keys", str(ROOT / "bundles/medsa")]) == 0
    said = capsys.readouterr().out
    assert (
        "--epochs  (default: planned)" in said and "--mask_format  (default: nifti)" in said and "--tokens" not in said
    )


def markdown(*kinds: list[dict]) -> str:
    """The documentation's table of the keys that these configurations have, of each kind those of all bundles. All of
    their defaults are there where they differ."""
    lines = [("key", "default", "allowed", "meaning"), ("---",) * 4]
    for name, key in keys.KEYS.items():
        every = [[default_of(name, config[name]) for config in kind if name in config] for kind in kinds]
        defaults = [" / ".join(values if len({*values}) > 1 else values[:1]) for values in every if values]
        lines.append((f"`{name}`", "; ".join(dict.fromkeys(defaults)), key.kind.words, key.help))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def test_the_documentation_holds_the_table():
    configs = ("train", "evaluate", "inference")
    every = [[json.loads((ROOT / f"bundles/{b}/configs/{c}.json").read_text()) for b in BUNDLES] for c in configs]
    table = markdown(*every)
    assert table in (ROOT / "docs/keys.md").read_text(encoding="utf-8"), f"docs/keys.md must hold\n{table}"


@pytest.mark.parametrize("bundle", BUNDLES)
def test_what_intensities_are_treated_as_is_told_unless_the_key_says_it(bundle, tmp_path, caplog):
    config = ConfigParser.load_config_file(ROOT / f"bundles/{bundle}/configs/train.json")
    config["dataset_dir"] = str(pairs(tmp_path, suffix=".nii.gz"))
    caplog.set_level("INFO")
    assert ConfigParser(config | {"intensity": "ct"}).get_parsed_content("intensity") == "ct"
    assert len(ConfigParser(config | {"intensity": "ct"}).get_parsed_content("data").training) == 5
    assert "intensities are treated" not in caplog.text
    assert ConfigParser(config).get_parsed_content("intensity") == "mr"
    assert 'no list says CT, MR or RGB; intensities are treated as "mr", which the key intensity changes' in caplog.text
