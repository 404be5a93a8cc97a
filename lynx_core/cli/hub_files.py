"""Fetches single files from the Hugging Face hub: resumable, pinned and checked.

The sha256 of a file is either on record in the table of sources, or the one that the hub
reports for the revision at the first download. Revision and sha256 are then written to a lock
file beside the models, and later downloads are held to it. Nothing is put in place before its
sha256 has been compared.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from .download_sources import UNPINNED, Source

LOCK_FILE = "lynx/comfy-lynx-download.lock.json"
"""Below the models folder."""

_STAGING_DIR = ".comfy-lynx-download"
_CHUNK_BYTES = 16 * 2**20


class DownloadError(RuntimeError):
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
        try:
            saved = json.loads(self.path.read_text()) if self.path.exists() else {}
            self._pins = {target: Pin(**pin) for target, pin in saved.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise DownloadError(
                f"{self.path} is damaged ({error}); delete it to pin the files anew at the next download."
            ) from error

    def find(self, source: Source) -> Pin | None:
        """Give the pin of a source, unless it was made for another file."""
        pin = self._pins.get(source.target)
        return pin if pin and (pin.repo, pin.file) == (source.repo, source.file) else None

    def record(self, source: Source, pin: Pin) -> None:
        """Add a pin and write the file."""
        self._pins[source.target] = pin
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps({t: asdict(p) for t, p in sorted(self._pins.items())}, indent=1) + "\n")
        beside.replace(self.path)


def fetch_file(
    source: Source,
    models_dir: Path,
    lock: DownloadLock,
    *,
    latest: bool = False,
    replace: bool = False,
    report: Callable[[str], None] = print,
) -> Path:
    """Bring one file to its place; a file that is there and matches is not fetched again.

    Args:
        source: what to fetch.
        models_dir: ComfyUI's models folder.
        lock: pins of earlier downloads; gets this one.
        latest: take the repository's newest revision and pin that.
        replace: put the file in the place of one that does not match.
        report: told what happens.

    Raises:
        DownloadError: when the network or the hub fails, the content is not what it should
            be, another file is in the place, or the disk is too full.
    """
    target = models_dir / source.target
    pin = None if latest else (lock.find(source) or _pin_on_record(source))
    seen = sha256_of(target) if target.exists() else None
    if pin and seen == pin.sha256:
        report(f"{source.target}: already there")
        return target
    pin = _ask_hub(source, pin, latest)
    if seen == pin.sha256:
        report(f"{source.target}: already there")
        lock.record(source, pin)
        return target
    if seen and not replace:
        raise DownloadError(
            f"{target} is there with sha256 {seen}, but should have {pin.sha256} ({pin.repo} at {pin.revision}). "
            "Move it away, or put the right one in its place with --replace."
        )
    _check_space(models_dir, target, pin)
    report(f"{source.target}: from {pin.repo} at {pin.revision[:12]}, {shown_bytes(pin.num_bytes)}")
    _fetch(pin, models_dir, target)
    lock.record(source, pin)
    return target


def sha256_of(path: Path) -> str:
    """Compute the sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def shown_bytes(num_bytes: int | None) -> str:
    """Print a size for people."""
    return "size told by the hub" if num_bytes is None else f"{num_bytes:,} bytes"


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


def _fetch(pin: Pin, models_dir: Path, target: Path) -> None:
    partial = models_dir / _STAGING_DIR / f"{pin.sha256}.part"
    partial.parent.mkdir(exist_ok=True)
    with _hub_errors(pin, pin.revision):
        _transfer(pin, partial)
    seen = sha256_of(partial)
    if seen != pin.sha256:
        partial.unlink()
        raise DownloadError(
            f"{pin.repo}/{pin.file} arrived with sha256 {seen} instead of {pin.sha256}; it was thrown away. Try again."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(target)
    if not any(partial.parent.iterdir()):
        partial.parent.rmdir()


def _transfer(pin: Pin, partial: Path) -> None:
    # hf_hub_download of huggingface_hub 2 begins anew in every process; http_get can go on.
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
        raise DownloadError(_network_message(what, error)) from error


def _network_message(what: str, error: Exception) -> str:
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    return f"{what} could not be fetched: {first_line} Check the connection and run the same command again; it resumes."


def _check_space(models_dir: Path, target: Path, pin: Pin) -> None:
    free = shutil.disk_usage(models_dir).free
    if pin.num_bytes is not None and free < pin.num_bytes:
        raise DownloadError(
            f"{target} needs {pin.num_bytes:,} bytes, and {free:,} are free there; make room and run the same "
            "command again."
        )
