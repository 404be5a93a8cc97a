"""Lets ComfyUI's own CLIPLoader take a UMT5 of any size.

The host builds UMT5 in one size, XXL, whatever the file holds. Its text encoder class does take other
sizes, as the model option `umt5xxl_model_config`, but the loader node has no input for it. So the one
function that every loader goes through gets that option filled in, read from the file's own shapes.
Files of XXL's size, other text encoders and callers that give the option themselves are left alone.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import comfy.sd

OPTION = "umt5xxl_model_config"
XXL_LAYERS = 24
_MARK = "lynx_small_text_encoder"
_ATTENTION = "encoder.block.{}.layer.0.SelfAttention"


def derive_config(tensors: Mapping[str, Any]) -> dict[str, int] | None:
    """Read the size of a UMT5 encoder from its tensors.

    Returns:
        What differs from XXL's configuration; None when this is XXL, or no UMT5.
    """
    num_layers = 0
    # UMT5 has position biases in every block (T5: in the first alone). Blocks are counted by them because
    # a small file also holds one lone tensor of block 23, by which the host knows the architecture.
    while f"{_ATTENTION.format(num_layers)}.relative_attention_bias.weight" in tensors:
        num_layers += 1
    has_more_blocks = f"{_ATTENTION.format(num_layers)}.q.weight" in tensors
    feed_forward = tensors.get("encoder.block.0.layer.1.DenseReluDense.wi_0.weight")
    if not num_layers or has_more_blocks or feed_forward is None or "shared.weight" not in tensors:
        return None
    # Quantised files of the full size may store other shapes: they are told by their layers alone.
    if num_layers == XXL_LAYERS:
        return None
    vocabulary, width = tensors["shared.weight"].shape
    heads = tensors[f"{_ATTENTION.format(0)}.relative_attention_bias.weight"].shape[1]
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "num_layers": num_layers,
        "num_heads": heads,
        "d_kv": tensors[f"{_ATTENTION.format(0)}.q.weight"].shape[0] // heads,
        "d_ff": feed_forward.shape[0],
    }


def accept_small_text_encoders() -> None:
    """Wrap the host's text encoder loading; a second call changes nothing."""
    if not hasattr(comfy.sd.load_text_encoder_state_dicts, _MARK):
        comfy.sd.load_text_encoder_state_dicts = _fill_in_config(comfy.sd.load_text_encoder_state_dicts)


def _fill_in_config(load: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(load)

    @functools.wraps(load)
    def load_any_size(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs)
        state_dicts = call.arguments.get("state_dicts", ())
        config = derive_config(state_dicts[0]) if len(state_dicts) == 1 else None
        if config is None:
            return load(*args, **kwargs)
        call.arguments["model_options"] = {OPTION: config, **(call.arguments.get("model_options") or {})}
        return load(*call.args, **call.kwargs)

    setattr(load_any_size, _MARK, True)
    return load_any_size
