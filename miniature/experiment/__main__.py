"""Runs the experiment: python -m miniature.experiment

Videos of 128 people and captions that no training saw, by every variant and under every control, read by networks
of its own. What is done is kept; a second call does only what is missing. Writes results.json and the figures.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lynx_core.durable_file import write_durably

from ..adapters import GROWTH, SCRATCH, STAGE_ONE
from ..making import Making, add_device, choose_device
from .cases import NUM_PEOPLE, draw_gallery
from .measures import MEASURES, Measured, Truth, chances, compare, measure_swap
from .one_step import ONE_STEP_CASES, measure_one_step
from .points import WEIGHTS_NAME as POINTS_NAME
from .quality import FaceProbe, estimate_quality
from .report import PEOPLE_SHOWN, draw_contact_sheet, write_report
from .runs import Bench, Rows, Run
from .sampling import SamplingSettings

VARIANTS = ("base", "id_only", "ref_only", "full")
CONTROLS = ("swapped", "null", "zero", "stage1", "scratch", "strength", "one_step", "growth", "quality")
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
STRENGTH_CASES = 32
GROWTH_CASES = 64
_PARTS: dict[str, tuple[Any, ...]] = {"id_only": ("resampler", "id"), "ref_only": ("ref",)}


class Adapters:
    """Finds the adapter of a variant and seed.

    Args:
        folder: of `<variant>_seed<k>/adapter.safetensors`.
        given: other files, by variant or `<variant>_seed<k>`.
    """

    def __init__(self, folder: Path, given: dict[str, Path]) -> None:
        self.folder, self.given = folder, given
        self.used: dict[str, str] = {}

    def find(self, name: str) -> Path | None:
        """The file of a name, if there is one."""
        path = self.given.get(name, self.folder / name / "adapter.safetensors")
        return path if path.is_file() else None

    def plan(self, variant: str, seed: int) -> Run | None:
        """The run of a variant: its own adapter, else the full one without its other part."""
        name = f"{variant}_seed{seed}"
        if variant == "base":
            return Run("base", seed, None)
        own = self.find(name) or (self.given.get(variant) if seed == 0 else None)
        if own is not None:
            self.used[name] = "trained for itself"
            return Run(variant, seed, own)
        full = self.plan("full", seed) if variant != "full" else None
        if full is None:
            return None
        self.used[name] = "the full adapter with its other part left out"
        return replace(full, name=variant, parts=_PARTS[variant])

    def list_growth(self) -> dict[int, Path]:
        """The shipped adapter by the number of steps it was trained, as far as that was kept."""
        found = self.folder.glob(f"{GROWTH}*/adapter.safetensors")
        return dict(sorted((int(path.parent.name.removeprefix(GROWTH)), path) for path in found))


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    settings = SamplingSettings(steps=arguments.steps, guidance=arguments.guidance)
    device = choose_device(arguments.device)
    print(f"on the {device.type.upper()}", flush=True)
    bench = Bench(arguments.work, arguments.assets, settings, device)
    adapters = Adapters(arguments.work / "adapters", dict(_split(pair) for pair in arguments.adapter))
    truth = Truth(bench.cases, mean_gallery(bench))
    variants = _run_variants(bench, adapters, truth, arguments)
    if not variants:
        raise SystemExit(
            f"there is no adapter in {adapters.folder}, and base was not asked for; nothing was done"
        )
    results: dict[str, Any] = {name: measured.estimates() for name, measured in variants.items()}
    results["factors"] = {name: measured.factors() for name, measured in variants.items()}
    results["copy_paste"] = {name: measured.copy_paste() for name, measured in variants.items()}
    captions = {name: measured.by_caption() for name, measured in variants.items()}
    if any(captions.values()):
        results["captions"] = captions
    results["chance"] = chances(variants.get("base"))
    results["controls"] = _compare_all(variants) | _run_controls(bench, adapters, truth, variants, arguments)
    drawn = np.stack([case.draw_target() for case in bench.cases])
    ceiling = Measured(truth, [bench.read(drawn)])
    results["controls"]["drawn_targets"] = ceiling.estimates()
    if "quality" in arguments.variants and (arguments.assets / POINTS_NAME).is_file():
        results["quality"] = _measure_quality(bench, adapters, variants, arguments)
    results["settings"] = _describe(arguments, settings, adapters, variants)
    text = json.dumps(results, indent=1)
    write_durably(arguments.out / "results.json", (text + "\n").encode())
    _show(bench, adapters, variants, arguments.out)
    write_report(arguments.out)


def _run_variants(
    bench: Bench, adapters: Adapters, truth: Truth, arguments: argparse.Namespace
) -> dict[str, Measured]:
    # By seeds first, so that a stopped experiment has all variants of the first seed.
    rows: dict[str, list[Rows]] = {}
    for seed in arguments.seeds:
        for variant in arguments.variants:
            if variant in VARIANTS and (run := adapters.plan(variant, seed)) is not None:
                rows.setdefault(variant, []).append(bench.run(run, arguments.cases, _note))
    return {variant: Measured(truth, rows[variant]) for variant in VARIANTS if variant in rows}


def _run_controls(
    bench: Bench,
    adapters: Adapters,
    truth: Truth,
    variants: dict[str, Measured],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    full = adapters.plan("full", arguments.seeds[0])
    if full is None:
        return {}

    def measure(run: Run, count: int = arguments.cases) -> Measured:
        return Measured(truth, [bench.run(run, count, _note)])

    wanted = arguments.variants
    found: dict[str, Any] = {}
    if "swapped" in wanted:
        found["swapped_reference"] = measure_swap(measure(replace(full, name="swapped", photo="swapped")))
    if "null" in wanted:
        found["null_identity"] = measure(replace(full, name="null", photo="null")).estimates()
    if "zero" in wanted:
        found["zero_initialised"] = measure(replace(full, name="zero", zero_init=True)).estimates()
    for name, control in (("stage1", STAGE_ONE), ("scratch", SCRATCH)):
        path = adapters.find(control)
        if name in wanted and path is not None:
            found[control] = measure(Run(name, arguments.seeds[0], path)).estimates()
    if "strength" in wanted:
        count = min(STRENGTH_CASES, arguments.cases)
        runs = [replace(full, name=f"strength {strength}", strength=strength) for strength in STRENGTHS]
        found["strength"] = [{"strength": run.strength, **measure(run, count).estimates()} for run in runs]
    if "growth" in wanted:
        count = min(GROWTH_CASES, arguments.cases)
        steps = adapters.list_growth()
        found["growth"] = [
            {"steps": step, **measure(Run(f"step {step}", full.seed, path), count).estimates()}
            for step, path in steps.items()
        ]
    if "one_step" in wanted:
        count = min(ONE_STEP_CASES, arguments.cases)
        base = Run("base", full.seed, None)
        shown = {"base": base, "full": full}
        found["one_step"] = measure_one_step(bench, truth, shown, arguments.work, count)
    return found


def _measure_quality(
    bench: Bench, adapters: Adapters, variants: dict[str, Measured], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Of the drawn targets, of those after the VAE, of the base and of the full model."""
    probe = cache(partial(FaceProbe, arguments.assets))
    drawn = bench.inspect_drawn(arguments.cases, probe)
    target_rows, _ = drawn["drawn"]
    found = {sort: estimate_quality([rows], [faces], target_rows) for sort, (rows, faces) in drawn.items()}
    for variant in ("base", "full"):
        if variant in variants:
            runs = [adapters.plan(variant, seed) for seed in arguments.seeds]
            faces = [bench.inspect(run, arguments.cases, probe) for run in runs if run is not None]
            found[variant] = estimate_quality(variants[variant].rows, faces, target_rows)
            _note(f"quality of {variant}: {found[variant]}")
    return found


