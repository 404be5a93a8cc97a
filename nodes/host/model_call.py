"""One call of the model: which of its rows carry which identity, and which tokens are video.

Other nodes run an attention on part of the batch: row by row, in halves, or for one row alone.
Each attention counts the rows that it has done in this call, so that every row gets its own
identity. Where the rows do not add up, the call is refused: a guess could put one person into
another's video.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch import Tensor

from .conditioning import CondInjections, Injection, LynxCond
from .region import LatentPart, share_overlaps

FIRST_LATENT_DIM = 2
"""Of a latent [batch, channels, frames, height, width], the first dimension that is no batch and no channels."""

Places = tuple[tuple[slice | Tensor, Tensor | None], ...]
"""Tokens that get an injection (a run, or their numbers) and the weight of each; None weighs all of them 1."""


@dataclass(frozen=True)
class ActiveInjection:
    """One injection at work in one call."""

    injection: Injection
    strength: float
    """Of this step, before the factor of the block."""
    places: Places | None = field(default=None, compare=False)
    """None is every token in full."""
    place_key: object = None
    """Equal where `places` are, of one injection: tensors do not tell."""
    last_token: int = 0
    """One behind the video's last token."""

    def fits(self, num_tokens: int) -> bool:
        """Tell whether the tokens without it can be told in a row of `num_tokens`."""
        is_partial = self.injection.skip_frames or self.injection.region is not None
        return not is_partial or self.places is None or self.last_token <= num_tokens

    def choose_tokens(self, num_tokens: int) -> Places:
        """Give the tokens of a row; all of it where another node has cut some of the video's tokens out."""
        if self.places is None or self.last_token > num_tokens:
            return ((slice(0, num_tokens), None),)
        return self.places


@dataclass
class Segment:
    """Rows whose query was seen and whose output is yet to come."""

    num_rows: int
    row_shape: tuple[int, ...]
    residual: Tensor | None
    """What is added to the attention's output, [rows, tokens, dim]; None where nothing is."""


@dataclass
class RowCursor:
    """How far one attention has come with the rows of one call."""

    done: int = 0
    """Rows that have passed the output projection."""

    waiting: list[Segment] = field(default_factory=list)
    has_acted: bool = False
    is_foreign: bool = False
    """Whether the attention ran without the query or the output projection that an identity needs."""

    def count_seen(self) -> int:
        return self.done + sum(segment.num_rows for segment in self.waiting)

    def take(self, num_rows: int) -> list[Segment] | None:
        """Take the first waiting rows; None where fewer are waiting."""
        taken: list[Segment] = []
        while num_rows:
            if not self.waiting:
                return None
            segment = self.waiting.pop(0)
            if segment.num_rows > num_rows:
                segment, rest = split_segment(segment, num_rows)
                self.waiting.insert(0, rest)
            num_rows -= segment.num_rows
            taken.append(segment)
        self.done += sum(segment.num_rows for segment in taken)
        return taken


def split_segment(segment: Segment, num_rows: int) -> tuple[Segment, Segment]:
    sizes = (num_rows, segment.num_rows - num_rows)
    residuals = (None, None) if segment.residual is None else segment.residual.split(sizes)
    first, second = (
        Segment(size, segment.row_shape, residual) for size, residual in zip(sizes, residuals, strict=True)
    )
    return first, second


def add_segments(x: Tensor, segments: list[Segment]) -> Tensor:
    """Add the residuals of `segments` to the rows of `x`; never in `x` itself, which other nodes may hold."""
    if len(segments) == 1:
        residual = segments[0].residual
        return x if residual is None else residual.add_(x)
    parts = x.split([segment.num_rows for segment in segments])
    return torch.cat(
        [
            part if segment.residual is None else segment.residual.add_(part)
            for part, segment in zip(parts, segments, strict=True)
        ]
    )


class ModelCall:
    """The rows of one call of the model, and what each of them gets."""

    def __init__(self, actives: list[list[ActiveInjection]], num_rows: int) -> None:
        """Take the actives of each conditioning, in the order of the batch, and the rows of the batch."""
        # Rows that all get the same need no counting.
        self.actives = actives[:1] if all(i == actives[0] for i in actives) else actives
        self.num_rows = num_rows
        self.cursors: dict[int, RowCursor] = {}
        self.refusal: ValueError | None = None

    @property
    def counts_rows(self) -> bool:
        return len(self.actives) > 1

    def list_spans(self, start: int, num_rows: int) -> Iterator[tuple[slice, list[ActiveInjection]]]:
        """List which of `num_rows` rows, the first of them being row `start` of the call, get what."""
        if not self.counts_rows:
            yield slice(0, num_rows), self.actives[0]
            return
        rows_each = self.num_rows // len(self.actives)
        for index, actives in enumerate(self.actives):
            first = max(index * rows_each - start, 0)
            last = min((index + 1) * rows_each - start, num_rows)
            if first < last:
                yield slice(first, last), actives

    def refuse(self, message: str) -> NoReturn:
        """Stop the call; it is stopped at its end where another node catches this.

        Raises:
            ValueError: always.
        """
        self.refusal = ValueError(message)
        raise self.refusal


