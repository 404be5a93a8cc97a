"""Do the pairs matter? python -m miniature.pairs_experiment

Draws footage, makes three sets of pairs of it, trains an adapter on each for the same number of steps, samples videos
of people and captions that no training saw, and measures likeness, prompt following and copying. What is done is
kept; stop it at any moment, and the same command continues. Writes the tables of docs/curation_proof.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..encoders import unpack_encoders
from ..experiment.__main__ import mean_gallery
from ..experiment.cases import NUM_PEOPLE
from ..experiment.measures import Measured, Truth
from ..experiment.runs import Run
from ..experiment.sampling import SamplingSettings
from ..experiment.statistics import estimate_mean
from ..making import REPO_DIR
from .copying import COPIED, HARD, CopyBench, measure_copying, measure_hard_likeness
from .footage import write_backgrounds, write_footage
from .report import write_report
from .sets import ALL_KINDS, ARMS, BACKGROUND, FIRST_FRAME, make_sets
from .training import find_adapter, train_adapter

LIKENESS = ("cosine", HARD, "top1", "mark")
PROMPT = ("background", "action", "motion")
DIFFERENCES = ((ALL_KINDS, BACKGROUND), (BACKGROUND, FIRST_FRAME), (ALL_KINDS, FIRST_FRAME))


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(1)
    work, assets = arguments.work.resolve(), arguments.assets.resolve()
    write_footage(work / "footage", arguments.people, note)
    write_backgrounds(work / "backgrounds")
    if not (work / "tokenizer").is_dir():
        unpack_encoders(assets, work)
    make_sets(work, assets, note)
    for arm in ARMS:
        train_adapter(work, assets, arm, *arguments.steps)
        note(f"{arm}: trained")
    results = measure(work, assets, arguments.cases)
    results["settings"] = {
        "people": arguments.people,
        "steps": dict(zip(("images", "videos"), arguments.steps, strict=True)),
        "pairs": {arm: _count_kinds(work / "sets" / arm / "train.jsonl") for arm in ARMS},
        "cases": arguments.cases,
    }
    write_report(results, arguments.out)


def measure(work: Path, assets: Path, num_cases: int) -> dict[str, Any]:
    """All figures of the three adapters and of the base."""
    bench = CopyBench(work, assets, SamplingSettings())
    truth = Truth(bench.cases, mean_gallery(bench))
    runs = {"base": Run("base", 0, None)} | {arm: Run(arm, 0, find_adapter(work, arm)) for arm in ARMS}
    measured = {name: Measured(truth, [bench.run(run, num_cases, note)]) for name, run in runs.items()}
    values = {name: _collect(each, measured["base"]) for name, each in measured.items()}
    return {
        "measures": {name: _estimate(each) for name, each in values.items()},
        "differences": {
            f"{one} - {other}": _estimate({name: values[one][name] - values[other][name] for name in values[one]})
            for one, other in DIFFERENCES
        },
    }  # fmt: skip


def _collect(measured: Measured, base: Measured) -> dict[str, np.ndarray]:
    """Each measure as [cases]."""
    arrays = measured.arrays()
    found = {name: arrays[name][0].astype(float) for name in (*LIKENESS, *PROMPT) if name != HARD}
    copied = measure_copying(measured, base)
    return found | {HARD: measure_hard_likeness(measured)} | {name: copied[name] for name in COPIED}


def _estimate(values: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    return {name: estimate_mean(each[None]).as_json() for name, each in values.items()}


def _count_kinds(path: Path) -> dict[str, int]:
    kinds = [json.loads(line)["kind"] for line in path.read_text(encoding="utf-8").splitlines()]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def note(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m miniature.pairs_experiment", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("--people", type=int, default=400, help="in the footage (default: 400)")
    parser.add_argument(
        "--steps",
        type=int,
        nargs=2,
        default=[400, 600],
        metavar=("IMAGES", "VIDEOS"),
        help="of each training",
    )
    parser.add_argument("--cases", type=int, default=NUM_PEOPLE, help=f"up to {NUM_PEOPLE} (default: all)")
    parser.add_argument("--work", type=Path, default=Path(".miniature/pairs"))
    parser.add_argument("--assets", type=Path, default=REPO_DIR / "assets" / "mini")
    parser.add_argument("--out", type=Path, default=REPO_DIR / "docs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
