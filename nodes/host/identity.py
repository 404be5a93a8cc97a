"""An identity as the sockets carry it: embedding, reference, and precomputed keys and values.

The host's memory management counts, loads and offloads the keys and values like any model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.model_patcher
from torch import Tensor

from ...lynx_core.models.kv_cache import KVCache
from .base_model import BaseModel


@dataclass(frozen=True)
class IdentityKV:
    """Keys and values of one adapter part for one identity, known to the host's memory management."""

    kv_cache: KVCache
    patcher: Any = field(repr=False)


@dataclass(frozen=True)
class SavedKV:
    """Keys and values of an ID that come from an identity file, and what they were computed with."""

    face: IdentityKV
    null: IdentityKV
    adapter_name: str
    adapter_fingerprint: str
    base: BaseModel


@dataclass(frozen=True)
class FaceID:
    """LYNX_ID: a face embedding and the network that made it."""

    embedding: Tensor
    """[512], unit length."""

    recogniser: str
    """Canonical name; an adapter only understands the recogniser it was trained on."""

    saved_kv: SavedKV | None = None
    """From an identity file; without an adapter they act as they are."""


@dataclass(frozen=True)
class Reference:
    """LYNX_REFERENCE: keys and values of a face through one base model, and of the null face."""

    face: IdentityKV
    null: IdentityKV
    base: BaseModel


def register_kv(kv_cache: KVCache) -> IdentityKV:
    """Hand keys and values to the host's memory management."""
    patcher_type = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return IdentityKV(
        kv_cache,
        patcher_type(
            kv_cache,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        ),
    )


class IdentityKVCache:
    """LRU cache of keys and values, by what they depend on."""

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self.entries: dict[tuple[str, ...], IdentityKV] = {}

    def get_or_compute(self, key: tuple[str, ...], compute: Callable[[], KVCache]) -> IdentityKV:
        """Give the entry of this key, computed if it is not there; evict the least recently used beyond the limit."""
        entry = self.entries.pop(key, None) or register_kv(compute())
        self.entries[key] = entry
        while len(self.entries) > self.max_entries:
            self.entries.pop(next(iter(self.entries)))
        return entry
