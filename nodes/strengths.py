"""How strongly a part acts over time and depth: curves and weights of blocks, written as text."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

ALL_BLOCKS = "all"
CONSTANT = "constant"

BLOCK_SHARES: dict[str, tuple[float, float]] = {
    ALL_BLOCKS: (0.0, 1.0),
    "first half": (0.0, 0.5),
    "second half": (0.5, 1.0),
    "middle half": (0.25, 0.75),
}
"""Named ranges, as shares of the depth that the adapter reaches."""

CURVES: dict[str, tuple[tuple[float, float], ...]] = {
    CONSTANT: ((0.0, 1.0),),
    "ease in": ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0)),
    "ease out": ((0.5, 1.0), (0.75, 0.5), (1.0, 0.0)),
    "weak middle": ((0.0, 1.0), (0.5, 0.3), (1.0, 1.0)),
    "weak ends": ((0.0, 0.3), (0.5, 1.0), (1.0, 0.3)),
}
"""Points (share of sampling, factor on the strength); straight lines between them, level beyond them."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"


@dataclass(frozen=True)
class StrengthCurve:
    """A factor on the strength that changes over sampling.

    Raises:
        ValueError: for no points, points out of order or outside 0 to 1, and factors beyond -10 to 10.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("a curve needs at least one point")
        times = [time for time, _ in self.points]
        if any(not 0.0 <= time <= 1.0 for time in times):
            raise ValueError(
                f"the points of a curve lie between 0 and 1, got {', '.join(f'{t:g}' for t in times)}"
            )
        if any(later <= earlier for earlier, later in pairwise(times)):
            raise ValueError(
                f"the points of a curve rise from 0 to 1, each later than the one before, got "
                f"{', '.join(f'{t:g}' for t in times)}"
            )
        if any(not -10.0 <= factor <= 10.0 for _, factor in self.points):
            raise ValueError("the factors of a curve lie between -10 and 10")

    def at(self, percent: float) -> float:
        """Give the factor at a share of sampling, 0 to 1."""
        times = [time for time, _ in self.points]
        after = bisect_right(times, percent)
        if after == 0 or after == len(times):
            return self.points[max(after - 1, 0)][1]
        (start, low), (end, high) = self.points[after - 1 : after + 1]
        return low + (high - low) * (percent - start) / (end - start)

    @property
    def is_constant(self) -> bool:
        return all(factor == 1.0 for _, factor in self.points)


def parse_curve(text: str) -> StrengthCurve:
    """Read the name of a curve, or points such as '0:1, 0.5:0.3, 1:1'.

    Raises:
        ValueError: naming the part that is no point.
    """
    name = text.strip().lower()
    if name in CURVES:
        return StrengthCurve(CURVES[name])
    points = []
    for part in text.split(","):
        match = re.fullmatch(rf"\s*({_NUMBER})\s*:\s*({_NUMBER})\s*", part)
        if match is None:
            raise ValueError(
                f"curve {text!r}: {part.strip()!r} is no point; write {', '.join(map(repr, CURVES))}, or points such as "
                "'0:1, 0.5:0.3, 1:1' (share of sampling : factor)"
            )
        points.append((float(match[1]), float(match[2])))
    try:
        return StrengthCurve(tuple(points))
    except ValueError as error:
        raise ValueError(f"curve {text!r}: {error}") from error


@dataclass(frozen=True)
class BlockRange:
    """Blocks `first` to `last`, both included, and the factor on the strength in them."""

    first: int
    last: int
    weight: float = 1.0


def parse_blocks(text: str) -> tuple[BlockRange, ...] | str:
    """Read '0-9, 20:0.5, 30-39' as ranges, or give the name of a range that depends on the depth.

    Raises:
        ValueError: naming the part that is neither a number nor a range.
    """
    name = text.strip().lower()
    if name in BLOCK_SHARES:
        return name
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(rf"\s*(\d+)\s*(?:-\s*(\d+)\s*)?(?::\s*({_NUMBER})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        weight = float(match[3]) if match and match[3] else 1.0
        if first > last or not -10.0 <= weight <= 10.0:
            raise ValueError(
                f"blocks {text!r}: {part.strip()!r} is no block number or range; write for example '0-9, 20, 30-39', "
                f"'0-20:1, 25:0.5' (a weight of -10 to 10 behind the colon), or {', '.join(map(repr, BLOCK_SHARES))}"
            )
        ranges.append(BlockRange(first, last, weight))
    return tuple(ranges)


def weigh_blocks(text: str, available: tuple[int, ...]) -> dict[int, float]:
    """Give the weight of each block that is chosen, of those that an adapter has layers in.

    The last range that names a block counts. A weight of 0 leaves the block out.

    Raises:
        ValueError: when the text cannot be read, or chooses none of them.
    """
    chosen = parse_blocks(text)
    if isinstance(chosen, str):
        start, end = BLOCK_SHARES[chosen]
        depth = available[-1] + 1
        ranges: tuple[BlockRange, ...] = (BlockRange(int(start * depth), int(end * depth) - 1),)
    else:
        ranges = chosen
    weights: dict[int, float] = {}
    for block in available:
        found = [part.weight for part in ranges if part.first <= block <= part.last]
        if found and found[-1]:
            weights[block] = found[-1]
    if not weights:
        raise ValueError(
            f"blocks {text!r} holds none of the blocks this adapter acts in ({available[0]} to {available[-1]}): write "
            f"for example 'all' or '{available[0]}-{available[-1]}'"
        )
    return weights
