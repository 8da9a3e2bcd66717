"""Exported files compute what torch computes, with dynamic axes that are dynamic, or are not there."""

from __future__ import annotations

import copy
import json
import os
import resource
import signal
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import ROOT, run, volumes
from monai.apps.utils import get_logger
from network_tester import LABELS, image, perturb, tiny_backbone

from sam_monai import PTSAM, SSAM, InputError, MedSA
from sam_monai.__main__ import main
from sam_monai.bundle import export
from sam_monai.networks import identity
from sam_monai.networks.base import AdaptedSAM


def trained(kind, **others):
    torch.manual_seed(0)
    network = kind(tiny_backbone(blocks=2), labels=LABELS, amp=False, **others)
    perturb(network)
    return network.eval(), copy.deepcopy(network).eval()


def same(found, expected: torch.Tensor) -> None:
    found = torch.as_tensor(np.asarray(found))
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


def onnx_session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.slow
def test_ssam_to_onnx_takes_any_batch_and_holds_no_decomposition(tmp_path):
    network, twin = trained(SSAM)
    said = export.export(network, tmp_path / "m.onnx", (40, 56))
    session, x = onnx_session(tmp_path / "m.onnx"), image(5, 3, 40, 56)
    assert session.get_modelmeta().custom_metadata_map == export.metadata(network)
    assert session.get_inputs()[0].shape == ["batch", 3, 40, 56] and "opset 18" in said
    with torch.no_grad():
        same(session.run(None, {"image": x.numpy()})[0], twin(x))
    import onnx

    model = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(model)
    assert [one.domain for one in model.opset_import] == [""]  # any runtime knows its operators
    assert len(model.graph.node) < 700, len(model.graph.node)  # 1754 with constants to be computed
    numbers = sum(np.prod(t.dims) for t in model.graph.initializer)
    assert numbers < 1.05 * sum(p.numel() for p in tiny_backbone(blocks=2).parameters())


