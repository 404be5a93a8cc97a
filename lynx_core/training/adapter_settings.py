"""What is trained and what it starts from: the section [adapter], and whether adapter.init fits it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..formats.adapter import Adapter
from ..models.adapter_configs import PartKind, describe_base_misfit
from ..models.adapters import IDAdapterConfig, RefAdapterConfig
from ..spec import Variant
from .configuration_file import SettingChecks

RefKeysInit = Literal["random", "base"]


@dataclass(frozen=True)
class AdapterSettings:
    """What is trained, and what it starts from."""

    variant: Variant = "full"
    """full: ID and reference; id_only, ref_only: one of them; lite: ID in every second block."""
    init: tuple[Path, ...] = ()
    """Files or folders of an adapter to start from, such as a release; none: a new one."""
    resampler_init: Path | None = None
    """A resampler for a new adapter to start from: InstantID's ip-adapter.bin. From scratch it hardly learns."""
    ref_keys_init: RefKeysInit = "random"
    """base: a new Ref-adapter starts with the key projections of the base's own self-attention."""
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
        with SettingChecks("adapter", self) as check:
            check.check(
                "ref_keys_init",
                self.ref_keys_init == "random" or (self.has_ref and not self.init),
                'only "random" with adapter.init, which brings its own keys, and for variants without reference layers',
            )
            check.check(
                "resampler_init",
                self.resampler_init is None or self.has_id,
                f'for a variant with an ID, and "{self.variant}" has none; take it out',
            )
            check.check(
                "resampler_init",
                not (self.init and self.resampler_init),
                "for a new adapter; adapter.init brings its own resampler, unset one of the two",
            )
            check.above_zero("lora_alpha")
            check.at_least(0, "lora_rank")
            check.check(
                "lora_rank",
                not self.lora_rank or bool(self.init),
                "only for a trained adapter (adapter.init): low-rank updates of random weights learn nothing",
            )
            check.at_least(1, "resampler_dim", "resampler_depth", "resampler_heads", "lite_token_dim")

    @property
    def has_id(self) -> bool:
        return self.variant != "ref_only"

    @property
    def has_ref(self) -> bool:
        return self.variant in ("full", "ref_only")


def wanted_parts(settings: AdapterSettings) -> list[PartKind]:
    """The parts that a variant has."""
    id_parts: tuple[PartKind, ...] = ("resampler", "id") if settings.has_id else ()
    ref_parts: tuple[PartKind, ...] = ("ref",) if settings.has_ref else ()
    return [*id_parts, *ref_parts]


def find_misfits(
    settings: AdapterSettings, opened: Adapter, dim: int, num_blocks: int, recogniser: str | None
) -> list[str]:
    """Compare `adapter.init` with the settings and the base.

    Args:
        opened: the adapter of `settings.init`.
        dim, num_blocks: of the base.
        recogniser: of the samples; None when it is not known.

    Returns:
        A sentence for each misfit, with the value seen and the way out.
    """
    missing = [kind for kind in wanted_parts(settings) if kind not in opened.parts]
    misfits = []
    if missing:
        misfits.append(
            f'adapter.variant = "{settings.variant}" needs {" and ".join(missing)}, and adapter.init '
            f"({opened.name}) has {', '.join(opened.parts)}; add the missing files, or choose another variant"
        )
    if settings.has_id and opened.id and opened.resampler:
        misfits += _compare_id_layers(settings, opened, opened.id)
        misfits += _compare_resampler(settings, opened)
        if recogniser is not None and opened.recogniser != recogniser:
            misfits.append(
                f"adapter.init ({opened.name}) is for the recogniser {opened.recogniser}, the samples are embedded "
                f"by {recogniser}; set data.face_recogniser and data.face_model_pack to the adapter's"
            )
    layers = [part for part in (settings.has_id and opened.id, settings.has_ref and opened.ref) if part]
    of_base = describe_base_misfit(opened.configs, dim, num_blocks)
    if of_base and layers:
        misfits.append(
            f"adapter.init ({opened.name}) and base.transformer: wrong base for this adapter: {of_base}; use the "
            "base that the adapter was made for"
        )
    else:
        misfits += [text for part in layers for text in _find_absent(settings, opened, part, num_blocks)][:1]
    if settings.lora_rank and layers:
        largest = min(part.dim for part in layers)
        if isinstance(layers[0], IDAdapterConfig):
            largest = min(largest, layers[0].token_dim)
        if settings.lora_rank > largest:
            misfits.append(
                f"adapter.lora_rank is at most {largest}, the width of the projections of adapter.init "
                f"({opened.name}), got {settings.lora_rank}; lower it, or train all weights with 0"
            )
    return misfits


def _compare_id_layers(settings: AdapterSettings, opened: Adapter, layers: IDAdapterConfig) -> Iterator[str]:
    is_lite = layers.is_lite
    # Lite ID layers with full reference layers are a mix that many people use; no variant names it.
    is_known_mix = is_lite and settings.variant == "full"
    if is_lite == (settings.variant == "lite") or is_known_mix:
        return
    kind = "lite" if is_lite else "full"
    others = '"lite"' if is_lite else '"full" or "id_only"' if "ref" in opened.parts else '"id_only"'
    yield (
        f'adapter.variant = "{settings.variant}" does not fit adapter.init ({opened.name}), whose ID layers are '
        f"{kind} ones: {len(layers.blocks)} blocks, tokens of width {layers.token_dim}; set adapter.variant = "
        f"{others}, or name another adapter"
    )


def _compare_resampler(settings: AdapterSettings, opened: Adapter) -> Iterator[str]:
    """A width that was set, and is not the file's: nothing would read it."""
    assert opened.resampler and opened.id
    pairs = [
        ("resampler_dim", opened.resampler.dim),
        ("resampler_depth", opened.resampler.depth),
        ("resampler_heads", opened.resampler.num_heads),
    ]
    if opened.id.is_lite:
        pairs.append(("lite_token_dim", opened.id.token_dim))
    defaults = AdapterSettings()
    for name, stored in pairs:
        value = getattr(settings, name)
        if value not in (stored, getattr(defaults, name)):
            yield (
                f"adapter.{name} = {value} is for a new adapter, and that of adapter.init ({opened.name}) has "
                f"{stored}; leave the key out"
            )


def _find_absent(
    settings: AdapterSettings, opened: Adapter, part: IDAdapterConfig | RefAdapterConfig, num_blocks: int
) -> Iterator[str]:
    kind = "ID" if isinstance(part, IDAdapterConfig) else "reference"
    is_lite = isinstance(part, IDAdapterConfig) and part.is_lite
    expected = range(0, num_blocks, 2 if is_lite else 1)
    absent = sorted(set(expected) - set(part.blocks))
    if absent:
        shown = ", ".join(map(str, absent[:5])) + (" ..." if len(absent) > 5 else "")
        yield (
            f"adapter.init ({opened.name}) has {kind} layers in {len(part.blocks)} of the {len(expected)} blocks "
            f'that adapter.variant = "{settings.variant}" has on this base, none in {shown}; use the base that '
            "the adapter was made for, or a complete adapter"
        )


def describe_mix(settings: AdapterSettings, opened: Adapter) -> str | None:
    """Say that a full variant has lite ID layers; None when it has not."""
    if settings.variant == "full" and opened.id and opened.id.is_lite:
        return f"adapter.init ({opened.name}) has lite ID layers and reference layers; both are trained as they are"
    return None
