"""The adapter as one trainable module, its parameters named as in this pack's single file.

All layers are resident, unlike in the nodes, which read one block at a time. The modules, the
names and the files are the same: what is trained here opens in the nodes as it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import torch
from torch import Tensor, nn

from ..formats.adapter import Adapter, open_adapter
from ..formats.conversion import convert_adapter
from ..formats.errors import AdapterError
from ..formats.layouts import PartKind, canonical_name
from ..formats.parts import PartConfig, find_parts
from ..formats.saving import save_single_file
from ..formats.tensor_file import open_tensor_file
from ..spec import EMBEDDING_DIM, RELEASE_RECOGNISER, Variant
from .id_adapter import IDAdapterConfig, IDAdapterLayer
from .low_rank import LowRankLinear
from .ref_adapter import RefAdapterConfig, RefAdapterLayer
from .resampler import Resampler, ResamplerConfig


@dataclass(frozen=True)
class AdapterConfigs:
    """The configurations of an adapter's parts, None for a part it does not have.

    Raises:
        ValueError: when there is no part, or the parts do not fit together.
    """

    resampler: ResamplerConfig | None = None
    id: IDAdapterConfig | None = None
    ref: RefAdapterConfig | None = None

    def __post_init__(self) -> None:
        if (self.resampler is None) != (self.id is None):
            raise ValueError("resampler and ID layers belong together: give both configurations or neither")
        if self.id is None and self.ref is None:
            raise ValueError("an adapter needs ID layers with their resampler, reference layers, or both")
        if self.resampler and self.id and self.resampler.output_dim != self.id.token_dim:
            raise ValueError(
                f"the resampler puts out width {self.resampler.output_dim}, but the ID layers take {self.id.token_dim}"
            )
        if self.id and self.ref and self.id.dim != self.ref.dim:
            raise ValueError(
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
        ValueError: when there is no such variant.
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
        raise ValueError(f"there is no variant {variant!r}; choose {', '.join(get_args(Variant))}")
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


@dataclass(frozen=True)
class ResamplerStart:
    """What `init_resampler_from` took from a file."""

    recogniser: str
    """That the file's resampler was trained on."""
    left_out: tuple[str, ...]
    """Tensors of this resampler that the file does not fit or does not have; they stay as they were."""


