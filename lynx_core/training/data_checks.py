"""Whether the data are such that every stage and every validation of a run can take place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.dataset_index import IndexEntry
from ..data.errors import DataError
from ..spec import TEXT_LENGTH
from .assembly import tabulate_items
from .configuration import ConfigurationError, TrainingConfig
from .curriculum import PackStream, SampleTable
from .packing import PackingError

_NUM_NAMED = 3


def find_stage_problems(
    items: Sequence[IndexEntry], config: TrainingConfig, world_size: int
) -> Iterator[str]:
    """A sentence for each stage that has nothing to train on, or fewer packs than processes."""
    try:
        table, _ = tabulate_items(items, config.packing)
    except PackingError as error:
        yield str(error)
        return
    stream = PackStream(
        table,
        config.stages,
        config.packing,
        config.run.seed,
        world_size=world_size,
        kind_weights=config.data.kind_weights,
    )
    for number, stage in enumerate(config.stages):
        try:
            _plan_stage(stream, table, number, stage.steps * config.optimizer.accumulation, world_size)
        except (ConfigurationError, DataError, PackingError) as error:
            yield f"stage {stage.name}: {error}"


def _plan_stage(stream: PackStream, table: SampleTable, number: int, num_packs: int, world_size: int) -> None:
    """Plan the first epoch of a stage, and all others that may have fewer packs than processes."""
    plan = stream.plan(number, 0)
    lengths = table.stage_lengths(stream.stages[number].kind)[[*plan.samples, *plan.left_over]]
    if stream.kind_weights:
        # Rounding moves a draw of each kind from one epoch to another.
        fewest_tokens = (len(lengths) - len(stream.kind_weights)) * int(lengths.min())
    else:
        fewest_tokens = int(lengths.sum())
    # However samples fall into packs, so many tokens need a pack for each process.
    if fewest_tokens > (world_size - 1) * stream.packing.budget:
        return
    planned, epoch = len(plan), 0
    while planned < num_packs:
        epoch += 1
        planned += len(stream.plan(number, epoch))


def find_overlap_problems(training: Sequence[IndexEntry], held_out: Sequence[IndexEntry]) -> Iterator[str]:
    """A sentence when held-out files, under whatever name, are in training pairs as well."""
    seen: dict[str, str] = {}
    for item in training:
        for digest in (item.target_hash, *item.reference_hashes):
            seen.setdefault(digest, item.pair.id)
    for what, find in (("targets", _target_files), ("people, known by their photos,", _reference_files)):
        shared = [
            (item.pair.id, path, seen[digest])
            for item in held_out
            for digest, path in find(item)
            if digest in seen
        ]
        if shared:
            pairs = len({held_out_id for held_out_id, _, _ in shared})
            examples = "; ".join(
                f"{path.name} of {held_out_id} is in the training pair {other}"
                for held_out_id, path, other in shared[:_NUM_NAMED]
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


@dataclass(frozen=True)
class LongCaption:
    """A caption that is cut off."""

    sample_id: str
    num_tokens: int


def find_long_captions(items: Sequence[IndexEntry], count_tokens: Callable[[str], int]) -> list[LongCaption]:
    """The captions of more than 512 tokens, the longest first."""
    counts: dict[str, int] = {}
    for item in items:
        caption = item.pair.caption
        # A token is at least a byte, so a short caption need not be counted; one is the end of the sequence.
        if len(caption.encode()) >= TEXT_LENGTH and caption not in counts:
            counts[caption] = count_tokens(caption)
    found = [
        LongCaption(item.pair.id, counts[item.pair.caption])
        for item in items
        if counts.get(item.pair.caption, 0) > TEXT_LENGTH
    ]
    return sorted(found, key=lambda caption: -caption.num_tokens)


def describe_long_captions(found: Sequence[LongCaption], total: int) -> str:
    """How many captions are cut off, with examples."""
    examples = ", ".join(f"{caption.sample_id} ({caption.num_tokens})" for caption in found[:_NUM_NAMED])
    return (
        f"{len(found)} of {total} captions are longer than {TEXT_LENGTH} tokens and are cut off there, as in "
        f"inference: {examples}"
    )
