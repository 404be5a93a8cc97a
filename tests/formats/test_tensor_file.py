"""Damaged, lying and dangerous files are refused with a message that helps."""

from __future__ import annotations

import builtins
import json
import os
import struct
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lynx_core.formats.tensor_file import AdapterError, open_tensor_file


def with_header(header: dict, data: bytes = b"") -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.arange(600.0).reshape(20, 30), "b": torch.ones(5, dtype=torch.bfloat16)}, path)
    return path


def test_container_is_told_by_content(weights):
    renamed = weights.rename(weights.with_suffix(".bin"))
    file = open_tensor_file(renamed)
    assert file.tensors["a"].shape == (20, 30) and file.tensors["b"].stored_as == "BF16"
    assert torch.equal(file.read("a"), torch.arange(600.0).reshape(20, 30))


@pytest.mark.parametrize("first_byte", [b"\x80", b"<"])
def test_header_length_that_looks_like_another_container(first_byte, tmp_path):
    header = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    padding = 0
    while (content := with_header(header | {"__metadata__": {"p": "x" * padding}}, b"\0"))[:1] != first_byte:
        padding += 1
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert open_tensor_file(path).tensors["a"].shape == (1,)


@pytest.mark.parametrize("kept", [0, 5, 40, 1000])
def test_truncated_file(kept, weights):
    os.truncate(weights, kept)
    with pytest.raises(AdapterError, match=r"(cut short|too few|bytes).*[Dd]ownload") as error:
        open_tensor_file(weights)
    assert str(weights) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack("<Q", 2**40) + b"{}", r"has 10 bytes, but its header claims 1099511627776 bytes"),
        (struct.pack("<Q", 4) + b"}{{{", "cannot be read"),
        (struct.pack("<Q", 2) + b"[]", "no table"),
        (
            with_header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 8),
            "cut short: a should",
        ),
        (
            with_header({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}}, b"\0" * 16),
            "takes 20 bytes",
        ),
        (
            with_header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 16]}}, b"\0" * 16),
            "no sense",
        ),
        (with_header({"a": {"dtype": "F32", "shape": [4]}}, b"\0" * 16), "no sense"),
        (with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}, b"\0" * 16), "damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"GGUF" + b"\0" * 60, "damaged GGUF"),
        (b"PK\x03\x04" + b"\0" * 60, "damaged PyTorch file"),
    ],
)
def test_lying_headers_and_other_files(content, message, tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    with pytest.raises(AdapterError, match=message) as error:
        open_tensor_file(path)
    assert str(path) in str(error.value)


class RunsCode:
    def __reduce__(self):
        return os.system, ("touch pickle_was_run",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_that_wants_to_run_code(zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"latents": RunsCode()}, "bad.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        AdapterError, match=r"bad\.pt is a pickle that wants to call \w+\.system.*not opened.*safetensors"
    ):
        open_tensor_file(tmp_path / "bad.pt")
    assert not (tmp_path / "pickle_was_run").exists()


def test_pickle_of_nested_weights(tmp_path):
    torch.save({"state": {"w": torch.ones(2, 3), "step": 4}}, tmp_path / "x.ckpt")
    file = open_tensor_file(tmp_path / "x.ckpt")
    assert list(file.tensors) == ["state.w"]
    assert torch.equal(file.read("state.w"), torch.ones(2, 3))


@pytest.fixture
def gguf_path(tmp_path):
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "weights.gguf"
    values = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(path, "lynx")
    quantised = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("q8", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("f32", values)
    writer.add_tensor("f16", values.astype(np.float16))
    bf16 = gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16)
    writer.add_tensor("bf16", bf16, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, torch.from_numpy(values)


def test_gguf_dequantises(gguf_path):
    path, values = gguf_path
    file = open_tensor_file(path)
    assert all(info.shape == (4, 64) for info in file.tensors.values())
    assert torch.equal(file.read("f32"), values)
    assert torch.equal(file.read("f16"), values.half())
    assert torch.equal(file.read("bf16"), values.bfloat16())
    assert file.tensors["q8"].stored_as == "Q8_0" and file.read("q8").dtype == torch.float16
    assert torch.allclose(file.read("q8").float(), values, atol=values.abs().max().item() / 100)


def test_gguf_cut_short(gguf_path):
    path, _ = gguf_path
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(AdapterError, match="damaged GGUF"):
        open_tensor_file(path)


def test_gguf_without_its_package(gguf_path, monkeypatch):
    path, _ = gguf_path
    monkeypatch.delitem(sys.modules, "gguf", raising=False)
    original = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "gguf":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(AdapterError, match="pip install gguf"):
        open_tensor_file(path)
