"""The dry run's advice: what fits a card, the fastest first, and what it would take where nothing does."""

from __future__ import annotations

import pytest
from small_run import REPO_DIR

from lynx_core.training.advice import advise, find_setups
from lynx_core.training.configuration import read_configuration
from lynx_core.training.estimate import BaseShape, estimate_memory

WAN_14B = BaseShape(dim=5120, ff_dim=13824, num_blocks=40, text_dim=4096, num_heads=40)


def ask(num_cards: int, card_gb: float, *overrides: str) -> list[str]:
    config = read_configuration(REPO_DIR / "configs" / "paper_full.toml", ["adapter.init=", *overrides])
    return list(advise(config, WAN_14B, num_cards, card_gb))


@pytest.mark.parametrize(
    ("num_cards", "card_gb", "overrides", "advice"),
    [
        (8, 80, [], "distributed.sharding=fsdp2"),
        (8, 141, [], "distributed.sharding=ddp"),
        (8, 80, ["packing.max_tokens=75600"], "distributed.sharding=fsdp2 distributed.shard_base=true"),
        (
            8,
            40,
            ["distributed.sequence_parallel_size=8"],
            "distributed.sharding=fsdp2 distributed.shard_base=true",
        ),
        (
            1,
            24,
            ["adapter.variant=lite", "packing.max_tokens=16800"],
            "distributed.sharding=ddp base.offload_blocks=true",
        ),
        (1, 80, ["adapter.variant=lite"], "distributed.sharding=ddp"),
    ],
)
def test_the_fastest_way_that_fits_is_advised(
    num_cards: int, card_gb: float, overrides: list[str], advice: str
) -> None:
    assert ask(num_cards, card_gb, *overrides)[-1] == f"advice: {advice}"


def test_where_nothing_fits_it_says_what_it_would_take() -> None:
    for card_gb, ways in (
        (
            24,
            [
                "cards of 74 GB",
                "8 processes, distributed.sequence_parallel_size=8 and distributed.sharding=fsdp2",
            ],
        ),
        (40, ["cards of 74 GB", "8 processes with distributed.sharding=fsdp2 base.offload_blocks=true"]),
    ):
        lines = ask(1, card_gb)
        assert any(line.startswith("nothing fits; the least is 68.2 GB a card") for line in lines)
        taken = [line.strip() for line in lines if line.startswith("  ") and "fit" not in line]
        assert [line[: len(way)] for line, way in zip(taken, ways, strict=False)] == ways


def test_setups_are_those_that_a_run_takes() -> None:
    """The keys that are advised give a configuration of the very memory that was promised."""
    config = read_configuration(REPO_DIR / "configs" / "paper_full.toml", ["adapter.init="])
    setups = list(find_setups(config, WAN_14B, 8))
    assert len({setup.keys for setup in setups}) == len(setups) == 9
    for setup in setups:
        advised = read_configuration(
            REPO_DIR / "configs" / "paper_full.toml",
            ["adapter.init=", "distributed.sharding=ddp", *setup.keys.split()],
        )
        assert estimate_memory(advised, WAN_14B, 8).total == pytest.approx(setup.num_bytes)
