"""A cache that lies in a bucket: its small files are brought to this machine before they are used, and back after.

Shards go there by themselves as they are written (`shard_storage`). The notes of a preparation (`work`) stay on the
machine that makes them: another machine looks at every pair again, and makes nothing that the shards have.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ...buckets import RemoteFile, describe_file, download, list_files, remove_file, upload, url_of
from ...durable_file import write_aside
from ..dataset_index import INDEX_NAME as FILES_NAME
from ..errors import DataError, first_line
from ..prepared_index import INDEX_FOLDER
from .shards import FOLDER
from .shards import INDEX_NAME as SHARD_INDEX_NAME


def pull_cache(root: Path) -> None:
    """Bring index and notes of a cache to this machine, where they are not those of the bucket.

    Raises:
        DataError: when the bucket does not answer.
    """
    url = url_of(root)
    if url is None:
        return
    try:
        for name, remote in _list_remote(url).items():
            path = root / name
            if not remote.is_at(path):
                with write_aside(path) as (aside,):
                    download(f"{url}/{name}", aside)
                    os.utime(aside, ns=(remote.modified_ns, remote.modified_ns))
    except OSError as error:
        raise DataError(f"the cache {url} cannot be read ({first_line(error)})") from error


def push_cache(root: Path) -> None:
    """Bring index and notes of a cache into its bucket, what names a file after the file.

    Raises:
        DataError: when the bucket does not take them; everything is still on this machine.
    """
    url = url_of(root)
    if url is None:
        return
    try:
        remote = _list_remote(url)
        local = [root / FILES_NAME, root / FOLDER / SHARD_INDEX_NAME]
        local += sorted((root / INDEX_FOLDER).glob("[!.]*.arrow"))
        local += sorted((root / INDEX_FOLDER).glob("[!.]*.json"))
        names = {path.relative_to(root).as_posix(): path for path in local if path.is_file()}
        for name, path in names.items():
            if name not in remote or not remote[name].is_at(path):
                upload(path, f"{url}/{name}")
                modified_ns = describe_file(f"{url}/{name}").modified_ns
                os.utime(path, ns=(modified_ns, modified_ns))
        for name in remote.keys() - names.keys():
            remove_file(f"{url}/{name}")
    except OSError as error:
        raise DataError(
            f"the cache {url} cannot be written ({first_line(error)}); nothing is lost: run comfy-lynx prepare again"
        ) from error


def _list_remote(url: str) -> dict[str, RemoteFile]:
    """The small files of a cache in a bucket."""
    found = {
        f"{INDEX_FOLDER}/{name}": file
        for name, file in list_files(f"{url}/{INDEX_FOLDER}").items()
        if name.endswith((".arrow", ".json"))
    }
    for name in (FILES_NAME, f"{FOLDER}/{SHARD_INDEX_NAME}"):
        with contextlib.suppress(FileNotFoundError):
            found[name] = describe_file(f"{url}/{name}")
    return found
