"""`comfy-lynx download`: fetches model files from the Hugging Face hub, resumable, pinned and verified.

The sha256 of a file is either on record in the table of sources, or the one that the hub
reports for the revision at the first download. Revision and sha256 are then written to a lock
file beside the models, and later downloads must match it. Nothing is put in place before its
sha256 has been compared.

All that can stop a download is looked for before its first byte: other files in the places, folders
that cannot be written, disks too small. A file is staged in the folder it belongs in, because any
folder of models may be a link to another disk. `hf_hub_download` does neither: since huggingface_hub 2 it
restarts an interrupted file from its first byte, and it compares sizes only.

Several downloads into one folder wait for each other, file by file.
"""

from __future__ import annotations

import argparse
import errno
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..durable_file import hold_alone, replace_durably, write_durably
from ..foreign_text import parse_json
from ..formats.published_files import BUNDLES, UNPINNED, Source
from ..hashing import hash_every_byte
from ..spec import LynxError
from .models_folder import ModelFolders, add_models_argument, find_model_folders


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "download",
        help="fetch model files",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Fetches model files from the Hugging Face hub into ComfyUI's models folder. An interrupted\n"
        "download resumes. Every file is checked: against the sha256 this pack knows,\n"
        "or, where it knows none, against the one the hub reports at the first download. Revision and\n"
        f"sha256 are kept in models/{LOCK_FILE}, and later downloads must match them.",
        epilog="\n".join(f"{name:11}{bundle.title} [{bundle.license}]" for name, bundle in BUNDLES.items()),
    )
    parser.add_argument("what", nargs="+", choices=sorted(BUNDLES), metavar="WHAT", help="%(choices)s")
    add_models_argument(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="only list files, sizes and places; no network"
    )
    parser.add_argument("--latest", action="store_true", help="take and pin the newest revisions")
    parser.add_argument(
        "--replace", action="store_true", help="replace files that are there but do not match"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    folders = find_model_folders(arguments)
    lock = DownloadLock(folders.models_dir)
    sources: list[Source] = []
    for name in arguments.what:
        bundle = BUNDLES[name]
        print(f"{name}: {bundle.title} [{bundle.license}]")
        if arguments.dry_run:
            for source in bundle.sources:
                print(_plan_shown(source, folders, lock))
        sources += bundle.sources
    if not arguments.dry_run:
        fetch_files(sources, folders, lock, latest=arguments.latest, replace=arguments.replace)
    return 0


def _plan_shown(source: Source, folders: ModelFolders, lock: DownloadLock) -> str:
    pin = lock.find(source)
    sha256 = pin.sha256 if pin else source.sha256
    size = pin.num_bytes if pin else source.num_bytes
    place = folders.find_place(source.target)
    there = f" (a file of {place.stat().st_size:,} bytes is there)" if place.is_file() else ""
    return (
        f"  {place}{there}\n"
        f"    {source.repo}/{source.file} at {pin.revision if pin else source.revision}, {_shown_bytes(size)}, "
        f"sha256 {sha256 or 'reported by the hub'}"
    )


LOCK_FILE = "lynx/comfy-lynx-download.lock.json"
"""Below the models folder."""

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}


class DownloadError(LynxError):
    """A file that could not be fetched or is not what it should be; the message says the way out."""


@dataclass(frozen=True)
class Pin:
    """What a file must be."""

    repo: str
    file: str
    revision: str
    sha256: str
    num_bytes: int | None


