"""An identity inside the host's CONDITIONING: which injections each entry carries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ..presets import StrengthCurve
from .base_model import BaseModel
from .identity import IdentityKV
from .region import Region

COND_KEY = "lynx"

Kind = Literal["id", "ref"]
Conditioning = list[Any]


@dataclass(frozen=True)
class Injection:
    """One extra attention of one conditioning: keys and values, and how they act."""

    kind: Kind
    kv: IdentityKV
    strength: float
    start_percent: float
    end_percent: float
    blocks: Mapping[int, float]
    """Block number to the factor on the strength there."""

    curve: StrengthCurve
    is_null: bool = False
    """Whether this is the null identity ("nobody"), which the negative conditioning carries."""

    skip_frames: int = 0
    """Leading latent frames that stay without this injection (VACE's reference frames)."""

    region: Region | None = None
    """Where in the picture it acts; None is everywhere."""

    base: BaseModel | None = None
    """The model that the keys and values were computed with; None where any of the right size will do."""

    source: object = None
    """What all injections of one Lynx Apply have in common, and no others."""


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


def find_cond(entry: Any) -> LynxCond | None:
    """Give the identity of one entry of a CONDITIONING, or of a guider's `conds`; None where it has none."""
    options = entry if isinstance(entry, dict) else entry[1]
    cond = options.get("model_conds", {}).get(COND_KEY)
    return cond if isinstance(cond, LynxCond) else None


def find_injections(entry: Any) -> tuple[Injection, ...]:
    """Give the injections of one entry of a CONDITIONING, or of a guider's `conds`."""
    cond = find_cond(entry)
    return cond.injections if cond else ()


def carries_identity(conditioning: Any) -> bool:
    """Tell whether any entry of a conditioning carries an identity, the null identity included.

    Args:
        conditioning: a host CONDITIONING, or what a guider made of one (its `conds`); None carries nothing.
    """
    return any(find_injections(entry) for entry in conditioning or [])


def carries_person(conditioning: Any) -> bool:
    """Tell whether any entry of a conditioning carries an identity that is not the null identity."""
    return any(not injection.is_null for entry in conditioning or [] for injection in find_injections(entry))


def count_sources(conditioning: Any) -> int:
    """Count the Lynx Apply that the entry of a conditioning which has passed most of them has passed."""
    sources = ({id(injection.source) for injection in find_injections(entry)} for entry in conditioning or [])
    return max(map(len, sources), default=0)


def list_people(conditioning: Any) -> dict[frozenset[int], tuple[Injection, ...]]:
    """List the different identities that the entries of a conditioning carry, the null identity included.

    The same keys and values are the same object, by which one identity is told from another.
    """
    carried = (find_injections(entry) for entry in conditioning or [])
    return {
        frozenset(id(i.kv.kv_cache) for i in injections): injections for injections in carried if injections
    }


def add_injections(conditioning: Conditioning, injections: Iterable[Injection]) -> Conditioning:
    """Give every entry of a host CONDITIONING these injections, beside those it has."""
    injections = tuple(injections)
    out = []
    for text, options in conditioning:
        cond = LynxCond((*find_injections((text, options)), *injections), text)
        options = {
            **options,
            "model_conds": {**options.get("model_conds", {}), COND_KEY: cond},
            "additional_models": [*list_models(options), *(i.kv.patcher for i in injections)],
        }
        out.append([text, options])
    return out


def remove_injections(conditioning: Conditioning) -> Conditioning:
    """Copy a host CONDITIONING without the identities in it."""
    out = []
    for text, options in conditioning:
        ours = {id(injection.kv.patcher) for injection in find_injections((text, options))}
        model_conds = {
            name: cond for name, cond in options.get("model_conds", {}).items() if name != COND_KEY
        }
        models = [model for model in list_models(options) if id(model) not in ours]
        out.append([text, {**options, "model_conds": model_conds, "additional_models": models}])
    return out


def list_models(options: dict[str, Any]) -> list[Any]:
    """List what the host loads beside the model for one entry of a CONDITIONING."""
    models = options.get("additional_models", [])
    return models if isinstance(models, list) else [models]


def make_middle(positive: Conditioning, negative: Conditioning) -> Conditioning:
    """Give each entry of the negative the identity of the positive, for triple guidance.

    Raises:
        ValueError: when the entries of the positive carry different identities.
    """
    people = list_people(positive)
    if len(people) > 1:
        raise ValueError(
            f"positive joins {len(people)} identities, so the middle conditioning cannot be made from it. Join "
            "the middle outputs of the same Lynx Apply nodes in the same way, and connect them to middle."
        )
    (injections,) = people.values()
    return add_injections(remove_injections(negative), injections)
