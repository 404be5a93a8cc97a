"""Taking out of a cache what was made of some people's files, for good."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..durable_file import write_durably
from ..engine.parts import erase_records
from ..foreign_text import parse_json
from ..hashing import hash_file
from .cache.bucket_cache import pull_cache, push_cache
from .cache.shards import FOLDER, rewrite_shards
from .dataset_index import INDEX_NAME
from .errors import DataError, first_line
from .pair_table import list_holders
from .prepare import WORK_NAME
from .prepared_index import INDEX_FOLDER
from .sample import hash_caption


def forget_files(cache_dir: Path, paths: Iterable[Path], captions: Iterable[str], ids: set[str]) -> int:
    """Erase the entries of files and captions, the notes of pairs, and every index that names them.

    The same call finishes what a kill has interrupted. Shards that hold an entry are written anew without it. When
    other pairs had some of these files, the next preparation looks at every pair again, and makes what they need.

    Args:
        paths: of targets and references; one that is gone is known by what the cache has noted of it.
        captions: that no other pair has.
        ids: of the pairs.

    Returns:
        how many entries were erased.

    Raises:
        DataError: when the folder is no cache, a file of it cannot be read, or the disk is full.
    """
    pull_cache(cache_dir)
    noted = cache_dir / INDEX_NAME
    if not noted.is_file() and not (cache_dir / FOLDER).is_dir():
        raise DataError(f"{cache_dir} is no cache of comfy-lynx prepare: name the folder data.cache")
    try:
        lines = _read_lines(noted)
        digests = _find_digests(lines, [Path(path).absolute() for path in paths])
        sources = digests | {hash_caption(caption) for caption in captions}
        indexes = _find_indexes(cache_dir / INDEX_FOLDER, digests)
        count = rewrite_shards(cache_dir, sources, anew=any(held - ids for held in indexes.values()))
        erase_records(cache_dir / WORK_NAME, ("id",), (), ids)
        for stem in indexes:  # it names the files and holds the captions; the next preparation writes another
            for path in (stem.with_suffix(".json"), *stem.parent.glob(f"{stem.name}-*.arrow")):
                path.unlink(missing_ok=True)
        kept = [line for line, files in lines if digests.isdisjoint(digest for _, digest in files)]
        if len(kept) < len(lines):
            write_durably(noted, b"".join(line + b"\n" for line in kept))
        push_cache(cache_dir)
    except OSError as error:
        raise DataError(
            f"{cache_dir} cannot be cleared of a person ({first_line(error)}); the same command finishes it"
        ) from error
    return count


def _read_lines(noted: Path) -> list[tuple[bytes, list[tuple[str, str | None]]]]:
    """The lines of the list of files that can be read, with path and hash of each file."""
    found = []
    for line in noted.read_bytes().splitlines() if noted.is_file() else []:
        try:
            found.append((line, [(str(path), digest) for path, digest in parse_json(line)["files"]]))
        except (ValueError, TypeError, KeyError):
            continue
    return found


def _find_digests(lines: Iterable[tuple[bytes, list[tuple[str, str | None]]]], paths: list[Path]) -> set[str]:
    wanted = {str(path) for path in paths}
    found = {hash_file(path) for path in paths if path.is_file()}
    return found | {
        digest for _, files in lines for path, digest in files if digest is not None and path in wanted
    }


def _find_indexes(folder: Path, digests: set[str]) -> dict[Path, set[str]]:
    """The indexes that name one of these hashes, without their suffix, and the ids of the pairs that do."""
    found = {}
    for table in folder.glob("*-pairs.arrow"):
        try:
            holders = list_holders(table, digests)
        except (ValueError, OSError, KeyError):
            holders = {""}  # one that does not open may hold anything
        if holders:
            found[folder / table.name.rsplit("-", 2)[0]] = holders
    return found