def _compare_all(variants: dict[str, Measured]) -> dict[str, Any]:
    base = variants.get("base")
    if base is None:
        return {}
    names = [*MEASURES, "motion_amount"]
    return {
        "difference_to_base": {
            name: compare(measured, base, names) for name, measured in variants.items() if name != "base"
        }
    }


def mean_gallery(bench: Bench) -> np.ndarray:
    pictures = draw_gallery()
    embeddings = bench.readers.embed(pictures.reshape(-1, *pictures.shape[2:])).reshape(
        *pictures.shape[:2], -1
    )
    mean = embeddings.mean(1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def _describe(
    arguments: argparse.Namespace,
    settings: SamplingSettings,
    adapters: Adapters,
    variants: dict[str, Measured],
) -> dict[str, Any]:
    return {
        "people": NUM_PEOPLE,
        "cases": arguments.cases,
        "seeds": {name: len(measured.rows) for name, measured in variants.items()},
        "adapters": adapters.used,
        "sampling": asdict(settings),
        "interval": "95 %, bootstrap over cases and seeds, 2000 resamples",
    }


def _show(bench: Bench, adapters: Adapters, variants: dict[str, Measured], out: Path) -> None:
    people = range(PEOPLE_SHOWN)
    runs = {name: adapters.plan(name, 0) for name in variants}
    clips = {name: bench.show(run, people) for name, run in runs.items() if run is not None}
    photos = [bench.cases[number].reference.draw_frame(0, 128) for number in people]
    captions = [bench.cases[number].caption for number in people]
    draw_contact_sheet(photos, captions, clips, out / "contact_sheet.png")


def _note(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _split(pair: str) -> tuple[str, Path]:
    name, _, path = pair.partition("=")
    if not path:
        raise SystemExit(f"--adapter takes name=path, as full_seed0=adapter.safetensors; got {pair}")
    return name, Path(path)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m miniature.experiment", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument(
        "--cases", type=int, default=NUM_PEOPLE, help="how many of the 128 people (default: all)"
    )
    parser.add_argument("--seeds", type=lambda s: [int(part) for part in s.split(",")], default=[0, 1, 2])
    parser.add_argument(
        "--variants",
        type=lambda s: s.split(","),
        default=[*VARIANTS, *CONTROLS],
        help=f"which of {', '.join([*VARIANTS, *CONTROLS])}",
    )
    parser.add_argument("--steps", type=int, default=SamplingSettings.steps)
    parser.add_argument("--guidance", type=float, default=SamplingSettings.guidance)
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="NAME=PATH", help="as full_seed0=a.safetensors"
    )
    parser.add_argument("--work", type=Path, default=Making().folder, help="folder of the making")
    parser.add_argument("--assets", type=Path, default=Making().assets)
    parser.add_argument("--out", type=Path, default=Path("docs/mini"))
    parser.add_argument("--threads", type=int, default=1)
    add_device(parser)
    arguments = parser.parse_args()
    unknown = set(arguments.variants) - {*VARIANTS, *CONTROLS}
    if unknown or not 1 <= arguments.cases <= NUM_PEOPLE:
        parser.error(
            f"--cases is 1 to {NUM_PEOPLE}; there is no variant {', '.join(sorted(unknown)) or 'missing'}"
        )
    return arguments


if __name__ == "__main__":
    main()
