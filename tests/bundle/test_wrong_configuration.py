"""A configuration that was changed and cannot be run ends in a line, an error of the program in its traceback."""

from __future__ import annotations

import re

import pytest
from monai.bundle import ConfigParser

from sam_monai.__main__ import main
from sam_monai.bundle.command_line import print_cause
from sam_monai.bundle.shipped import new

WRONG = {
    "a target that is not there": ({"_target_": "sam_monai.PTSAMX"}, "'sam_monai.PTSAMX'"),
    "a module that is not there": ({"_target_": "no_module.Network"}, "'no_module.Network'"),
    "an argument that is not known": ({"_target_": "torch.nn.Linear", "x": 1}, "keyword argument 'x'.*torch.nn.Linear"),
    "an argument that lacks": ({"_target_": "torch.nn.Linear"}, "missing 2 required.*torch.nn.Linear"),
    "a name that is not known": ("$nothing + 1", "'nothing' is not defined"),
    "a division by zero": ("$1 / 0", "division by zero"),
    "no Python": ("$1 +", "invalid syntax"),
    "a reference to nothing": ("@nothing", "`@nothing` is not defined"),
    "a reference to nothing, within": ({"_target_": "torch.nn.Linear", "out_features": "@nothing"}, "`@nothing`"),
    "a reference to itself": ("@key", "circular references"),
}


def told(value: object, capsys) -> str:
    try:
        ConfigParser({"key": value}).get_parsed_content("key")
    except Exception as error:
        print_cause(type(error), error, error.__traceback__)
    return capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("value", "said"), WRONG.values(), ids=list(WRONG))
def test_it_ends_in_a_line(value, said, capsys):
    line = told(value, capsys)
    assert re.fullmatch(rf"error: the configuration cannot be run: .*{said}.*take one as shipped\n", line), line


@pytest.mark.filterwarnings("ignore")
def test_an_error_of_the_program_keeps_its_traceback(capsys):
    value = {"_target_": "torch.nn.Linear", "in_features": "a", "out_features": 2}
    assert told(value, capsys).startswith("Traceback")


@pytest.mark.parametrize("text", ['{"a": 1,}', "", "[", '{"a": 1} {"b": 2}'])
def test_a_file_that_is_no_json_is_named(tmp_path, text, capsys):
    bundle = tmp_path / "bundle"
    new("ptsam", bundle)
    (bundle / "configs" / "train.json").write_text(text)
    assert main(["train", str(tmp_path), "--bundle", str(bundle)]) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: ") and "train.json" in last