class AdapterModules(nn.Module):
    """Resampler, ID layers and reference layers, all trainable.

    `state_dict()` of a plain adapter has the canonical names: `resampler.*`, `id.{block}.*`,
    `ref.{block}.*`.

    Attributes:
        configs: of the parts.
        recogniser: name of the face recogniser whose embeddings go in.
        stored_dtypes: what each tensor is saved in by default, by canonical name.
    """

    def __init__(self, configs: AdapterConfigs, recogniser: str = RELEASE_RECOGNISER) -> None:
        super().__init__()
        self.configs = configs
        self.recogniser = recogniser
        self.resampler = Resampler(configs.resampler) if configs.resampler else None
        self.id = nn.ModuleDict(
            {str(block): IDAdapterLayer(configs.id) for block in configs.id.blocks} if configs.id else {}
        )
        self.ref = nn.ModuleDict(
            {str(block): RefAdapterLayer(configs.ref) for block in configs.ref.blocks} if configs.ref else {}
        )
        self.stored_dtypes = {name: tensor.dtype for name, tensor in self.state_dict().items()}

    @classmethod
    def create(
        cls,
        configs: AdapterConfigs,
        seed: int,
        *,
        zero_init: bool = True,
        recogniser: str = RELEASE_RECOGNISER,
    ) -> AdapterModules:
        """Make a fresh adapter.

        Args:
            zero_init: values start at zero, so that the untrained adapter leaves the base as it is.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapter = cls(configs, recogniser)
        if zero_init:
            for name, parameter in adapter.named_parameters():
                if ".to_v_" in name:
                    nn.init.zeros_(parameter)
        return adapter

    @classmethod
    def from_adapter(cls, adapter: Adapter) -> AdapterModules:
        """Read all of an opened adapter, in float32, to train it further.

        Raises:
            AdapterError: when a weight is not finite, or a file was changed.
        """
        configs = AdapterConfigs(adapter.resampler, adapter.id, adapter.ref)
        with torch.device("meta"):
            modules = cls(configs, adapter.recogniser)
        for kind, part in adapter.parts.items():
            for name in part.names:
                stored = adapter.read_tensor(kind, name)
                modules.stored_dtypes[name] = stored.dtype
                owner, _, leaf = name.rpartition(".")
                setattr(modules.get_submodule(owner), leaf, nn.Parameter(stored.to(torch.float32, copy=True)))
        return modules

    def find_id_layer(self, block: int) -> IDAdapterLayer | None:
        """Give the ID layer of a block, if it has one."""
        key = str(block)
        return cast(IDAdapterLayer, self.id[key]) if key in self.id else None

    def find_ref_layer(self, block: int) -> RefAdapterLayer | None:
        """Give the reference layer of a block, if it has one."""
        key = str(block)
        return cast(RefAdapterLayer, self.ref[key]) if key in self.ref else None

    def canonical_state(self) -> dict[str, Tensor]:
        """Give the weights by canonical name, low-rank updates merged in; detached, not copied."""
        merged = {
            f"{name}.weight": module.merge_weight()
            for name, module in self.named_modules()
            if isinstance(module, LowRankLinear)
        }
        state = {**self.state_dict(), **merged}
        return {name: state[name].detach() for name in self.stored_dtypes}

    def save(
        self,
        path: Path | str,
        *,
        dtype: torch.dtype | None = None,
        state: Mapping[str, Tensor] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write this pack's single file, with configuration and recogniser in it.

        Args:
            dtype: to store in; by default what each tensor was read in, float32 if it is new.
            state: other weights of the same adapter by canonical name, such as averaged ones.

        Raises:
            AdapterError: when the file is there already, a weight is not finite, or the disk
                is full or refuses.
        """
        tensors = {
            name: tensor.to(dtype or self.stored_dtypes[name])
            for name, tensor in (state or self.canonical_state()).items()
        }
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor.float()).all():
                raise AdapterError(
                    f"{name} holds values that are NaN or infinite in {tensor.dtype}, so {path} was not written; "
                    "save in a wider dtype, or go back to an earlier checkpoint."
                )
        save_single_file(path, tensors, self.configs.parts, self.recogniser, overwrite=overwrite)

    def export_release(
        self, folder: Path | str, *, dtype: torch.dtype | None = None, overwrite: bool = False
    ) -> list[Path]:
        """Write the files of the release's layout.

        Raises:
            AdapterError: as `save`, or when the layout cannot express the adapter.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as beside:
            single = Path(beside) / "adapter.safetensors"
            self.save(single, dtype=dtype)
            return convert_adapter(
                open_adapter(single, name=folder.name), "release", folder, overwrite=overwrite
            )

    def init_resampler_from(self, path: Path | str) -> ResamplerStart:
        """Start the resampler from InstantID's `ip-adapter.bin` or a release's resampler.

        Takes every tensor whose name and shape fit.

        Raises:
            AdapterError: when this adapter or the file has no resampler, or nothing fits.
        """
        if self.resampler is None:
            raise AdapterError(f"this adapter has no resampler to start from {path}; it is reference only.")
        part = next(
            (part for part in find_parts(open_tensor_file(Path(path))) if part.kind == "resampler"), None
        )
        if part is None:
            raise AdapterError(
                f"{path} holds no resampler; give InstantID's ip-adapter.bin or resampler.safetensors."
            )
        left_out = []
        for leaf, parameter in self.resampler.named_parameters():
            name = canonical_name("resampler", None, leaf)
            if part.shapes.get(name) == tuple(parameter.shape):
                parameter.data.copy_(part.file.read(part.names[name]).reshape(parameter.shape))
            else:
                left_out.append(leaf)
        if len(left_out) == len(list(self.resampler.parameters())):
            raise AdapterError(
                f"nothing of the resampler in {path} fits: it is {part.config}, this is {self.configs.resampler}."
            )
        return ResamplerStart(part.recogniser, tuple(left_out))

    def init_ref_keys_from(self, projections: Sequence[nn.Linear]) -> None:
        """Start the Ref-adapter's keys as the base's own, by block; biases it has none for are left out."""
        for name, layer in self.ref.items():
            key, own = cast(nn.Linear, layer.to_k_ref), projections[int(name)]
            key.weight.data.copy_(own.weight)
            if key.bias is not None and own.bias is not None:
                key.bias.data.copy_(own.bias)

    def add_low_rank(self, rank: int, alpha: float, seed: int) -> None:
        """Train low-rank updates of the layers' projections only, everything else frozen.

        Raises:
            ValueError: when the rank is below 1, or there are low-rank updates already.
        """
        self.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer in (*self.id.values(), *self.ref.values()):
                for name, linear in list(layer.named_children()):
                    setattr(layer, name, LowRankLinear(cast(nn.Linear, linear), rank, alpha))
