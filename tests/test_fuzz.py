"""Files with random damage are read or refused by one line, whatever is wrong with them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import safetensors.torch
import torch
from bad_itk_files import mha, nrrd
from dicom_maker import compress, write_segmentation, write_series
from fuzz import ODD, changed, damaged, outcome
from network_tester import tiny_backbone
from PIL import Image

from sam_monai import PTSAM
from sam_monai.data import LoadCased, read_dataset
from sam_monai.data.found import images_to_segment
from sam_monai.inference import pipeline
from sam_monai.inference.outputs import written
from sam_monai.inference.records import read_record
from sam_monai.networks.adapter_files import describe, load_adapter
from sam_monai.prompts.schema import read_objects
from sam_monai.training.resume import read_resume

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
AFFINE = np.diag([0.8, 0.8, 2.0, 1.0])
RNG = np.random.default_rng(0)
IMAGE, LABEL = RNG.integers(0, 200, (12, 10, 4)).astype(np.int16), RNG.integers(0, 3, (12, 10, 4)).astype(np.uint8)
SETTINGS = {"spatial_dims": 3, "intensity": "mr", "ct_window": (-160, 240), "orientation": "coarsest", "spacing": None,
            "channels": None, "scale": "whole"}  # fmt: skip
FLAT = SETTINGS | {"spatial_dims": 2, "intensity": "picture"}


@pytest.fixture(autouse=True)
def quiet():
    """MONAI logs the data of every transform that fails."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def each(number: int, make: Callable[[np.random.Generator], None], read: Callable[[], object]) -> None:
    """Make a file and read it, so often. Some must be read and some refused, or nothing was tested."""
    said = []
    for seed in range(number):
        make(np.random.default_rng(seed))
        try:
            said.append(outcome(read))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    assert any(said) and not all(said)


def check_image(path: Path, settings: dict = SETTINGS) -> None:
    image = pipeline.preprocessing((), settings)({"image": str(path)})["image"]
    assert image.ndim == settings["spatial_dims"] + 1 and image.shape[0] in (1, 3) and min(image.shape) > 0
    assert torch.isfinite(image).all() and image.min() >= 0 and image.max() <= 1 and image.min() < image.max()
    assert np.isfinite(np.asarray(image.affine)).all()


def check_label(path: Path) -> None:
    label = LoadCased("label", labels=2)({"label": str(path)})["label"]
    assert label.shape[0] == 1 and set(label.unique().tolist()) <= {0, 1, 2}


def nifti_bytes(array: np.ndarray) -> bytes:
    return nib.Nifti1Image(array, AFFINE).to_bytes()


def with_odd_field(data: bytes, rng: np.random.Generator) -> bytes:
    """A NIfTI file with one value of its header changed."""
    header = np.frombuffer(data[:348], nib.Nifti1Header.template_dtype).copy()
    names = list(header.dtype.fields)
    field = names[rng.integers(len(names))]
    values = header[field].reshape(-1)
    if values.dtype.kind == "S":
        values[0] = rng.bytes(3)
    else:
        odd = (0, -1, 1, 3, 7, 255, 32767, -32768, np.nan, np.inf, 1e30, 1e-30)[rng.integers(12)]
        with np.errstate(all="ignore"):
            values[rng.integers(values.size)] = np.array(
                odd if values.dtype.kind == "f" else np.nan_to_num(odd)
            ).astype(values.dtype)
    return header.tobytes() + data[348:]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(("array", "check"), [(IMAGE, check_image), (LABEL, check_label)], ids=["image", "label"])
def test_nifti(tmp_path, name, array, check):
    file = tmp_path / name
    nib.save(nib.Nifti1Image(array, AFFINE), file)
    data = file.read_bytes()
    each(600, lambda rng: file.write_bytes(damaged(data, rng)), lambda: check(file))
    if name.endswith(".nii"):
        each(900, lambda rng: file.write_bytes(with_odd_field(nifti_bytes(array), rng)), lambda: check(file))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp"])
