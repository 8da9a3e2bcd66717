"""The image encoder, nearly all of inference, run by OpenVINO on a CPU in place of torch."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from ..adaptations import ssam_singular_values as svd
from ..backbones.backbone import ENCODER
from ..backbones.weights import content_hash, weights_folder
from ..errors import InputError, quiet
from ..networks.base import AdaptedSAM

ENGINES = ("torch", "openvino")


class EncoderEngine:
    """An evaluator's handler that hands the network's image encoder to OpenVINO when it starts, after the adapter is
    loaded. The compiled encoder is kept in the cache folder under a hash of its weights, as it takes a minute to make.

    Computes in bf16 where the network would. With depth attention the encoder depends on the number of slices, and
    stays in torch.

    Args:
        network: any of the three.
        engine: ``"openvino"``, or ``"torch"``: nothing is done.
    """

    def __init__(self, network: AdaptedSAM, engine: str = "torch") -> None:
        if engine not in ENGINES:
            raise InputError(f"the key engine is one of {', '.join(ENGINES)}, not {engine!r}")
        self.network, self.engine, self.adapter = network, engine, ""

    def attach(self, evaluator: Engine) -> None:
        if self.engine == "openvino":
            evaluator.add_event_handler(Events.STARTED, self)

    def __call__(self, _: Engine | None = None) -> None:
        network: AdaptedSAM = getattr(self.network, "module", self.network)
        backbone = network.backbone
        if network.depth_attention:
            print("depth attention: the image encoder stays in torch")
            return
        if backbone.pixel_mean.device.type != "cpu":
            raise InputError("engine openvino computes on the CPU: give --device cpu, or leave engine as it is")
        adapter = content_hash(network.state_dict())
        if adapter == self.adapter:  # the evaluator starts anew for each study
            return
        try:
            import openvino
        except ImportError as error:
            raise InputError('engine openvino needs OpenVINO: pip install "sam_monai[export]"') from error
        encoder = copy.deepcopy(backbone.image_encoder)
        encoder.__dict__.pop("forward", None)
        svd.fold(encoder)
        made_of = content_hash(encoder.state_dict())
        version = openvino.__version__.split("-")[0]
        path = weights_folder().parent / "openvino" / f"{made_of[:32]}_{backbone.image_size}_{ENCODER}_{version}.xml"
        if not path.is_file():
            print(f"making OpenVINO's form of the image encoder, once, about a minute: {path}", flush=True)
            convert(encoder, backbone.image_size, path)
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if network.in_bfloat16(backbone.pixel_mean.device) else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        compiled = openvino.compile_model(path, "CPU", settings)

        def forward(square: Tensor) -> Tensor:
            return torch.from_numpy(compiled([square.detach().float().contiguous().numpy()])[0].copy())

        backbone.image_encoder.forward = forward  # type: ignore[method-assign]
        self.adapter = adapter


def convert(encoder: nn.Module, image_size: int, path: Path) -> None:
    """Write an encoder (N, 3, S, S) -> (N, 256, h, w) of any N as OpenVINO's .xml and .bin, aside and renamed.

    Raises:
        InputError: OpenVINO does not know how this torch writes the encoder.
    """
    import openvino.frontend

    path.parent.mkdir(parents=True, exist_ok=True)
    axes: Any = ({0: torch.export.Dim("batch", min=1)},)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, torch.no_grad(), quiet():
        example = torch.rand(2, 3, image_size, image_size)
        program = torch.export.export(encoder.eval(), (example,), dynamic_shapes=axes, strict=False)
        try:
            model = openvino.convert_model(program)
        except openvino.frontend.OpConversionFailure as error:
            raise InputError(
                f"OpenVINO {openvino.__version__.split('-')[0]} cannot convert the encoder as torch "
                f"{torch.__version__} writes it: install a newer torch, or leave engine out"
            ) from error
        openvino.save_model(model, Path(folder) / path.name, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):
            os.replace((Path(folder) / path.name).with_suffix(suffix), path.with_suffix(suffix))
