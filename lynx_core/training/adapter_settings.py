"""What is trained, and what it starts from: the section [adapter]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..spec import Variant
from .setting_checks import SettingChecks

RefKeysInit = Literal["random", "base"]


@dataclass(frozen=True)
class AdapterSettings:
    """What is trained, and what it starts from."""

    variant: Variant = "full"
    """full: ID and reference; id_only, ref_only: one of them; lite: ID in every second block."""
    init: tuple[Path, ...] = ()
    """Files or folders of an adapter to go on from (a release, say); none starts a new one."""
    resampler_init: Path | None = None
    """A resampler to start a new adapter from: InstantID's ip-adapter.bin. From scratch it hardly learns."""
    ref_keys_init: RefKeysInit = "random"
    """base: a new Ref-adapter looks for what is alike, with the keys of the base's own self-attention."""
    lora_rank: int = 0
    """0 trains all weights; more trains low-rank updates of the key and value projections of `init`."""
    lora_alpha: float = 32.0
    """Strength of the updates: they are scaled by alpha / rank."""
    resampler_dim: int = 1280
    resampler_depth: int = 4
    resampler_heads: int = 20
    lite_token_dim: int = 2048
    """Width of the identity tokens of a new lite adapter; in the others it is the base's."""

    def __post_init__(self) -> None:
        with SettingChecks() as check:
            check.choice("adapter.ref_keys_init", self.ref_keys_init, RefKeysInit)
            check.value(
                self.ref_keys_init == "random" or (self.has_ref and not self.init),
                "adapter.ref_keys_init",
                self.ref_keys_init,
                'only "random" with adapter.init, which brings its own keys, and for variants without reference layers',
            )
            check.value(
                self.resampler_init is None or self.has_id,
                "adapter.resampler_init",
                str(self.resampler_init),
                f'for a variant with an ID, and "{self.variant}" has none; take it out',
            )
            check.value(self.lora_alpha > 0, "adapter.lora_alpha", self.lora_alpha, "more than 0")
            check.choice("adapter.variant", self.variant, Variant)
            check.value(self.lora_rank >= 0, "adapter.lora_rank", self.lora_rank, "0 or more")
            check.value(
                not self.lora_rank or bool(self.init),
                "adapter.lora_rank",
                self.lora_rank,
                "only for an adapter to go on from (adapter.init): low-rank updates of random weights learn nothing",
            )
            check.value(
                not (self.init and self.resampler_init),
                "adapter.resampler_init",
                str(self.resampler_init),
                "for a new adapter; adapter.init brings its own resampler, unset one of the two",
            )
            for name in ("resampler_dim", "resampler_depth", "resampler_heads", "lite_token_dim"):
                check.value(getattr(self, name) >= 1, f"adapter.{name}", getattr(self, name), "1 or more")

    @property
    def has_id(self) -> bool:
        return self.variant != "ref_only"

    @property
    def has_ref(self) -> bool:
        return self.variant in ("full", "ref_only")