def test_pictures(tmp_path, name):
    file = tmp_path / name
    Image.fromarray(RNG.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(file)
    data = file.read_bytes()
    each(600, lambda rng: file.write_bytes(damaged(data, rng)), lambda: check_image(file, FLAT))


@pytest.mark.parametrize("make", [nrrd(), mha()], ids=["NRRD", "MetaImage"])
def test_itk_files(tmp_path, make):
    file = make(tmp_path)
    data = file.read_bytes()
    each(300, lambda rng: file.write_bytes(damaged(data, rng)), lambda: check_image(file))


def test_dicom(tmp_path):
    file = write_series(tmp_path / "s", IMAGE[..., :1], AFFINE)[0]
    data = file.read_bytes()
    settings = SETTINGS | {"intensity": "ct"}
    each(500, lambda rng: file.write_bytes(damaged(data, rng)), lambda: check_image(file, settings))
    each(300, lambda rng: file.write_bytes(with_odd_element(data, rng)), lambda: check_image(file, settings))


@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"])
def test_compressed_dicom(tmp_path, syntax):
    file = write_series(tmp_path / "s", IMAGE[..., :1], AFFINE)[0]
    compress(file, syntax)
    data = file.read_bytes()
    frame = data.index(b"\xfe\xff\x00\xe0", data.index(b"\xe0\x7f\x10\x00")) + 16  # behind the table of offsets
    each(400, lambda rng: file.write_bytes(data[:frame] + damaged(data[frame:], rng)), lambda: check_image(file))


def test_a_folder_of_dicom_and_its_list_of_images(tmp_path):
    *_, file = write_series(tmp_path / "s", IMAGE, AFFINE)
    data = file.read_bytes()

    def read() -> None:
        for case in images_to_segment(tmp_path / "s", spatial_dims=3):
            check_image(case["image"], SETTINGS | {"intensity": "ct"})

    each(100, lambda rng: file.write_bytes(damaged(data, rng)), read)
    each(100, lambda rng: file.write_bytes(with_odd_element(data, rng)), read)


def test_dicom_seg(tmp_path):
    write_series(tmp_path / "s", IMAGE, AFFINE)
    image = LoadCased("image")({"image": str(tmp_path / "s")})["image"]
    file = tmp_path / "seg.dcm"
    write_segmentation(LABEL, np.asarray(image.affine), tmp_path / "s", ["a", "b"], file)
    data = file.read_bytes()
    load = LoadCased(("image", "label"), labels=["a", "b"])
    case = {"image": str(tmp_path / "s"), "label": str(file)}
    each(100, lambda rng: file.write_bytes(damaged(data, rng)), lambda: load(case))
    each(100, lambda rng: file.write_bytes(with_odd_element(data, rng)), lambda: load(case))


def with_odd_element(data: bytes, rng: np.random.Generator) -> bytes:
    """A DICOM file that lacks an element, or has another value in it."""
    dataset = pydicom.dcmread(BytesIO(data))
    elements = [element for element in dataset if element.keyword != "PixelData"]
    element = elements[rng.integers(len(elements))]
    made = BytesIO()
    try:
        if rng.random() < 0.4:
            del dataset[element.tag]
        else:
            odd = ("", "0", "-1", "1e30", "nan", "x", 0, 1, 65535, [], ["1", "2"], None)[rng.integers(12)]
            setattr(dataset, element.keyword, odd)
        dataset.save_as(made)
    except Exception:  # pydicom writes no such value: bytes then
        return damaged(data, rng)
    return made.getvalue()


DATASET = {
    "name": "made",
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "liver", "2": "left kidney"},
    "training": [{"image": f"{n}.nii.gz", "label": f"l{n}.nii.gz", "fold": n % 2} for n in range(3)],
    "validation": [{"image": "v.nii.gz", "label": "lv.nii.gz"}],
    "test": ["t.nii.gz"],
}
PROMPTS = {
    "objects": [{"points": [[4, 5, 1], [1, 2, 3]], "labels": [1, 0], "box": [3, 4, 0, 6, 7, 2]}, {"box": [0] * 6}]
}
RECORD = {"image": "/a/b.nii.gz", "made by": {"adapter": "0" * 64}, "error": "", "state": [1, 2, 3], "seconds": 1.0,
          "mask": "b_seg.nii.gz", "voxels": {"1": 3}, "millilitres": {"1": 0.5}}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "read", "refuses"),
    [
        ("dataset.json", DATASET, lambda file: read_dataset(file.parent), True),
        ("dataset.json", DATASET, lambda file: read_dataset(file.parent, fold=1, train_cases=1), True),
        ("a.prompts.json", PROMPTS, lambda file: read_objects(file, 3), True),
        ("b.json", RECORD, read_record, False),
        ("written/0.jsonl", {"file": "a", "case": "b", "sha256": "c"}, lambda file: written(file.parents[1]), False),
    ],
    ids=["dataset", "dataset, a fold", "prompts", "manifest", "list of results"],
)
def test_json(tmp_path, name, content, read, refuses):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)

    def make(rng: np.random.Generator) -> None:
        if rng.random() < 0.6:
            file.write_text(json.dumps(changed(content, rng)))
        else:
            file.write_bytes(damaged(json.dumps(content).encode(), rng))

    if refuses:
        each(1500, make, lambda: read(file))
        return
    for seed in range(1500):  # what cannot be read says nothing, and is made anew
        make(np.random.default_rng(seed))
        assert outcome(lambda: read(file)) == ""


