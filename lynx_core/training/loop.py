"""The training loop: build, resume from the newest checkpoint, run step after step, export.

What a run depends on is the configuration, the files it names and the number of its steps; the state is
weights, optimiser, EMA, and three numbers a stage as the cursor in the data. So a run that is killed
and started again gives, on the CPU, the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ..data.dataset import PairDataset
from ..data.sample import Nulls
from ..formats.adapter import open_adapter
from ..models.adapter_modules import AdapterModules
from ..spec import LynxError
from .assembly import DTYPES, choose_kind_weights, hash_base, make_adapter, make_table, open_base
from .checkpoint import CheckpointFolder, find_damage, read_state
from .checkpoint_writer import CheckpointWriter
from .configuration import TrainingConfig
from .configuration_file import as_plain
from .curriculum import Cursors, PackStream, count_steps_left, describe_stages
from .distributed import AdapterForward, DistributedContext, export_together
from .flow_matching import make_smallest_inputs
from .hub import push_adapter
from .model_checks import collect_versions
from .optimizer import (
    EMA,
    learning_rate_at,
    make_optimizer,
    trained_parameters,
)
from .preflight import OpenedData, check_settings, look_for_more, open_data
from .progress import Progress, print_note
from .reference_cache import ReferenceFeatureCache
from .resuming import RunIdentity, plan_resume
from .run_lock import RunLock, RunLockError, StopSignal
from .step import PackLoader, StepOutcome, TrainingStep
from .throughput import StepFlops
from .trained_state import TrainedState
from .validation import Validation, load_held_out

_ADAPTER_NAME = "adapter.safetensors"


class TrainingError(LynxError):
    """A run that cannot continue; says what was seen and the way out."""


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended."""

    ended: Literal["finished", "stopped"]
    step: int


def train(
    config: TrainingConfig, *, accept_changes: bool = False, resume_from: int | None = None
) -> TrainingResult:
    """Start a run, or resume it.

    Args:
        accept_changes: resume although data, base or optimiser have changed since the checkpoint.
        resume_from: step of the checkpoint to resume from; the newest complete one when None.

    Raises:
        PreflightError: when it cannot start, with all that is known to be wrong.
        RunLockError: when another run writes to the same folder.
        ConfigurationError, DataError, BaseModelError, AdapterError: when it cannot start for what only showed
            while the models were opened.
        CheckpointError: when a checkpoint cannot be written or resumed from.
        TrainingError: when too many steps in a row had to be skipped.
    """
    with open_run(config, resume_from) as trainer:
        trainer.resume(accept_changes, resume_from)
        with StopSignal() as signal:
            result = trainer.run(signal)
    # Only after success: closing waits for the other processes, which an error here never reaches.
    trainer.context.close()
    return result


@contextlib.contextmanager
def open_run(config: TrainingConfig, resume_from: int | None = None) -> Iterator[Trainer]:
    """Check a run, take its folder, and open its data and models.

    Raises:
        PreflightError, RunLockError, ConfigurationError, DataError, BaseModelError, AdapterError: as `train`.
    """
    known = check_settings(config, resume_from)
    if known:
        look_for_more(config, known)
    context = DistributedContext(config.distributed, config.run)
    note = functools.partial(print_note, is_main=context.is_main)
    lock = RunLock(config.run.output)
    _take_folder(lock, context, note)
    try:
        data = open_data(config, context.device, note, shows=context.is_main)
        trainer = Trainer(config, context, data)
        try:
            yield trainer
        finally:
            trainer.close()
    finally:
        lock.release()


def _take_folder(lock: RunLock, context: DistributedContext, note: Callable[[str], None]) -> None:
    refusal = None
    if context.is_main:
        try:
            lock.acquire(note)
            for left in lock.output.glob(f".{_ADAPTER_NAME}.*.part"):
                left.unlink()  # of an export that was killed
        except RunLockError as error:
            refusal = str(error)
    refusal = context.share(refusal)
    if refusal is not None:
        raise RunLockError(refusal)


