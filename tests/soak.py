"""Queues many runs of changing graphs in one process of ComfyUI: python tests/soak.py --runs 1000

Strengths, windows, curves, masks, photos, adapters and bases change from run to run, some runs are interrupted and some
fail. The first graph is run again at the end: its result must be equal to the bit, and memory must not have grown.
Goes through the host's own nodes; `tests/nodes/test_soak.py` does a few runs.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

REPO = Path(__file__).resolve().parents[1]
WARM_UP_SHARE = 0.2
"""Of the runs, after which memory is first read: caches have filled then."""


@dataclass(frozen=True)
class Soaked:
    """What a soak came to."""

    runs: int
    interrupted: int
    failed: int
    is_same: bool
    """Whether the first graph gives the same bits at the end."""
    grown_mb: float
    num_loaded: int
    """Models that the host counts as loaded at the end."""
    leftovers: tuple[str, ...]
    """Modules of the base that a hook was left on."""


class Soak:
    """A user's session, over and over.

    Args:
        bench: of the node tests: `WanBench`.
        seed: of what changes.
    """

    def __init__(self, bench: Any, seed: int = 0) -> None:
        self.bench, self.rng = bench, random.Random(seed)
        self.bases = [bench.load_base(), bench.load_base("wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors")]
        self.adapters = [bench.open_adapter("lynx_full"), bench.open_adapter("lynx_lite")]
        self.texts = [bench.make_text(number) for number in (1, 2, 3)]

    def run_first(self) -> Tensor:
        """The graph that begins and ends the session."""
        reference = self.bench.make_reference(self.bases[0], self.adapters[0], 1)
        inputs = {"adapter": self.adapters[0], "id": self.bench.make_id(1), "reference": reference}
        return self._sample(self.bench.apply(self.bases[0], self.texts[0], self.texts[1], **inputs), 5)

    def run_another(self) -> None:
        """A graph of chance."""
        rng = self.rng
        base, adapter = rng.choice(self.bases), rng.choice(self.adapters)
        start = round(rng.uniform(0, 0.5), 2)
        inputs: dict[str, Any] = {
            "adapter": adapter,
            "id": self.bench.make_id(rng.randrange(6)),
            "id_strength": round(rng.uniform(0.0, 1.5), 2),
            "id_start": start,
            "id_curve": rng.choice(["constant", "ease in", "weak middle"]),
            "ref_strength": round(rng.uniform(0.0, 1.5), 2),
        }
        if adapter is self.adapters[0] and rng.random() < 0.7:
            inputs["reference"] = self.bench.make_reference(base, adapter, rng.randrange(4))
        if rng.random() < 0.3:
            inputs["mask"] = (
                torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(rng.randrange(9))) > 0.5
            ).float()
        applied = self.bench.apply(base, rng.choice(self.texts), self.texts[1], **inputs)
        self._sample(
            applied,
            rng.randrange(100),
            identity_cfg_every=rng.choice([1, 1, 2]),
            cfg_end=rng.choice([1.0, 0.5]),
        )

    def run_interrupted(self) -> None:
        """Stopped in the middle of a step, as by the button.

        Raises:
            InterruptProcessingException: always.
        """
        self._run_broken(lambda: self._comfy().interrupt_current_processing(True))

    def run_failing(self) -> None:
        """Another node raises in the middle of a step.

        Raises:
            ZeroDivisionError: always.
        """
        self._run_broken(lambda: 1 / 0)

    @staticmethod
    def _comfy() -> Any:
        import comfy.model_management

        return comfy.model_management

    def _run_broken(self, happen: Callable[[], Any]) -> None:
        inputs = {"adapter": self.adapters[0], "id": self.bench.make_id(1)}
        applied = self.bench.apply(self.rng.choice(self.bases), self.texts[0], self.texts[1], **inputs)
        model = applied.model.clone()

        def wrap(apply_model: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
            happen()
            self._comfy().throw_exception_if_processing_interrupted()
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(wrap)
        self._sample(applied._replace(model=model), 5)

    def _sample(self, applied: Any, seed: int, **inputs: Any) -> Tensor:
        return self.bench.comfy.run(
            "LynxSampler", **applied._asdict(), **inputs, cfg=4.0, identity_cfg=2.0, seed=seed, steps=2,
            sampler_name="euler", scheduler="simple", latent_image=self.bench.make_latent(),
        )[0]["samples"]  # fmt: skip

    def soak(self, runs: int, note: Callable[[str], None] = print) -> Soaked:
        first = self.run_first()
        interrupted = failed = 0
        before = 0.0
        for number in range(runs):
            chance = self.rng.random()
            try:
                (
                    self.run_interrupted
                    if chance < 0.05
                    else self.run_failing
                    if chance < 0.1
                    else self.run_another
                )()
            except ZeroDivisionError:
                failed += 1
            except self._comfy().InterruptProcessingException:
                interrupted += 1
            self._comfy().interrupt_current_processing(False)
            if number == int(WARM_UP_SHARE * runs):
                before = read_memory_mb()
            if number % max(runs // 10, 1) == 0:
                note(
                    f"run {number}: {read_memory_mb():.0f} MB, {len(self._comfy().current_loaded_models)} models loaded"
                )
        grown = read_memory_mb() - before
        leftovers = [
            name
            for base in self.bases
            for name, module in base.model.named_modules()
            if "forward" in vars(module)
        ]
        return Soaked(
            runs, interrupted, failed, torch.equal(first, self.run_first()), grown,
            len(self._comfy().current_loaded_models), tuple(leftovers),
        )  # fmt: skip


def read_memory_mb() -> float:
    """Allocated memory of this process, after everything that can go is gone."""
    gc.collect()
    status = Path("/proc/self/status").read_text().split("RssAnon:")[1]
    return int(status.split()[0]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--comfyui", type=Path, default=REPO / ".comfyui" / "0.30.0")
    arguments = parser.parse_args()
    for folder in (REPO / "tests" / "nodes", REPO / "tests" / "host", REPO):
        sys.path.insert(0, str(folder))
    from comfy_host import standin_packs
    from in_process import load_in_process
    from standin_installation import write_standin_installation

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        write_standin_installation(Path(temporary) / "models")
        comfy = load_in_process(arguments.comfyui, Path(temporary), standin_packs())
        import comfy.utils as comfy_utils
        from wan_bench import WanBench

        comfy_utils.set_progress_bar_enabled(False)
        begun = time.monotonic()
        soaked = Soak(WanBench(comfy)).soak(arguments.runs, lambda text: print(text, flush=True))
    print(f"{soaked}, {time.monotonic() - begun:.0f} s")
    return 0 if soaked.is_same and not soaked.leftovers and soaked.grown_mb < 100 else 1


if __name__ == "__main__":
    sys.exit(main())
