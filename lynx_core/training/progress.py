"""What a run shows: a line of figures, and the same figures to the trackers.

The loss is also shown by quarter of the timestep distribution: at little noise it is several times
that at much noise, so the mean alone mostly tells which timesteps were drawn.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch

from ..buckets import name_addresses
from ..data.dataset import PairDataset
from .configuration import ObjectiveConfig, TrainingConfig
from .configuration_file import as_plain
from .distributed import LOG_FOLDER, DistributedContext
from .flow_matching import shift_timestep
from .step import StepOutcome
from .throughput import find_peak_flops, straggler_gap

_NUM_QUANTILES = 4
_GB = 1e9

_logger = logging.getLogger(__name__)


def timestep_quantile(t: float, config: ObjectiveConfig) -> float:
    """Share of the timestep distribution below t, 0 to 1."""
    if config.timestep_sampling == "shifted":
        return shift_timestep(t, 1 / config.shift)
    if config.timestep_sampling == "uniform":
        return t
    if not 0 < t < 1:
        return float(t >= 1)
    normal = (math.log(t / (1 - t)) - config.logit_mean) / config.logit_std
    return 0.5 * (1 + math.erf(normal / math.sqrt(2)))


@dataclass
class _Window:
    """What has gathered since the last line."""

    start: float
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    num_tokens: int = 0
    num_samples: int = 0
    fill: float = 0.0
    flops: float = 0.0
    forward_seconds: list[float] = field(default_factory=list)
    """Of this process, of each step."""
    data_wait_seconds: list[float] = field(default_factory=list)
    quantile_loss: list[float] = field(default_factory=lambda: [0.0] * _NUM_QUANTILES)
    quantile_weight: list[float] = field(default_factory=lambda: [0.0] * _NUM_QUANTILES)


def print_note(text: str, is_main: bool = True) -> None:
    """Print a line for the user, once for all processes."""
    if is_main:
        print(name_addresses(text), file=sys.stderr, flush=True)


class Progress:
    """Gathers outcomes and shows them every `run.log_every` steps; all processes must call it alike.

    Args:
        source: the samples, of which each line says what is skipped.
    """

    def __init__(
        self, config: TrainingConfig, context: DistributedContext, source: PairDataset | None = None
    ) -> None:
        self.config = config
        self.context = context
        self.source = source
        self._bar = None
        self._window = _Window(time.monotonic())
        self._total_steps = config.total_steps
        self._is_first = True
        device = context.device
        self._device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self._peak_flops = find_peak_flops(self._device_name)

    def start(self, step: int, total_steps: int) -> None:
        """Open the trackers and, at a terminal, the bar.

        Args:
            step: steps done before.
            total_steps: with those that are left.
        """
        self._total_steps = total_steps
        if self.config.run.trackers:
            logs = Path(self.config.run.output) / LOG_FOLDER
            logs.mkdir(parents=True, exist_ok=True)
            flat = _flatten(as_plain(self.config))
            # wandb would leave its files in the folder that the run was started in.
            options: dict[str, dict[str, Any]] = {"wandb": {"dir": os.environ.get("WANDB_DIR", str(logs))}}
            if step:  # drops what a killed run had logged beyond its checkpoint
                options["tensorboard"] = {"purge_step": step + 1}
            self.context.accelerator.init_trackers("lynx", flat, init_kwargs=options)
        if self.context.is_main and sys.stderr.isatty():
            from tqdm import tqdm  # type: ignore[import-untyped]

            self._bar = tqdm(total=total_steps, initial=step, unit="step", dynamic_ncols=True)
        if self._peak_flops is None:
            self.note(f"MFU is not shown: the most FLOP/s of {self._device_name} are not known")
        self._window = _Window(time.monotonic())

    def add(
        self, step: int, stage: str, outcome: StepOutcome, learning_rate: float, data_wait_s: float
    ) -> None:
        """Take the outcome of a step (counted from 1 here) and show figures when they are due, and at the first.

        Args:
            data_wait_s: how long this process waited for its packs.
        """
        window = self._window
        window.steps += 1
        window.num_tokens += outcome.num_tokens
        window.num_samples += outcome.num_samples
        window.fill += outcome.fill
        window.flops += outcome.flops
        window.forward_seconds.append(outcome.forward_seconds)
        window.data_wait_seconds.append(data_wait_s)
        if not outcome.is_skipped:
            window.losses.append(outcome.loss)
            for sample in outcome.samples:
                place = timestep_quantile(sample.t, self.config.objective)
                quantile = min(int(place * _NUM_QUANTILES), _NUM_QUANTILES - 1)
                window.quantile_loss[quantile] += sample.loss * sample.weight
                window.quantile_weight[quantile] += sample.weight
        if self._bar is not None:
            self._bar.update(1)
        if self._is_first or step % self.config.run.log_every == 0 or step == self._total_steps:
            self._is_first = False
            self._show(step, stage, outcome, learning_rate)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Give figures to the trackers."""
        if self.config.run.trackers:
            self.context.accelerator.log(dict(values), step=step)

    def note(self, text: str) -> None:
        """Print a line, once for all processes."""
        if self.context.is_main:
            if self._bar is not None:
                self._bar.write(text, file=sys.stderr)
            else:
                print_note(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _show(self, step: int, stage: str, outcome: StepOutcome, learning_rate: float) -> None:
        window = self._window
        seconds = max(time.monotonic() - window.start, 1e-9)
        left = (self._total_steps - step) * seconds / window.steps
        figures = {
            "loss": sum(window.losses) / len(window.losses) if window.losses else math.nan,
            "grad_norm": outcome.grad_norm,
            "learning_rate": learning_rate,
            "tokens_per_second": window.num_tokens / seconds,
            "samples_per_step": window.num_samples / window.steps,
            "fill": window.fill / window.steps,
            "memory_gb": _measure_memory(self.context.device) / _GB,
            **self._measure_use(seconds),
        }
        quantiles = self._quantile_losses()
        named = {f"loss_by_timestep/q{number + 1}": loss for number, loss in enumerate(quantiles)}
        known = {name: loss for name, loss in named.items() if math.isfinite(loss)}
        self.log({**figures, **known}, step)
        shown = "/".join("-" if math.isnan(loss) else f"{loss:.3f}" for loss in quantiles)
        self.note(
            f"step {step}/{self._total_steps} {stage}: loss {figures['loss']:.4f} (by timestep {shown}), "
            f"grad {outcome.grad_norm:.3g}, {figures['tokens_per_second']:.0f} tokens/s, {_describe_use(figures)}fill {figures['fill']:.0%}, "
            f"{figures['memory_gb']:.1f} GB, {_format_duration(left)} left{self._describe_skipped()}"
        )
        self._window = _Window(time.monotonic())

    def _measure_use(self, seconds: float) -> dict[str, float]:
        """How well the devices are used: MFU, and the shares of time that they wait for data and each other."""
        window, context = self._window, self.context
        own = torch.tensor(
            [window.forward_seconds, window.data_wait_seconds], dtype=torch.float64, device=context.device
        )
        (slowest, longest_wait), (total, _) = (
            context.all_reduce_max(own).tolist(),
            context.all_reduce_sum(own).tolist(),
        )
        found = {"data_wait": sum(longest_wait) / seconds}
        if context.world_size > 1:
            found["straggler_gap"] = straggler_gap(slowest, [t / context.world_size for t in total])
        if self._peak_flops is not None:
            found["mfu"] = window.flops / (seconds * self._peak_flops * context.world_size)
        return found

    def show_skipped(self) -> None:
        """Say what of the data the run did without, at its end."""
        if self.source is None:
            return
        text = self._describe_skipped()
        skipped = self.source.skipped_rows()
        if text:
            self.note(f"{text.removeprefix(', ')}{skipped.describe_reasons()}")
        if skipped.warnings:
            self.note(f"used, but{skipped.describe_warnings()}")

    def _describe_skipped(self) -> str:
        """The end of a line: rows skipped, and what became of their places; empty when all are used."""
        if self.source is None:
            return ""
        draws = self.source.draws
        own = torch.tensor([draws.replaced, draws.empty], dtype=torch.float64, device=self.context.device)
        replaced, empty = (int(count) for count in self.context.all_reduce_sum(own).tolist())
        skipped = self.source.skipped_rows()
        text = f", {skipped}" if skipped.rejections else ""
        if replaced or empty:
            text += f" ({replaced} draws given to other samples, {empty} left empty)"
        return text

    def _quantile_losses(self) -> list[float]:
        own = torch.tensor(
            [self._window.quantile_loss, self._window.quantile_weight],
            dtype=torch.float64,
            device=self.context.device,
        )
        losses, weights = self.context.all_reduce_sum(own).tolist()
        return [loss / weight if weight else math.nan for loss, weight in zip(losses, weights, strict=True)]


def _describe_use(figures: Mapping[str, float]) -> str:
    mfu = f"MFU {figures['mfu']:.0%}, " if "mfu" in figures else ""
    gap = f"slowest process +{figures['straggler_gap']:.0%}, " if "straggler_gap" in figures else ""
    return f"{mfu}data wait {figures['data_wait']:.0%}, {gap}"


def _measure_memory(device: torch.device) -> int:
    """The most bytes held so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _flatten(values: object, prefix: str = "") -> dict[str, int | float | str | bool]:
    if isinstance(values, Mapping):
        pairs = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list):
        pairs = [(str(number), value) for number, value in enumerate(values)]
    else:
        return {prefix: values if isinstance(values, int | float | str | bool) else str(values)}
    flat: dict[str, int | float | str | bool] = {}
    for key, value in pairs:
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat


_LOG_EVERY_S, _TERMINAL_EVERY_S = 5.0, 0.2
_WINDOW_S = 60.0
"""The rate is that of the last minute: what was found in the cache at the start says nothing of the rest."""


class ProgressLine:
    """Shows the stages of some work, one after the other.

    Args:
        stream: where to; standard error when None.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.is_terminal = self.stream.isatty()
        self._stage = ""
        self._shown_at = 0.0
        self._past: deque[tuple[float, int]] = deque()

    def show(self, stage: str, done: int, total: int) -> None:
        """Take a count; a line is written when one is due."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage = stage
            self._past.clear()
        self._past.append((now, done))
        while len(self._past) > 2 and now - self._past[1][0] > _WINDOW_S:
            self._past.popleft()
        every = _TERMINAL_EVERY_S if self.is_terminal else _LOG_EVERY_S
        is_last = done == total
        if done > 1 and not is_last and now - self._shown_at < every:
            return
        self._shown_at = now
        text = f"{name_addresses(stage)}: {done} of {total}{self._rate(total)}"
        if self.is_terminal:
            self.stream.write(f"\r\x1b[K{text}" + ("\n" if is_last else ""))
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def _rate(self, total: int) -> str:
        (then, before), (now, done) = self._past[0], self._past[-1]
        if done <= before or now <= then:
            return ""
        seconds = (now - then) / (done - before)
        rate = f", {1 / seconds:.1f}/s" if seconds < 1 else f", {seconds:.1f} s each"
        return rate + (f", {_format_duration(seconds * (total - done))} left" if done < total else "")


def _format_duration(seconds: float) -> str:
    """As 3d04h, 2h05m or 45s."""
    minutes, whole_seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{whole_seconds:02d}s" if minutes else f"{whole_seconds}s"
