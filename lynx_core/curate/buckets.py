"""Sources in buckets, and a finished set copied into one: s3://, gs:// and whatever else fsspec opens.

Media of a bucket are mirrored into the output (`media/`), since the trainer reads files; a rerun fetches what is new or
another, and drops what is gone. A set that is published names its targets relative to itself and has them beside it.
Credentials and endpoints are those of the environment (`AWS_PROFILE`, `AWS_ENDPOINT_URL`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ..buckets import open_bucket, read_time
from ..durable_file import write_aside
from ..engine.stage import Rejection
from ..foreign_text import parse_json
from ..hashing import hash_file
from ..spec import first_line
from .configuration import CurationConfig, SourceConfig
from .errors import CurationError
from .files import write_json, write_table
from .manifests import FIGURES_NAME, MEDIA_DIR, PAGE_NAME, REFERENCES_DIR, TARGETS_DIR
from .media import CLIP_SUFFIXES, PHOTO_SUFFIXES
from .sources import STAGE
from .splits import HELDOUT, TRAIN

PUBLISHED_NAME = "published.json"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BucketFile:
    """A file of a bucket."""

    key: str
    """As the file system names it."""
    name: str
    """Under the source's folder."""
    size_bytes: int
    modified_s: float

    def is_mirrored(self, path: Path) -> bool:
        """Whether a local file is this one."""
        try:
            state = path.stat()
        except OSError:
            return False
        return (state.st_size, int(state.st_mtime)) == (self.size_bytes, int(self.modified_s))


def list_bucket(url: str) -> tuple[list[BucketFile], list[Rejection]]:
    """The media and captions under an address, and names that can be no file here.

    Raises:
        CurationError: when it cannot be listed.
    """
    system, root = open_bucket(url)
    try:
        system.invalidate_cache()
        found = system.find(root, detail=True)
    except Exception as error:  # each file system has its own
        raise CurationError(
            f"{url} cannot be listed ({type(error).__name__}: {first_line(error)}); check its name and your credentials"
        ) from error
    files, rejected = [], []
    for key, info in sorted(found.items()):
        name = key[len(root) :].lstrip("/")
        path = PurePosixPath(name)
        if not name or path.suffix.lower() not in (*PHOTO_SUFFIXES, *CLIP_SUFFIXES, ".txt"):
            continue
        if ".." in path.parts or "\\" in name or "\0" in name or any(len(part) > 200 for part in path.parts):
            rejected.append(
                Rejection(STAGE, f"{url}/{name}", "the name is no path", "rename it in the bucket")
            )
            continue
        files.append(BucketFile(key, name, int(info.get("size") or 0), read_time(info)))
    return files, rejected


def mirror_folder(output: Path, url: str) -> Path:
    """Where the media of an address lie."""
    return output / MEDIA_DIR / hashlib.sha256(url.encode()).hexdigest()[:12]


def fetch_sources(
    config: CurationConfig, on_progress: Progress
) -> tuple[tuple[SourceConfig, ...], list[Rejection]]:
    """All sources as local folders; those in buckets are fetched.

    Raises:
        CurationError: when a bucket cannot be listed, or a file of it does not come.
    """
    local, rejected = [], []
    for source in config.sources:
        if source.url:
            files, odd = list_bucket(source.url)
            rejected += odd
            _mirror(source.url, files, mirror_folder(config.output, source.url), on_progress)
            source = replace(source, path=mirror_folder(config.output, source.url), url="")
        local.append(source)
    return tuple(local), rejected


def _mirror(url: str, files: Iterable[BucketFile], folder: Path, on_progress: Progress) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = list(files)
    wanted = {folder / file.name for file in files}
    for path in folder.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()
    left = [file for file in files if not file.is_mirrored(folder / file.name)]
    system, _ = open_bucket(url)
    done = len(files) - len(left)
    on_progress("fetch", done, len(files))
    for file in left:
        path = folder / file.name
        try:
            with write_aside(path) as (aside,):
                system.get_file(file.key, str(aside))
        except Exception as error:
            raise CurationError(
                f"{url}: {file.name} does not come ({type(error).__name__}: {first_line(error)}); the same command resumes"
            ) from error
        os.utime(path, (file.modified_s, file.modified_s))
        done += 1
        on_progress("fetch", done, len(files))


def publish(output: Path, url: str, on_progress: Progress) -> int:
    """Copy a set into a bucket, manifests last, and drop what an earlier copy had more; gives how many files went.

    Raises:
        CurationError: when a file cannot be written.
    """
    system, root = open_bucket(url)
    before = _read_published(output, url)
    content = _list_content(output)
    hashes = {name: hash_file(path) for name, path in content.items()}
    left = [name for name in content if before.get(name) != hashes[name]]
    try:
        for number, name in enumerate(left, start=1):
            system.put_file(str(content[name]), f"{root}/{name}")
            on_progress("publish", number, len(left))
        for name in before.keys() - content.keys():
            if system.exists(f"{root}/{name}"):
                system.rm_file(f"{root}/{name}")
    except Exception as error:
        raise CurationError(
            f"{url} cannot be written ({type(error).__name__}: {first_line(error)}); the set in {output} is whole; "
            f"comfy-lynx curate copies the rest"
        ) from error
    write_json(output / PUBLISHED_NAME, {"url": url, "files": hashes})
    return len(left)


def find_published(output: Path) -> str:
    """The address that a set was copied to; empty when it was to none."""
    path = output / PUBLISHED_NAME
    return str(parse_json(path.read_text(encoding="utf-8"))["url"]) if path.is_file() else ""


def _read_published(output: Path, url: str) -> dict[str, str]:
    path = output / PUBLISHED_NAME
    known = parse_json(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return dict(known.get("files", {})) if known.get("url") == url else {}


def _list_content(output: Path) -> dict[str, Path]:
    """What is copied, by its name in the bucket: media and references before the manifests that name them."""
    from pyarrow import parquet

    media: dict[str, Path] = {}
    manifests: dict[str, Path] = {}
    for split in (TRAIN, HELDOUT):
        path = output / f"{split}.parquet"
        if not path.is_file():
            continue
        table = parquet.read_table(path)
        rows = table.to_pylist()
        for row in rows:
            target = output / row["target"]  # an absolute path stays as it is
            if not target.is_relative_to(output / TARGETS_DIR):
                place = hashlib.sha256(str(target.parent).encode()).hexdigest()[:12]
                row["target"] = f"{MEDIA_DIR}/{place}/{target.name}"
            media[row["target"]] = target
        relative = output / ".published" / f"{split}.parquet"
        relative.parent.mkdir(exist_ok=True)
        write_table(relative, rows, table.schema)
        manifests[f"{split}.parquet"] = relative
    references = {
        path.relative_to(output).as_posix(): path
        for path in sorted((output / REFERENCES_DIR).rglob("*"))
        if path.is_file()
    }
    about = {name: output / name for name in (FIGURES_NAME, PAGE_NAME) if (output / name).is_file()}
    return media | references | about | manifests