@pytest.mark.thorough
def test_the_default_network_is_a_program_of_few_steps(tmp_path):
    network, x = SSAM(image_size=64, labels=LABELS, amp=False).eval(), image(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(x)
    export.export(network, tmp_path / "m.pt2")  # folds the network itself
    program = torch.export.load(tmp_path / "m.pt2")
    with torch.no_grad():
        same(program.module()(x), expected)
    steps = sum(len(part.graph.nodes) for part in program.graph_module.modules() if hasattr(part, "graph"))
    assert steps < 2500  # twice as many with norms beside the convolutions and with windows in parts


@pytest.mark.slow
def test_ptsam_to_openvino_takes_any_depth(tmp_path):
    import openvino

    network, twin = trained(PTSAM, encoder_prompts=2)
    export.export(network, tmp_path / "m.xml", (64, 64, 1), channels=1)
    assert {file.name for file in tmp_path.iterdir()} == {"m.xml", "m.bin"}
    held = openvino.Core().read_model(tmp_path / "m.xml").get_rt_info()["sam_monai"]
    assert {key: one.value for key, one in held.items()} == export.metadata(network)
    compiled = openvino.compile_model(tmp_path / "m.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    x = image(1, 1, 64, 64, 6)
    with torch.no_grad():
        same(compiled([x.numpy()])[0], twin(x))


@pytest.mark.thorough
def test_medsa_by_clicks_and_a_box_to_onnx_takes_any_number_of_clicks(tmp_path):
    """Of which each is in a slice of its own, or several in one, so that the tokens of a slice vary too."""
    network, twin = trained(MedSA)
    export.export(network, tmp_path / "m.onnx", (64, 64, 3), channels=1, prompted=True)
    session, x = onnx_session(tmp_path / "m.onnx"), image(1, 1, 64, 64, 3)
    coords = torch.tensor([[[20.0, 30, 0], [40, 9, 1], [30, 50, 1], [3, 3, 2], [8, 9, 2]]])
    labels = torch.tensor([[1, 1, 0, -1, 1]])
    box = torch.tensor([[[4.0, 4, 0, 40, 50, 1]]])
    for many, corners in ((5, box), (5, box * torch.nan), (2, box)):
        prompts = {"point_coords": coords[:, :many], "point_labels": labels[:, :many], "boxes": corners}
        with torch.no_grad():
            expected = twin(x, **prompts)
        same(session.run(None, {"image": x.numpy()} | {k: v.numpy() for k, v in prompts.items()})[0], expected)


@pytest.mark.parametrize("suffix", [".pt2", pytest.param(".onnx", marks=pytest.mark.thorough)])
def test_the_mixture_of_channels_is_in_the_file(tmp_path, suffix):
    network, twin = trained(PTSAM, channel_names=("T1", "T2", "FLAIR", "PD"))
    said = export.export(network, tmp_path / f"m{suffix}", (40, 48))
    assert "(batch, 4, 40, 48)" in said
    x = image(3, 4, 40, 48)
    with torch.no_grad():
        expected = twin(x)
        if suffix == ".onnx":
            found = onnx_session(tmp_path / "m.onnx").run(None, {"image": x.numpy()})[0]
        else:
            found = torch.export.load(tmp_path / "m.pt2").module()(x)
        same(np.asarray(found), expected)
        assert (expected - twin(x.flip(1))).abs().max() > 1e-3 * expected.abs().max()  # each channel has its weight


def test_medsa_without_a_prompt_to_pt2_with_all_slices_seeing_each_other(tmp_path):
    network, twin = trained(MedSA)
    said = export.export(network, tmp_path / "m.pt2", (64, 64, 11), channels=1)
    with zipfile.ZipFile(tmp_path / "m.pt2") as file:  # it is handed on, and says nothing of who made it
        assert not any(str(ROOT).encode() in file.read(name) for name in file.namelist())
    x = image(1, 1, 64, 64, 11)
    with torch.no_grad():
        found = torch.export.load(tmp_path / "m.pt2").module()(x)
        assert (found - twin(x)).abs().max() > 1e-3 * found.abs().max()  # in parts of eight slices
        twin.slices_per_batch = 11
        same(found, twin(x))
    assert "image (1, 1, 64, 64, 11) float32" in said


@pytest.mark.parametrize(("size", "shape"), [((40, 48), (3, 3, 40, 48)), ((64, 64, 1), (1, 3, 64, 64, 5))])
def test_medsa_whose_slices_do_not_see_each_other_to_pt2_takes_any_batch_or_depth(tmp_path, size, shape):
    network, twin = trained(MedSA, depth_attention=False, prompted=False)
    export.export(network, tmp_path / "m.pt2", size)
    x = image(*shape)
    with torch.no_grad():
        same(torch.export.load(tmp_path / "m.pt2").module()(x), twin(x))


def test_a_network_of_patches_is_exported_for_patches_alone(tmp_path):
    network, _ = trained(PTSAM, preprocessing={"scale": "patch", "spatial_dims": 2})
    side = network.image_size
    with pytest.raises(InputError, match=f"would shrink .* 90 x 70 .*: give a size of {side} {side}"):
        export.export(network, tmp_path / "m.pt2", (90, 70))
    assert "give such patches" in export.export(network, tmp_path / "m.pt2").splitlines()[-1]


def test_a_file_says_what_it_is_and_how_a_mask_comes_of_its_channels(tmp_path):
    images = {"spatial_dims": 2, "intensity": "ct", "ct_window": [-160.0, 240.0]}
    network, _ = trained(PTSAM, preprocessing=images)
    said = export.export(network, tmp_path / "m.pt2", (32, 32))
    held = dict.fromkeys(("identity", "channels", "mask"), "")
    torch.export.load(tmp_path / "m.pt2", extra_files=held)
    record = identity.check(json.loads(held["identity"]))
    assert record == network.describe() and record["preprocessing"]["ct_window"] == [-160.0, 240.0]
    assert json.loads(held["channels"]) == ["background", *LABELS]
    assert all(f"channel {i} of logits: {name}" in said for i, name in enumerate(["background", *LABELS]))
    assert "largest" in held["mask"] and said.endswith(held["mask"])
    for more, how in (({"regions": [[1, 2], [2]]}, "each label"), ({"instances": True}, "objects that touch")):
        network.preprocessing = images | more
        about = export.metadata(network)
        assert how in about["mask"] and "largest" not in about["mask"]
    about = export.metadata(network, prompted=True)
    assert "largest" in about["mask"] and json.loads(about["channels"]) == ["background", "object"]
    assert "at once" in about["mask"]


def test_a_file_that_computes_something_else_is_not_left(tmp_path, monkeypatch):
    network, _ = trained(PTSAM)
    off = 0.0

    def writer(program, path, *_):
        path.write_bytes(b"a program")
        return lambda given: network(*given) * (1 + off)

    monkeypatch.setattr(torch.export, "export", lambda *_, **__: SimpleNamespace(graph_module=torch.nn.Module()))
    monkeypatch.setitem(export.WRITERS, ".pt2", writer)
    export.export(network, tmp_path / "m.pt2")
    before = (tmp_path / "m.pt2").stat()
    off = 2e-3
    network.prompts.data *= 3
    for name, said in (("m.pt2", "there already"), ("n.pt2", "not written: it differs from torch")):
        with pytest.raises(InputError, match=said):
            export.export(network, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["m.pt2"]
    assert (tmp_path / "m.pt2").stat().st_mtime_ns == before.st_mtime_ns
    monkeypatch.setitem(export.WRITERS, ".pt2", lambda *_: lambda given: network(*given) * torch.nan)
    with pytest.raises(InputError, match="differs from torch by nan"):
        export.export(network, tmp_path / "n.pt2")


KILLED = """
import os, signal
from network_tester import tiny_backbone
from sam_monai import PTSAM
from sam_monai.bundle import export
def write(program, path, *_):
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
export.WRITERS[".pt2"] = write
export.export(PTSAM(tiny_backbone(blocks=1), labels=["a"], amp=False), "m.pt2", (32, 32))
"""


@pytest.mark.slow
def test_a_write_that_fails_ends_the_export_and_not_the_process(tmp_path):
    network, _ = trained(PTSAM)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))  # bytes of any file, as on a disk that is full
    try:
        with pytest.raises(OSError, match="too large"):
            export.export(network, tmp_path / "m.pt2", (40, 40))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


def test_a_killed_export_leaves_no_file_and_can_be_run_again(tmp_path):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "m.pt2").exists()
    export.export(PTSAM(tiny_backbone(blocks=1), labels=["a"], amp=False), tmp_path / "m.pt2", (32, 32))
    assert [file.name for file in tmp_path.iterdir()] == ["m.pt2"]


