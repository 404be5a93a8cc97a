"""Small random weight files in the real layouts, so that ComfyUI's real loader nodes take them.

Every file is a table of names and shapes (facts about the published files, at small widths)
filled with random numbers that depend on nothing but the file's path under `models/`. The base
model has 4 blocks of width 256 with 2 heads of 128; together the files are about 60 MB. Pictures
made with them are noise.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

DIM, NUM_BLOCKS, FFN_DIM, TEXT_DIM = 256, 4, 288, 4096
LATENT_CHANNELS = 16
FULL_TOKEN_DIM, LITE_TOKEN_DIM = DIM, 192
VAE_DIM = 8
LORA_RANK = 4
UMT5_CONFIG = {
    "d_ff": 64,
    "d_kv": 16,
    "d_model": TEXT_DIM,
    "num_heads": 2,
    "num_layers": 2,
    "vocab_size": 320,
}


def _linear(name: str, out_dim: int, in_dim: int, bias: bool = True) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (out_dim, in_dim)}
    return shapes | {f"{name}.bias": (out_dim,)} if bias else shapes


def _norm(name: str, dim: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (dim,)} | ({f"{name}.bias": (dim,)} if bias else {})


def _conv(name: str, out_dim: int, in_dim: int, *kernel: int) -> Shapes:
    return {f"{name}.weight": (out_dim, in_dim, *kernel), f"{name}.bias": (out_dim,)}


# --- Wan ------------------------------------------------------------------------------------


def _wan_block(name: str, image_keys: bool = False) -> Shapes:
    shapes: Shapes = {f"{name}.modulation": (1, 6, DIM)}
    for attention in ("self_attn", "cross_attn"):
        for part in "qkvo":
            shapes |= _linear(f"{name}.{attention}.{part}", DIM, DIM)
        for part in ("norm_q", "norm_k"):
            shapes |= _norm(f"{name}.{attention}.{part}", DIM, bias=False)
    if image_keys:
        shapes |= _linear(f"{name}.cross_attn.k_img", DIM, DIM) | _linear(
            f"{name}.cross_attn.v_img", DIM, DIM
        )
        shapes |= _norm(f"{name}.cross_attn.norm_k_img", DIM, bias=False)
    shapes |= _norm(f"{name}.norm3", DIM)
    return shapes | _linear(f"{name}.ffn.0", FFN_DIM, DIM) | _linear(f"{name}.ffn.2", DIM, FFN_DIM)


def _wan(in_dim: int, image_keys: bool = False, num_blocks: int = NUM_BLOCKS) -> Shapes:
    shapes = _conv("patch_embedding", DIM, in_dim, 1, 2, 2)
    shapes |= _linear("text_embedding.0", DIM, TEXT_DIM) | _linear("text_embedding.2", DIM, DIM)
    shapes |= _linear("time_embedding.0", DIM, 256) | _linear("time_embedding.2", DIM, DIM)
    shapes |= _linear("time_projection.1", 6 * DIM, DIM)
    for block in range(num_blocks):
        shapes |= _wan_block(f"blocks.{block}", image_keys)
    return shapes | {"head.modulation": (1, 2, DIM)} | _linear("head.head", 4 * LATENT_CHANNELS, DIM)


def _wan_t2v() -> Shapes:
    return _wan(in_dim=LATENT_CHANNELS)


def _wan_i2v() -> Shapes:
    clip_dim = 1280
    shapes = _wan(in_dim=36, image_keys=True)
    shapes |= _norm("img_emb.proj.0", clip_dim) | _linear("img_emb.proj.1", clip_dim, clip_dim)
    return shapes | _linear("img_emb.proj.3", DIM, clip_dim) | _norm("img_emb.proj.4", DIM)


def _wan_vace() -> Shapes:
    shapes = _wan(in_dim=LATENT_CHANNELS) | _conv("vace_patch_embedding", DIM, 96, 1, 2, 2)
    shapes |= _linear("vace_blocks.0.before_proj", DIM, DIM)
    for block in range(NUM_BLOCKS // 2):
        shapes |= _wan_block(f"vace_blocks.{block}") | _linear(f"vace_blocks.{block}.after_proj", DIM, DIM)
    return shapes


def _wan_lora() -> Shapes:
    shapes: Shapes = {}
    for block in range(NUM_BLOCKS):
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                name = f"diffusion_model.blocks.{block}.{attention}.{part}"
                shapes |= {
                    f"{name}.lora_down.weight": (LORA_RANK, DIM),
                    f"{name}.lora_up.weight": (DIM, LORA_RANK),
                }
                shapes |= {f"{name}.alpha": (), f"{name}.diff_b": (DIM,)}
    return shapes


# --- VAE: four scales, 2 residual blocks a scale in the encoder and 3 in the decoder ----------


def _vae_residual(name: str, in_dim: int, out_dim: int) -> Shapes:
    shapes: Shapes = {
        f"{name}.residual.0.gamma": (in_dim, 1, 1, 1),
        f"{name}.residual.3.gamma": (out_dim, 1, 1, 1),
    }
    shapes |= _conv(f"{name}.residual.2", out_dim, in_dim, 3, 3, 3)
    shapes |= _conv(f"{name}.residual.6", out_dim, out_dim, 3, 3, 3)
    return shapes | (_conv(f"{name}.shortcut", out_dim, in_dim, 1, 1, 1) if in_dim != out_dim else {})


def _vae_ends(name: str, middle_dim: int, head_in: int, head_out: int) -> Shapes:
    shapes = _vae_residual(f"{name}.middle.0", middle_dim, middle_dim)
    shapes |= {f"{name}.middle.1.norm.gamma": (middle_dim, 1, 1)}
    shapes |= _conv(f"{name}.middle.1.to_qkv", 3 * middle_dim, middle_dim, 1, 1)
    shapes |= _conv(f"{name}.middle.1.proj", middle_dim, middle_dim, 1, 1)
    shapes |= _vae_residual(f"{name}.middle.2", middle_dim, middle_dim)
    return (
        shapes
        | {f"{name}.head.0.gamma": (head_in, 1, 1, 1)}
        | _conv(f"{name}.head.2", head_out, head_in, 3, 3, 3)
    )


def _vae_encoder() -> Shapes:
    widths = [VAE_DIM * m for m in (1, 2, 4, 4)]
    shapes = _conv("encoder.conv1", VAE_DIM, 3, 3, 3, 3)
    in_dim, layer = VAE_DIM, 0
    for scale, width in enumerate(widths):
        for _ in range(2):
            shapes |= _vae_residual(f"encoder.downsamples.{layer}", in_dim, width)
            in_dim, layer = width, layer + 1
        if scale < 3:
            shapes |= _conv(f"encoder.downsamples.{layer}.resample.1", width, width, 3, 3)
            if scale > 0:  # the finest scale halves space only
                shapes |= _conv(f"encoder.downsamples.{layer}.time_conv", width, width, 3, 1, 1)
            layer += 1
    return shapes | _vae_ends("encoder", widths[-1], widths[-1], 2 * LATENT_CHANNELS)


def _vae_decoder() -> Shapes:
    widths = [VAE_DIM * m for m in (4, 4, 2, 1)]
    shapes = _conv("decoder.conv1", widths[0], LATENT_CHANNELS, 3, 3, 3)
    in_dim, layer = widths[0], 0
    for scale, width in enumerate(widths):
        for _ in range(3):
            shapes |= _vae_residual(f"decoder.upsamples.{layer}", in_dim, width)
            in_dim, layer = width, layer + 1
        if scale < 3:
            shapes |= _conv(f"decoder.upsamples.{layer}.resample.1", width // 2, width, 3, 3)
            if scale < 2:  # the finest scale doubles space only
                shapes |= _conv(f"decoder.upsamples.{layer}.time_conv", 2 * width, width, 3, 1, 1)
            in_dim, layer = width // 2, layer + 1
    return shapes | _vae_ends("decoder", widths[0], widths[-1], 3)


def _wan_vae() -> Shapes:
    shapes = _vae_encoder() | _vae_decoder()
    shapes |= _conv("conv1", 2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1, 1, 1)
    return shapes | _conv("conv2", LATENT_CHANNELS, LATENT_CHANNELS, 1, 1, 1)


# --- text encoder -----------------------------------------------------------------------------


def _umt5(dim: int = TEXT_DIM) -> Shapes:
    config = UMT5_CONFIG
    inner, ff_dim = config["d_kv"] * config["num_heads"], config["d_ff"]
    shapes: Shapes = {"shared.weight": (config["vocab_size"], dim), "encoder.final_layer_norm.weight": (dim,)}
    for block in range(config["num_layers"]):
        name = f"encoder.block.{block}.layer"
        for part in "qkv":
            shapes |= _linear(f"{name}.0.SelfAttention.{part}", inner, dim, bias=False)
        shapes |= _linear(f"{name}.0.SelfAttention.o", dim, inner, bias=False)
        shapes |= {f"{name}.0.SelfAttention.relative_attention_bias.weight": (32, config["num_heads"])}
        for part in ("wi_0", "wi_1"):
            shapes |= _linear(f"{name}.1.DenseReluDense.{part}", ff_dim, dim, bias=False)
        shapes |= _linear(f"{name}.1.DenseReluDense.wo", dim, ff_dim, bias=False)
        shapes |= _norm(f"{name}.0.layer_norm", dim, bias=False) | _norm(
            f"{name}.1.layer_norm", dim, bias=False
        )
    # The host tells UMT5-XXL by this one tensor of the last of 24 blocks; the small model has no use for it.
    return shapes | {"encoder.block.23.layer.1.DenseReluDense.wi_1.weight": (10240, 1)}


def _train_tokenizer(vocab_size: int) -> Tensor:
    """A sentencepiece model of single bytes and a few letters, as the uint8 tensor the host reads."""
    import sentencepiece

    model = io.BytesIO()
    letters = "abcdefghijklmnopqrstuvwxyz .,"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([letters, " ".join(letters), "a person is smiling at the camera"]),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return torch.frombuffer(bytearray(model.getvalue()), dtype=torch.uint8)


# --- Lynx adapters, layout of the release -----------------------------------------------------


def _lynx_resampler(output_dim: int) -> Shapes:
    dim, inner, ff_dim = 128, 2 * 64, 512
    shapes: Shapes = {"latents": (1, 16, dim)}
    shapes |= (
        _linear("proj_in", dim, 512) | _linear("proj_out", output_dim, dim) | _norm("norm_out", output_dim)
    )
    for layer in range(2):
        attention, feed_forward = f"layers.{layer}.0", f"layers.{layer}.1"
        shapes |= _norm(f"{attention}.norm1", dim) | _norm(f"{attention}.norm2", dim)
        shapes |= _linear(f"{attention}.to_q", inner, dim, bias=False)
        shapes |= _linear(f"{attention}.to_kv", 2 * inner, dim, bias=False)
        shapes |= _linear(f"{attention}.to_out", dim, inner, bias=False)
        shapes |= _norm(f"{feed_forward}.0", dim)
        shapes |= _linear(f"{feed_forward}.1", ff_dim, dim, bias=False)
        shapes |= _linear(f"{feed_forward}.3", dim, ff_dim, bias=False)
    return shapes


def _lynx_full_id() -> Shapes:
    shapes: Shapes = {}
    for block in range(NUM_BLOCKS):
        shapes |= {f"{block}.registers": (1, 16, FULL_TOKEN_DIM)}
        shapes |= _linear(f"{block}.to_k_ip", DIM, FULL_TOKEN_DIM) | _linear(
            f"{block}.to_v_ip", DIM, FULL_TOKEN_DIM
        )
    return shapes


def _lynx_lite_id() -> Shapes:
    shapes: Shapes = {}
    for entry in range(NUM_BLOCKS // 2):  # entry j belongs to block 2 j
        for part in ("to_k_ip", "to_v_ip"):
            shapes |= _linear(f"{entry}.{part}", DIM, LITE_TOKEN_DIM, bias=False)
    return shapes


def _lynx_ref() -> Shapes:
    shapes: Shapes = {}
    for block in range(NUM_BLOCKS):
        shapes |= _linear(f"{block}.to_k_ref", DIM, DIM) | _linear(f"{block}.to_v_ref", DIM, DIM)
    return shapes


KINDS: dict[str, Callable[[], Shapes]] = {
    "wan_t2v": _wan_t2v,
    "wan_t2v_shallow": lambda: _wan(in_dim=LATENT_CHANNELS, num_blocks=2),
    "wan_i2v": _wan_i2v,
    "wan22_i2v": lambda: _wan(
        in_dim=36
    ),  # takes the image in its channels, not by a cross-attention of its own
    "wan_vace": _wan_vace,
    "wan_lora": _wan_lora,
    "wan_vae": _wan_vae,
    "umt5": _umt5,
    "umt5_narrow": lambda: _umt5(dim=64),
    "lynx_full_resampler": lambda: _lynx_resampler(FULL_TOKEN_DIM),
    "lynx_full_id": _lynx_full_id,
    "lynx_lite_resampler": lambda: _lynx_resampler(LITE_TOKEN_DIM),
    "lynx_lite_id": _lynx_lite_id,
    "lynx_ref": _lynx_ref,
}
"""What `make_tensors` can make: the name of a kind of file, and its names and shapes."""

PUBLISHED_FILES: dict[str, str] = {
    "diffusion_models/wan2.1_t2v_14B_fp8_e4m3fn.safetensors": "wan_t2v",
    "diffusion_models/wan2.1_i2v_480p_14B_fp8_e4m3fn.safetensors": "wan_i2v",
    "diffusion_models/wan2.1_vace_14B_fp16.safetensors": "wan_vace",
    "diffusion_models/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors": "wan_t2v",
    "diffusion_models/wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors": "wan_t2v",
    "diffusion_models/wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors": "wan22_i2v",
    "diffusion_models/wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors": "wan22_i2v",
    "vae/wan_2.1_vae.safetensors": "wan_vae",
    "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors": "umt5",
    "loras/Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors": "wan_lora",
    "lynx/lynx_full/resampler.safetensors": "lynx_full_resampler",
    "lynx/lynx_full/ip_layers.safetensors": "lynx_full_id",
    "lynx/lynx_full/ref_layers.safetensors": "lynx_ref",
    "lynx/lynx_lite/resampler.safetensors": "lynx_lite_resampler",
    "lynx/lynx_lite/ip_layers.safetensors": "lynx_lite_id",
}
"""The files the shipped workflows name (path under `models/`), and the kind each one is."""


def _fill(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random numbers of a size that keeps signals near 1 through every layer."""
    noise = torch.randn(shape, generator=generator)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "alpha":
        return torch.tensor(float(LORA_RANK))
    if leaf == "gamma" or (leaf == "weight" and len(shape) == 1):
        return 1 + 0.05 * noise
    if leaf in ("bias", "diff_b"):
        return 0.05 * noise
    if leaf in ("modulation", "latents", "registers"):
        return noise / math.sqrt(shape[-1])
    if name == "shared.weight" or "relative_attention_bias" in name:
        return noise
    return 0.7 * noise / math.sqrt(math.prod(shape[1:]))


def make_tensors(kind: str, seed: int) -> dict[str, Tensor]:
    """The tensors of one file, float16 (the sizes of `KINDS[kind]`).

    Raises:
        KeyError: when `kind` is not in `KINDS`.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: _fill(name, shape, generator).half() for name, shape in KINDS[kind]().items()}
    if kind.startswith("umt5"):
        tensors["spiece_model"] = _train_tokenizer(len(tensors["shared.weight"]))
    return tensors


def write_standin_models(
    models_dir: Path, files: Mapping[str, str] = PUBLISHED_FILES, only: Iterable[str] | None = None
) -> list[Path]:
    """Write stand-in files under ComfyUI's `models` folder.

    Args:
        models_dir: the `models` folder; made when missing.
        files: path under it -> kind (see `KINDS`). The path seeds the numbers: two files of one
            kind differ, and the same path always holds the same numbers.
        only: write just the files whose path starts with one of these, such as "lynx/lynx_full".

    Returns:
        The paths written, in order.
    """
    prefixes = tuple(only) if only is not None else ("",)
    paths = []
    for name, kind in files.items():
        if name.startswith(prefixes):
            path = models_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(make_tensors(kind, seed=zlib.crc32(name.encode())), path)
            paths.append(path)
    return paths
