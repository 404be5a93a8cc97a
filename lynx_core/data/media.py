"""Files of pairs as they are read: on this machine or in a bucket, and whether they are what was indexed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..buckets import fetched, url_of
from ..hashing import hash_file
from .errors import DataError, MediaError, first_line
from .pair_table import IndexEntry


@contextmanager
def opened_media(path: Path) -> Iterator[Path]:
    """Give the file to read for as long as the block runs; faults that the block finds in it name `path`.

    Raises:
        MediaError: when it is not there, or does not come from its bucket.
    """
    try:
        with fetched(path) as file:
            if not file.exists():
                raise FileNotFoundError(path)
            try:
                yield file
            except MediaError as error:
                raise MediaError(path, error.reason, error.detail.replace(str(file), str(path))) from error
    except FileNotFoundError as error:
        raise MediaError(
            path, "file is gone", "the cache has nothing for these settings; bring the file back"
        ) from error
    except OSError as error:
        if url_of(path) is None:
            raise
        raise MediaError(path, "cannot be fetched", f"{url_of(path)}: {first_line(error)}") from error


def check_as_indexed(item: IndexEntry) -> None:
    """Notice a file that was changed after it was indexed; one that is gone is no fault, what was made of it holds.

    Raises:
        MediaError: when one has another content.
    """
    paths = (item.pair.target, *item.pair.references)
    digests = (item.target_hash, *item.reference_hashes)
    for path, digest, state in zip(paths, digests, item.file_states, strict=False):
        try:
            now = path.stat()
            if (now.st_size, now.st_mtime_ns) == state or hash_file(path) == digest:
                continue
        except OSError:
            continue
        raise MediaError(
            path, "file has changed", "it is another one than when it was prepared; prepare the dataset again"
        )


def check_unchanged(file: Path, path: Path, digest: str) -> None:
    try:
        found = hash_file(file)
    except OSError as error:
        raise MediaError(path, "cannot be read", first_line(error)) from error
    if found != digest:
        raise DataError(f"{path} has changed since the run began; start again, so that plan and data agree")
