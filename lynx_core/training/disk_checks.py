"""Whether a run can write its output, and has the room for all of it."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from .checkpoint import CHECKPOINTS_FOLDER, CheckpointFolder, choose_kept
from .configuration import RunConfig, TrainingConfig
from .distributed import LOG_FOLDER
from .estimate import OPTIMIZER_BYTES, BaseShape, count_adapter_weights

VALIDATION_FOLDER = "validation"
_EXPORT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_GB = 1e9


def find_write_problems(output: Path) -> Iterator[str]:
    """Try to write where a run will; nothing stays behind."""
    for folder in (output, *(output / name for name in (CHECKPOINTS_FOLDER, LOG_FOLDER, VALIDATION_FOLDER))):
        if folder != output and not folder.exists():
            continue
        existing = nearest_existing(folder)
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            reason = "it is a file" if existing.is_file() else error.strerror
            yield (
                f"run.output: {folder} cannot be written ({existing}: {reason}); change its permissions or name "
                "another run.output"
            )
            return


def nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    path = path.resolve()
    return next(place for place in (path, *path.parents) if place.exists())


def find_room_problems(config: TrainingConfig, shape: BaseShape, start_step: int) -> Iterator[str]:
    """Compare what checkpoints and the exported adapter will take with what is free."""
    run = config.run
    num_trained, num_frozen = count_adapter_weights(config, shape)
    checkpoint_bytes = estimate_checkpoint(config, num_trained)
    there = CheckpointFolder(run.output, run.keep_last, run.keep_every).steps()
    num_more = count_more_checkpoints(there, start_step, config.total_steps, run)
    export_bytes = (num_trained if not config.adapter.lora_rank else num_frozen) * _EXPORT_BYTES[
        run.export_dtype
    ]
    wanted: dict[int, int] = defaultdict(int)
    places: dict[int, Path] = {}
    for folder, num_bytes in (
        (run.output / CHECKPOINTS_FOLDER, num_more * checkpoint_bytes),
        (run.output, export_bytes),
    ):
        place = nearest_existing(folder)
        disk = place.stat().st_dev
        wanted[disk] += num_bytes
        places[disk] = place
    for disk, num_bytes in wanted.items():
        free = shutil.disk_usage(places[disk]).free
        if num_bytes > free:
            yield (
                f"run.output: {run.output} will take {num_bytes / _GB:.3g} GB more ({num_more} checkpoints of "
                f"{checkpoint_bytes / _GB:.3g} GB at a time, and the adapter of {export_bytes / _GB:.3g} GB), and "
                f"{free / _GB:.3g} GB are free on its disk; make room, lower run.keep_last ({run.keep_last}), raise "
                f"run.keep_every ({run.keep_every}), or name another run.output"
            )


def estimate_checkpoint(config: TrainingConfig, num_trained: int) -> int:
    """Bytes of a checkpoint: weights and EMA in float32, and the optimiser's moments."""
    ema = 4 if config.optimizer.ema_decay else 0
    return num_trained * (4 + ema + OPTIMIZER_BYTES[config.optimizer.kind])


def count_more_checkpoints(there: Sequence[int], start_step: int, total_steps: int, run: RunConfig) -> int:
    """The most checkpoints that lie there at a time until the end, beyond those that do now."""
    every = run.checkpoint_every
    coming = [*range(start_step - start_step % every + every, total_steps, every), total_steps]
    if start_step >= total_steps:
        return 0
    # Each is written before an older one goes, and those that are kept for good only grow: the most lie there
    # at the first writing or at the last.
    before_last = [*(step for step in there if step <= start_step), *coming[:-1]]
    at_last = len(choose_kept(before_last, run.keep_last, run.keep_every)) + 1
    return max(len(there) + 1, at_last) - len(there)
