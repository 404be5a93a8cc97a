"""A step waits for its device once, and the figures of a line are what they say."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_packs
import torch
from small_run import make_configuration
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lynx_core.models.packed_wan import PackedInputs, PackedWan
from lynx_core.rng import RNGKey
from lynx_core.spec import Variant
from lynx_core.training import step as step_module
from lynx_core.training import throughput
from lynx_core.training.loop import Trainer, open_run, train
from lynx_core.training.run_lock import StopSignal
from lynx_core.training.step import LoadedStep
from lynx_core.training.throughput import REFERENCE_TOKENS, StepFlops, find_peak_flops, straggler_gap

# Methods for which the CPU waits for the GPU.
READS = {"item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__", "__index__", "nonzero"}
TORCH_FOLDER = str(Path(torch.__file__).parent)
"""Its optimisers on the CPU read their counts, which they keep there, and it moves norms to where they are."""


class HostReads(TorchFunctionMode):
    """Notes what would wait for a GPU: reads of values, and copies between devices that are not told not to."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = func.__name__, kwargs or {}
        caller = sys._getframe(1).f_code.co_filename
        moves = any(isinstance(value, torch.device | str) for value in (*args[1:], *kwargs.values()))
        copies = name in ("to", "tensor") and moves and not kwargs.get("non_blocking")
        if (name in READS or copies) and not caller.startswith(TORCH_FOLDER):
            self.seen.append(name)
        return func(*args, **kwargs)


class ScalarReads(TorchDispatchMode):
    """Counts values that are read below Python."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def two_packs(trainer: Trainer) -> LoadedStep:
    packs = []
    for indices in ((0, 1), (2, 3)):
        samples = [trainer.source.load(index) for index in indices]
        packs.append(trainer.loader.draw_pack(samples, [RNGKey(0, "images", 0, s.id) for s in samples]))
    return LoadedStep(trainer.config.stages[0], tuple(packs), {})


def watch_step(trainer: Trainer) -> tuple[list[str], int]:
    loaded = two_packs(trainer)
    trainer.stepper.run(loaded, 1e-4)  # makes the optimiser's state
    with HostReads() as reads, ScalarReads() as scalars:
        outcome = trainer.stepper.run(loaded, 1e-4)
    assert len(outcome.samples) == 4 and not outcome.is_skipped
    return reads.seen, scalars.count


def test_a_step_waits_for_the_device_once(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, scalars = watch_step(trainer)
    # AdamW keeps its counts of steps on the CPU there; with `fused`, on a GPU, they stay on it.
    own = sum(1 for state in trainer.optimizer.state.values() if "step" in state)
    assert (reads, scalars) == (["tolist"], own)
    honest = step_module.sample_losses

    def read(*arguments: Any) -> torch.Tensor:
        losses = honest(*arguments)
        assert float(losses.sum()) > 0
        return losses

    monkeypatch.setattr(step_module, "sample_losses", read)
    noticed, more = watch_step(trainer)
    assert noticed.count("__float__") == 2 and more > scalars


@pytest.mark.parametrize("variant", ["full", "lite"])
def test_flops_are_those_that_torch_counts(variant: Variant) -> None:
    wan = PackedWan(tiny_packs.make_transformer(num_blocks=6))
    adapter = tiny_packs.make_adapter(variant)
    lengths = (768, 256)
    latents = [torch.randn(16, length // 256, 32, 32) for length in lengths]
    inputs = PackedInputs(
        latents,
        torch.tensor([500.0, 20.0]),
        [torch.randn(4, tiny_packs.TEXT_DIM)] * 2,
        torch.randn(2, 512),
        [torch.randn(16, 1, 32, 32)] * 2 if adapter.configs.ref else None,
        tiny_packs.make_reference_text(),
    )
    assert REFERENCE_TOKENS == 256
    # Torch does not count the CPU's own kernel of attention.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        torch.cat([output.flatten() for output in wan(inputs, adapter)]).square().mean().backward()
    counted = StepFlops(wan.dim, wan.config.ffn_dim, 6, adapter.configs).count(lengths)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.04)


def test_a_line_tells_how_devices_are_used(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = [{"name": "images", "kind": "images", "steps": 1}]
    train(make_configuration(world, tmp_path / "a", stages=stage))
    err = capsys.readouterr().err
    assert "MFU is not shown: the most FLOP/s of cpu are not known" in err
    assert re.search(r"step 1/1 images: .* tokens/s, data wait \d+%, fill \d+%", err)
    monkeypatch.setitem(throughput.PEAK_TFLOPS, "cpu", 0.01)
    train(make_configuration(world, tmp_path / "b", stages=stage))
    assert re.search(r"tokens/s, MFU \d+%, data wait", capsys.readouterr().err)


def test_figures_by_hand() -> None:
    assert find_peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert find_peak_flops("NVIDIA H100 PCIe") == 756e12
    assert find_peak_flops("Radeon") is None
    assert straggler_gap([2.0, 1.0], [1.0, 1.0]) == pytest.approx(0.5)
    assert straggler_gap([], []) == 0.0


def test_a_run_pads_its_packs_for_compiled_blocks(world: Path, tmp_path: Path) -> None:
    stage = [{"name": "images", "kind": "images", "steps": 2}]
    found = []
    for name, changes in (("plain", {}), ("compiled", {"base": {"compile": True}})):
        config = make_configuration(world, tmp_path / name, stages=stage, **changes)
        # What the compiler makes of it is tested with the blocks; here all else of a run.
        with torch.compiler.set_stance("force_eager"), open_run(config) as trainer:
            base = trainer.model._hidden_base[0]  # type: ignore[operator, union-attr, index]
            assert base.compiled_tokens == (config.packing.max_tokens if changes else 0)
            trainer.run(StopSignal())
            found.append(torch.cat([p.detach().flatten() for p in trainer.parameters.values()]))
    assert tiny_packs.relative_error(found[1], found[0]) < 1e-4
