"""Sources and a finished set in buckets, on a server that speaks S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from drawn import draw, draw_frames, make_config, write_clip, write_photo
from pyarrow import parquet

from lynx_core.curate.curation import curate
from lynx_core.curate.errors import CurationError
from lynx_core.curate.forget import forget
from lynx_core.data.manifest import read_manifest

server = pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket called `studio`."""
    running = server.ThreadedMotoServer(port=0)
    running.start()
    host, port = running.get_host_and_port()
    address = f"http://{host}:{port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address, "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    urlopen(Request(f"{address}/moto-api/reset", method="POST")).close()  # its state is that of the process
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem(endpoint_url=address)
    system.mkdir("studio")
    yield system
    running.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def upload(bucket: Any, folder: Path) -> None:
    """Two people's photos and clips, with captions."""
    write_photo(folder / "Ann" / "beach.png", draw(0, 1, 0))
    write_clip(folder / "Ann" / "city.mp4", draw_frames(draw(0, 3, 3, "turn left"), 12))
    write_photo(folder / "Жанна" / "forest.png", draw(1, 1, 1))
    write_clip(folder / "Жанна" / "meadow.mp4", draw_frames(draw(1, 3, 6, "nod"), 12))
    (folder / "Ann" / "notes.pdf").write_bytes(b"%PDF")
    bucket.put(f"{folder}/", "studio/footage/", recursive=True)


def test_from_a_bucket_to_a_bucket(bucket: Any, tmp_path: Path) -> None:
    upload(bucket, tmp_path / "there")
    config = make_config(
        tmp_path / "none",
        tmp_path / "set",
        sources=[{"url": "s3://studio/footage", "names": "folder", "licence": "CC0"}],
        publish="s3://studio/sets/one",
    )
    report = curate(config)
    assert report.num_people == 2 and report.kinds["multi-scene"] == 4
    fetched = list((tmp_path / "set" / "media").rglob("*.*"))
    assert sorted(path.suffix for path in fetched) == [".mp4"] * 2 + [".png"] * 2 + [".txt"] * 4
    times = {path: path.stat().st_mtime_ns for path in fetched}
    curate(config)
    assert times == {path: path.stat().st_mtime_ns for path in fetched}, "nothing is fetched twice"

    copy = tmp_path / "elsewhere"
    bucket.get("studio/sets/one/", f"{copy}/", recursive=True)
    for split in ("train", "heldout"):
        for pair in read_manifest(copy / f"{split}.parquet").pairs:
            assert all(Path(path).is_relative_to(copy) for path in (pair.target, *pair.references))
            assert all(Path(path).is_file() for path in (pair.target, *pair.references))

    bucket.rm_file("studio/footage/Ann/city.mp4")
    assert curate(config).num_files == 3


def test_who_is_forgotten_is_not_in_the_bucket_any_more(bucket: Any, tmp_path: Path) -> None:
    upload(bucket, tmp_path / "there")
    sources = [{"path": str(tmp_path / "there"), "names": "folder"}]
    curate(make_config(tmp_path / "none", tmp_path / "set", sources=sources, publish="s3://studio/set"))
    before = set(bucket.find("studio/set"))
    forget(tmp_path / "set", "Ann")
    bucket.invalidate_cache()
    left = set(bucket.find("studio/set"))
    assert left < before
    assert not any("beach" in key or "city" in key or "/Ann-" in key for key in left)
    with bucket.open(next(key for key in left if key.endswith(".parquet"))) as file:
        assert "Ann" not in set(parquet.read_table(file)["person"].to_pylist())


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://nowhere/footage", "s3://nowhere/footage cannot be listed"),
        ("s3://studio/empty", "no photos or clips"),
    ],
)
def test_a_bucket_that_gives_nothing_says_so(bucket: Any, tmp_path: Path, url: str, reason: str) -> None:
    config = make_config(tmp_path / "none", tmp_path / "set", sources=[{"url": url}])
    with pytest.raises(CurationError, match=reason):
        curate(config)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"path": "s3://a/b"}, "a bucket is sources.url"),
        ({}, "a folder; or url"),
        ({"path": "a", "url": "s3://a"}, "a folder; or url"),
        ({"url": "bucket/folder"}, "s3://bucket/folder"),
    ],
)
def test_a_source_is_a_folder_or_a_bucket(tmp_path: Path, source: dict[str, str], said: str) -> None:
    with pytest.raises(Exception, match=said):
        make_config(tmp_path / "none", tmp_path / "set", sources=[source])
