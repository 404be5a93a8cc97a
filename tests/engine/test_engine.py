"""The engine: what is done stays done, nothing vanishes, one bad record costs itself alone."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from doubling import Doubled, Number, make_stage

from lynx_core.engine import daft_runner
from lynx_core.engine.engine import Engine
from lynx_core.engine.parts import PartsFolder, write_part
from lynx_core.engine.parts_index import pack_keys, unpack_key
from lynx_core.engine.records import hash_record
from lynx_core.engine.stage import EngineError, Rejected, Stage, TableStage

HERE = Path(__file__).parent


def put_numbers(engine: Engine, values: Sequence[int]):
    return engine.put("numbers", (Number(f"n{value}", value) for value in values), Number)


def read_journal(journal: Path) -> list[str]:
    return journal.read_text().split() if journal.exists() else []


def test_records_come_back_as_they_went_in(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "work")
    result = engine.run(make_stage(tmp_path / "journal"), put_numbers(engine, [3, 5]))
    first, second = result.records(Doubled)
    assert (first.id, first.value, first.note, first.raw) == ("n3", 6, None, b"\0\xff")
    assert first.vector.tolist() == [3, 3, 3] and [point.x for point in first.points] == [0.5, 1.5]
    assert second.id == "n5"
    # A class with fewer fields reads those alone, and the same content has the same hash.
    assert [number.value for number in result.records(Number)] == [6, 10]
    assert hash_record(first) == next(iter(result.refs())).key


def test_every_input_gives_a_record_or_a_counted_reason(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "work")
    result = engine.run(make_stage(tmp_path / "journal"), put_numbers(engine, range(20)))
    rejections = list(result.rejections())
    assert len(list(result.refs())) + len(rejections) == 20
    assert result.count_reasons() == Counter({"a multiple of seven": 3, "error: ValueError": 1})
    error = next(item for item in rejections if item.reason.startswith("error"))
    assert (error.detail, error.subject, error.stage) == ("thirteen", "n13", "double")


def test_a_rerun_does_what_is_left_and_tries_errors_again(tmp_path: Path) -> None:
    journal, engine = tmp_path / "journal", Engine(tmp_path / "work")
    engine.run(make_stage(journal), put_numbers(engine, range(15)))
    journal.unlink()
    result = engine.run(make_stage(journal), put_numbers(engine, range(18)))
    assert set(read_journal(journal)) == {"n13", "n15", "n16", "n17"}
    assert result.num_reused == 14
    assert [record.id for record in result.records(Number)] == [
        f"n{v}" for v in range(18) if v % 7 and v != 13
    ]
    journal.unlink()
    shorter = engine.run(make_stage(journal), put_numbers(engine, [1, 2]))
    assert [record.id for record in shorter.records(Number)] == ["n1", "n2"] and not read_journal(journal)


def test_an_error_that_is_mended_gives_its_record_and_is_done_then(tmp_path: Path) -> None:
    journal, engine = tmp_path / "journal", Engine(tmp_path / "work")
    engine.run(make_stage(journal), put_numbers(engine, range(10, 16)))
    (tmp_path / "mended").touch()
    # With other numbers beside it, so that it lies in another part than before.
    again = engine.run(make_stage(journal), put_numbers(engine, range(1, 16)))
    assert "n13" in [record.id for record in again.records(Number)]
    assert "error: ValueError" not in again.count_reasons()
    journal.unlink()
    engine.run(make_stage(journal), put_numbers(engine, range(1, 16)))
    assert read_journal(journal) == []


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_of_two_attempts_the_one_that_gave_a_record_counts(names: tuple[str, str], tmp_path: Path) -> None:
    failed, done = (tmp_path / f"{name}.parquet" for name in names)
    key = hash_record(Number("n", 1))
    write_part(failed, Number, [(key, [Rejected("error: OSError", "", retry=True)])])
    write_part(done, Number, [(key, [Number("n", 1)])])
    index, keys = PartsFolder(tmp_path).read_index(), pack_keys([key])
    (ref,) = index.refs(index.find_rows(keys))
    assert ref.part == str(done) and index.is_done(keys).all()


def test_the_index_keeps_order_and_takes_each_content_once(tmp_path: Path) -> None:
    same, other = Number("same", 1), Number("other", 2)
    first, second, third = (hash_record(Number(name, 0)) for name in "abc")
    write_part(
        tmp_path / "one.parquet", Number, [(first, [same, Rejected("no", "")]), (second, [other, same])]
    )
    index = PartsFolder(tmp_path).read_index()
    keys = pack_keys([second, third, first])
    assert [ref.row for ref in index.refs(index.find_records(keys))] == [2, 3]
    assert [ref.row for ref in index.refs(index.find_rejections(keys))] == [1]
    assert index.is_done(keys).tolist() == [True, False, True]


@pytest.mark.parametrize("digits", ["00" * 16, "ab" * 8 + "00" * 8, "ff" * 15 + "00"])
def test_keys_that_end_in_zeros_are_kept(digits: str) -> None:
    (packed,) = pack_keys([digits])
    assert unpack_key(packed) == digits


def test_a_done_row_keeps_some_fifty_bytes_and_not_the_row(tmp_path: Path) -> None:
    def kept_bytes(count: int) -> int:
        engine = Engine(tmp_path / str(count))
        tracemalloc.start()
        numbers = put_numbers(engine, range(count))
        result = engine.run(
            Stage("copy", 1, Number, Number, open_worker=open_copier, batch_rows=256), numbers
        )
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sum(1 for _ in result.refs()) == count
        return kept

    kept_bytes(10)  # imports
    assert (kept_bytes(4_000) - kept_bytes(1_000)) / 3_000 < 200


def open_copier():
    return lambda numbers: [[number] for number in numbers]


def test_another_version_is_done_anew_and_the_old_one_stays(tmp_path: Path) -> None:
    journal, engine = tmp_path / "journal", Engine(tmp_path / "work")
    numbers = put_numbers(engine, [1, 2])
    engine.run(make_stage(journal), numbers)
    engine.run(make_stage(journal, version=2), numbers)
    assert read_journal(journal) == ["n1", "n2"] * 2
    engine.run(make_stage(journal), numbers)
    assert len(read_journal(journal)) == 4


def test_a_part_that_is_damaged_is_done_again(tmp_path: Path) -> None:
    journal, engine = tmp_path / "journal", Engine(tmp_path / "work")
    numbers, stage = put_numbers(engine, range(1, 7)), make_stage(journal)
    engine.run(stage, numbers)
    part = sorted(engine.folder_of(stage).path.glob("*.parquet"))[0]
    part.write_bytes(part.read_bytes()[:100])
    journal.unlink()
    assert len(list(engine.run(stage, numbers).refs())) == 6
    assert 0 < len(read_journal(journal)) < 6


def test_a_stage_that_lets_a_record_vanish_is_stopped(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "work")
    stage = Stage("vanish", 1, Number, Number, open_worker=lambda_free)
    with pytest.raises(EngineError, match="nothing vanishes"):
        engine.run(stage, put_numbers(engine, [1]))


def lambda_free():
    return lambda numbers: [[] for _ in numbers]


def open_missing_model():
    raise ValueError("there is no model at /models/x.onnx")


def test_a_worker_that_cannot_begin_stops_the_run_with_its_message(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "work")
    stage = Stage("detect", 1, Number, Number, open_worker=open_missing_model)
    with pytest.raises(EngineError, match="there is no model at"):
        engine.run(stage, put_numbers(engine, [1]))


def open_always_wrong():
    def work(numbers):
        raise RuntimeError("the driver is too old")

    return work


def test_errors_of_nearly_every_record_stop_the_run(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "work")
    stage = Stage("wrong", 1, Number, Number, open_worker=open_always_wrong)
    with pytest.raises(EngineError, match=r"30 of 30 records.*the driver is too old"):
        engine.run(stage, put_numbers(engine, range(30)))


@dataclass(frozen=True)
class Total:
    total: int


def add_up(numbers: Sequence[Number]) -> list[Total | Rejected]:
    return [Total(sum(number.value for number in numbers))] if numbers else []


def test_a_table_stage_sees_all_records_and_follows_its_inputs(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "work")
    calls: list[int] = []

    def count(numbers):
        calls.append(len(numbers))
        return add_up(numbers)

    stage = TableStage("total", 1, Number, Total, function=count)
    three = put_numbers(engine, [1, 2, 3])
    assert [total.total for total in engine.run_table(stage, three).records(Total)] == [6]
    assert [total.total for total in engine.run_table(stage, three).records(Total)] == [6]
    assert calls == [3]
    assert [total.total for total in engine.run_table(stage, put_numbers(engine, [4])).records(Total)] == [4]
    assert not list(engine.run_table(stage, put_numbers(engine, [])).records(Total))


def test_progress_counts_from_what_is_done_to_the_end(tmp_path: Path) -> None:
    shown: list[tuple[str, int, int]] = []
    engine = Engine(tmp_path / "work", on_progress=lambda *count: shown.append(count))
    engine.run(make_stage(tmp_path / "journal"), put_numbers(engine, range(1, 6)))
    engine.run(make_stage(tmp_path / "journal"), put_numbers(engine, range(1, 10)))
    assert shown[0] == ("double", 0, 5) and ("double", 5, 5) in shown
    assert ("double", 5, 9) in shown and shown[-1] == ("double", 9, 9)


def start(tmp_path: Path, *arguments: object, **more) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        str(HERE / "run_doubling.py"),
        str(tmp_path / "work"),
        str(tmp_path / "journal"),
    ]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{HERE}"}, start_new_session=True, **more,
    )  # fmt: skip


def test_killed_in_the_middle_it_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, 24, 2, 0.1, "native")
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "work").glob("double-*/*.parquet"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, 9)
    process.communicate()
    out, err = start(tmp_path, 24, 1, 0, "native").communicate(timeout=60)
    assert out, err
    done, _, _, reused = out.split()
    assert int(done) == 24 - 4 - 1  # four multiples of seven, thirteen
    assert 8 <= int(reused) < 24
    assert not list((tmp_path / "work").glob("double-*/.*"))
    # What had been done was not done again, but for the batches in hand.
    assert Counter(read_journal(tmp_path / "journal")).most_common(1)[0][1] <= 2 + 1


@pytest.mark.parametrize("address", [None, "10.0.0.1:6379"])
def test_a_ray_that_cannot_be_had_is_said_with_the_way_out(address: str | None) -> None:
    class Daft:
        def set_runner_ray(self, *_: object, **__: object) -> None:
            raise Exception("The current node timed out during startup.\nMore of it.")

    with pytest.raises(EngineError) as error:
        daft_runner._start_ray(Daft(), address)
    said = str(error.value)
    assert "timed out during startup.)" in said and "\n" not in said
    assert (f"RAY_ADDRESS={address} does not answer" if address else "ray start --head") in said


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the package ray")
@pytest.mark.skipif(not os.environ.get("LYNX_RAY"), reason="starts a local Ray; LYNX_RAY=1 runs it")
def test_a_local_ray_gives_the_same_rows(tmp_path: Path) -> None:
    out, err = start(tmp_path, 24, 2, 0.2, "ray").communicate(timeout=200)
    assert out, err
    assert out.split()[:2] == ["19", "2"]
    again, _ = start(tmp_path, 24, 1, 0, "native").communicate(timeout=60)
    assert again.split()[0] == "19" and again.split()[3] == "23"