TENSORS = (
    lambda t: t[..., :-1].clone(),
    lambda t: t.double() if t.is_floating_point() else t.int(),
    lambda t: torch.full_like(t, float("nan")) if t.is_floating_point() else t + 1,
    lambda t: t.flatten()[:1].clone().expand(10**12),
    lambda t: t.float().to_sparse(),
    lambda t: t.to("meta"),
    lambda t: t.to(torch.complex64),
    lambda t: t.bool(),
    lambda t: torch.zeros(0),
    lambda t: t.flip(0).clone(),
    lambda t: [t],
    lambda t: {"a": t},
    lambda t: "text",
    lambda t: None,
)  # fmt: skip


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_adapters(tmp_path, suffix):
    network = PTSAM(tiny_backbone(), labels=["a", "b"], preprocessing=SETTINGS)
    state, file = network.state_dict(), tmp_path / f"model{suffix}"
    save = torch.save if suffix == ".pt" else safetensors.torch.save_file
    save(state, file)
    data = file.read_bytes()

    def read() -> None:
        describe(file)
        load_adapter(network, file)
        assert all(tensor.isfinite().all() for tensor in network.parameters()) and network.labels == ("a", "b")

    each(600, lambda rng: file.write_bytes(damaged(data, rng)), read)
    if suffix == ".pt":
        each(300, lambda rng: torch.save(with_odd_tensor(state, rng), file), read)


def test_resume_files(tmp_path):
    state = {"network": {"prompts": torch.ones(3)}, "optimizer": {"state": {}, "param_groups": []}, "lr_scheduler": {},
             "best": {"metric": 1.0}, "settings": {"seed": 0}, "cases": {"training": [["a", "b"]]},
             "history": [{"epoch": 1, "loss": 0.5}], "epoch": 1, "iteration": 2}  # fmt: skip
    file = tmp_path / "model_resume.pt"
    torch.save(state, file)
    data = file.read_bytes()
    each(400, lambda rng: file.write_bytes(damaged(data, rng)), lambda: read_resume(file))
    each(200, lambda rng: torch.save(with_odd_tensor(state, rng), file), lambda: read_resume(file))


def with_odd_tensor(state: dict, rng: np.random.Generator) -> object:
    """A state dict with one of its values changed, left out or renamed."""
    state = dict(state)
    name = list(state)[rng.integers(len(state))]
    value = state[name]
    match rng.integers(6):
        case 0:
            del state[name]
        case 1:
            state[str(ODD[rng.integers(len(ODD))])] = state.pop(name)
        case 2:
            state[name] = ODD[rng.integers(len(ODD))]
        case 3:
            return ODD[rng.integers(len(ODD))]
        case _ if isinstance(value, torch.Tensor):
            state[name] = TENSORS[rng.integers(len(TENSORS))](value)
    return state
