"""Everything that can be known before a run starts, checked at once and told in one message.

First what needs no data: packages, models, the adapter that a run starts from, room and permissions. Then the
data: both manifests, their overlap, the stages. No weights of the base or of an encoder are loaded.
`comfy-lynx train` and its `--dry-run` do the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import torch

from ..data.cache import TensorCache
from ..data.dataset_index import IndexEntry, build_index
from ..data.encoders import UMT5TextEncoder
from ..data.errors import DataError
from ..data.manifest import read_manifest
from ..data.progress_line import ProgressLine
from ..data.source import PairDataset
from ..faces.errors import FaceError
from ..formats.tensor_file import AdapterError
from ..spec import LynxError
from .assembly import open_source
from .checkpoint import CheckpointFolder
from .configuration import ConfigurationError, TrainingConfig
from .data_checks import (
    describe_long_captions,
    find_long_captions,
    find_overlap_problems,
    find_stage_problems,
)
from .disk_checks import find_room_problems, find_write_problems
from .estimate import read_base_shape
from .model_checks import find_model_problems
from .progress import print_note
from .run_lock import describe_conflict, is_held
from .setting_checks import list_problems

_MANY_PAIRS = 1000
"""With more, looking through the files takes long enough to tell first what is known already."""

Note = Callable[[str], None]
_Result = TypeVar("_Result")


class PreflightError(LynxError):
    """All that keeps a run from starting, a sentence each with the value seen and the way out."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(list_problems(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class OpenedData:
    """The samples of a run that passed all checks."""

    training: PairDataset
    held_out: PairDataset | None
    """None where no validation is configured."""


def check_settings(config: TrainingConfig, resume_from: int | None = None) -> list[str]:
    """A sentence for each problem that needs no data to be seen."""
    output = config.run.output
    problems = [*find_model_problems(config), *find_write_problems(output)]
    checkpoints = CheckpointFolder(output, config.run.keep_last, config.run.keep_every)
    steps = checkpoints.steps()
    if resume_from is not None and resume_from not in steps:
        problems += _ask(checkpoints.find, resume_from)
    try:
        shape = read_base_shape(config.base.transformer)
        start_step = resume_from if resume_from is not None else max(steps, default=0)
        problems += find_room_problems(config, shape, start_step)
    except (ConfigurationError, AdapterError, OSError, ValueError, KeyError):
        pass  # base or adapter are a problem of their own already
    return problems


def open_data(
    config: TrainingConfig,
    device: torch.device,
    world_size: int,
    note: Note,
    *,
    shows: bool = False,
) -> OpenedData:
    """Open the samples of a run whose settings have no problem.

    Args:
        note: takes what a user should know.
        shows: show on standard error how far the look at the files has come.

    Raises:
        PreflightError: with all problems.
    """
    problems: list[str] = []
    training = _collect(problems, lambda: open_source(config, config.data.manifest, device, shows=shows))
    manifest = config.data.validation_manifest
    held_out = None
    if manifest is not None and config.validation.every:
        held_out = _collect(problems, lambda: open_source(config, manifest, device))
        held_out_items = held_out.items if held_out else None
    else:
        held_out_items = _read_held_out(config, problems)
    _check_items(config, world_size, training.items if training else None, held_out_items, problems)
    if problems or training is None:
        raise PreflightError(problems)
    _note_long_captions(training, note)
    if held_out is not None and len(held_out) < config.validation.num_samples:
        note(
            f"validation.num_samples is {config.validation.num_samples}, and {len(held_out)} held-out pairs are usable"
        )
    return OpenedData(training, held_out)


def look_for_more(config: TrainingConfig, known: Sequence[str]) -> NoReturn:
    """Add the problems of the data to those of the settings.

    Without encoders there are no samples, but the files of the pairs can be looked at.

    Raises:
        PreflightError: always, with all problems.
    """
    problems = list(known)
    is_main = os.environ.get("RANK", "0") == "0"
    if is_held(config.run.output):
        problems.append(describe_conflict(config.run.output))

    def read_training() -> tuple[IndexEntry, ...]:
        manifest = read_manifest(config.data.manifest, config.data.min_face_similarity)
        if len(manifest.pairs) > _MANY_PAIRS:
            known_now = "".join(f"\n  {problem}" for problem in problems)
            more = f"looking for more in the {len(manifest.pairs)} pairs of {manifest.path}; Ctrl-C leaves"
            print_note(f"problems so far:{known_now}\n{more}", is_main)
        line = ProgressLine()
        show = (lambda done, total: line.show(f"files of {manifest.path}", done, total)) if is_main else None
        return build_index(manifest, config.decoding, TensorCache(config.data.cache), show).items

    training = _collect(problems, read_training)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    _check_items(config, world_size, training, _read_held_out(config, problems), problems)
    raise PreflightError(problems)


def _read_held_out(config: TrainingConfig, problems: list[str]) -> tuple[IndexEntry, ...] | None:
    path = config.data.validation_manifest
    if path is None:
        return None

    def read() -> tuple[IndexEntry, ...]:
        manifest = read_manifest(path, config.data.min_face_similarity)
        items = build_index(manifest, config.decoding, TensorCache(config.data.cache)).items
        if not items:
            raise DataError(f"no usable pair is left of {path} (data.validation_manifest)")
        return items

    return _collect(problems, read)


def _check_items(
    config: TrainingConfig,
    world_size: int,
    training: Sequence[IndexEntry] | None,
    held_out: Sequence[IndexEntry] | None,
    problems: list[str],
) -> None:
    if training:
        problems += find_stage_problems(training, config, world_size)
    if training and held_out:
        problems += find_overlap_problems(training, held_out)


def _note_long_captions(source: PairDataset, note: Note) -> None:
    text = source.features.encoders.text
    if isinstance(text, UMT5TextEncoder):
        found = find_long_captions(source.items, text.count_tokens)
        if found:
            note(describe_long_captions(found, len(source)))


def _ask(check: Callable[[int], object], value: int) -> list[str]:
    try:
        check(value)
    except RuntimeError as error:
        return [str(error)]
    return []


def _collect(problems: list[str], open_it: Callable[[], _Result]) -> _Result | None:
    try:
        return open_it()
    except (DataError, FaceError, ConfigurationError) as error:
        problems.append(str(error))
        return None