def start_call(
    model: Any,
    x: Tensor,
    t: Tensor,
    rows: CondInjections,
    window: Window | None,
    model_args: dict[str, Any],
    latent_size: Sequence[int] | None = None,
) -> ModelCall:
    """Work out what each conditioning of a call gets at this sigma.

    Args:
        window: the host's context window, or None.
        model_args: the call's other keywords.
        latent_size: frames, height and width of the whole latent; None where it is not known.

    Raises:
        ValueError: when the batch is not the one that the host made of the conditionings.
    """
    strengths = StepStrengths(model.model_sampling, float(t.max()))
    first_token = count_leading_tokens(model.diffusion_model, model_args)

    def inject(cond: LynxCond) -> list[ActiveInjection]:
        part = find_part(cond, x.shape[2:], window, model.diffusion_model.patch_size[1:], latent_size)
        grid = TokenGrid(part, first_token, x.device)
        opened = [(i, strength) for i in cond.injections if (strength := strengths.choose(i))]
        weights = grid.weigh_regions([i for i, _ in opened])
        placed = [
            grid.activate(injection, strength, weights.get(number))
            for number, (injection, strength) in enumerate(opened)
        ]
        return [active for active in placed if active.places != ()]

    call = ModelCall([inject(cond) for cond in rows.conds], len(x))
    if call.counts_rows:
        check_batch(rows, len(x))
    return call


class StepStrengths:
    """How strongly injections act at one sigma."""

    def __init__(self, model_sampling: Any, sigma: float) -> None:
        self.model_sampling, self.sigma = model_sampling, sigma

    def choose(self, injection: Injection) -> float:
        """Give the strength of this step; 0 outside of the window."""
        start, end = (
            self.model_sampling.percent_to_sigma(p) for p in (injection.start_percent, injection.end_percent)
        )
        if not end <= self.sigma <= start:
            return 0.0
        return injection.strength * (1.0 if injection.curve.is_constant else injection.curve.at(self.percent))

    @cached_property
    def percent(self) -> float:
        """The share of sampling at which the noise is this sigma: the host knows the way back alone."""
        low, high = 0.0, 1.0
        for _ in range(24):
            middle = (low + high) / 2
            if float(self.model_sampling.percent_to_sigma(middle)) > self.sigma:
                low = middle
            else:
                high = middle
        # The search never meets the ends of sampling to the last bit, and a curve may be 0 there.
        return round(high, 6)


@dataclass(frozen=True)
class TokenGrid:
    """The video's tokens in one row of a call, frame by frame, line by line."""

    part: LatentPart
    first_token: int
    device: torch.device

    @property
    def tokens_per_frame(self) -> int:
        return self.part.height * self.part.width

    @property
    def last_token(self) -> int:
        return self.first_token + len(self.part.frames) * self.tokens_per_frame

    def weigh_regions(self, injections: Sequence[Injection]) -> dict[int, Tensor]:
        """Give the weight of every token for the injections that have a region, by their place in the list.

        Where regions of one kind overlap, their people share the tokens.
        """
        weights: dict[int, Tensor] = {}
        for kind in ("id", "ref"):
            regions = {n: i.region for n, i in enumerate(injections) if i.kind == kind and i.region}
            if regions:
                found = [region.to_tokens(self.part, self.device) for region in regions.values()]
                weights.update(zip(regions, share_overlaps(found), strict=True))
        return weights

    def activate(self, injection: Injection, strength: float, weights: Tensor | None) -> ActiveInjection:
        """Put an injection on its tokens, with their weights where it has a region."""
        places = self.place(injection, weights)
        key = places if weights is None else self.part
        return ActiveInjection(injection, strength, places, key, self.last_token)

    def place(self, injection: Injection, weights: Tensor | None) -> Places | None:
        """Say which tokens get an injection: none in the leading frames it skips, and none outside its region."""
        if injection.kind == "id" and weights is None:
            return None
        kept = [injection.kind == "id" or frame >= injection.skip_frames for frame in self.part.frames]
        if weights is None:
            return tuple((run, None) for run in list_runs(kept, self.first_token, self.tokens_per_frame))
        weights = weights * torch.tensor(kept, device=self.device).repeat_interleave(self.tokens_per_frame)
        index = weights.nonzero().flatten()
        return ((index + self.first_token, weights[index]),) if len(index) else ()


