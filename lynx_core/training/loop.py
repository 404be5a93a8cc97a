"""The training loop: build, take up the newest checkpoint, run step after step, export.

What a run depends on is the configuration, the files it names and the number of its steps; the state is
weights, optimiser, their mean, and three numbers for the place in the data. So a run that is killed
and started again gives, on the CPU, the same bits as one that was not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ..data.sample import Nulls
from ..data.source import SampleSource
from ..models.adapter_modules import AdapterModules
from .assembly import hash_base, make_adapter, make_table, open_base, open_source
from .checkpoint import CheckpointContents, CheckpointError, CheckpointFolder, read_checkpoint
from .configuration import TrainingConfig
from .configuration_file import as_plain
from .curriculum import Cursor, PackStream
from .distributed import AdapterForward, Workers, divide_like, gather_full
from .export import write_adapter
from .optimizer import (
    WeightMean,
    collect_state,
    learning_rate_at,
    make_optimizer,
    restore_state,
    trained_parameters,
)
from .progress import Progress
from .reference_memory import ReferenceMemory
from .resume import RunIdentity, check_identity, collect_versions
from .step import StepOutcome, TrainingStep
from .step_feed import StepFeed
from .stop_signal import StopSignal
from .validation import Validation

ADAPTER_NAME = "adapter.safetensors"


class TrainingError(RuntimeError):
    """A run that cannot go on; says what was seen and the way out."""


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended."""

    ended: Literal["finished", "stopped"]
    step: int
    adapter_path: Path | None
    """The exported adapter of a finished run."""


def train(config: TrainingConfig, *, accept_changes: bool = False) -> TrainingResult:
    """Run or go on with a run.

    Args:
        accept_changes: go on although data or base have changed since the checkpoint.

    Raises:
        ConfigurationError, DataError, PackingError, BaseModelError, AdapterError: when it cannot start.
        CheckpointError: when a checkpoint cannot be written or taken up.
        TrainingError: when too many steps in a row had to be skipped.
    """
    workers = Workers(config.distributed, config.run)
    source = open_source(config, config.data.manifest, workers.device, shows=workers.is_main)
    trainer = Trainer(config, workers, source)
    try:
        trainer.resume(accept_changes)
        with StopSignal() as signal:
            result = trainer.run(signal)
    finally:
        trainer.close()
    # Only after success: closing waits for the other processes, which an error here never reaches.
    workers.close()
    return result


