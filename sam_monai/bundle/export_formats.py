"""What writes an exported program for each runtime, and runs it there."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RUNTIMES = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".xml": ("onnx", "onnxscript", "openvino"), ".pt2": ()}
Axes = dict[str, dict[int, str]]  # of each input: number and name of its dynamic axes
Run = Callable[[Sequence[Tensor]], Tensor]


def write_pt2(
    program: torch.export.ExportedProgram, path: Path, axes: Axes, opset: int, about: Mapping[str, str]
) -> Run:
    held = io.BytesIO()
    torch.export.save(program, held, extra_files=dict(about))
    path.write_bytes(held.getbuffer())  # where the disk is full, torch would end the process
    module = torch.export.load(path).module()
    return lambda given: module(*given)


def write_onnx(
    program: torch.export.ExportedProgram, path: Path, axes: Axes, opset: int, about: Mapping[str, str]
) -> Run:
    import onnxruntime

    save_onnx(program, path, axes, opset, about, fold=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda given: torch.from_numpy(
        session.run(None, {name: tensor.numpy() for name, tensor in zip(axes, given, strict=True)})[0]
    )


def write_openvino(
    program: torch.export.ExportedProgram, path: Path, axes: Axes, opset: int, about: Mapping[str, str]
) -> Run:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        save_onnx(program, onnx, axes, opset, about)
        model = openvino.convert_model(onnx)
        for key, value in about.items():
            model.set_rt_info(value, ["sam_monai", key])
        openvino.save_model(model, path, compress_to_fp16=False)
    # On processors with bf16 OpenVINO would compute in it.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.compile_model(path, "CPU", settings)
    return lambda given: torch.from_numpy(compiled([tensor.numpy() for tensor in given])[0].copy())


def save_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    axes: Axes,
    opset: int,
    about: Mapping[str, str],
    fold: bool = False,
) -> None:
    large = sum(tensor.nbytes for tensor in program.state_dict.values()) > 1.8e9  # a protobuf ends at 2 GB
    made: Any = torch.onnx.export(
        program,
        input_names=list(axes),
        output_names=["logits"],
        opset_version=opset,
        dynamic_shapes=tuple(axes.values()),  # their names alone: the program has the axes
        dynamo=True,
        verbose=False,
        optimize=False,  # takes a third of the whole export, and a runtime does the same in a second
    )
    if fold and not large:
        made.model = folded(made.model)
    made.model.metadata_props.update(about)
    made.save(path, external_data=large)


def folded(model: Any) -> Any:
    """An onnx_ir model whose constants onnxruntime computed, still of standard operators alone."""
    import onnx_ir
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3  # it warns of each constant that it leaves
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/folded.onnx"
        onnx_ir.save(model, f"{folder}/model.onnx")
        onnxruntime.InferenceSession(f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"])
        found = onnx_ir.load(options.optimized_model_filepath)
    for domain in set(found.opset_imports) - {""}:  # it names its own, which no operator is of
        del found.opset_imports[domain]
    return found


WRITERS = {".onnx": write_onnx, ".xml": write_openvino, ".pt2": write_pt2}
