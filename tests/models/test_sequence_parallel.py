"""Processes that share a packed sequence give what one process gives: outputs and gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from shared_sequence import draw_samples, run_processes, run_shared
from tiny_packs import relative_error

from lynx_core.models.segment_attention import Segments, SequenceGroup

TOLERANCE = 1e-5


@pytest.mark.parametrize(
    ("size", "which", "checkpointing"), [(2, "several", True), (4, "several", False), (2, "one token", True)]
)
def test_shared_sequence_gives_what_a_whole_one_gives(
    size: int, which: str, checkpointing: bool, tmp_path: Path
) -> None:
    expected = run_shared(draw_samples(which), None, checkpointing)
    results = run_processes(size, which, checkpointing, tmp_path)
    num_outputs = 0
    for name, wanted in expected.items():
        found = [result[name] for result in results]
        if name.startswith("output"):
            num_outputs += 1
            assert all(torch.equal(found[0], other) for other in found), "every process has all of it"
            assert relative_error(found[0], wanted) < TOLERANCE, name
        else:
            # Each process asked for the gradient of the whole loss.
            assert relative_error(torch.stack(found).sum(0) / size, wanted) < 5 * TOLERANCE, name
            assert wanted.any() and (which != "several" or relative_error(found[0], wanted) > 0.01), name
    assert num_outputs == len(draw_samples(which)) and len(expected) > num_outputs + 20


def test_parts_of_a_sequence_are_even_and_complete() -> None:
    tokens = Segments((3, 0, 7, 1))
    for size in (1, 2, 3, 5, 16):
        parts = [SequenceGroup(None, rank, size).count_own(tokens) for rank in range(size)]
        assert [sum(counts) for counts in zip(*(part.lengths for part in parts), strict=True)] == [3, 0, 7, 1]
        totals = [part.total for part in parts]
        assert max(totals) - min(totals) <= 1
        rows = torch.arange(tokens.total)
        assert torch.equal(
            torch.cat([SequenceGroup(None, r, size).take_own(rows) for r in range(size)]), rows
        )
