"""An image that says it is of another modality than those of the training is named, and no other is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_maker import SETTINGS, write_series
from image_files import volume

from sam_monai.data import demo_dataset, read_dataset
from sam_monai.data.dataset_json import stated_kind
from sam_monai.data.modality import codes_in, contradicts, modality_of
from sam_monai.errors import warn_once
from sam_monai.inference import pipeline
from sam_monai.networks import identity

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
NOISE = np.random.default_rng(0).normal(0, 20, (16, 14, 4)).astype(np.int16)


@pytest.fixture(autouse=True)
def afresh():
    warn_once.cache_clear()


@pytest.mark.parametrize(
    ("entry", "codes"),
    [({"0": "CT"}, ("CT",)), ({"0": "MRI"}, ("MR",)), ({"0": "T1w", "1": "FLAIR"}, ("MR",)), ("PET", ("PT",)),
     ({"0": "CT", "1": "PET"}, ("CT", "PT")), ("PET/CT", ("CT", "PT")), ("X-ray", ("DX",)), ("ultrasound", ("US",)),
     ("PD", ("MR",)), ({"0": "PDw"}, ("MR",)),
     ({"0": "RGB"}, ()), ("", ()), (None, ()), ("noNorm", ()), (["CT"], ("CT",))],
)  # fmt: skip
def test_words_of_a_dataset_are_codes_where_they_are_known(entry, codes):
    assert codes_in(entry) == codes


def test_what_has_a_code_has_the_intensities_that_go_with_it():
    for entry in ("CT", "CTA", "T1w", "PDw", "DWI", "fundus", "histology", "WSI", "colonoscopy"):
        (code,) = codes_in(entry)
        assert stated_kind(entry, Path("dataset.json")) == {"CT": "ct", "MR": "mr"}.get(code, "picture")


@pytest.mark.parametrize(
    ("code", "others", "said"),
    [("PT", ["CT"], True), ("MR", ["CT"], True), ("CT", ["MR", "PT"], True), ("US", ["DX"], True),
     ("MR", ["MR"], False), ("CT", ["CT", "PT"], False),
     ("CR", ["DX"], False), ("OT", ["CT"], False), ("", ["CT"], False), ("CT", [], False),
     ("CT", ["KO"], False)],
)  # fmt: skip
def test_only_known_modalities_contradict_each_other(code, others, said):
    assert contradicts(code, others) == said


@pytest.mark.parametrize(
    ("modality", "recorded", "named"),
    [("PT", ["CT"], True), ("MR", ["CT"], True), ("CT", ["MR"], True), ("PT", ["MR"], True), ("PT", ["PT"], False),
     ("MR", ["CT", "MR"], False), ("OT", ["MR"], False), ("", ["MR"], False), ("PT", None, False)],
)  # fmt: skip
def test_dicom_of_another_modality_is_named_with_both(modality, recorded, named, tmp_path, caplog):
    write_series(tmp_path / "x", NOISE, AFFINE, Modality=modality)
    settings = SETTINGS | {"intensity": "mr", "modality": recorded}
    pipeline.preprocessing((), settings)({"image": str(tmp_path / "x")})
    told = [line for line in caplog.messages if f"says that it is {modality}" in line]
    assert len(told) == named and all(" and ".join(recorded) in line for line in told)


@pytest.mark.parametrize(
    ("recorded", "least", "named"),
    [(["MR"], -1000, True), (["MR"], -3024, True), (["PT"], -1000, True), (["CT"], -1000, False), (None, -1000, True),
     (None, 0, False), (["MR"], 0, False), (["MR"], -32768, False), (["CT", "MR"], -1000, False)],
)  # fmt: skip
def test_a_volume_of_hounsfield_units_is_named_where_the_adapter_is_for_no_ct(recorded, least, named, tmp_path, caplog):
    array = NOISE + np.where(np.arange(16)[:, None, None] < 6, -1000 if least else 0, 50)
    array[0, 0] = least
    path = volume(tmp_path / "x.nii.gz", array.astype(np.int16))
    pipeline.preprocessing((), SETTINGS | {"intensity": "mr", "modality": recorded})({"image": path})
    assert any("holds values like a CT's" in line for line in caplog.messages) == named


def test_training_records_what_headers_say_and_else_what_the_dataset_does(tmp_path, caplog):
    write_series(tmp_path / "x", NOISE, AFFINE, Modality="PT")
    (tmp_path / "a.nii.gz").write_bytes(b"")
    cases = [{"image": f"{tmp_path}/x"}, {"image": f"{tmp_path}/x/IM0001"}]
    assert modality_of(cases) == modality_of(cases, ["PT"]) == ["PT"]
    assert not caplog.messages
    assert modality_of(cases, ["CT"]) == ["PT"] and "says that it is PT, and its dataset that it is CT" in caplog.text
    assert modality_of([{"image": f"{tmp_path}/a.nii.gz"}], ["MR"]) == ["MR"]
    assert modality_of([*cases, {"image": f"{tmp_path}/a.nii.gz"}], ["CT"]) == ["CT", "PT"]
    assert modality_of([{"image": f"{tmp_path}/none"}, {}]) is modality_of([]) is None


def test_a_dataset_says_its_modality_and_records_with_and_without_it_load(tmp_path):
    assert read_dataset(demo_dataset()).modality == ("MR",)
    field = identity.PREPARATION["modality"]
    assert field.absent is None and field.fits(["CT", "PT"]) and field.fits(None)
    assert not any(field.fits(odd) for odd in ("CT", [], ["ct"], ["$A"], [1], ["A" * 17], {"CT": 1}))


def test_channels_that_are_not_taken_say_nothing_of_an_adapter():
    case = {"image": "a_0000.nii.gz", "channel_files": ["a_0000.nii.gz", "a_0001.nii.gz"]}
    assert modality_of([case], ("CT", "MR"), [1], ("CT", "T2")) == ["MR"]
    assert modality_of([case], ("CT", "MR"), None, ("CT", "T2")) == ["CT", "MR"]


def test_a_folder_that_does_not_say_it_holds_ct_is_taken_for_ct_where_it_shows(tmp_path, caplog):
    array = NOISE + np.where(np.arange(16)[:, None, None] < 6, -1000, 50)
    for name in "abcdef":
        for part, values in (("images", array), ("labels", array > 0)):
            (tmp_path / part).mkdir(exist_ok=True)
            volume(tmp_path / part / f"{name}.nii.gz", values.astype(np.int16))
    assert read_dataset(tmp_path).intensity == "ct"
    assert "values are like a CT's, with air at -1000" in read_dataset(tmp_path).guessed
    volume(tmp_path / "images/a.nii.gz", NOISE.astype(np.int16))
    assert read_dataset(tmp_path).intensity == "mr"
