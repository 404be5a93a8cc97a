"""The index that a preparation leaves: a run opens it, mapped into memory, and looks at no media file.

    index/NAME.json       what it is of, and the names and sizes of its tables; written last
    index/NAME-*.arrow    `pairs` and `plan`, see `pair_table`; `skipped`: rows that are not used, and warnings

It holds for one manifest, by content, and for the settings and networks in its name. A file that has changed
since is noticed when its sample is drawn, by size and date first, then by its hash.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..buckets import fetched
from ..durable_file import sync, write_durably
from ..foreign_text import parse_json
from ..hashing import hash_every_byte, hash_values
from .dataset_index import READ_ONLY, DatasetIndex
from .errors import DataError, first_line
from .pair_table import PairTable, TableWriter
from .quarantine import Rejection

_logger = logging.getLogger(__name__)

INDEX_FOLDER = "index"
_FORMAT = 2
_TABLES = ("pairs", "plan", "skipped")


def name_index(
    cache_dir: Path, manifest: Path, fingerprints: Mapping[str, Any], min_face_similarity: float | None
) -> Path:
    """Where the index of a manifest lies, for settings and networks of these fingerprints."""
    settings = [fingerprints["decoding"], fingerprints["encoders"], min_face_similarity]
    return cache_dir / INDEX_FOLDER / f"{manifest.stem}-{hash_values(settings)[:16]}.json"


def write_index(
    path: Path, index: DatasetIndex, rejections: Sequence[Rejection], warnings: Sequence[Rejection]
) -> None:
    """Keep an index; the one that was there is replaced when this one is complete.

    Args:
        rejections, warnings: all of them, those of the stages too.

    Raises:
        DataError: when the disk is full. A cache that may only be read is left as it is.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Of two preparations that end at once, the second replaces what the first wrote.
        with FileLock(path.with_suffix(".lock")):
            _write(path, index, rejections, warnings)
    except OSError as error:
        if error.errno in READ_ONLY:
            _logger.info("the cache is read-only: the index %s stays as it is", path.name)
            return
        raise DataError(
            f"the index {path} cannot be written ({first_line(error)}); free some space, or name another data.cache"
        ) from error


def _write(
    path: Path, index: DatasetIndex, rejections: Sequence[Rejection], warnings: Sequence[Rejection]
) -> None:
    import pyarrow

    mark = uuid.uuid4().hex[:8]
    files = {table: path.with_name(f"{path.stem}-{mark}-{table}.arrow") for table in _TABLES}
    try:
        with (
            pyarrow.OSFile(str(files["pairs"]), "wb") as pairs,
            pyarrow.OSFile(str(files["plan"]), "wb") as plan,
        ):
            writer = TableWriter(pairs, plan, index.manifest_path.parent)
            for entry in index.items:
                writer.add(entry)
            writer.close()
        _write_skipped(files["skipped"], rejections, warnings)
        for file in files.values():
            sync(file)
        stated = {
            "format": _FORMAT,
            "manifest": _describe_manifest(index.manifest_path, with_hash=True),
            "tables": {
                table: {"file": file.name, "bytes": file.stat().st_size} for table, file in files.items()
            },
            "num_rows": index.num_rows,
            "ignored_columns": index.ignored_columns,
            "fingerprint": index.fingerprint,
        }
        write_durably(path, json.dumps(stated, indent=1).encode())
    except BaseException:
        for file in files.values():
            file.unlink(missing_ok=True)
        raise
    for old in path.parent.glob(f"{path.stem}-*.arrow"):
        if old not in files.values():
            old.unlink(missing_ok=True)


def open_index(path: Path, manifest: Path) -> DatasetIndex | None:
    """Open an index, if there is one of this manifest as it is now.

    Raises:
        DataError: when there is one that cannot be used, with the way out.
    """
    try:
        stated = parse_json(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"the index {path} cannot be read ({first_line(error)}){_WAY_OUT}") from error
    if stated.get("format") != _FORMAT:
        raise DataError(
            f"the index {path} has format {stated.get('format')!r}, this version reads {_FORMAT}{_WAY_OUT}"
        )
    if not _is_same_manifest(stated["manifest"], manifest):
        return None
    files = {}
    for table, entry in stated["tables"].items():
        file = path.with_name(entry["file"])
        found = file.stat().st_size if file.is_file() else None
        if found != entry["bytes"]:
            seen = "is missing" if found is None else f"has {found} bytes instead of {entry['bytes']}"
            raise DataError(f"{file} of the index {path.name} {seen}{_WAY_OUT}")
        files[table] = file
    return _open_tables(files, stated, manifest)


_WAY_OUT = "; run comfy-lynx prepare again, or delete it to look at all files at each start"


def _open_tables(files: Mapping[str, Path], stated: Mapping[str, Any], manifest: Path) -> DatasetIndex:
    import pyarrow

    try:
        mapped = {table: pyarrow.memory_map(str(file)) for table, file in files.items()}
        items = PairTable(mapped["pairs"], mapped["plan"], manifest.parent)
        skipped = pyarrow.ipc.open_file(mapped["skipped"]).read_all().to_pylist()
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{files['pairs']} cannot be read ({first_line(error)}){_WAY_OUT}") from error
    told: dict[bool, list[Rejection]] = {True: [], False: []}
    for row in skipped:
        told[row.pop("is_warning")].append(Rejection(**row))
    return DatasetIndex(
        items,
        tuple(told[False]),
        tuple(told[True]),
        stated["fingerprint"],
        manifest,
        stated["num_rows"],
        stated["ignored_columns"],
    )


def _write_skipped(path: Path, rejections: Sequence[Rejection], warnings: Sequence[Rejection]) -> None:
    import pyarrow as pa

    fields = [("id", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("detail", pa.string())]
    schema = pa.schema([*fields, ("is_warning", pa.bool_())])
    rows = [{**asdict(one), "is_warning": False} for one in rejections]
    rows += [{**asdict(one), "is_warning": True} for one in warnings]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
        file.write_table(pa.Table.from_pylist(rows, schema))


def _describe_manifest(path: Path, with_hash: bool) -> dict[str, Any]:
    with fetched(path) as file:
        status = file.stat()
        described: dict[str, Any] = {"bytes": status.st_size, "time_ns": status.st_mtime_ns}
        return described | {"sha256": hash_every_byte(file)} if with_hash else described


def _is_same_manifest(then: Mapping[str, Any], path: Path) -> bool:
    try:
        now = _describe_manifest(path, with_hash=False)
    except OSError:
        return False
    if now["bytes"] != then["bytes"]:
        return False
    # Read whole only when the date is another, as after a copy.
    if now["time_ns"] == then["time_ns"]:
        return True
    return bool(_describe_manifest(path, with_hash=True)["sha256"] == then["sha256"])