def check_batch(rows: CondInjections, num_rows: int) -> None:
    """Refuse a batch that another node has doubled or divided on its way to the model.

    Raises:
        ValueError: with both numbers of rows.
    """
    known = [cond.num_videos for cond in rows.conds]
    expected = sum(n for n in known if n is not None) if None not in known else None
    if num_rows % len(rows.conds) or num_rows != (expected or num_rows):
        raise ValueError(
            f"Another node changes the batch on its way to the model: it has {num_rows} rows where the sampler made "
            f"{expected if expected is not None else f'a multiple of {len(rows.conds)}'} of {len(rows.conds)} "
            "conditionings. Lynx cannot tell which row belongs to which person. Turn that node off, or sample at cfg 1, "
            "where all rows are of one conditioning."
        )


def count_leading_tokens(diffusion_model: Any, model_args: dict[str, Any]) -> int:
    """Count the tokens of a reference image that the host's Wan model puts in front of the video's."""
    reference = model_args.get("reference_latent")
    if getattr(diffusion_model, "ref_conv", None) is None or reference is None:
        return 0
    sizes = zip(reference.shape[-2:], diffusion_model.patch_size[1:], strict=True)
    return math.prod(size // patch for size, patch in sizes)


@dataclass(frozen=True)
class Window:
    """A context window of the host: what it takes of one axis of the latent."""

    axis: int
    """0 for frames, 1 for lines, 2 for columns."""
    places: Sequence[int]
    """In order."""


def read_window(model: Any, window: Any) -> Window | None:
    """Read a host context window; None where there is none, or it divides the batch.

    In front of it the host may put a frame from before it, and it may keep frames of the video's
    start in their places.
    """
    if window is None or window.dim < FIRST_LATENT_DIM:
        return None
    anchor = getattr(window, "causal_anchor_index", None)
    places = [*([anchor] if anchor is not None and anchor >= 0 else []), *window.index_list]
    handler = model.current_patcher.model_options.get("context_handler")
    for kept in getattr(handler, "latent_retain_index_list", None) or []:
        if kept < len(places):
            places[kept] = kept
    return Window(window.dim - FIRST_LATENT_DIM, places)


def find_part(
    cond: LynxCond,
    shape: Sequence[int],
    window: Window | None,
    patch: Sequence[int],
    latent_size: Sequence[int] | None,
) -> LatentPart:
    """Find which part of the video a conditioning's rows show.

    Args:
        shape: frames, height and width of the rows.
        patch: height and width of a token.
        latent_size: frames, height and width of the whole latent; None where it is not known.
    """
    frames, lines, columns = (list_places(cond, axis, count, window) for axis, count in enumerate(shape))
    # A sampler may go through other sizes; then what it gives the model is the whole.
    is_cut = cond.area is not None or (window is not None and window.axis > 0)
    height, width = latent_size[1:] if is_cut and latent_size is not None else (len(lines), len(columns))
    size = (max(height, *(line + 1 for line in lines)), max(width, *(column + 1 for column in columns)))
    return LatentPart(frames, lines, columns, size, (patch[0], patch[1]))


def list_places(cond: LynxCond, axis: int, count: int, window: Window | None) -> list[int]:
    """List which of the whole latent's places along an axis a conditioning's rows show, in order.

    The host cuts out a context window first, then the conditioning's area.
    """
    first = 0 if cond.area is None else cond.area[len(cond.area) // 2 + axis]
    last = first + count
    return (
        list(range(first, last)) if window is None or window.axis != axis else list(window.places[first:last])
    )


def list_runs(keep: Sequence[bool], first_token: int, tokens_per_frame: int) -> tuple[slice, ...]:
    """List the runs of tokens of the frames that are kept."""
    runs: list[slice] = []
    for i, is_kept in enumerate(keep):
        if not is_kept:
            continue
        start = first_token + i * tokens_per_frame
        if runs and runs[-1].stop == start:
            start = runs.pop().start
        runs.append(slice(start, first_token + (i + 1) * tokens_per_frame))
    return tuple(runs)
