"""Identities as files: what comes back, how large they are, and what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lynx_core.formats import identity_file
from lynx_core.formats.identity_file import (
    ABOUT_KEY,
    FORMAT_KEY,
    VERSION_KEY,
    IdentityPhoto,
    MadeFor,
    SavedIdentity,
    open_identity,
    read_thumbnail,
    save_identity,
)
from lynx_core.formats.tensor_file import AdapterError
from lynx_core.models.kv_cache import BlockKV, KVCache

MADE_FOR = MadeFor("lynx_full", "f1", "wan.safetensors (WAN21)", "c0ffee", 8, 2)


def make_kv(seed: int) -> KVCache:
    generator = torch.Generator().manual_seed(seed)
    pairs = [
        (block, BlockKV(*(torch.randn(1, 4, 8, generator=generator).bfloat16() for _ in range(2))))
        for block in (0, 1)
    ]
    return KVCache(pairs, norm_key=seed % 2 == 0)


def make_identity(num_photos: int = 2, *, with_kv: bool = False) -> SavedIdentity:
    rng = np.random.default_rng(7)
    photos = tuple(
        IdentityPhoto(
            rng.integers(0, 255, (112, 112, 3), dtype=np.uint8),
            rng.integers(0, 255, (256, 256, 3), dtype=np.uint8),
            face_px=180.0 + i,
            sharpness=90.0,
            score=0.9,
        )
        for i in range(num_photos)
    )
    embeddings = torch.nn.functional.normalize(torch.randn(num_photos, 512), dim=-1)
    kv_caches = {name: make_kv(i) for i, name in enumerate(("id.face", "id.null", "ref.face", "ref.null"))}
    return SavedIdentity(
        name="Zoë",
        recogniser="insightface/antelopev2/glintr100",
        embedding=torch.nn.functional.normalize(embeddings.mean(0), dim=0),
        photo_embeddings=embeddings,
        photos=photos,
        licence="CC0",
        consent="signed 2026-11-01",
        made_for=MADE_FOR if with_kv else None,
        kv_caches=kv_caches if with_kv else {},
    )


@pytest.mark.parametrize("with_kv", [False, True])
def test_what_is_saved_comes_back(tmp_path: Path, with_kv: bool) -> None:
    identity = make_identity(with_kv=with_kv)
    path = tmp_path / "zoë.safetensors"
    save_identity(path, identity)
    read = open_identity(path)
    for name in ("name", "recogniser", "licence", "consent", "made_for"):
        assert getattr(read, name) == getattr(identity, name)
    assert torch.equal(read.embedding, identity.embedding)
    assert torch.equal(read.photo_embeddings, identity.photo_embeddings)
    for got, expected in zip(read.photos, identity.photos, strict=True):
        assert np.array_equal(got.id_crop, expected.id_crop)
        assert np.array_equal(got.reference_crop, expected.reference_crop)
        assert got.face_px == expected.face_px
    assert read.kv_caches.keys() == identity.kv_caches.keys()
    for name, cache in read.kv_caches.items():
        expected_kv = identity.kv_caches[name]
        assert cache.norm_key == expected_kv.norm_key and cache.list_blocks() == (0, 1)
        assert all(
            torch.equal(a, b) for a, b in zip(cache.parameters(), expected_kv.parameters(), strict=True)
        )


def test_two_photos_of_noise_take_under_a_megabyte(tmp_path: Path) -> None:
    size = save_identity(tmp_path / "a.safetensors", make_identity(2))
    assert size == (tmp_path / "a.safetensors").stat().st_size < 1_000_000


def test_an_identity_without_photos_has_no_thumbnail(tmp_path: Path) -> None:
    identity = make_identity(1)
    for photos, expected in ((identity.photos, True), ((), False)):
        path = tmp_path / f"{len(photos)}.safetensors"
        save_identity(path, SavedIdentity("a", "r", identity.embedding, identity.photo_embeddings, photos))
        thumbnail = read_thumbnail(path)
        assert (thumbnail is not None) == expected
        assert thumbnail is None or thumbnail.startswith(b"\x89PNG")


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_identity(path, make_identity())
    with pytest.raises(AdapterError, match="already there"):
        save_identity(path, make_identity())
    save_identity(path, make_identity(), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


Change = Callable[[dict[str, torch.Tensor], dict[str, str]], None]


def test_of_two_who_save_one_name_at_once_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first waits for the second while it writes; nothing of either is lost in silence."""
    path, writing, refused = tmp_path / "Ann.safetensors", [], []
    has_second = threading.Event()
    write = identity_file.write_together

    def write_slowly(files: Any) -> None:
        writing.append(files)
        if len(writing) > 1:
            has_second.set()
        has_second.wait(0.5)
        write(files)

    def save(num_photos: int) -> None:
        try:
            save_identity(path, make_identity(num_photos))
        except AdapterError as error:
            refused.append(str(error))

    monkeypatch.setattr(identity_file, "write_together", write_slowly)
    both = [threading.Thread(target=save, args=(number,)) for number in (1, 2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert len(writing) == 1 and len(refused) == 1 and "is already there" in refused[0]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def edit_about(**changes: object) -> Change:
    def change(_: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        metadata[ABOUT_KEY] = json.dumps({**json.loads(metadata[ABOUT_KEY]), **changes})

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: m.update({FORMAT_KEY: "comfy-lynx adapter"}), "no identity file .*comfy-lynx adapter"),
        (lambda t, m: m.pop(FORMAT_KEY), "no identity file .*not named"),
        (lambda t, m: m.update({VERSION_KEY: "2"}), "format version '2'"),
        (lambda t, m: t.pop("embedding"), "embedding is missing"),
        (lambda t, m: t.update(embedding=torch.full((512,), 3.0)), "length 1"),
        (lambda t, m: t["embedding"].fill_(float("nan")), "finite"),
        (lambda t, m: t.update({"photo.0.id_crop": torch.zeros(50, dtype=torch.uint8)}), "no readable PNG"),
        (
            lambda t, m: t.update({"photo.0.id_crop": t["photo.0.reference_crop"].clone()}),
            "256x256 px RGB, expected 112",
        ),
        (lambda t, m: t.update({"photo.1.id_crop": torch.zeros(3, 3)}), "is no picture"),
        (
            lambda t, m: t.update({"kv.ref.face.1.value": torch.zeros(1, 4, 9)}),
            "ref.face of block 1 has the shapes",
        ),
        (edit_about(photos=[{"face_px": 1, "sharpness": 1, "score": 1}] * 65), "65 photos, at most 64"),
        (lambda t, m: t.pop("kv.id.null.0.value"), "kv.id.null.0.value is missing"),
        (edit_about(made_for=None), "need the adapter and base"),
        (edit_about(norm_key={"id.face": True}), "of the face and of the null"),
        (lambda t, m: m.update({ABOUT_KEY: "{"}), "damaged or incomplete"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change: Change, message: str) -> None:
    path = tmp_path / "a.safetensors"
    save_identity(path, make_identity(with_kv=True))
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(AdapterError, match=message) as caught:
        open_identity(path)
    assert str(path) in str(caught.value) or "Zoë" in str(caught.value)


def test_a_file_cut_short_at_any_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_identity(path, make_identity(1, with_kv=True))
    whole = path.read_bytes()
    for share in (0.0, 0.001, 0.3, 0.99, 0.999999):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(AdapterError):
            open_identity(path)