class Trainer:
    """One process of a run."""

    def __init__(self, config: TrainingConfig, workers: Workers, source: SampleSource) -> None:
        self.config, self.workers, self.source = config, workers, source
        self.progress = Progress(config, workers, source)
        self.progress.note(source.describe())
        self.checkpoints = CheckpointFolder(config.run.output, config.run.keep_last, config.run.keep_every)
        self.completed_steps = 0
        self.cursor = Cursor()
        self.skipped_total = 0
        self.skipped_in_row = 0
        nulls = _load_nulls(source, config)
        self.stream = PackStream(
            make_table(source, config),
            config.stages,
            config.packing,
            config.run.seed,
            workers.rank,
            workers.world_size,
            config.data.kind_weights,
        )
        self.feed = StepFeed(self.stream, source, config.stages, config.optimizer.accumulation)
        self.adapter = self._build_model()
        self.validation = Validation(config, workers, self.model, self.adapter.configs, nulls)
        self.stepper = TrainingStep(
            config,
            workers,
            self.model,
            self.parameters,
            self.optimizer,
            self.mean,
            nulls,
            self.adapter.configs,
        )

    def _build_model(self) -> AdapterModules:
        config, workers = self.config, self.workers
        base = open_base(config.base, workers, config.distributed.shard_base)
        faces: Any = self.source.features.encoders.faces
        adapter = make_adapter(config.adapter, base, config.run.seed, faces.embedder_name, self.progress.note)
        memory_gb = config.base.reference_memory_gb
        references = ReferenceMemory(base, 1e9 * memory_gb) if memory_gb else None
        self.model = workers.wrap(AdapterForward(adapter, base, references))
        self.parameters = trained_parameters(adapter)
        self.optimizer = make_optimizer(config.optimizer, self.parameters)
        decay = config.optimizer.ema_decay
        self.mean = WeightMean(self.parameters, decay) if decay else None
        return adapter

    @property
    def identity(self) -> RunIdentity:
        """What must be the same for a run to go on exactly."""
        return RunIdentity(
            data=self.source.state_dict(),
            base=hash_base(self.config.base.transformer),
            world_size=self.workers.world_size,
        )

    def resume(self, accept_changes: bool) -> None:
        """Take up the newest complete checkpoint, if there is one.

        Raises:
            CheckpointError: when it belongs to another data set, base or adapter.
        """
        path = self.checkpoints.find_newest(self.progress.note)
        if path is None:
            return
        contents = read_checkpoint(path)
        is_exact = check_identity(
            contents.state, self.identity, self.config, accept_changes, self.progress.note
        )
        self._restore_weights(contents, path)
        state = contents.state
        self.completed_steps = state["step"]
        self.skipped_total, self.skipped_in_row = state["skipped_total"], state["skipped_in_row"]
        cursor = Cursor(**state["cursor"])
        # Other samples or processes make another plan, in which this place means nothing.
        self.cursor = cursor if is_exact else Cursor(cursor.stage, cursor.epoch + 1)
        self.stream.cursor = self.cursor
        self.progress.note(f"going on from {path} after step {self.completed_steps}")

    def _restore_weights(self, contents: CheckpointContents, path: Path) -> None:
        expected = {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}
        stored = {name: tuple(tensor.shape) for name, tensor in contents.weights.items()}
        if expected != stored:
            differing = sorted(
                name for name in expected.keys() | stored.keys() if expected.get(name) != stored.get(name)
            )
            raise CheckpointError(
                f"{path} holds another adapter: {len(differing)} weights differ, the first is {differing[0]} "
                f"(here {expected.get(differing[0])}, there {stored.get(differing[0])}); restore the sections "
                "[adapter] and [base], or name another run.output"
            )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(divide_like(contents.weights[name], parameter))
        restore_state(self.optimizer, self.parameters, contents.optimizer)
        if self.mean is not None:
            # A mean that was switched on in between starts from the weights.
            self.mean.restore(contents.mean or contents.weights)

    def run(self, signal: StopSignal) -> TrainingResult:
        """Run all steps that are left.

        Raises:
            TrainingError, CheckpointError: as `train`.
        """
        self.progress.start(self.completed_steps)
        while self.completed_steps < self.config.total_steps:
            loaded = self.feed.take(self.completed_steps)
            outcome = self.stepper.run(self.completed_steps, loaded, signal.is_wanted)
            self.completed_steps += 1
            self.cursor = loaded.cursor
            self._count_skipped(outcome)
            learning_rate = learning_rate_at(self.completed_steps - 1, self.config)
            self.progress.add(self.completed_steps, loaded.stage.name, outcome, learning_rate)
            is_last = self.completed_steps == self.config.total_steps
            if is_last or outcome.is_stop_wanted or self._is_due(self.config.run.checkpoint_every):
                self.save_checkpoint()
            if self._is_due(self.config.validation.every):
                self._validate()
            if outcome.is_stop_wanted and not is_last:
                self.progress.show_left_out()
                self.progress.note(
                    f"stopped after step {self.completed_steps}; the same command goes on from there"
                )
                return TrainingResult("stopped", self.completed_steps, None)
        self.progress.show_left_out()
        return TrainingResult("finished", self.completed_steps, self._export())

    def _is_due(self, every: int) -> bool:
        return bool(every) and self.completed_steps % every == 0

    def _count_skipped(self, outcome: StepOutcome) -> None:
        if not outcome.is_skipped:
            self.skipped_in_row = 0
            return
        self.skipped_total += 1
        self.skipped_in_row += 1
        bad = [sample.sample_id for sample in outcome.samples if not sample.loss < float("inf")]
        named = f"; samples without a finite loss: {', '.join(bad[:8])}" if bad else ""
        self.progress.note(
            f"step {self.completed_steps} skipped: loss {outcome.loss}, gradient norm {outcome.grad_norm}"
            f"{named} ({self.skipped_total} skipped so far)"
        )
        if self.skipped_in_row >= self.config.run.max_skipped_in_row:
            raise TrainingError(
                f"{self.skipped_in_row} steps in a row had no finite loss or gradient, the last was step "
                f"{self.completed_steps}; go on from an earlier checkpoint in {self.checkpoints.root} with a lower "
                "optimizer.learning_rate, or look at the samples named above"
            )

    def save_checkpoint(self) -> None:
        """Write a checkpoint; every process takes part, the main one writes.

        Raises:
            CheckpointError: on every process, when it could not be written.
        """
        contents = CheckpointContents(
            state={
                "step": self.completed_steps,
                "cursor": asdict(self.cursor),
                "skipped_total": self.skipped_total,
                "skipped_in_row": self.skipped_in_row,
                "identity": asdict(self.identity),
                "config": as_plain(self.config),
                "versions": collect_versions(),
            },
            weights={name: _to_cpu(tensor) for name, tensor in self.parameters.items()},
            optimizer=collect_state(self.optimizer, self.parameters),
            mean={name: _to_cpu(t) for name, t in self.mean.means.items()} if self.mean else None,
        )
        error: CheckpointError | None = None
        if self.workers.is_main:
            try:
                self.checkpoints.save(contents)
            except CheckpointError as caught:
                error = caught
        failures = torch.tensor(float(error is not None), device=self.workers.device)
        if self.workers.add_up(failures):
            raise error or CheckpointError("the main process could not write the checkpoint; see its message")

    def _validate(self) -> None:
        figures = self.validation.run(self.completed_steps)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        self.progress.note(f"validation after step {self.completed_steps}: {shown}")
        self.progress.log(
            {f"validation/{name}": value for name, value in figures.items()}, self.completed_steps
        )

    def _export(self) -> Path:
        path = self.config.run.output / ADAPTER_NAME
        write_adapter(self.adapter, path, self.config.run.export_dtype, self.mean, self.workers.is_main)
        self.progress.note(f"the adapter is in {path}; put it into ComfyUI's models/lynx")
        return path

    def close(self) -> None:
        """Let go of threads and the terminal."""
        self.feed.close()
        self.progress.close()


def _load_nulls(source: SampleSource, config: TrainingConfig) -> Nulls:
    nulls = source.nulls()
    if config.data.cache is not None:
        # The cache has, or soon will have, all that the encoders make.
        source.features.encoders.text.release()
        source.features.encoders.video.release()
    return nulls


def _to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return gather_full(tensor).detach().to("cpu", copy=True)
