"""What of sharding, quantisation and offloading a run needs on a card of a given size, the fastest way first.

The order is by what each costs in speed: DDP is 3 to 6 times as fast as FSDP2 for small adapters (SimpleTuner, 8
H100); a sharded base is gathered block by block beside the computing; 8 bits are dequantised at each use; offloaded
blocks wait for the bus; an optimiser in 8 bits comes last, since it learns a little otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .configuration import TrainingConfig
from .configuration_file import ConfigurationError
from .estimate import BaseShape, estimate_memory

USABLE = 0.92
"""Of a card: the rest are the CUDA context, NCCL's buffers and gaps between tensors."""

_GB = 1e9
_MOST_PROCESSES = 1024

_SETUPS: tuple[dict[str, dict[str, Any]], ...] = (
    {"distributed": {"sharding": "ddp"}},
    {"distributed": {"sharding": "fsdp2"}},
    {"distributed": {"sharding": "fsdp2", "shard_base": True}},
    {"distributed": {"sharding": "ddp"}, "base": {"quantisation": "fp8"}},
    {"distributed": {"sharding": "fsdp2"}, "base": {"quantisation": "fp8"}},
    {"distributed": {"sharding": "ddp"}, "base": {"offload_blocks": True}},
    {"distributed": {"sharding": "fsdp2"}, "base": {"offload_blocks": True}},
    {
        "distributed": {"sharding": "ddp"},
        "base": {"quantisation": "fp8"},
        "optimizer": {"kind": "adamw8bit_torchao"},
    },
    {
        "distributed": {"sharding": "ddp"},
        "base": {"offload_blocks": True},
        "optimizer": {"kind": "adamw8bit_torchao"},
    },
)
_PLAIN: dict[str, dict[str, Any]] = {
    "distributed": {"sharding": "ddp", "shard_base": False, "shard_size": 0},
    "base": {"quantisation": "none", "offload_blocks": False},
}


@dataclass(frozen=True)
class Setup:
    """One way to run a configuration."""

    keys: str
    """As on the command line."""
    num_bytes: float
    """Of each device."""


def find_setups(config: TrainingConfig, shape: BaseShape, world_size: int) -> Iterator[Setup]:
    """The ways to run a configuration on so many processes, the fastest first; what cannot be is left out."""
    for setup in _SETUPS:
        chosen = {name: dict(keys) for name, keys in setup.items()}
        if setup["distributed"]["sharding"] == "fsdp2":
            if world_size == 1:
                continue
            if config.optimizer.kind != "adamw":
                chosen["optimizer"] = {"kind": "adamw"}
        if chosen.get("optimizer", {}).get("kind") == config.optimizer.kind:
            continue  # the same as without
        sections = {name: {**_PLAIN.get(name, {}), **chosen.get(name, {})} for name in (*_PLAIN, *chosen)}
        if chosen.get("base") or chosen["distributed"].get("shard_base"):
            sections["base"]["gradient_checkpointing"] = True
        try:
            parts = {name: replace(getattr(config, name), **keys) for name, keys in sections.items()}
            changed = replace(config, **parts)
        except ConfigurationError:  # with another key of this run
            continue
        shown = [
            f"{section}.{key}={_show(value)}"
            for section, keys in chosen.items()
            for key, value in keys.items()
        ]
        yield Setup(" ".join(shown), estimate_memory(changed, shape, world_size).total)


def _show(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def advise(config: TrainingConfig, shape: BaseShape, world_size: int, card_gb: float) -> Iterator[str]:
    """Lines for the user: what each way takes, the fastest that fits, or what it would take where none does."""
    room = USABLE * card_gb * _GB
    setups = list(find_setups(config, shape, world_size))
    yield f"ways to run it on {world_size} x {card_gb:.3g} GB, the fastest first ({room / _GB:.3g} GB usable):"
    for setup in setups:
        fits = "fits" if setup.num_bytes <= room else "does not fit"
        yield f"  {setup.keys}: {setup.num_bytes / _GB:.3g} GB, {fits}"
    found = _find_first(setups, room)
    own = estimate_memory(config, shape, world_size).total
    yield f"as configured it takes {own / _GB:.3g} GB and {'fits' if own <= room else 'does not fit'}"
    if found is not None:
        yield f"advice: {found.keys}"
    else:
        yield from _find_ways_out(config, shape, world_size, room, setups)


def _find_first(setups: Iterable[Setup], room: float) -> Setup | None:
    return next((setup for setup in setups if setup.num_bytes <= room), None)


def _find_ways_out(
    config: TrainingConfig, shape: BaseShape, world_size: int, room: float, setups: Sequence[Setup]
) -> Iterator[str]:
    """What it would take where nothing fits."""
    least = min(setups, key=lambda setup: setup.num_bytes)
    yield f"nothing fits; the least is {least.num_bytes / _GB:.3g} GB a card, by {least.keys}. It would take:"
    yield f"  cards of {least.num_bytes / USABLE / _GB:.0f} GB"
    for number in (2**power for power in range(1, _MOST_PROCESSES.bit_length())):
        if number <= world_size:
            continue
        more = _find_first(find_setups(config, shape, number), room)
        if more is not None:
            yield f"  {number} processes with {more.keys} ({more.num_bytes / _GB:.3g} GB each)"
            break
    sizes = (size for size in (2, 4, 8) if shape.num_heads % size == 0)
    for size in sizes:
        shared = replace(config, distributed=replace(config.distributed, sequence_parallel_size=size))
        number = max(size, world_size)
        fitting = _find_first(find_setups(shared, shape, number), room)
        if size > config.distributed.sequence_parallel_size and fitting is not None:
            yield f"  {number} processes, distributed.sequence_parallel_size={size} and {fitting.keys}"
            break
    tokens = config.packing.max_tokens
    while tokens > 1000:
        tokens //= 2
        shorter = replace(config, packing=replace(config.packing, max_tokens=tokens))
        fitting = _find_first(find_setups(shorter, shape, world_size), room)
        if fitting is not None:
            yield f"  packing.max_tokens={tokens} with {fitting.keys}"
            return
