"""Conversions keep every byte, in every direction, and never harm what was there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lynx_core import durable_file
from lynx_core.formats.adapter import Adapter, open_adapter
from lynx_core.formats.conversion import convert_adapter
from lynx_core.formats.tensor_file import AdapterError
from lynx_core.spec import INSTANTID_RECOGNISER

LAYOUTS = ("release", "kijai", "wan2gp", "comfy-lynx")


def raw_tensors(adapter):
    """Canonical name -> dtype, shape and bytes."""
    return {
        name: (
            tensor.dtype,
            tuple(tensor.shape),
            tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes(),
        )
        for kind, part in adapter.parts.items()
        for name in part.names
        for tensor in [adapter.read_tensor(kind, name)]
    }


def destination(tmp_path: Path, layout: str) -> Path:
    return tmp_path / layout / ("adapter.safetensors" if layout == "comfy-lynx" else "files")


@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("kind", ["full", "lite"])
def test_round_trips_keep_every_byte(kind, first, save, request, tmp_path):
    source = open_adapter(save("source", request.getfixturevalue(kind).release_files()))
    expected = raw_tensors(source)
    convert_adapter(source, first, destination(tmp_path, first))
    between = open_adapter(destination(tmp_path, first))
    for second in LAYOUTS:
        there = destination(tmp_path / first, second)
        written = convert_adapter(between, second, there)
        back = open_adapter(there)
        assert raw_tensors(back) == expected
        assert (back.resampler, back.id, back.ref) == (source.resampler, source.id, source.ref)
        assert all(path.is_file() for path in written)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_dtypes_are_kept(dtype, make_adapter, save, tmp_path):
    source = open_adapter(
        save("source", make_adapter(lite=False, with_ref=True, dtype=dtype).release_files())
    )
    convert_adapter(source, "kijai", tmp_path / "out")
    assert raw_tensors(open_adapter(tmp_path / "out")) == raw_tensors(source)


def test_release_folder_is_what_the_release_is(lite, save, tmp_path):
    convert_adapter(open_adapter(save("source", lite.kijai_files())), "release", tmp_path / "out")
    expected = lite.release_files()
    assert {path.stem for path in (tmp_path / "out").iterdir()} == expected.keys()
    for name, state in expected.items():
        loaded = load_file(tmp_path / "out" / f"{name}.safetensors")
        assert loaded.keys() == state.keys()
        assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_file_names_tell_variant_and_dtype(full, lite, save, tmp_path):
    full.resampler = {key: tensor.float() for key, tensor in full.resampler.items()}
    kijai = convert_adapter(open_adapter(save("a", full.release_files())), "kijai", tmp_path / "k")
    assert sorted(path.name for path in kijai) == [
        "Wan2_1-T2V-14B-Lynx_full_ip_layers_fp16.safetensors",
        "Wan2_1-T2V-14B-Lynx_full_ref_layers_fp16.safetensors",
        "lynx_full_resampler_fp32.safetensors",
    ]
    wan2gp = convert_adapter(open_adapter(save("b", lite.release_files())), "wan2gp", tmp_path / "w")
    assert sorted(path.name for path in wan2gp) == [
        "wan2.1_lynx_lite_arc_resampler.safetensors",
        "wan2.1_lynx_lite_module_14B_fp16.safetensors",
    ]


def test_wan2gp_module_is_one_file(full, save, tmp_path):
    written = convert_adapter(open_adapter(save("a", full.release_files())), "wan2gp", tmp_path / "w")
    module = next(path for path in written if "module" in path.name)
    assert load_file(module).keys() == full.wan2gp_module().keys()


def test_single_file_says_what_it_is(full, save, tmp_path):
    path = tmp_path / "me.safetensors"
    convert_adapter(open_adapter(save("source", full.release_files())), "comfy-lynx", path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["comfy_lynx.format_version"] == "1"
    assert metadata["comfy_lynx.embedder"] == "facexlib/arcface_ir_se50"
    assert json.loads(metadata["comfy_lynx.config"])["id"]["num_registers"] == 3


def test_another_recogniser_survives_only_in_the_single_file(lite, save, tmp_path):
    instantid = {f"image_proj.{key}": tensor for key, tensor in lite.resampler.items()}
    folder = save("source", lite.release_files() | {"resampler": instantid})
    adapter = open_adapter(folder)
    for layout in ("release", "kijai", "wan2gp"):
        with pytest.raises(AdapterError, match=r"glintr100.*cannot say so.*comfy-lynx"):
            convert_adapter(adapter, layout, tmp_path / "out")
    convert_adapter(adapter, "comfy-lynx", tmp_path / "out.safetensors")
    assert open_adapter(tmp_path / "out.safetensors").recogniser == INSTANTID_RECOGNISER


def test_blocks_that_the_release_cannot_number(lite, save, tmp_path):
    lite.id = [(block + 1, state) for block, state in lite.id]
    adapter = open_adapter(save("source", lite.kijai_files()))
    assert adapter.id.blocks == (1, 3)
    with pytest.raises(AdapterError, match=r"ID layers for blocks \[1, 3\].*steps of 2"):
        convert_adapter(adapter, "release", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert_adapter(adapter, "comfy-lynx", tmp_path / "out.safetensors")
    assert open_adapter(tmp_path / "out.safetensors").id.blocks == (1, 3)


def test_gguf_becomes_float16(full, save, tmp_path):
    gguf = pytest.importorskip("gguf")
    folder = save("source", full.kijai_files())
    (folder / "c.safetensors").unlink()
    writer = gguf.GGUFWriter(folder / "c.gguf", "lynx")
    for key, tensor in full.kijai_files()["c"].items():
        values = tensor.float().numpy()
        quantised = (
            gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0) if values.ndim == 2 else values
        )
        kind = gguf.GGMLQuantizationType.Q8_0 if values.ndim == 2 else None
        writer.add_tensor(key, quantised, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    convert_adapter(open_adapter(folder), "release", tmp_path / "out")
    stored = load_file(tmp_path / "out" / "ref_layers.safetensors")
    weight = stored["3.to_k_ref.weight"]
    original = full.ref[3][1]["to_k_ref.weight"]
    assert weight.dtype == torch.float16 and not torch.equal(weight, original)
    assert torch.allclose(weight.float(), original.float(), atol=original.abs().max().item() / 100)
    assert torch.equal(stored["3.to_k_ref.bias"].half(), full.ref[3][1]["to_k_ref.bias"])


def test_nothing_is_overwritten_unasked(lite, save, tmp_path):
    adapter = open_adapter(save("source", lite.release_files()))
    target = tmp_path / "out"
    target.mkdir()
    (target / "ip_layers.safetensors").write_text("mine")
    with pytest.raises(AdapterError, match=r"ip_layers\.safetensors is already there.*--overwrite"):
        convert_adapter(adapter, "release", target)
    assert [path.name for path in target.iterdir()] == ["ip_layers.safetensors"]
    convert_adapter(adapter, "release", target, overwrite=True)
    assert raw_tensors(open_adapter(target)) == raw_tensors(adapter)


def test_an_adapter_can_replace_its_own_file(lite, save, tmp_path):
    path = tmp_path / "me.safetensors"
    adapter = open_adapter(save("source", lite.release_files()))
    convert_adapter(adapter, "comfy-lynx", path)
    expected = raw_tensors(adapter)
    convert_adapter(open_adapter(path), "comfy-lynx", path, overwrite=True)
    assert raw_tensors(open_adapter(path)) == expected


def test_disk_that_fills_up_while_writing(lite, save, tmp_path, monkeypatch):
    adapter = open_adapter(save("source", lite.release_files()))
    target = tmp_path / "out"
    target.mkdir()
    (target / "ip_layers.safetensors").write_text("mine")
    calls = []

    def fill_up(file):
        calls.append(file)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable_file.os, "fsync", fill_up)
    with pytest.raises(
        AdapterError, match=r"ip_layers\.safetensors \([\d,]+ bytes\) could not.*No space left"
    ):
        convert_adapter(adapter, "release", target, overwrite=True)
    assert len(calls) == 2
    assert [path.name for path in target.iterdir()] == ["ip_layers.safetensors"]
    assert (target / "ip_layers.safetensors").read_text() == "mine"
    monkeypatch.undo()
    convert_adapter(adapter, "release", target, overwrite=True)
    assert raw_tensors(open_adapter(target)) == raw_tensors(adapter)


def test_too_little_room_is_said_beforehand(lite, save, tmp_path, monkeypatch):
    adapter = open_adapter(save("source", lite.release_files()))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 50, 50))
    with pytest.raises(AdapterError, match=r"has 50 bytes free, and [\d,]+ are needed"):
        convert_adapter(adapter, "release", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_interrupted_conversion_leaves_nothing(lite, save, tmp_path, monkeypatch):
    adapter = open_adapter(save("source", lite.release_files()))

    def interrupt(file):
        raise KeyboardInterrupt

    monkeypatch.setattr(durable_file.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert_adapter(adapter, "comfy-lynx", tmp_path / "out.safetensors")
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*.part"))
    assert not (tmp_path / "out.safetensors").exists()


def test_weights_that_are_not_finite_are_not_passed_on(lite, save, tmp_path):
    lite.id[1][1]["to_v_ip.weight"][0, 0] = float("nan")
    adapter = open_adapter(save("source", lite.release_files()))
    with pytest.raises(AdapterError, match=r"1\.to_v_ip\.weight holds 1 values that are NaN"):
        convert_adapter(adapter, "comfy-lynx", tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.clear(), "no configuration.*comfy-lynx convert"),
        (lambda m: m.update({"comfy_lynx.format_version": "2"}), "format version '2'.*update the pack"),
        (lambda m: m.update({"comfy_lynx.config": "{"}), "damaged metadata"),
        (lambda m: m.update({"comfy_lynx.embedder": ""}), "wrong metadata"),
        (
            lambda m: m.update(
                {"comfy_lynx.config": m["comfy_lynx.config"].replace('"token_dim": 24', '"token_dim": 9')}
            ),
            "metadata gives id",
        ),
    ],
)
def test_single_file_with_wrong_metadata(change, message, lite, save, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "me.safetensors"
    convert_adapter(open_adapter(save("source", lite.release_files())), "comfy-lynx", path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    change(metadata)
    save_file(tensors, path, metadata or None)
    with pytest.raises(AdapterError, match=message):
        open_adapter(path)


def test_single_file_that_lost_a_part(full, save, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "me.safetensors"
    convert_adapter(open_adapter(save("source", full.release_files())), "comfy-lynx", path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items() if not key.startswith("ref.3")}
    save_file(tensors, path, metadata)
    with pytest.raises(AdapterError, match="metadata gives ref"):
        open_adapter(path)


def test_unknown_layout_and_wrong_kind_of_destination(lite, save, tmp_path):
    adapter = open_adapter(save("source", lite.release_files()))
    with pytest.raises(AdapterError, match=r"no layout 'diffusers'.*release, kijai"):
        convert_adapter(adapter, "diffusers", tmp_path / "out")
    with pytest.raises(AdapterError, match="is a folder"):
        convert_adapter(adapter, "comfy-lynx", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(AdapterError, match="is a file"):
        convert_adapter(adapter, "release", tmp_path / "file")


def test_conversion_holds_one_tensor_at_a_time(full, save, tmp_path, monkeypatch):
    adapter = open_adapter(save("source", full.release_files()))
    alive: list[weakref.ref] = []
    most_alive = 0
    original = Adapter.read_tensor

    def read_and_count(self, kind, name):
        nonlocal most_alive
        tensor = original(self, kind, name)
        alive.append(weakref.ref(tensor))
        most_alive = max(most_alive, sum(reference() is not None for reference in alive))
        return tensor

    monkeypatch.setattr(Adapter, "read_tensor", read_and_count)
    convert_adapter(adapter, "comfy-lynx", tmp_path / "out.safetensors")
    assert len(alive) > 50
    assert most_alive <= 2  # the one being written, while the next is read
