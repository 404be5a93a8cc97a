"""Manifest, media and cache in a bucket, on a server that speaks S3 and does not always answer well."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import torch
from small_encoders import make_small_encoders
from small_media import write_rows

from lynx_core import buckets
from lynx_core.buckets import fetched, place_of, url_of
from lynx_core.data.cache.bucket_cache import pull_cache
from lynx_core.data.dataset import PairDataset
from lynx_core.data.encoders import Encoders
from lynx_core.data.errors import DataError, MediaError
from lynx_core.data.forgetting import forget_files
from lynx_core.data.manifest import read_manifest
from lynx_core.data.media.decoding import DecodingConfig
from lynx_core.data.prepare import PreparedDataset, prepare_dataset
from lynx_core.data.prepared_index import name_index, open_index
from lynx_core.training.progress import print_note

server = pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")

DECODING = DecodingConfig(max_px=64 * 64, max_frames=5)


@dataclass
class Server:
    """moto's S3, and what is wrong with it."""

    address: str
    system: Any
    faults: list[str] = field(default_factory=list)
    """Of the next requests that read a file, in turn."""
    requests: list[str] = field(default_factory=list)
    """Paths of those that read a file."""


def make_faulty(application: Any, state: list[Server]) -> Callable[..., Any]:
    """The application with the faults of `state[0]`."""

    def call(environment: dict[str, Any], start: Callable[..., Any]) -> Any:
        current = state[0] if state else None
        if (
            current is None
            or environment["REQUEST_METHOD"] != "GET"
            or "list-type" in environment["QUERY_STRING"]
        ):
            return application(environment, start)
        current.requests.append(environment["PATH_INFO"])
        fault = current.faults.pop(0) if current.faults else ""
        if fault == "503":
            start("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>reduce your request rate</Message></Error>"]
        if fault == "slow":
            time.sleep(0.5)
        body = b"".join(application(environment, start))
        return [body[: len(body) // 2]] if fault == "drop" else [body]

    return call


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An empty bucket called `studio`."""
    from werkzeug.serving import make_server

    state: list[Server] = []
    application = server.DomainDispatcherApplication(server.create_backend_app)
    running = make_server("127.0.0.1", 0, make_faulty(application, state), threaded=True)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{running.server_port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address, "AWS_EC2_METADATA_DISABLED": "true",
        "LYNX_BUCKET_CACHE": str(tmp_path_factory.mktemp("machine")),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(buckets, "_RETRY_S", (0.01, 0.01))
    monkeypatch.setattr(buckets, "_unseen_bytes", -1)
    urlopen(Request(f"{address}/moto-api/reset", method="POST")).close()
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem(endpoint_url=address)
    system.mkdir("studio")
    state.append(Server(address, system))
    yield state[0]
    running.shutdown()
    thread.join()
    s3fs.S3FileSystem.clear_instance_cache()


def test_an_address_has_a_place_and_a_place_its_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LYNX_BUCKET_CACHE", str(tmp_path))
    for url in ("s3://studio/set/a.mp4", "hf://datasets/me/set/train.parquet", "gs://b/ü 1.png"):
        assert url_of(place_of(url)) == url_of(place_of(url, stays=True)) == url
        assert place_of(url) != place_of(url, stays=True)
    assert place_of("file:///data/a.mp4") == Path("/data/a.mp4") and url_of(Path("/data/a.mp4")) is None
    for bad in ("s3://", "s3://studio/../etc", "s3://studio/a\\b"):
        with pytest.raises(ValueError, match="no place in a bucket"):
            place_of(bad)


@pytest.mark.parametrize("fault", ["slow", "503", "drop"])
def test_a_server_that_answers_badly_is_asked_again(bucket: Server, fault: str) -> None:
    bucket.system.pipe("studio/a.bin", b"content" * 1000)
    bucket.faults += [fault]
    with fetched(place_of("s3://studio/a.bin")) as file:
        assert file.read_bytes() == b"content" * 1000 and file.suffix == ".bin"
    with fetched(place_of("s3://studio/a.bin")):
        assert bucket.requests.count("/studio/a.bin") == (1 if fault == "slow" else 2), (
            "kept for the next time"
        )
    bucket.system.pipe("studio/a.bin", b"another")
    with fetched(place_of("s3://studio/a.bin")) as file:
        assert file.read_bytes() == b"another"


def test_one_that_never_answers_is_named(bucket: Server) -> None:
    bucket.system.pipe("studio/a.bin", b"content" * 1000)
    bucket.faults += ["drop"] * 50
    with (
        pytest.raises(OSError, match=r"did not give it in 3 tries .*s3://studio/a\.bin"),
        fetched(place_of("s3://studio/a.bin")),
    ):
        pass
    with pytest.raises(FileNotFoundError), fetched(place_of("s3://studio/none.bin")):
        pass


def test_files_that_were_not_opened_for_longest_make_room(
    bucket: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LYNX_BUCKET_CACHE_GB", str(2500 / 1e9))
    places = [place_of(f"s3://studio/{name}") for name in "abc"]
    for place in places:
        bucket.system.pipe(f"studio/{place.name}", place.name.encode() * 1000)
    with fetched(places[0]) as first:
        with fetched(places[1]):
            pass
        with fetched(places[0]):
            pass
        with fetched(places[2]):
            pass
        assert [place.exists() for place in places] == [True, False, True]
        places[0].unlink()
        assert first.read_bytes() == b"a" * 1000, "what is open stays"


@pytest.fixture
def there(bucket: Server, folder: Path, rows: list[dict[str, Any]]) -> Server:
    """A set in the bucket; nothing of it is left on this machine."""
    write_rows(folder / "pairs.jsonl", rows)
    for path in [*folder.glob("*.*")]:
        bucket.system.put_file(str(path), f"studio/set/{path.name}")
        path.unlink()
    return bucket


MANIFEST, CACHE = "s3://studio/set/pairs.jsonl", "s3://studio/cache"


def prepare(encoders: Encoders, cache: Path) -> PreparedDataset:
    manifest = read_manifest(place_of(MANIFEST))
    return prepare_dataset(manifest, cache, encoders, None, DECODING, shard_bytes=400_000)


def open_source(encoders: Encoders) -> PairDataset:
    cache = place_of(CACHE, stays=True)
    pull_cache(cache)
    fingerprints = {"decoding": DECODING.fingerprint(), "encoders": encoders.fingerprint()}
    index = open_index(name_index(cache, place_of(MANIFEST), fingerprints, None), place_of(MANIFEST))
    assert index is not None
    return PairDataset(index, encoders, DECODING, cache_dir=cache)


def test_a_set_in_a_bucket_is_prepared_into_a_bucket(
    there: Server, folder: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = prepare(make_small_encoders(models_dir), folder / "cache")
    there.faults += ["503", "drop", "slow"]
    report = prepare(make_small_encoders(models_dir), place_of(CACHE, stays=True))
    assert (report.num_pairs, report.made) == (local.num_pairs, local.made) == (4, local.made)
    shards = [key for key in there.system.find("studio/cache/shards") if key.endswith(".safetensors")]
    assert len(shards) > 1
    assert not list(place_of(CACHE, stays=True).rglob("*.safetensors")), "no second copy here"

    # Another machine, without the media.
    monkeypatch.setenv("LYNX_BUCKET_CACHE", str(folder / "other machine"))
    monkeypatch.setattr(buckets, "_unseen_bytes", -1)
    there.requests.clear()
    there.faults += ["503"]
    source = open_source(make_small_encoders(models_dir))
    here = PairDataset(
        read_manifest(place_of(MANIFEST)),
        make_small_encoders(models_dir),
        DECODING,
        cache_dir=folder / "cache",
    )
    for number in range(4):
        assert torch.equal(source.load(number).latents, here.load(number).latents)
    assert source.features.cache.counts.made == 0
    read = [path for path in there.requests if ".safetensors" in path]
    source.load(0)
    assert read == [path for path in there.requests if ".safetensors" in path], "kept for the next time"
    again = prepare(make_small_encoders(models_dir), place_of(CACHE, stays=True))
    assert (again.made, again.num_pairs) == (0, 4)

    for key in shards:
        there.system.rm_file(key)
    monkeypatch.setenv("LYNX_BUCKET_CACHE", str(folder / "third machine"))
    there.system.rm_file("studio/set/a.mp4")
    gone = r"file is gone .*the shard s3://studio/cache/shards/.* is missing; run comfy"
    with pytest.raises(MediaError, match=gone):
        open_source(make_small_encoders(models_dir)).load(0)


def test_a_person_is_taken_out_of_a_cache_in_a_bucket(there: Server, models_dir: Path) -> None:
    cache = place_of(CACHE, stays=True)
    prepare(make_small_encoders(models_dir), cache)
    source = open_source(make_small_encoders(models_dir))
    latents = source.load(2).latents.half().numpy().tobytes()

    def holds() -> bool:
        there.system.invalidate_cache()
        return any(latents in there.system.cat_file(key) for key in there.system.find("studio/cache"))

    assert holds()
    assert forget_files(cache, [place_of("s3://studio/set/c.png")], ["a man c"], {"c"}) == 3
    assert not holds()
    assert not [key for key in there.system.find("studio/cache/index") if key.endswith(".json")]


def test_messages_name_addresses_and_not_where_their_copies_lie(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LYNX_BUCKET_CACHE", str(tmp_path / "a (b)"))
    url, own = "gs://studio/sets/one/train.jsonl", tmp_path / "own.jsonl"
    print_note(f"{place_of(url)}: 3 pairs, see {own} and {place_of('s3://studio/cache', stays=True)}")
    assert capsys.readouterr().err == f"{url}: 3 pairs, see {own} and s3://studio/cache\n"


def test_a_manifest_that_is_not_there_is_named(bucket: Server) -> None:
    with pytest.raises(DataError, match=r"the manifest s3://studio/set/none.jsonl cannot be read"):
        read_manifest(place_of("s3://studio/set/none.jsonl"))
