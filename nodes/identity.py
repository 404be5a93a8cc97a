"""An identity on its way through the graph: what the sockets carry and what sampling sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import comfy.model_management
import comfy.model_patcher
from torch import Tensor

from ..lynx_core.models.baking import KeyValues

COND_KEY = "lynx"

Kind = Literal["id", "ref"]


@dataclass(frozen=True)
class FaceID:
    """LYNX_ID: a face embedding and the network that made it."""

    embedding: Tensor
    """[512], unit length."""

    embedder: str
    """Canonical name; an adapter only understands the embedder it was trained on."""


@dataclass(frozen=True)
class BaseModel:
    """What a baked reference depends on: a Wan model, told by its content."""

    name: str
    dim: int
    num_blocks: int
    checksum: str


@dataclass(frozen=True)
class BakedPart:
    """Keys and values of one adapter part for one identity, counted by the host's memory management."""

    key_values: KeyValues
    patcher: Any = field(repr=False)


@dataclass(frozen=True)
class Reference:
    """LYNX_REFERENCE: a face baked through one base model, and the null face with it."""

    face: BakedPart
    null: BakedPart
    base: BaseModel
    adapter_name: str


@dataclass(frozen=True)
class Term:
    """One extra attention of one conditioning: keys and values, and how they act."""

    kind: Kind
    key_values: KeyValues
    strength: float
    start_percent: float
    end_percent: float
    blocks: frozenset[int]
    skip_frames: int = 0
    """Leading latent frames that stay without this term (VACE's reference frames)."""

    base: BaseModel | None = None
    """The model that the keys and values were baked through; None where any of the right size will do."""


@dataclass(frozen=True)
class IdentityRows:
    """Terms of each conditioning that the host put into one batch, in order."""

    terms: list[tuple[Term, ...]]


class LynxCond:
    """The host's COND interface for an identity.

    Own class, because the host's would copy the keys and values every step, or refuse to
    batch positive with negative, or slice them by frame in a context window.
    """

    def __init__(self, terms: tuple[Term, ...]) -> None:
        self.terms = terms

    def process_cond(self, **_: Any) -> LynxCond:
        return self

    def can_concat(self, other: Any) -> bool:
        return type(other) is type(self)

    def concat(self, others: list[LynxCond]) -> IdentityRows:
        return IdentityRows([self.terms, *(other.terms for other in others)])

    def size(self) -> list[int]:
        return [1]


def carries_identity(conditioning: Any) -> bool:
    """Tell whether any entry of a conditioning carries an identity, the null identity too.

    Args:
        conditioning: a host CONDITIONING, or what a guider made of one (its `conds`); None carries nothing.
    """
    return any(find_terms(entry) for entry in conditioning or [])


def find_terms(entry: Any) -> tuple[Term, ...]:
    """Give the terms of one entry of a CONDITIONING, or of a guider's `conds`."""
    options = entry if isinstance(entry, dict) else entry[1]
    cond = options.get("model_conds", {}).get(COND_KEY)
    return cond.terms if isinstance(cond, LynxCond) else ()


def register_part(key_values: KeyValues) -> BakedPart:
    """Hand baked keys and values to the host's memory management."""
    patcher_type = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return BakedPart(
        key_values,
        patcher_type(
            key_values,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        ),
    )


class BakedParts:
    """The last baked parts, by what they depend on: nothing is baked twice, and memory stays bounded."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.parts: dict[tuple[str, ...], BakedPart] = {}

    def find_or_bake(self, key: tuple[str, ...], bake: Callable[[], KeyValues]) -> BakedPart:
        """Give the part of this key; the one that was asked for longest ago makes room for a new one."""
        part = self.parts.pop(key, None) or register_part(bake())
        self.parts[key] = part
        while len(self.parts) > self.most:
            self.parts.pop(next(iter(self.parts)))
        return part


def add_terms(conditioning: list[Any], terms: tuple[Term, ...], parts: list[BakedPart]) -> list[Any]:
    """Give every entry of a host CONDITIONING these terms, beside those it has."""
    out = []
    for embedding, options in conditioning:
        options = options.copy()
        model_conds = dict(options.get("model_conds", {}))
        before = model_conds[COND_KEY].terms if COND_KEY in model_conds else ()
        model_conds[COND_KEY] = LynxCond(before + terms)
        models = options.get("additional_models", [])
        options["model_conds"] = model_conds
        options["additional_models"] = (models if isinstance(models, list) else [models]) + [
            p.patcher for p in parts
        ]
        out.append([embedding, options])
    return out
