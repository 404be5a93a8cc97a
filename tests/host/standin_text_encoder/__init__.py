"""A node pack for tests alone: lets the real CLIPLoader open the stand-in UMT5, which is far smaller than XXL.

The host builds UMT5 in one size, XXL, whatever the file holds. Its text encoder class does take other
sizes, as the model option `umt5xxl_model_config`, but the loader node has no input for it. Here the one
function that every loader goes through gets that option, read from the file's own shapes.
"""

from __future__ import annotations

from typing import Any

import comfy.sd

OPTION = "umt5xxl_model_config"
ATTENTION = "encoder.block.{}.layer.0.SelfAttention.{}.weight"
NODE_CLASS_MAPPINGS: dict[str, Any] = {}

load_text_encoder_state_dicts = comfy.sd.load_text_encoder_state_dicts


def read_size(tensors: dict[str, Any]) -> dict[str, int]:
    """Read from a UMT5 encoder's tensors what differs from XXL's configuration."""
    vocab_size, d_model = tensors["shared.weight"].shape
    num_heads = tensors[ATTENTION.format(0, "relative_attention_bias")].shape[1]
    return {
        "vocab_size": vocab_size,
        "d_model": d_model,
        "num_layers": sum(ATTENTION.format(block, "q") in tensors for block in range(24)),
        "num_heads": num_heads,
        "d_kv": tensors[ATTENTION.format(0, "q")].shape[0] // num_heads,
        "d_ff": tensors["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"].shape[0],
    }


def load_any_size(state_dicts: Any = (), *args: Any, model_options: Any = None, **kwargs: Any) -> Any:
    options = dict(model_options or {})
    if len(state_dicts) == 1 and "shared.weight" in state_dicts[0]:
        options.setdefault(OPTION, read_size(state_dicts[0]))
    return load_text_encoder_state_dicts(state_dicts, *args, model_options=options, **kwargs)


comfy.sd.load_text_encoder_state_dicts = load_any_size