def test_an_export_killed_between_its_two_files_can_be_run_again(tmp_path, monkeypatch):
    network, _ = trained(PTSAM)

    def write(program, path, *_):
        for file in (path, path.with_suffix(".bin")):
            file.write_bytes(b"made")
        return lambda given: network(*given)

    monkeypatch.setattr(torch.export, "export", lambda *_, **__: SimpleNamespace(graph_module=torch.nn.Module()))
    monkeypatch.setitem(export.WRITERS, ".xml", write)
    (tmp_path / "m.bin").write_bytes(b"made")  # of somebody else
    with pytest.raises(InputError, match=r"m\.bin is there already"):
        export.export(network, tmp_path / "m.xml")
    (tmp_path / "m.bin").unlink()
    if (child := os.fork()) == 0:
        try:
            os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            export.export(network, tmp_path / "m.xml")
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / "m.bin").exists() and not (tmp_path / "m.xml").exists()
    export.export(network, tmp_path / "m.xml")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.bin", "m.xml"]


def test_what_cannot_be_exported_is_said(tmp_path, monkeypatch):
    network, _ = trained(PTSAM)
    with pytest.raises(InputError, match=r"\.onnx, \.xml, \.pt2"):
        export.export(network, tmp_path / "m.trt")
    with pytest.raises(InputError, match="no clicks"):
        export.export(network, tmp_path / "m.pt2", prompted=True)
    with pytest.raises(InputError, match="H W D"):
        export.export(network, tmp_path / "m.pt2", (64,))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"onnxruntime: pip install \"sam_monai\[export\]\""):
        export.export(network, tmp_path / "m.onnx")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_command_exports_an_adapter_on_litemedsam(tmp_path, capsys):
    images = {"spatial_dims": 3, "intensity": "mr"}
    network = PTSAM("lite_medsam", labels=LABELS, image_size=32, amp=False, preprocessing=images)
    torch.save(network.state_dict(), tmp_path / "a.pt")
    assert main(["export", str(tmp_path / "a.pt"), str(tmp_path / "m.onnx")]) == 0
    assert "image (1, 1, 32, 32, depth) float32" in capsys.readouterr().out
    x = image(1, 1, 32, 32, 2)
    with torch.no_grad():
        same(onnx_session(tmp_path / "m.onnx").run(None, {"image": x.numpy()})[0], network(x))


