"""The three bundles say the same but where their methods differ, so that what is tested with one holds for all."""

from __future__ import annotations

import json

import jsonschema
import pytest
from bundle_runner import ROOT

import sam_monai

METHODS = ("ssam", "ptsam", "medsa")
OWN = {
    "train": [{"text_encoder", "text_checkpoint"}, {"tokens", "encoder_prompts", "embedding_cache"},
              {"ratio", "thaw_decoder", "draws", "corrections"}],
    "evaluate": [{"text_encoder"}, {"tokens", "encoder_prompts"}, {"ratio", "thaw_decoder", "draws", "prompted_cases"}],
    "inference": [{"text_encoder", "text_checkpoint"}, {"tokens", "encoder_prompts"}, {"ratio", "thaw_decoder"}],
}  # fmt: skip


def config(method, name):
    return json.loads((ROOT / f"bundles/{method}/configs/{name}.json").read_text())


@pytest.mark.parametrize("name", list(OWN))
def test_bundles_share_their_keys_but_for_the_methods_own(name):
    keys = [set(config(method, name)) for method in METHODS]
    assert [found - set.intersection(*keys) for found in keys] == OWN[name]


def test_bundles_share_their_documents():
    files = [sorted(p.relative_to(ROOT / "bundles" / m) for m in (m,) for d in ("docs", "configs")
                    for p in (ROOT / "bundles" / m / d).iterdir()) for m in METHODS]  # fmt: skip
    assert files[0] == files[1] == files[2]
    for name in ("LICENSE", "configs/logging.conf"):
        assert len({(ROOT / "bundles" / method / name).read_bytes() for method in METHODS}) == 1


@pytest.mark.parametrize("method", METHODS)
def test_metadata_as_shipped_are_valid_and_of_this_version(method):
    metadata = config(method, "metadata")
    schema = json.loads((ROOT / "sam_monai/bundle/metadata.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(metadata, schema, jsonschema.Draft202012Validator)
    assert metadata["version"] == sam_monai.__version__ == metadata["required_packages_version"]["sam_monai"]
    for key in schema["required"]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({k: v for k, v in metadata.items() if k != key}, schema)


@pytest.mark.parametrize(
    "name, more", [("inference", {"inferer", "masks", "handlers", "evaluator", "run"}), ("evaluate", {"run"})]
)
def test_bundles_say_the_same_but_where_their_methods_differ(name, more):
    """What is tested with one of them then holds for all."""
    ssam, ptsam, medsa = (config(method, name) for method in METHODS)

    def changed(a, b):
        return {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)}

    own, (of_ssam, of_ptsam, of_medsa) = {"bundle_root", "network_def"}, OWN[name]
    assert changed(ssam, ptsam) <= own | of_ssam | of_ptsam
    assert changed(ssam, medsa) <= own | of_ssam | of_medsa | more
    if name == "inference":
        assert medsa["inferer"]["automatic"] == ssam["inferer"] and medsa["run"][1:] == ssam["run"]
        theirs = [one if isinstance(one, str) else {k: v for k, v in one.items() if k != "prompted"}
                  for one in medsa["handlers"]]  # fmt: skip
        assert theirs == ssam["handlers"]


@pytest.mark.parametrize("section", ["preparation", "validate", "lr_scheduler", "schedule", "initialize", "run"])
def test_trainings_share_what_no_method_changes(section):
    one, two, three = (config(method, "train")[section] for method in METHODS)
    assert one == two == three
