"""VAE and text encoder of the miniature: the networks, and the trainer's folders out of the shipped files.

    python -m miniature.encoders [FOLDER]      # default: .miniature

Needs what training needs, and nothing that draws.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from lynx_core.faces.errors import import_package
from lynx_core.spec import LynxError

from .making import Making

BASE_DIM, LATENT_CHANNELS = 16, 16
"""Of the VAE."""
TEXT_CONFIG: dict[str, Any] = {
    "vocab_size": 448,
    "d_model": 4096,
    "d_kv": 16,
    "num_heads": 4,
    "d_ff": 64,
    "num_layers": 1,
}
_RENAMES = (
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"\.conv_in\.", ".conv1."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.down_blocks\.", ".downsamples."),
    (r"\.norm1\.", ".residual.0."),
    (r"(samples\.\d+|middle\.\d)\.conv1\.", r"\1.residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"(samples\.\d+|middle\.\d)\.conv2\.", r"\1.residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
)


def unpack_encoders(assets: Path, folder: Path) -> None:
    """Write the trainer's folders of VAE, text encoder and tokenizer from the shipped files."""
    unpack_vae(assets, folder)
    _unpack_text_encoder(assets, folder)


def unpack_vae(assets: Path, folder: Path) -> None:
    """Write the diffusers folder for the trainer from the file for the host."""
    state, vae = load_file(assets / "vae" / "lynx_mini_vae.safetensors"), build_vae()
    vae.load_state_dict({name: state[rename_vae_weight(name)].float() for name in vae.state_dict()})
    vae.save_pretrained(folder / "vae")


def build_vae() -> Any:
    """A network whose clips begin as single frames: the taps of the past start at zero."""
    from diffusers import AutoencoderKLWan

    torch.manual_seed(1)
    vae: Any = AutoencoderKLWan(base_dim=BASE_DIM, z_dim=LATENT_CHANNELS)
    with torch.no_grad():
        for name, weight in vae.named_parameters():
            if name.endswith("time_conv.weight"):
                width = weight.shape[1]
                weight.zero_()
                for copy in range(weight.shape[0] // width):
                    weight[copy * width : (copy + 1) * width, :, -1, 0, 0] = torch.eye(width)
            elif name.endswith("time_conv.bias"):
                weight.zero_()
            elif weight.ndim == 5 and weight.shape[2] == 3:
                weight[:, :, :-1] = 0
    return vae


def rename_vae_weight(name: str) -> str:
    """From diffusers' name to that of Wan's own file."""
    name = re.sub(
        r"decoder\.up_blocks\.(\d)\.(resnets|upsamplers)\.(\d)\.",
        lambda m: f"decoder.upsamples.{4 * int(m[1]) + (int(m[3]) if m[2] == 'resnets' else 3)}.",
        name,
    )
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _unpack_text_encoder(assets: Path, folder: Path) -> None:
    """Write the folders of the trainer from the file for the host."""
    state = load_file(assets / "text_encoders" / "lynx_mini_umt5.safetensors")
    state["encoder.embed_tokens.weight"] = state["shared.weight"]
    encoder = build_text_encoder()
    encoder.load_state_dict({name: state[name].float() for name in encoder.state_dict()})
    encoder.save_pretrained(folder / "text_encoder")
    save_tokenizer(folder / "tokenizer", state["spiece_model"].numpy().tobytes())


def build_text_encoder() -> Any:
    """The network with random weights."""
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(2)
    encoder = UMT5EncoderModel(UMT5Config(**TEXT_CONFIG))
    for name, weight in encoder.named_parameters():
        if name.endswith(("SelfAttention.o.weight", "DenseReluDense.wo.weight")):
            torch.nn.init.zeros_(weight)  # at first each token is its embedding, and so unlike the others
    return encoder


def save_tokenizer(folder: Path, model: bytes) -> None:
    """Write the tokenizer's folder from a sentencepiece model.

    Raises:
        LynxError: when the package that reads it is missing; transformers would ask for another.
    """
    import_package("sentencepiece", "the tokenizer")
    from transformers import T5Tokenizer

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "spiece.model").write_bytes(model)
    T5Tokenizer.from_pretrained(folder, extra_ids=0, legacy=False).save_pretrained(folder)


def main() -> int:
    making = Making()
    parser = argparse.ArgumentParser(
        prog="python -m miniature.encoders", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("folder", nargs="?", type=Path, default=making.folder, metavar="FOLDER")
    folder = parser.parse_args().folder
    try:
        unpack_encoders(making.assets, folder)
    except LynxError as error:
        parser.error(str(error))
    print(f"vae, text_encoder and tokenizer are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
