"""Frame packing: which samples of any size and length share one sequence, and in which step it runs.

One sample per step leaves half of a budget of 33,600 tokens empty; first fit over 32 open packs fills
97 % and more of it (`benchmarks/packing.py`). Equal tokens are not equal time, as attention grows
with the square of each sample's length: packs of like cost are therefore put in one step, so that
no process waits. The cost of a sample of S tokens is KnapFormer's, 24 S d^2 + 4 g S^2 d (arXiv
2508.06001). The packing idea is NaViT's (arXiv 2307.06304), the order that of an online first fit.

A plan is a pure function of its arguments, and the number of processes is none of them: packs are
planned for all processes together and dealt out afterwards, so that another number of them runs the
same packs in the same steps. Every process computes the plan, nothing is sent and nothing is stored
but (seed, epoch, index). Of a large dataset a part at a time is planned: 2^20 samples take about 2 s.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..rng import ORDER_OF_RANKS, ORDER_OF_SAMPLES, ORDER_OF_STEPS, random_bits, shuffled
from ..spec import LynxError
from ..tokens import LatentShape, count_tokens
from .configuration_file import SettingChecks

Oversize = Literal["refuse", "trim"]
_NAMED_IN_ERRORS = 3


class PackingError(LynxError):
    """Samples that cannot be packed as configured; says which, what was seen, and the way out."""


@dataclass(frozen=True)
class PackingConfig:
    """How samples are packed."""

    max_tokens: int = 33_600
    """Token budget of a pack, which one process runs at a time; 33,600 are 81 frames of 640x640 px, as published."""
    window: int = 32
    """Packs that are open at a time; more fill better, and mix samples from further apart."""
    oversize: Oversize = "refuse"
    """A sample longer than the budget: "refuse" stops the run and names it; "trim" drops latent frames from
    its end until it fits (the VAE is causal, so what stays is what a shorter clip gives)."""
    model_dim: int = 5120
    """Width d of the backbone, for the estimate of cost."""
    attention_weight: float = 1.0
    """g: how much slower a FLOP of attention is than one of the linear layers."""

    def __post_init__(self) -> None:
        with SettingChecks("packing", self) as check:
            check.at_least(1, "max_tokens", "window", "model_dim")
            check.at_least(0, "attention_weight")


@dataclass(frozen=True)
class PackingReport:
    """What a plan costs and what it leaves unused."""

    num_samples: int
    """Placed in packs."""
    num_packs: int
    num_steps: int
    fill: float
    """Tokens over budget of all scheduled packs, 0 to 1."""
    imbalance: float
    """Estimated time lost to waiting: sum over steps of the dearest pack over that of the mean pack."""
    num_split: int
    """Packs that were split in two, so that the last step is full."""

    def __str__(self) -> str:
        text = (
            f"{self.num_samples} samples in {self.num_packs} packs, {self.num_steps} steps, fill {self.fill:.1%}, "
            f"dearest pack of a step {self.imbalance:.3f} of the mean"
        )
        if self.num_split:
            text += f"; {self.num_split} packs split so that the last step is full"
        return text


@dataclass(frozen=True, eq=False)
class PackPlan:
    """The packs of one epoch, or of a part of it, in the order in which they run."""

    samples: np.ndarray
    """Indices of samples, pack after pack."""
    starts: np.ndarray
    """Where each pack begins in `samples`, [packs + 1] int64."""
    order: np.ndarray
    """Number of the pack that runs first, second, ..., [packs] int64."""
    report: PackingReport

    def __len__(self) -> int:
        return len(self.order)

    def pack(self, index: int) -> list[int]:
        """Indices of the samples of the pack that runs at place `index`."""
        number = self.order[index]
        return self.samples[self.starts[number] : self.starts[number + 1]].tolist()


@dataclass(frozen=True, eq=False)
class FittedLengths:
    """Token counts that fit the budget."""

    lengths: np.ndarray
    """Tokens of each sample, int64."""
    trimmed: dict[int, int]
    """Index of each trimmed sample -> latent frames it keeps."""


def fit_to_budget(
    shapes: np.ndarray | Sequence[LatentShape],
    config: PackingConfig,
    names: Sequence[str] | None = None,
    num_samples: int | None = None,
) -> FittedLengths:
    """Token counts under the rule for over-long samples.

    Args:
        shapes: latent frames, height and width of each sample.
        config: budget and rule.
        names: what messages call the first of the samples, by default their number.
        num_samples: of the dataset, of which these are a part.

    Raises:
        PackingError: for over-long samples under "refuse", and under "trim" for one of which not even
            a single latent frame fits.
    """
    sides = np.asarray(shapes, dtype=np.int64).reshape(-1, 3)
    lengths = count_tokens(sides.T)
    per_frame = lengths // sides[:, 0]
    over = np.flatnonzero(lengths > config.max_tokens)
    hopeless = over if config.oversize == "refuse" else over[per_frame[over] > config.max_tokens]
    if len(hopeless):
        shown = ", ".join(
            f"{names[i] if names and i < len(names) else i} ({lengths[i]} tokens)"
            for i in hopeless[:_NAMED_IN_ERRORS]
        )
        more = f" and {len(hopeless) - _NAMED_IN_ERRORS} more" if len(hopeless) > _NAMED_IN_ERRORS else ""
        way = (
            'set packing.oversize = "trim" to shorten them, decode fewer frames or pixels, or raise packing.max_tokens'
            if config.oversize == "refuse"
            else "a single frame of these does not fit; decode fewer pixels, or raise packing.max_tokens"
        )
        raise PackingError(
            f"{len(hopeless)} of {num_samples or len(lengths)} samples are longer than the budget of {config.max_tokens} tokens: "
            f"{shown}{more}; {way}"
        )
    kept = config.max_tokens // per_frame[over]
    lengths[over] = kept * per_frame[over]
    return FittedLengths(lengths, {int(i): int(frames) for i, frames in zip(over, kept, strict=True)})


def estimate_flops(lengths: np.ndarray, config: PackingConfig) -> np.ndarray:
    """Forward FLOPs of one block for samples of these lengths, float64: 24 S d^2 + 4 g S^2 d."""
    tokens = np.asarray(lengths, dtype=np.float64)
    dim = float(config.model_dim)
    return 24 * tokens * dim**2 + 4 * config.attention_weight * tokens**2 * dim


def plan_packs(lengths: np.ndarray, budget: int, window: int) -> np.ndarray:
    """First fit, in the order given: the pack number of each sample, int64.

    A sample goes into the oldest open pack with room. Where none has any, a new one is opened; when
    `window` are open already, the fullest is closed for it. Packs with no room for the shortest
    sample close by themselves.
    """
    shortest = int(lengths.min())
    room: list[int] = []
    numbers: list[int] = []
    pack_of = array("q")
    num_packs = 0
    for length in lengths.tolist():
        for slot, free in enumerate(room):
            if free >= length:
                room[slot] = free - length
                break
        else:
            if len(room) == window:
                fullest = room.index(min(room))
                del room[fullest], numbers[fullest]
            slot = len(room)
            room.append(budget - length)
            numbers.append(num_packs)
            num_packs += 1
        pack_of.append(numbers[slot])
        if room[slot] < shortest:
            del room[slot], numbers[slot]
    return np.frombuffer(pack_of, dtype=np.int64)


def group_by_flops(
    costs: np.ndarray, packs_per_step: int, seed: int, epoch: int, part: int = 0
) -> np.ndarray:
    """The order of packs, [packs] int64, packs of like cost in one step.

    Packs are sorted by cost and cut into steps; then the steps, and the packs within each, are
    shuffled, so that neither cost nor kind drifts over the epoch. Packs that fill no step come last.
    """
    by_cost = np.argsort(-costs, kind="stable")
    num_full = len(costs) // packs_per_step * packs_per_step
    steps = by_cost[:num_full].reshape(-1, packs_per_step)
    steps = steps[shuffled(len(steps), seed, ORDER_OF_STEPS, epoch, part)]
    bits = random_bits(steps.size, seed, ORDER_OF_RANKS, epoch, part).reshape(steps.shape)
    mixed = np.take_along_axis(steps, np.argsort(bits, axis=1, kind="stable"), axis=1)
    return np.concatenate([mixed.reshape(-1), by_cost[num_full:]])


def plan_epoch(
    lengths: np.ndarray | Sequence[int],
    config: PackingConfig,
    *,
    seed: int,
    epoch: int,
    packs_per_step: int,
    items: np.ndarray | Sequence[int] | None = None,
) -> PackPlan:
    """All packs of one epoch, a pure function of the arguments.

    Args:
        lengths: tokens of every sample of the dataset.
        config: budget and window.
        seed, epoch: 0 or more; give the order of the samples.
        packs_per_step: of all processes together.
        items: indices into `lengths` of the samples of this epoch, repeats allowed; all when None.

    Raises:
        PackingError: for no samples, or a sample longer than the budget.
    """
    all_lengths = np.asarray(lengths)
    chosen = np.arange(len(all_lengths)) if items is None else np.asarray(items, dtype=np.int64)
    order = chosen[shuffled(len(chosen), seed, ORDER_OF_SAMPLES, epoch)]
    return plan_part(order, all_lengths[order], config, seed=seed, epoch=epoch, packs_per_step=packs_per_step)


def plan_part(
    samples: np.ndarray,
    lengths: np.ndarray,
    config: PackingConfig,
    *,
    seed: int,
    epoch: int,
    packs_per_step: int,
    part: int = 0,
) -> PackPlan:
    """The packs of a part of an epoch, whose samples are in their shuffled order.

    Where the packs do not divide into steps, those with the most samples are split in two until they do.
    When there are too few samples for that, the last step takes packs of what follows.

    Args:
        samples: indices, each of them once for each time that it is drawn.
        lengths: tokens of each of them.
        part: its number in the epoch.

    Raises:
        PackingError: as `plan_epoch`.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    _check_lengths(lengths, config)
    pack_of = plan_packs(lengths, config.max_tokens, config.window)
    by_pack = np.argsort(pack_of, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(pack_of))])
    costs = estimate_flops(lengths, config)
    places, starts, num_split = _split_packs(by_pack, starts, costs[by_pack], packs_per_step)
    num_packs = len(starts) - 1
    pack_costs = np.add.reduceat(costs[places], starts[:-1])
    order = group_by_flops(pack_costs, packs_per_step, seed, epoch, part)
    report = PackingReport(
        num_samples=len(samples),
        num_packs=num_packs,
        num_steps=-(-num_packs // packs_per_step),
        fill=float(lengths.sum() / (num_packs * config.max_tokens)),
        imbalance=_measure_imbalance(pack_costs[order], packs_per_step),
        num_split=num_split,
    )
    return PackPlan(samples[places], starts, order, report)


def _measure_imbalance(ordered_costs: np.ndarray, packs_per_step: int) -> float:
    num_full = len(ordered_costs) // packs_per_step * packs_per_step
    if not num_full:
        return 1.0
    steps = ordered_costs[:num_full].reshape(-1, packs_per_step)
    return float(steps.max(1).sum() / steps.mean(1).sum())


def _check_lengths(lengths: np.ndarray, config: PackingConfig) -> None:
    if not len(lengths):
        raise PackingError("there is no sample to pack; see the counts of the manifest and the quarantine")
    if lengths.min() < 1:
        raise PackingError(f"a sample has at least one token, got {lengths.min()}")
    if lengths.max() > config.max_tokens:
        raise PackingError(
            f"{int((lengths > config.max_tokens).sum())} samples are longer than the budget of {config.max_tokens} tokens, "
            f"the longest has {lengths.max()}; apply fit_to_budget first"
        )


def _split_packs(
    samples: np.ndarray, starts: np.ndarray, costs: np.ndarray, packs_per_step: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Split the packs with the most samples until the number of packs divides by `packs_per_step`.

    Nothing is split when that cannot be reached.

    Returns:
        Samples and starts as before, the halves in front, and how many packs were split.
    """
    sizes = np.diff(starts)
    missing = -len(sizes) % packs_per_step
    if not missing or (sizes - 1).sum() < missing:
        return samples, starts, 0
    candidates = np.argsort(-sizes, kind="stable")[:missing]
    # Minus the size, a number that breaks ties, and the places in `samples`.
    heap = [
        (-int(sizes[pack]), number, np.arange(starts[pack], starts[pack + 1]))
        for number, pack in enumerate(candidates)
    ]
    heapq.heapify(heap)
    for split in range(missing):
        _, number, places = heapq.heappop(heap)
        first, second = _halve(places, costs)
        heapq.heappush(heap, (-len(first), number, first))
        heapq.heappush(heap, (-len(second), len(candidates) + split, second))
    halves = [places for _, _, places in sorted(heap, key=lambda entry: entry[1])]
    stays = np.ones(len(sizes), dtype=bool)
    stays[candidates] = False
    places = np.concatenate([*halves, np.flatnonzero(np.repeat(stays, sizes))])
    new_sizes = np.concatenate([[len(half) for half in halves], sizes[stays]])
    return samples[places], np.concatenate([[0], np.cumsum(new_sizes)]), missing


def _halve(places: np.ndarray, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two packs of like cost: the dearest sample first, each to the cheaper half."""
    halves: tuple[list[int], list[int]] = ([], [])
    totals = [0.0, 0.0]
    for place in sorted(places.tolist(), key=lambda place: (-costs[place], place)):
        side = int(totals[1] < totals[0])
        halves[side].append(place)
        totals[side] += float(costs[place])
    return np.array(halves[0], dtype=np.int64), np.array(halves[1], dtype=np.int64)
