"""Identities as things: saved, loaded, combined, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from wan_bench import Applied, Conditioning, WanBench, max_error


@pytest.fixture
def folder(bench: WanBench) -> Iterator[Path]:
    """models/lynx/identities, empty before and after."""
    path = bench.comfy.base_dir / "models" / "lynx" / "identities"
    yield path
    for file in path.glob("*"):
        file.unlink()


@pytest.fixture
def crop(bench: WanBench) -> Any:
    crops = bench.comfy.pack_module("lynx_core.faces.crops")
    rng = np.random.default_rng(3)
    return crops.FaceCrop(
        rng.integers(0, 255, (112, 112, 3), dtype=np.uint8),
        rng.integers(0, 255, (256, 256, 3), dtype=np.uint8),
        face_px=200.0,
        sharpness=90.0,
        score=0.9,
    )


def save(bench: WanBench, **inputs: Any) -> None:
    bench.comfy.run("LynxSaveIdentity", **inputs)


def load(bench: WanBench, name: str) -> tuple[Any, ...]:
    return tuple(bench.comfy.run("LynxLoadIdentity", identity=name))


def test_a_small_file_gives_the_same_id_and_photos(
    bench: WanBench, folder: Path, crop: Any, identity: dict[str, Any]
) -> None:
    save(bench, id=identity["id"], name="Ann 2", face=[crop], licence="CC0", consent="asked")
    assert [file.name for file in folder.iterdir()] == ["Ann 2.safetensors"]
    assert (folder / "Ann 2.safetensors").stat().st_size < 1_000_000
    face_id, face, reference, photos = load(bench, "Ann 2")
    assert torch.equal(face_id.embedding, identity["id"].embedding)
    assert face_id.recogniser == identity["id"].recogniser
    assert np.array_equal(face[0].reference_crop, crop.reference_crop)
    assert reference is None
    assert photos.shape == (1, 256, 256, 3)


def test_a_file_with_keys_and_values_needs_no_adapter(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    folder: Path,
    crop: Any,
    identity: dict[str, Any],
) -> None:
    person = {name: identity[name] for name in ("id", "reference", "adapter")}
    save(bench, **person, name="Ann", face=[crop], keep_kv=True)
    face_id, _, reference, _ = load(bench, "Ann")
    saved = bench.apply(base, prompt, negative, id=face_id, reference=reference)
    expected = bench.apply(base, prompt, negative, **identity)
    for cond in ("positive", "negative", "middle"):
        got, want = (bench.predict(on.model, [getattr(on, cond)])[0] for on in (saved, expected))
        assert torch.equal(got, want)


def test_a_small_file_is_put_on_by_any_fitting_adapter(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    folder: Path,
    identity: dict[str, Any],
) -> None:
    save(bench, id=identity["id"], name="Ann")
    face_id, *_ = load(bench, "Ann")
    with_adapter = bench.apply(base, prompt, negative, adapter=identity["adapter"], id=face_id)
    expected = bench.apply(base, prompt, negative, adapter=identity["adapter"], id=identity["id"])
    got, want = (bench.predict(on.model, [on.positive])[0] for on in (with_adapter, expected))
    assert torch.equal(got, want)
    with pytest.raises(ValueError, match="needs the adapter"):
        bench.apply(base, prompt, negative, id=face_id)


def test_keys_and_values_of_another_base_are_refused(
    bench: WanBench, prompt: Conditioning, negative: Conditioning, folder: Path, identity: dict[str, Any]
) -> None:
    person = {name: identity[name] for name in ("id", "reference", "adapter")}
    save(bench, **person, name="Ann", keep_kv=True)
    face_id, _, reference, _ = load(bench, "Ann")
    small = bench.make_base(128, 4, "small_wan.safetensors")
    with pytest.raises(ValueError, match=r"saved with keys and values for .* \(dim 256, 4 blocks\).*dim 128"):
        bench.apply(small, prompt, negative, id=face_id)
    with pytest.raises(ValueError, match="LYNX_REFERENCE"):
        bench.apply(small, prompt, negative, reference=reference)


@pytest.mark.parametrize("name", ["", "  ", "../Ann", "a/b", "C:\\x", ".hidden", "a\0b", "a\nb", "x" * 300])
def test_names_that_are_no_file_names_are_refused(
    bench: WanBench, folder: Path, identity: dict[str, Any], name: str
) -> None:
    with pytest.raises(ValueError, match="cannot be a file's name"):
        save(bench, id=identity["id"], name=name)


def test_nothing_is_overwritten_unasked(bench: WanBench, folder: Path, identity: dict[str, Any]) -> None:
    save(bench, id=identity["id"], name="Ann")
    with pytest.raises(ValueError, match=r"^identities/Ann.safetensors is already there"):
        save(bench, id=identity["id"], name="Ann")
    save(bench, id=bench.make_id(9), name="Ann", overwrite=True)
    assert torch.equal(load(bench, "Ann")[0].embedding, bench.make_id(9).embedding)


def test_keep_kv_says_what_is_not_connected(bench: WanBench, folder: Path, identity: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="connect adapter and reference"):
        save(bench, id=identity["id"], adapter=identity["adapter"], name="Ann", keep_kv=True)


def test_missing_and_damaged_files_are_named(bench: WanBench, folder: Path, identity: dict[str, Any]) -> None:
    node = bench.comfy.node_classes["LynxLoadIdentity"]
    assert "not under models/lynx/identities" in str(node.validate_inputs(identity="nobody"))
    assert node.validate_inputs(identity=None) is True
    save(bench, id=identity["id"], name="Ann")
    assert node.validate_inputs(identity="Ann") is True
    # A name that is linked is not known when the host asks: then any file counts.
    before = [node.fingerprint_inputs(identity=name) for name in ("Ann", None)]
    whole = (folder / "Ann.safetensors").read_bytes()
    (folder / "Ann.safetensors").write_bytes(whole[:500])
    after = [node.fingerprint_inputs(identity=name) for name in ("Ann", None)]
    assert after[0] != before[0] and after[1] != before[1]
    with pytest.raises(ValueError, match=r"identities/Ann\.safetensors"):
        load(bench, "Ann")


def test_identity_files_are_no_adapters(bench: WanBench, folder: Path, identity: dict[str, Any]) -> None:
    save(bench, id=identity["id"], name="Ann")
    files = bench.comfy.pack_module("nodes.host.model_files")
    assert not [
        name for name in (*files.list_adapter_files(), *files.list_adapters()) if "identities" in name
    ]


def combine(bench: WanBench, mode: str, **inputs: Any) -> Any:
    return bench.comfy.run("LynxCombineIdentities", mode=mode, **inputs)[0]


def test_modes_of_combining(bench: WanBench) -> None:
    a, b, c = (bench.make_id(i) for i in range(3))
    unit = torch.nn.functional.normalize
    assert torch.allclose(
        combine(bench, "mean", id_1=a, id_2=b).embedding, unit(a.embedding + b.embedding, dim=0), atol=1e-6
    )
    weighted = combine(bench, "weighted", id_1=a, id_2=b, weights="0, 2")
    assert torch.allclose(weighted.embedding, b.embedding, atol=1e-6)
    assert torch.allclose(
        combine(bench, "blend", id_1=a, id_2=b, amount=1.0).embedding, b.embedding, atol=1e-5
    )
    moved = combine(bench, "axis", id_1=a, id_2=b, id_3=c, amount=1.0).embedding
    assert torch.allclose(moved, unit(a.embedding + c.embedding - b.embedding, dim=0), atol=1e-5)


def test_a_stranger_among_the_photos_is_named(bench: WanBench, notes: list[str]) -> None:
    combine(bench, "mean", id_1=bench.make_id(0), id_2=bench.make_id(0), id_3=bench.make_id(5))
    assert "id_3 is unlike the others (cosine" in notes[-1]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"mode": "blend"}, "'blend' needs 2 identities, 1 are connected"),
        ({"mode": "axis", "others": 1}, "'axis' needs 3 identities, 2 are connected"),
        ({"mode": "weighted", "others": 1, "weights": "1"}, "holds 1 numbers for id_1 to id_2"),
        ({"mode": "weighted", "others": 1, "weights": "1, much"}, "'1, much': write a number"),
        ({"mode": "blend", "others": 1, "amount": 1.5}, "between 0 and 1, got 1.5"),
    ],
)
def test_what_cannot_be_combined_is_said(bench: WanBench, inputs: dict[str, Any], message: str) -> None:
    inputs = dict(inputs)
    others = {f"id_{i + 2}": bench.make_id(i + 1) for i in range(inputs.pop("others", 0))}
    with pytest.raises(ValueError, match=message):
        combine(bench, id_1=bench.make_id(0), **others, **inputs)


def test_weights_and_warnings_go_by_the_input(bench: WanBench, notes: list[str]) -> None:
    """The second input is open."""
    a, c = bench.make_id(0), bench.make_id(2)
    weighted = combine(bench, "weighted", id_1=a, id_3=c, weights="0, 1, 1")
    assert torch.allclose(weighted.embedding, c.embedding, atol=1e-6)
    assert "id_3 is unlike the others" in notes[-1]
    for weights in ("1, 1", "1, 1, 1, 1, 1"):
        with pytest.raises(ValueError, match="numbers for id_1 to id_3: give one for each"):
            combine(bench, "weighted", id_1=a, id_3=c, weights=weights)


@pytest.mark.parametrize(("mode", "inputs"), [("blend", (1, 3)), ("axis", (1, 3, 4))])
def test_blend_and_axis_take_their_own_inputs_alone(
    bench: WanBench, mode: str, inputs: tuple[int, ...]
) -> None:
    ids = {f"id_{n}": bench.make_id(n) for n in inputs}
    with pytest.raises(ValueError, match="id_2 is not connected"):
        combine(bench, mode, **ids, amount=0.5)


def test_an_input_that_the_mode_does_not_take_is_named(bench: WanBench, notes: list[str]) -> None:
    combine(bench, "blend", **{f"id_{n}": bench.make_id(n) for n in (1, 2, 4)}, amount=0.5)
    assert "id_4 does nothing: 'blend' takes id_1 to id_2.\nblend of 2 identities" in notes[-1]


def test_identities_of_different_recognisers_are_refused(bench: WanBench) -> None:
    other = bench.make_id(1, recogniser="insightface/antelopev2/glintr100")
    with pytest.raises(ValueError, match=r"facexlib/arcface_ir_se50, insightface/antelopev2/glintr100"):
        combine(bench, "mean", id_1=bench.make_id(0), id_2=other)


def test_a_combined_identity_acts(
    bench: WanBench, base: Any, full: Any, prompt: Conditioning, negative: Conditioning
) -> None:
    """Half way between two people lies neither of them."""
    a, b = bench.make_id(0), bench.make_id(1)
    half = combine(bench, "blend", id_1=a, id_2=b, amount=0.5)

    def predict(face_id: Any) -> torch.Tensor:
        on: Applied = bench.apply(base, prompt, negative, adapter=full, id=face_id)
        return bench.predict(on.model, [on.positive])[0]

    for person in (a, b):
        assert max_error(predict(half), predict(person)) > 1e-3
