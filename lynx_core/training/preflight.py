"""Everything that can be known before a run starts, checked at once and told in one message.

First what needs no data: packages, models, the adapter that a run starts from, room and permissions. Then the
data: both manifests, their overlap, the stages. No weights of the base or of an encoder are loaded.
`comfy-lynx train` and its `--dry-run` do the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import torch

from ..data.cache.tensor_cache import TensorCache
from ..data.dataset import PairDataset
from ..data.dataset_index import build_index
from ..data.errors import DataError
from ..data.manifest import read_manifest
from ..data.pair_table import IndexEntry, PairTable
from ..faces.errors import FaceError
from ..formats.tensor_file import AdapterError
from ..spec import TEXT_LENGTH, LynxError
from .assembly import choose_kind_weights, find_index, make_encoders, open_source, tabulate_items
from .checkpoint import CheckpointFolder
from .configuration import TrainingConfig
from .configuration_file import ConfigurationError, list_problems
from .curriculum import PackStream
from .estimate import find_room_problems, find_write_problems, read_base_shape
from .model_checks import find_model_problems
from .packing import PackingError
from .progress import ProgressLine, print_note
from .run_lock import describe_conflict, is_held

_MANY_PAIRS = 1000
"""With more, probing the files takes so long that the problems known already are printed first."""

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


def count_processes() -> int:
    """Processes of this run, as torchrun tells each of them; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_settings(
    config: TrainingConfig, resume_from: int | None = None, world_size: int | None = None
) -> list[str]:
    """A sentence for each problem that needs no data to be seen.

    Args:
        world_size: processes that the run is to have; by default those that there are.
    """
    output = config.run.output
    problems = [*find_model_problems(config, world_size or count_processes()), *find_write_problems(output)]
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
    note: Note,
    *,
    shows: bool = False,
) -> OpenedData:
    """Open the samples of a run whose settings have no problem.

    Args:
        note: takes what a user should know.
        shows: show the progress of hashing and probing on standard error.

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
    _check_items(config, training.items if training else None, held_out_items, problems)
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

    Without encoders there are no samples, but the files of the pairs can be hashed and probed.

    Raises:
        PreflightError: always, with all problems.
    """
    problems = list(known)
    is_main = os.environ.get("RANK", "0") == "0"
    if is_held(config.run.output):
        problems.append(describe_conflict(config.run.output))

    def read_training() -> PairTable:
        prepared = _find_prepared(config, config.data.manifest)
        if prepared is not None:
            return prepared
        manifest = read_manifest(config.data.manifest, config.data.min_face_similarity)
        if len(manifest.pairs) > _MANY_PAIRS:
            known_now = "".join(f"\n  {problem}" for problem in problems)
            more = f"looking for more in the {len(manifest.pairs)} pairs of {manifest.path}; Ctrl-C stops"
            print_note(f"problems so far:{known_now}\n{more}", is_main)
        line = ProgressLine()
        show = (lambda done, total: line.show(f"files of {manifest.path}", done, total)) if is_main else None
        return build_index(manifest, config.decoding, TensorCache(config.data.cache), show).items

    training = _collect(problems, read_training)
    _check_items(config, training, _read_held_out(config, problems), problems)
    raise PreflightError(problems)


def _read_held_out(config: TrainingConfig, problems: list[str]) -> PairTable | None:
    path = config.data.validation_manifest
    if path is None:
        return None

    def read() -> PairTable:
        items = _open_pairs(config, path)
        if not items:
            raise DataError(f"no usable pair is left of {path} (data.validation_manifest)")
        return items

    return _collect(problems, read)


def _open_pairs(config: TrainingConfig, path: Path) -> PairTable:
    """The pairs of a manifest, for which no encoder is needed."""
    prepared = _find_prepared(config, path)
    if prepared is not None:
        return prepared
    manifest = read_manifest(path, config.data.min_face_similarity)
    return build_index(manifest, config.decoding, TensorCache(config.data.cache)).items


def _find_prepared(config: TrainingConfig, path: Path) -> PairTable | None:
    try:
        encoders = make_encoders(config.data, torch.device("cpu"))
        encoders.fingerprint()
    except (DataError, FaceError):  # a problem of its own, which is told elsewhere
        return None
    index = find_index(config, path, encoders)
    return None if index is None else index.items


def _check_items(
    config: TrainingConfig,
    training: PairTable | None,
    held_out: PairTable | None,
    problems: list[str],
) -> None:
    if training:
        problems += _find_stage_problems(training, config)
    if training and held_out:
        problems += _find_overlap_problems(training, held_out)


def _note_long_captions(source: PairDataset, note: Note) -> None:
    found = _describe_long_captions(source.items, source.features.encoders.text.count_tokens)
    if found is not None:
        note(found)


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


_NUM_NAMED = 3


def _find_stage_problems(items: PairTable, config: TrainingConfig) -> Iterator[str]:
    """A sentence for each stage that has nothing to train on."""
    try:
        table, _ = tabulate_items(items, config.packing)
    except PackingError as error:
        yield str(error)
        return
    stream = PackStream(
        table, config.stages, config.packing, config.run.seed, kind_weights=choose_kind_weights(config, items)
    )
    for number, stage in enumerate(config.stages):
        try:
            stream.plan(number, 0)
        except (ConfigurationError, DataError, PackingError) as error:
            yield f"stage {stage.name}: {error}"


def _find_overlap_problems(training: PairTable, held_out: PairTable) -> Iterator[str]:
    """A sentence when held-out files, under whatever name, are in training pairs as well."""
    entries = list(held_out)
    wanted = {digest for entry in entries for digest in (entry.target_hash, *entry.reference_hashes)}
    seen: dict[str, int] = {}
    for row, digest in training.find_files(wanted):
        seen.setdefault(digest, row)
    for what, find in (("targets", _target_files), ("people, known by their photos,", _reference_files)):
        shared = [
            (entry.pair.id, path, seen[digest])
            for entry in entries
            for digest, path in find(entry)
            if digest in seen
        ]
        if shared:
            pairs = len({held_out_id for held_out_id, _, _ in shared})
            examples = "; ".join(
                f"{path.name} of {held_out_id} is in the training pair {training.ids[row]}"
                for held_out_id, path, row in shared[:_NUM_NAMED]
            )
            yield (
                f"data.validation_manifest: {what} of {pairs} of {len(held_out)} held-out pairs are in "
                f"data.manifest as well, so their loss would show learning by heart as progress: {examples}; take "
                "these pairs out of one of the two"
            )


def _target_files(item: IndexEntry) -> list[tuple[str, Path]]:
    return [(item.target_hash, item.pair.target)]


def _reference_files(item: IndexEntry) -> list[tuple[str, Path]]:
    return list(zip(item.reference_hashes, item.pair.references, strict=True))


def _describe_long_captions(items: PairTable, count_tokens: Callable[[str], int]) -> str | None:
    """How many captions are truncated, with the longest as examples; None when none is."""
    counts: dict[str, int] = {}
    # A token is at least a byte, so a short caption need not be counted; one is the end of the sequence.
    for row in items.find_long_captions(TEXT_LENGTH):
        values = items.read_row(row, ("id", "caption"))
        counts[values["id"]] = count_tokens(values["caption"])
    long = sorted(
        (name for name, count in counts.items() if count > TEXT_LENGTH), key=lambda name: -counts[name]
    )
    if not long:
        return None
    examples = ", ".join(f"{name} ({counts[name]})" for name in long[:_NUM_NAMED])
    return (
        f"{len(long)} of {len(items)} captions are longer than {TEXT_LENGTH} tokens and are truncated, as in "
        f"inference: {examples}"
    )
