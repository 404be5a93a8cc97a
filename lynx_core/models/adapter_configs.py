"""What an adapter is made of: its parts, the published variants, and what fits together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..spec import EMBEDDING_DIM, LynxError, Variant
from .adapters import IDAdapterConfig, RefAdapterConfig, ResamplerConfig

PartKind = Literal["resampler", "id", "ref"]
PART_KINDS: tuple[PartKind, ...] = get_args(PartKind)
PART_NAMES: dict[PartKind, str] = {"resampler": "resampler", "id": "ID layers", "ref": "reference layers"}
"""What messages call a part."""

PartConfig = ResamplerConfig | IDAdapterConfig | RefAdapterConfig

Misfit = Literal["no part", "no resampler", "no ID layers", "token width", "base width"]


@dataclass(frozen=True)
class AdapterConfigs:
    """The configurations of an adapter's parts, None for a part it does not have.

    Raises:
        LynxError: when there is no part, or the parts do not fit together.
    """

    resampler: ResamplerConfig | None = None
    id: IDAdapterConfig | None = None
    ref: RefAdapterConfig | None = None

    def __post_init__(self) -> None:
        misfit = find_misfit(self.resampler, self.id, self.ref)
        if misfit == "no part":
            raise LynxError("an adapter needs ID layers with their resampler, reference layers, or both")
        if misfit in ("no resampler", "no ID layers"):
            raise LynxError("resampler and ID layers belong together: give both configurations or neither")
        if misfit == "token width" and self.resampler and self.id:
            raise LynxError(
                f"the resampler puts out width {self.resampler.output_dim}, but the ID layers take {self.id.token_dim}"
            )
        if misfit == "base width" and self.id and self.ref:
            raise LynxError(
                f"the ID layers are for width {self.id.dim}, the reference layers for {self.ref.dim}"
            )

    @property
    def parts(self) -> dict[PartKind, PartConfig]:
        """The parts there are, by kind."""
        parts: dict[PartKind, PartConfig | None] = {
            "resampler": self.resampler,
            "id": self.id,
            "ref": self.ref,
        }
        return {kind: config for kind, config in parts.items() if config is not None}


def find_misfit(
    resampler: ResamplerConfig | None, id_layers: IDAdapterConfig | None, ref: RefAdapterConfig | None
) -> Misfit | None:
    """Name the rule that the parts of one adapter break; None when they fit together."""
    if resampler is None and id_layers is None:
        return "no part" if ref is None else None
    if resampler is None:
        return "no resampler"
    if id_layers is None:
        return "no ID layers"
    if resampler.output_dim != id_layers.token_dim:
        return "token width"
    return "base width" if ref and ref.dim != id_layers.dim else None


def describe_base_misfit(configs: AdapterConfigs, dim: int, num_blocks: int) -> str | None:
    """Say which layers were made for another base model than one of this size; None when all fit it."""
    for kind, layers in configs.parts.items():
        if isinstance(layers, ResamplerConfig):
            continue
        if layers.dim != dim or layers.blocks[-1] >= num_blocks:
            return (
                f"its {PART_NAMES[kind]} are for dim {layers.dim} and at least {layers.blocks[-1] + 1} blocks, the "
                f"base model has dim {dim} and {num_blocks} blocks"
            )
    return None


def configure_variant(
    variant: Variant,
    dim: int = 5120,
    num_blocks: int = 40,
    *,
    lite_token_dim: int = 2048,
    resampler_dim: int = 1280,
    resampler_depth: int = 4,
    resampler_heads: int = 20,
) -> AdapterConfigs:
    """Configure a published variant for a base; the widths default to the release's.

    Args:
        dim, num_blocks: of the base.
        lite_token_dim: width of the lite variant's identity tokens; in the others it is `dim`.

    Raises:
        LynxError: when there is no such variant.
    """
    every_block = tuple(range(num_blocks))
    ref = RefAdapterConfig(dim, every_block, has_bias=True) if variant in ("full", "ref_only") else None
    if variant == "ref_only":
        return AdapterConfigs(ref=ref)
    if variant == "lite":
        layers = IDAdapterConfig(dim, lite_token_dim, every_block[::2], 0, False, "weightless")
    elif variant in ("full", "id_only"):
        layers = IDAdapterConfig(dim, dim, every_block, 16, True, "block")
    else:
        raise LynxError(f"there is no variant {variant!r}; choose {', '.join(get_args(Variant))}")
    resampler = ResamplerConfig(
        dim=resampler_dim,
        depth=resampler_depth,
        num_heads=resampler_heads,
        num_queries=16,
        embedding_dim=EMBEDDING_DIM,
        output_dim=layers.token_dim,
        ff_dim=4 * resampler_dim,
    )
    return AdapterConfigs(resampler, layers, ref)