def test_the_command_wants_the_number_of_slices_where_they_see_each_other(tmp_path, capsys):
    network = PTSAM(
        "lite_medsam", labels=LABELS, image_size=32, depth_attention=True, preprocessing={"spatial_dims": 3}
    )
    torch.save(network.state_dict(), tmp_path / "a.pt")
    assert main(["export", str(tmp_path / "a.pt"), str(tmp_path / "m.pt2")]) == 1
    assert "--size H W D" in capsys.readouterr().err and not (tmp_path / "m.pt2").exists()


@pytest.mark.parametrize(("bundle", "kind"), [("ssam", SSAM), ("ptsam", PTSAM), ("medsa", MedSA)])
def test_without_tensorrt_the_overlay_says_so_and_changes_nothing(tmp_path, monkeypatch, bundle, kind):
    network = kind("lite_medsam", labels=["bright", "dark"], image_size=32, depth_attention=False)
    (tmp_path / "models").mkdir()
    torch.save(network.state_dict(), tmp_path / "models/model.pt")
    volumes(tmp_path / "data")
    where = {"dataset_dir": f"{tmp_path}/data", "adapter": f"{tmp_path}/models/model.pt"}
    said, logits, segment = [], [], AdaptedSAM.segment
    monkeypatch.setattr(AdaptedSAM, "segment", lambda *args: logits.append(segment(*args)) or logits[-1])
    monkeypatch.setattr(get_logger("monai.networks.trt_compiler"), "warning", said.append)
    run(bundle, "inference", output_dir=f"{tmp_path}/plain", **where)
    assert not said
    run(bundle, "inference", "inference_trt", output_dir=f"{tmp_path}/trt", **where)
    assert len(said) == 1 and "no effect" in said[0]
    plain, overlaid = (np.asarray(nib.load(tmp_path / f / "d_seg.nii.gz").dataobj) for f in ("plain", "trt"))
    assert np.array_equal(plain, overlaid)
    assert len(logits) == 2 and torch.equal(*logits) and logits[0].any()


@pytest.mark.parametrize(
    "dims, size, said", [(3, (64, 64), "volumes: .* H W D"), (2, (64, 64, 3), "pictures: .* H W$")]
)
def test_a_network_of_volumes_is_not_exported_as_one_of_pictures(tmp_path, dims, size, said):
    network = MedSA(tiny_backbone(), labels=LABELS, preprocessing={"spatial_dims": dims})
    with pytest.raises(InputError, match=said):
        export.export(network, tmp_path / "m.onnx", size)