class Trainer:
    """One process of a run."""

    def __init__(self, config: TrainingConfig, context: DistributedContext, data: OpenedData) -> None:
        self.config, self.context, self.source = config, context, data.training
        self.progress = Progress(config, context, self.source)
        self.progress.note(self.source.describe())
        self.checkpoints = CheckpointFolder(config.run.output, config.run.keep_last, config.run.keep_every)
        self.completed_steps = 0
        self.total_steps = config.total_steps
        self.cursors: Cursors = {}
        self.skipped_total = 0
        self.skipped_in_row = 0
        nulls = _load_nulls(self.source, config)
        held_out = load_held_out(data.held_out, config.validation.num_samples)
        self.stream = PackStream(
            make_table(self.source, config),
            config.stages,
            config.packing,
            config.run.seed,
            config.packs_per_step(context.world_size),
            choose_kind_weights(config, self.source.items),
        )
        self.adapter = self._build_model()
        parts = self.adapter.configs
        self.loader = PackLoader(self.stream, self.source, config, nulls, parts, context)
        self.trained = TrainedState(self.parameters, self.optimizer, self.ema)
        self.writer = CheckpointWriter(self.checkpoints, context)
        self.validation = Validation(config, context, self.model, parts, nulls, self.ema, held_out)
        self.stepper = TrainingStep(
            config,
            context,
            self.model,
            self.parameters,
            self.optimizer,
            self.ema,
            self.flops,
        )
        num_tokens = config.distributed.sequence_parallel_size  # one for each process
        smallest = make_smallest_inputs(nulls, parts, context.device, num_tokens)
        context.settle_buckets(self.model, smallest)

    def _build_model(self) -> AdapterModules:
        config, context = self.config, self.context
        self.progress.note(f"loading {config.base.transformer}")
        base = open_base(config, context)
        faces = self.source.features.encoders.faces
        adapter = make_adapter(
            config.adapter, base, config.run.seed, faces.recogniser_name, self.progress.note
        )
        memory_gb = config.base.reference_cache_gb
        self.flops = StepFlops(base.dim, base.config.ffn_dim, base.config.num_layers, adapter.configs)
        references = ReferenceFeatureCache(base, 1e9 * memory_gb) if memory_gb else None
        self.model = context.wrap(AdapterForward(adapter, base, references))
        self.parameters = trained_parameters(adapter)
        self.optimizer = make_optimizer(config.optimizer, self.parameters)
        decay = config.optimizer.ema_decay
        self.ema = EMA(self.parameters, decay) if decay else None
        return adapter

    def make_identity(self) -> RunIdentity:
        """What must be the same for a run to resume exactly."""
        return RunIdentity(
            data=self.source.fingerprints,
            base=self._base_fingerprint,
            packs_per_step=self.stream.packs_per_step,
            frozen_adapter=self._frozen_adapter,
        )

    @functools.cached_property
    def _base_fingerprint(self) -> str:
        return hash_base(self.config.base.transformer)

    @functools.cached_property
    def _frozen_adapter(self) -> str:
        settings = self.config.adapter
        return open_adapter(*settings.init).fingerprint if settings.lora_rank else ""

    def resume(self, accept_changes: bool, from_step: int | None = None) -> None:
        """Resume from a checkpoint: that of a step, or the newest complete one, if there is one.

        Raises:
            CheckpointError: when it belongs to another dataset, base or adapter, or is not there.
        """
        note = self.progress.note
        folder = self.checkpoints
        path = (
            folder.find_newest(note, self._find_damage)
            if from_step is None
            else folder.find(from_step, self._find_damage)
        )
        if path is not None:
            state = read_state(path)
            if not self.config.optimizer.global_batch_size:
                self.stream.packs_per_step = state["identity"]["packs_per_step"]
            plan = plan_resume(state, self.make_identity(), self.config, accept_changes, note)
            has_ema = self.trained.load(path, state["optimizer_numbers"], plan.keeps_moments, self.context)
            self._restore_ema(has_ema, state["ema_updates"])
            self.completed_steps = state["step"]
            self.skipped_total, self.skipped_in_row = state["skipped_total"], state["skipped_in_row"]
            self.cursors = self.stream.cursors = plan.cursors
            self.total_steps = self.completed_steps + count_steps_left(self.cursors, self.config.stages)
            note(
                f"resuming from {path} after step {self.completed_steps} of {self.total_steps} "
                f"({describe_stages(self.cursors, self.config.stages)})"
            )
        self._note_spares()
        if from_step is not None and self.context.is_main:
            aside = self.checkpoints.move_newer_aside(from_step)
            if aside is not None:
                note(
                    f"the checkpoints after step {from_step} are in {aside} now; delete it when it is not needed"
                )

    def _find_damage(self, path: Path) -> str | None:
        """What is wrong with a checkpoint, of which each process hashes its share; the same on all of them."""
        found = find_damage(path, self.context.rank, self.context.world_size)
        return next((problem for problem in self.context.gather(found) if problem), None)

    def _note_spares(self) -> None:
        num_packs, size = self.stream.packs_per_step, self.context.data_size
        idle = -num_packs % size
        if idle:
            what = "processes" if self.context.sequence_group is None else "groups of processes"
            self.progress.note(
                f"a step has {num_packs} packs for {size} {what}: {idle} of them are idle in its last round; "
                f"a multiple of the {what} as optimizer.global_batch_size uses all (a new epoch begins then)"
            )

    def _restore_ema(self, is_stored: bool, num_updates: int) -> None:
        if self.ema is None:
            if is_stored:
                self.progress.note("the checkpoint's EMA is dropped: optimizer.ema_decay is 0 now")
        elif is_stored:
            self.ema.num_updates = num_updates
        else:
            self.ema.restart()
            self.progress.note("the checkpoint has no EMA: it starts from the weights of this step")

    def run(self, signal: StopSignal) -> TrainingResult:
        """Run all steps that are left.

        Raises:
            TrainingError, CheckpointError: as `train`.
        """
        self.progress.start(self.completed_steps, self.total_steps)
        if not self.completed_steps and self.validation.samples:
            self.progress.note("validating before the first step")
            self._validate()  # a figure to compare with, and what fails here need not fail at step 5,000
        while self.completed_steps < self.total_steps:
            start = time.perf_counter()
            loaded = self.loader.next_step()
            data_wait_s = time.perf_counter() - start
            rate = learning_rate_at(self.completed_steps, self.config.optimizer, self.total_steps)
            outcome = self.stepper.run(loaded, rate, signal.is_wanted, self.writer.has_failed)
            if outcome.has_write_failed:
                self.writer.finish()  # raises on every process
            self.completed_steps += 1
            self.cursors = loaded.cursors
            self._count_skipped(outcome)
            self.progress.add(self.completed_steps, loaded.stage.name, outcome, rate, data_wait_s)
            is_last = self.completed_steps == self.total_steps
            if is_last or outcome.is_stop_wanted or self._is_due(self.config.run.checkpoint_every):
                self.save_checkpoint()
            if self._is_due(self.config.validation.every):
                self._validate()
            if outcome.is_stop_wanted and not is_last:
                self.progress.show_skipped()
                self.progress.note(
                    f"stopped after step {self.completed_steps}; the same command resumes from there"
                )
                self.writer.finish()
                return TrainingResult("stopped", self.completed_steps)
        self.writer.finish()
        self.progress.show_skipped()
        self._export()
        return TrainingResult("finished", self.completed_steps)

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
            self.writer.finish()
            raise TrainingError(
                f"{self.skipped_in_row} steps in a row had no finite loss or gradient, the last was step "
                f"{self.completed_steps}; resume from an earlier checkpoint by --resume-from STEP (there are: "
                f"{', '.join(map(str, self.checkpoints.steps())) or 'none'}) with a lower optimizer.learning_rate, or "
                "look at the samples named above"
            )

    def save_checkpoint(self) -> None:
        """Begin to write a checkpoint; every process takes part. `writer.finish` waits for its end.

        Raises:
            CheckpointError: on every process, when the one before could not be written.
        """
        state = {
            "step": self.completed_steps,
            "cursors": {name: asdict(cursor) for name, cursor in self.cursors.items()},
            "ema_updates": self.ema.num_updates if self.ema else 0,
            "skipped_total": self.skipped_total,
            "skipped_in_row": self.skipped_in_row,
            "identity": asdict(self.make_identity()),
            "config": as_plain(self.config),
            "versions": collect_versions(),
            "optimizer_numbers": self.trained.numbers(),
        }
        self.writer.begin(state, self.trained.tensors())

    def _validate(self) -> None:
        if not self.validation.samples:
            return
        figures = self.validation.run(self.completed_steps)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        self.progress.note(f"validation after step {self.completed_steps}: {shown}")
        self.progress.log(
            {f"validation/{name}": value for name, value in figures.items()}, self.completed_steps
        )

    def _export(self) -> None:
        """Write the adapter with the EMA of its weights if one is kept, gathering one tensor at a time.

        Raises:
            AdapterError: on every process, when a weight is not finite, or the disk is full or refuses.
        """
        path = self.config.run.output / _ADAPTER_NAME
        dtype = DTYPES[self.config.run.export_dtype]
        with self.ema.swapped_in() if self.ema else contextlib.nullcontext():
            export_together(self.adapter, path, dtype, self.context)
        self.progress.note(f"the adapter is in {path}; put it into ComfyUI's models/lynx")
        if self.config.run.push_to_hub and self.context.is_main:
            self.progress.note(push_adapter(path, self.config.run.push_to_hub))

    def close(self) -> None:
        """Close the threads of loader and writer, and the progress bar."""
        self.loader.close()
        self.writer.close()
        self.progress.close()


def _load_nulls(source: PairDataset, config: TrainingConfig) -> Nulls:
    nulls = source.nulls()
    if config.data.cache is not None:
        # The cache has, or soon will have, all that the encoders make.
        source.features.encoders.text.release()
        source.features.encoders.video.release()
    return nulls
