"""The ledger: whole parts or none, one row a key, nothing of another version."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_benchmark import REPO

from lynx_core.evaluation import ledger as ledger_module
from lynx_core.evaluation.errors import LedgerError
from lynx_core.evaluation.ledger import Ledger, ScoreRow

ROW = ScoreRow("v", "t", "motion", "1", "", "", 0, 0.25, None, made_at=1.0)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger[ScoreRow]:
    return Ledger(tmp_path / "scores", ScoreRow)


def test_rows_come_back_and_the_later_of_a_key_counts(ledger: Ledger[ScoreRow]) -> None:
    assert ledger.read() == []
    failed = replace(ROW, metric="sharpness", value=None, error="no frame")
    ledger.append([ROW, failed])
    ledger.append([replace(ROW, value=0.5, made_at=2.0)])
    ledger.append([replace(ROW, value=0.1, made_at=0.5)])
    assert ledger.read() == [failed, replace(ROW, value=0.5, made_at=2.0)]


def test_merging_keeps_every_row_even_when_it_is_cut_short(
    ledger: Ledger[ScoreRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "MERGE_ABOVE", 3)
    for number in range(6):
        ledger.append([replace(ROW, repeat=number)])
    before = ledger.read()
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ledger.merge()
    monkeypatch.undo()
    assert sorted(ledger.read(), key=lambda row: row.repeat) == before
    monkeypatch.setattr(ledger_module, "MERGE_ABOVE", 3)
    ledger.merge()
    assert len(list(ledger.folder.glob("*.parquet"))) == 1
    assert sorted(ledger.read(), key=lambda row: row.repeat) == before


def test_another_version_and_a_damaged_part_are_named(ledger: Ledger[ScoreRow]) -> None:
    ledger.append([ROW])
    (part,) = ledger.folder.glob("*.parquet")
    table = pq.read_table(part)
    pq.write_table(table.replace_schema_metadata({b"lynx_ledger": b"0"}), part)
    with pytest.raises(LedgerError, match="ledger version '0', this program reads and writes '1'"):
        ledger.read()
    part.write_bytes(part.read_bytes()[:40])
    with pytest.raises(LedgerError, match=f"{part.name} is damaged"):
        ledger.read()


def test_a_full_disk_leaves_what_was_there(ledger: Ledger[ScoreRow], monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.append([ROW])

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger_module.pq, "write_table", refuse)
    with pytest.raises(LedgerError, match="No space left on device"):
        ledger.append([replace(ROW, repeat=1)])
    monkeypatch.undo()
    assert ledger.read() == [ROW]
    assert [path.suffix for path in ledger.folder.iterdir()] == [".parquet"]


WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from lynx_core.evaluation.ledger import Ledger, ScoreRow
ledger = Ledger(Path(sys.argv[1]), ScoreRow)
for number in range(10**6):
    ledger.append([ScoreRow("v", "t", "motion", "1", "", "", number, 0.5, None)] * 3)
    print(number, flush=True)
"""


def test_kill_minus_nine_loses_no_row_that_was_said_to_be_there(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "scores")],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert writer.stdout is not None
    said = [int(writer.stdout.readline()) for _ in range(20)]
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    rows = Ledger(tmp_path / "scores", ScoreRow).read()
    assert {row.repeat for row in rows} >= set(said)
