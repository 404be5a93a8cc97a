"""Writes the trained adapter as the single file that the nodes open."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from ..formats.adapter_weights import save_modules
from ..models.adapter_modules import AdapterModules
from .configuration import ExportDtype
from .distributed import full_tensor
from .optimizer import EMA

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def write_adapter(
    adapter: AdapterModules, path: Path, dtype: ExportDtype, ema: EMA | None, is_main: bool
) -> None:
    """Write the adapter, with the EMA of its weights if one is kept.

    Every process must call it; the main one writes. A file that is there is replaced.

    Raises:
        AdapterError: when a weight is not finite, or the disk is full or refuses.
    """
    with ema.swapped_in() if ema else contextlib.nullcontext():
        state = {name: full_tensor(tensor).cpu() for name, tensor in adapter.canonical_state().items()}
        if is_main:
            save_modules(adapter, path, dtype=_DTYPES[dtype], state=state, overwrite=True)
