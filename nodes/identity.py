"""An identity on its way through the graph: what the sockets carry and what sampling sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import comfy.model_management
import comfy.model_patcher
from torch import Tensor

from ..lynx_core.models.kv_cache import KVCache

COND_KEY = "lynx"

Kind = Literal["id", "ref"]


@dataclass(frozen=True)
class FaceID:
    """LYNX_ID: a face embedding and the network that made it."""

    embedding: Tensor
    """[512], unit length."""

    recogniser: str
    """Canonical name; an adapter only understands the recogniser it was trained on."""


@dataclass(frozen=True)
class BaseModel:
    """What a baked reference depends on: a Wan model, told by its content."""

    name: str
    dim: int
    num_blocks: int
    checksum: str


@dataclass(frozen=True)
class IdentityKV:
    """Keys and values of one adapter part for one identity, counted by the host's memory management."""

    kv_cache: KVCache
    patcher: Any = field(repr=False)


@dataclass(frozen=True)
class Reference:
    """LYNX_REFERENCE: a face baked through one base model, and the null face with it."""

    face: IdentityKV
    null: IdentityKV
    base: BaseModel
    adapter_name: str


@dataclass(frozen=True)
class Injection:
    """One extra attention of one conditioning: keys and values, and how they act."""

    kind: Kind
    kv_cache: KVCache
    strength: float
    start_percent: float
    end_percent: float
    blocks: frozenset[int]
    skip_frames: int = 0
    """Leading latent frames that stay without this injection (VACE's reference frames)."""

    base: BaseModel | None = None
    """The model that the keys and values were baked through; None where any of the right size will do."""


class LynxCond:
    """The host's COND interface for an identity.

    Own class, because the host's would copy the keys and values every step, or refuse to
    batch positive with negative, or slice them by frame in a context window.
    """

    def __init__(
        self,
        injections: tuple[Injection, ...],
        text: Tensor | None = None,
        num_videos: int | None = None,
        area: tuple[int, ...] | None = None,
    ) -> None:
        self.injections = injections
        self.text = text
        """The text embedding that Lynx Apply saw beside it."""
        self.num_videos = num_videos
        """Videos in the latent batch, each a row of the model call; None before the host starts a call."""
        self.area = area
        """Sizes, then offsets of the part of the latent that the host cut out for it; None is all of it."""

    def process_cond(
        self, batch_size: int | None = None, area: Sequence[int] | None = None, **_: Any
    ) -> LynxCond:
        return LynxCond(self.injections, self.text, batch_size, None if area is None else tuple(area))

    def can_concat(self, other: Any) -> bool:
        return type(other) is type(self)

    def concat(self, others: list[LynxCond]) -> CondInjections:
        return CondInjections([self, *others])

    def size(self) -> list[int]:
        return [1]


@dataclass(frozen=True)
class CondInjections:
    """The identity of each conditioning that the host put into one batch, in order."""

    conds: list[LynxCond]

    @property
    def dtype(self) -> None:
        """The host asks every model keyword for its dtype: a model that carries Lynx takes this one away before.

        Raises:
            ValueError: always. Without it the host's model swallows the keyword, and the video is the base's.
        """
        raise ValueError(
            "The conditioning that is sampled carries a Lynx identity, but the MODEL of the sampler does not carry Lynx: "
            "the person would be missing from the video. Connect MODEL of the same Lynx Apply to this sampler. "
            "(ModelMergeSimple keeps Lynx of model1 alone; Wan 2.2 needs a Lynx Apply for each expert.) To sample "
            "without the person, take positive and negative from before Lynx Apply."
        )


def carries_identity(conditioning: Any) -> bool:
    """Tell whether any entry of a conditioning carries an identity, the null identity too.

    Args:
        conditioning: a host CONDITIONING, or what a guider made of one (its `conds`); None carries nothing.
    """
    return any(find_injections(entry) for entry in conditioning or [])


def find_injections(entry: Any) -> tuple[Injection, ...]:
    """Give the injections of one entry of a CONDITIONING, or of a guider's `conds`."""
    options = entry if isinstance(entry, dict) else entry[1]
    cond = options.get("model_conds", {}).get(COND_KEY)
    return cond.injections if isinstance(cond, LynxCond) else ()


def register_kv(kv_cache: KVCache) -> IdentityKV:
    """Hand baked keys and values to the host's memory management."""
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
    """The last baked parts, by what they depend on: nothing is baked twice, and memory stays bounded."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.parts: dict[tuple[str, ...], IdentityKV] = {}

    def get_or_compute(self, key: tuple[str, ...], bake: Callable[[], KVCache]) -> IdentityKV:
        """Give the part of this key; the one that was asked for longest ago makes room for a new one."""
        part = self.parts.pop(key, None) or register_kv(bake())
        self.parts[key] = part
        while len(self.parts) > self.most:
            self.parts.pop(next(iter(self.parts)))
        return part


def add_injections(
    conditioning: list[Any], injections: tuple[Injection, ...], parts: list[IdentityKV]
) -> list[Any]:
    """Give every entry of a host CONDITIONING these injections, beside those it has."""
    out = []
    for embedding, options in conditioning:
        options = options.copy()
        model_conds = dict(options.get("model_conds", {}))
        before = model_conds[COND_KEY].injections if COND_KEY in model_conds else ()
        model_conds[COND_KEY] = LynxCond(before + injections, embedding)
        models = options.get("additional_models", [])
        options["model_conds"] = model_conds
        options["additional_models"] = (models if isinstance(models, list) else [models]) + [
            p.patcher for p in parts
        ]
        out.append([embedding, options])
    return out