class DownloadLock:
    """The pins of the files that were downloaded, by their path below the models folder."""

    def __init__(self, models_dir: Path) -> None:
        self.path = models_dir / LOCK_FILE
        self._pins = self._read()

    def _read(self) -> dict[str, Pin]:
        try:
            saved = parse_json(self.path.read_text()) if self.path.exists() else {}
            return {target: Pin(**pin) for target, pin in saved.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise DownloadError(
                f"{self.path} is damaged ({error}); delete it, and the next download pins the files again."
            ) from error

    def find(self, source: Source) -> Pin | None:
        """Give the pin of a source, unless it was made for another file."""
        pin = self._pins.get(source.target)
        return pin if pin and (pin.repo, pin.file) == (source.repo, source.file) else None

    def record(self, source: Source, pin: Pin) -> None:
        """Add a pin to those in the file, another download's among them, and write it."""
        with hold_alone(self.path):
            self._pins = {**self._read(), source.target: pin}
            pins = json.dumps({t: asdict(p) for t, p in sorted(self._pins.items())}, indent=1) + "\n"
            write_durably(self.path, pins.encode())


@dataclass(frozen=True)
class Fetch:
    """A file that has to come."""

    source: Source
    pin: Pin
    target: Path
    """Where it goes, links followed."""

    @property
    def partial(self) -> Path:
        """What has come so far: in the target's folder, and so on its disk."""
        return self.target.with_name(f".{self.target.name}.{self.pin.sha256[:16]}.part")

    @property
    def missing_bytes(self) -> int:
        """Bytes that are still to come; 0 where the hub does not tell the size."""
        have = self.partial.stat().st_size if self.partial.is_file() else 0
        return max((self.pin.num_bytes or 0) - have, 0)


def fetch_files(
    sources: Iterable[Source],
    folders: ModelFolders,
    lock: DownloadLock,
    *,
    latest: bool = False,
    replace: bool = False,
    report: Callable[[str], None] = print,
) -> None:
    """Bring files to their places; a file that is there and matches is not fetched again.

    Args:
        sources: what to fetch.
        folders: where the host looks for models.
        lock: pins of earlier downloads; gets these.
        latest: take the repositories' newest revisions and pin those.
        replace: put files in the places of ones that do not match.
        report: called with each line for the user.

    Raises:
        DownloadError: when the network or the hub fails, the content is not what it should be, other
            files are in the places, or a disk is too full or cannot be written. But for the network,
            everything wrong is said at once, before anything is fetched.
    """
    fetches, obstacles = [], []
    for source in dict.fromkeys(sources):
        try:
            fetch = _plan(source, folders, lock, latest=latest, replace=replace, report=report)
        except _FileInPlaceError as error:
            obstacles.append(str(error))
            continue
        if fetch:
            fetches.append(fetch)
    if fetches:
        obstacles += _find_disk_obstacles(fetches, lock)
    if obstacles:
        raise DownloadError("\n".join(obstacles))
    for fetch in fetches:
        pin = fetch.pin
        report(
            f"{fetch.source.target}: from {pin.repo} at {pin.revision[:12]}, {_shown_bytes(pin.num_bytes)}, "
            f"to {fetch.target}"
        )
        _fetch(fetch, report)
        lock.record(fetch.source, pin)


class _FileInPlaceError(DownloadError):
    """Another file is where one should go."""


def _plan(
    source: Source,
    folders: ModelFolders,
    lock: DownloadLock,
    *,
    latest: bool,
    replace: bool,
    report: Callable[[str], None],
) -> Fetch | None:
    place = folders.find_place(source.target)
    where = "" if place == folders.models_dir / source.target else f" ({place})"
    pin = None if latest else (lock.find(source) or _pin_on_record(source))
    seen = hash_every_byte(place) if place.exists() else None
    if pin and seen == pin.sha256:
        report(f"{source.target}: already there{where}")
        return None
    pin = _ask_hub(source, pin, latest)
    if seen == pin.sha256:
        report(f"{source.target}: already there{where}")
        try:
            lock.record(source, pin)
        except OSError as error:  # a finished installation may be read-only
            report(f"{source.target}: not pinned, {lock.path} cannot be written ({error.strerror})")
        return None
    if seen and not replace:
        raise _FileInPlaceError(
            f"{place} is there with sha256 {seen}, but should have {pin.sha256} ({pin.repo} at {pin.revision}). "
            "Move it away, or put the right one in its place with --replace."
        )
    return Fetch(source, pin, place.resolve())


def _find_disk_obstacles(fetches: list[Fetch], lock: DownloadLock) -> list[str]:
    """Say which folders cannot be written, and which disks are too small for all that goes there."""
    obstacles = []
    folders = dict.fromkeys([*(fetch.target.parent for fetch in fetches), lock.path.parent.resolve()])
    for folder in folders:
        try:
            # By doing it: a permission says little on network drives, and nothing about a read-only disk.
            with tempfile.TemporaryFile(dir=_existing_part(folder)):
                pass
        except OSError as error:
            reason = error.strerror or str(error)
            obstacles.append(f"{folder} cannot be written ({reason}); make it writable, or mount its disk.")
    by_disk: dict[int, list[Fetch]] = {}
    for fetch in fetches:
        by_disk.setdefault(_existing_part(fetch.target.parent).stat().st_dev, []).append(fetch)
    for group in by_disk.values():
        folder = _existing_part(group[0].target.parent)
        needed, free = sum(fetch.missing_bytes for fetch in group), shutil.disk_usage(folder).free
        if needed > free:
            files = ", ".join(fetch.target.name for fetch in group)
            obstacles.append(
                f"The disk of {folder} has {free:,} bytes free, and {needed:,} are needed ({files}); make room "
                "and run the same command again."
            )
    return obstacles


def _existing_part(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _shown_bytes(num_bytes: int | None) -> str:
    """Print a size for people."""
    return "size reported by the hub" if num_bytes is None else f"{num_bytes:,} bytes"


def _pin_on_record(source: Source) -> Pin | None:
    if source.sha256 is None:
        return None
    return Pin(source.repo, source.file, source.revision, source.sha256, source.num_bytes)


def _ask_hub(source: Source, pin: Pin | None, latest: bool) -> Pin:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    revision = UNPINNED if latest else (pin.revision if pin else source.revision)
    with _hub_errors(source, revision):
        metadata = get_hf_file_metadata(hf_hub_url(source.repo, source.file, revision=revision))
    sha256 = metadata.etag or ""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256) or not metadata.commit_hash:
        raise DownloadError(
            f"The hub gives no sha256 for {source.repo}/{source.file} (etag {sha256!r}), so it cannot be checked. "
            "If HF_ENDPOINT names a mirror, unset it."
        )
    if pin and pin.sha256 != sha256:
        raise DownloadError(
            f"The hub has {source.repo}/{source.file} at {revision} with sha256 {sha256}, but it should be "
            f"{pin.sha256}. It was not fetched. If the change is meant, accept it with --latest."
        )
    return Pin(source.repo, source.file, metadata.commit_hash, sha256, metadata.size)


def _fetch(fetch: Fetch, report: Callable[[str], None]) -> None:
    pin, partial = fetch.pin, fetch.partial
    waiting = f"{fetch.source.target}: another download of it runs, waiting for that one"
    try:
        with hold_alone(partial, lambda: report(waiting)):
            if fetch.target.is_file() and hash_every_byte(fetch.target) == pin.sha256:
                return  # the other one has brought it
            partial.parent.mkdir(parents=True, exist_ok=True)
            with _hub_errors(pin, pin.revision):
                _transfer(pin, partial)
            seen = hash_every_byte(partial)
            if seen != pin.sha256:
                partial.unlink()
                raise DownloadError(
                    f"{pin.repo}/{pin.file} arrived with sha256 {seen} instead of {pin.sha256}; it was thrown away. "
                    "Try again."
                )
            replace_durably(partial, fetch.target)
    except OSError as error:
        raise DownloadError(
            f"{fetch.target} could not be written: {error.strerror or error}. The part is kept; make room or "
            "repair the disk, and run the same command again."
        ) from error


def _transfer(pin: Pin, partial: Path) -> None:
    # http_get appends to a part; hf_hub_download would not, see the module.
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    with partial.open("ab") as file:
        if pin.num_bytes is not None and file.tell() >= pin.num_bytes:
            return
        # No token: none of the files needs one, and the address leads on to another host.
        http_get(
            hf_hub_url(pin.repo, pin.file, revision=pin.revision),
            file,
            resume_size=file.tell(),
            headers=build_hf_headers(token=False),
            expected_size=pin.num_bytes,
        )


@contextmanager
def _hub_errors(wanted: Source | Pin, revision: str) -> Iterator[None]:
    from huggingface_hub import utils

    what = f"{wanted.repo}/{wanted.file} at revision {revision}"
    try:
        yield
    except (utils.EntryNotFoundError, utils.RevisionNotFoundError) as error:
        raise DownloadError(
            f"The hub has no {what}. It may have moved; try its newest with --latest."
        ) from error
    except utils.RepositoryNotFoundError as error:
        raise DownloadError(
            f"The hub does not give out {what}: no such repository, or one that needs a login (hf auth login)."
        ) from error
    except Exception as error:  # every HTTP library has its own errors
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise
        raise DownloadError(_network_message(what, error)) from error


def _network_message(what: str, error: Exception) -> str:
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    return f"{what} could not be fetched: {first_line} Check the connection and run the same command again; it resumes."
