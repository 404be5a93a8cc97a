"""Mini Lynx, the small trained model in `assets/mini`, opened by the host's own loading functions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import safetensors
from torch import Tensor, nn

from ...lynx_core.faces.analyzer import FaceAnalyzer
from ...lynx_core.faces.photo import convert_photos, load_photo
from ...lynx_core.formats.adapter import Adapter, open_adapter
from .model_files import PACK_DIR, stamp_files

ASSETS_DIR = PACK_DIR / "assets" / "mini"
BASE = "diffusion_models/lynx_mini_wan_t2v.safetensors"
TEXT_ENCODER = "text_encoders/lynx_mini_umt5.safetensors"
VAE = "vae/lynx_mini_vae.safetensors"
ADAPTER = "lynx/lynx_mini.safetensors"
RECOGNISER = "lynx/faces/lynx_mini_arcface.safetensors"
DETECTOR_PACK = "lynx_mini"
DETECTOR = f"insightface/models/{DETECTOR_PACK}/det_10g.onnx"
LANDMARKS = f"insightface/models/{DETECTOR_PACK}/2d106det.onnx"
PORTRAIT = "example.png"
FILES = (BASE, TEXT_ENCODER, VAE, ADAPTER, RECOGNISER, DETECTOR, LANDMARKS, PORTRAIT)

WAN_14B_DIM = 5120

RESTORE = (
    "The file comes with this pack: install the pack again, or in its folder run: git checkout -- assets"
)


@dataclass(frozen=True)
class MiniLynx:
    """All that a graph of Mini Lynx begins with."""

    model: Any
    clip: Any
    vae: Any
    adapter: Adapter
    face_analyzer: FaceAnalyzer
    portrait: Tensor
    """[1, height, width, 3] in 0 to 1."""


def load_mini() -> MiniLynx:
    """Open every part.

    Raises:
        ValueError: when a file is missing or does not open.
        FaceError: when a Python package that finds faces is missing.
    """
    for name in FILES:
        if not (ASSETS_DIR / name).is_file():
            raise ValueError(f"assets/mini/{name} is not there. {RESTORE}")
    with explain_damage(BASE):
        model = comfy.sd.load_diffusion_model(str(ASSETS_DIR / BASE))
    with explain_damage(TEXT_ENCODER):
        clip = load_small_text_encoder(ASSETS_DIR / TEXT_ENCODER)
    with explain_damage(VAE):
        tensors, metadata = comfy.utils.load_torch_file(str(ASSETS_DIR / VAE), return_metadata=True)
        vae = comfy.sd.VAE(sd=tensors, metadata=metadata)
        vae.throw_exception_if_invalid()
    with explain_damage(ADAPTER):
        adapter = open_adapter(ASSETS_DIR / ADAPTER, name=Path(ADAPTER).stem)
    analyzer = open_face_models()
    with explain_damage(PORTRAIT):
        portrait = convert_photos([load_photo(ASSETS_DIR / PORTRAIT)])
    return MiniLynx(model, clip, vae, adapter, analyzer, portrait)


def open_face_models() -> FaceAnalyzer:
    """Open the detector and the recogniser.

    Raises:
        ValueError: when a file does not open.
        FaceError: when a Python package that finds faces is missing.
    """
    analyzer = FaceAnalyzer(ASSETS_DIR / "insightface", DETECTOR_PACK, "CPU", ASSETS_DIR / RECOGNISER)
    with explain_damage(RECOGNISER):
        _ = analyzer.recogniser
    with explain_damage(str(Path(DETECTOR).parent)):
        analyzer.detector.load()
    return analyzer


@contextmanager
def explain_damage(name: str) -> Iterator[None]:
    """Say of any error that this file does not open, and how to restore it.

    Raises:
        ValueError: for every error but a missing package, which is raised as it is.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error.__cause__, ImportError):
            raise
        sizes = ", ".join(
            f"{Path(file).name}: {(ASSETS_DIR / file).stat().st_size} bytes"
            for file in FILES
            if file.startswith(name)
        )
        raise ValueError(f"assets/mini/{name} does not open ({sizes}). {RESTORE}") from error


def load_small_text_encoder(path: Path) -> Any:
    """Open a UMT5 encoder of any size as CLIP; the host's loader takes every UMT5 for XXL unless it is told the size."""
    attention, feed_forward = (
        "encoder.block.{}.layer.0.SelfAttention.{}.weight",
        "encoder.block.0.layer.1.DenseReluDense",
    )
    with safetensors.safe_open(str(path), framework="pt") as file:
        names = set(file.keys())
        vocab_size, d_model = file.get_slice("shared.weight").get_shape()
        num_heads = file.get_slice(attention.format(0, "relative_attention_bias")).get_shape()[1]
        config = {
            "vocab_size": vocab_size,
            "d_model": d_model,
            "num_layers": sum(attention.format(block, "q") in names for block in range(24)),
            "num_heads": num_heads,
            "d_kv": file.get_slice(attention.format(0, "q")).get_shape()[0] // num_heads,
            "d_ff": file.get_slice(f"{feed_forward}.wi_0.weight").get_shape()[0],
        }
    return comfy.sd.load_clip(
        ckpt_paths=[str(path)],
        clip_type=comfy.sd.CLIPType.WAN,
        model_options={"umt5xxl_model_config": config},
    )


def explain_text_encoder(model: Any, clip: Any) -> str:
    """Say that a CLIP is of another world than a MODEL; nothing where they may belong together.

    Both give text of the same width, so nothing else would stop them. Mini Lynx is told by its content, the text
    encoder by the size of its vocabulary.
    """
    if not (ASSETS_DIR / BASE).is_file() or not (ASSETS_DIR / TEXT_ENCODER).is_file():
        return ""
    # Other packs have CLIPs of their own make.
    encoder = getattr(clip, "cond_stage_model", None)
    modules = encoder.named_modules() if isinstance(encoder, nn.Module) else ()
    vocabulary = next((module for name, module in modules if name.endswith(".shared")), None)
    if vocabulary is None:
        return ""
    with safetensors.safe_open(str(ASSETS_DIR / TEXT_ENCODER), framework="pt") as file:
        mini_words = file.get_slice("shared.weight").get_shape()[0]
    num_words = getattr(vocabulary, "num_embeddings", len(vocabulary.weight))
    if is_mini_base(model) and num_words != mini_words:
        return (
            f"This MODEL is Mini Lynx, and this CLIP is another text encoder ({num_words} words, Mini Lynx knows "
            f"{mini_words}): the video would follow no prompt. Connect CLIP of Lynx Load Mini here and to CLIP Text Encode."
        )
    if model.model.diffusion_model.dim >= WAN_14B_DIM and num_words == mini_words:
        return (
            f"This CLIP is Mini Lynx's, which knows {mini_words} words, and this MODEL is a large Wan model. Load umt5_xxl "
            "with Load CLIP, type wan, here and for CLIP Text Encode."
        )
    return ""


def is_mini_base(model: Any) -> bool:
    """Tell the base of Mini Lynx by the numbers of its last modulation."""
    modulation = model.model.diffusion_model.head.modulation
    with safetensors.safe_open(str(ASSETS_DIR / BASE), framework="pt") as file:
        stored = file.get_tensor("head.modulation")
    return stored.shape == modulation.shape and bool(
        (modulation.detach().cpu().float() - stored.float()).abs().max() < 1e-2
    )


def stamp_mini() -> str:
    """Give another value once a file of Mini Lynx is replaced."""
    return stamp_files(path for path in (ASSETS_DIR / name for name in FILES) if path.is_file())
