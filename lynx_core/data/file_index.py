"""Which content lay at each path of a data set, kept with the cache: `files.jsonl`.

Cache entries are named by content, so what was made of a file can only be found again with its hash.
A file that is there is always hashed; the index answers for one that is gone. It is asked by the file's
full path first, then by the whole row, which finds it when manifest and cache were moved to another
machine. A line is one row; later lines win, and a line cut short by a kill is passed over.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import DataError, first_line
from .manifest_row import Pair

INDEX_NAME = "files.jsonl"
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairFiles:
    """Hashes of the files of a pair, target first; None for one that cannot be read."""

    row_hash: str
    files: tuple[tuple[str, str | None], ...]
    """Full path and hash."""


class FileIndex:
    """The index of one cache.

    Args:
        root: folder of the cache; None knows nothing and keeps nothing.
    """

    def __init__(self, root: Path | None) -> None:
        self.path = None if root is None else root / INDEX_NAME
        self._by_path: dict[str, str] = {}
        self._by_row: dict[str, tuple[tuple[str, str | None], ...]] = {}
        self._ends_in_mid_line = False
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def recall(self, pair: Pair) -> list[str | None]:
        """Hashes of the target and of each reference as last seen; None for a file never seen."""
        paths = [pair.target, *pair.references]
        by_row = self._by_row.get(pair.row_hash, ())
        if len(by_row) != len(paths):
            by_row = tuple(("", None) for _ in paths)
        return [
            self._by_path.get(str(path.absolute())) or digest
            for path, (_, digest) in zip(paths, by_row, strict=True)
        ]

    def keep(self, found: Iterable[PairFiles]) -> None:
        """Note the files of rows that are new or have changed.

        Raises:
            DataError: when the disk is full. A cache that may only be read is left as it is.
        """
        if self.path is None:
            return
        lines = []
        for pair in found:
            if self._by_row.get(pair.row_hash) == pair.files:
                continue
            self._remember(pair)
            lines.append(json.dumps({"row": pair.row_hash, "files": pair.files}) + "\n")
        if not lines:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write((b"\n" if self._ends_in_mid_line else b"") + "".join(lines).encode())
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise DataError(
                    f"{self.path} cannot be written ({first_line(error)}); free some space"
                ) from error
            _logger.info(
                "the cache is read-only, so %s does not take in %d rows; their media must stay where they are",
                self.path,
                len(lines),
            )

    def _remember(self, pair: PairFiles) -> None:
        self._by_row[pair.row_hash] = pair.files
        self._by_path.update({path: digest for path, digest in pair.files if digest is not None})

    def _read(self, path: Path) -> None:
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({first_line(error)}); mend the cache folder") from error
        self._ends_in_mid_line = bool(raw) and not raw.endswith(b"\n")
        for line in raw.splitlines():
            try:
                entry = json.loads(line)
                files = tuple((str(name), digest) for name, digest in entry["files"])
                self._remember(PairFiles(str(entry["row"]), files))
            except (ValueError, TypeError, KeyError):
                continue
