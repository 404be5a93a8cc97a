"""Many runs of changing graphs in one host: nothing piles up, and the first result comes back to the bit."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from wan_bench import WanBench

RUNS, MOST_GROWTH_MB = 30, 60


def test_a_short_session_leaves_nothing_behind(bench: WanBench) -> None:
    spec = importlib.util.spec_from_file_location("soak", Path(__file__).resolve().parents[1] / "soak.py")
    assert spec is not None and spec.loader is not None
    soak = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = soak
    spec.loader.exec_module(soak)
    soaked = soak.Soak(bench, seed=3).soak(RUNS)
    assert soaked.is_same
    assert soaked.leftovers == ()
    assert soaked.interrupted and soaked.failed
    assert soaked.grown_mb < MOST_GROWTH_MB
