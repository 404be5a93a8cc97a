"""Adapters open from every layout and mix, and give the very weights that were saved."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lynx_core.formats.adapter import Adapter, open_adapter
from lynx_core.formats.tensor_file import AdapterError
from lynx_core.spec import INSTANTID_RECOGNISER, RELEASE_RECOGNISER


def assert_same_weights(adapter: Adapter, tiny) -> None:
    """Every layer reads back as float32 of what was saved, in the right block."""
    assert adapter.resampler is not None and adapter.id is not None
    assert adapter.id.blocks == tuple(block for block, _ in tiny.id)
    for module, state in [
        (adapter.load_resampler(), tiny.resampler),
        *[(adapter.read_id_layer(block), state) for block, state in tiny.id],
        *[(adapter.read_ref_layer(block), state) for block, state in tiny.ref],
    ]:
        loaded = module.state_dict()
        assert loaded.keys() == state.keys()
        for name, tensor in loaded.items():
            assert tensor.dtype == torch.float32 and tensor.device.type == "cpu"
            assert torch.equal(tensor, state[name].float()), name
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_release_full(full, save):
    adapter = open_adapter(save("lynx_full", full.release_files()))
    assert_same_weights(adapter, full)
    assert adapter.name == "lynx_full"
    assert adapter.recogniser == RELEASE_RECOGNISER
    assert adapter.id.key_norm == "block" and adapter.id.num_registers == 3 and adapter.id.has_bias
    assert adapter.ref.blocks == (0, 1, 2, 3) and adapter.ref.has_bias


def test_release_lite_entry_j_is_block_2j(lite, save):
    adapter = open_adapter(save("lynx_lite", lite.release_files()))
    assert adapter.id.blocks == (0, 2)
    assert adapter.id.key_norm == "weightless" and not adapter.id.has_bias and adapter.id.num_registers == 0
    assert adapter.ref is None
    assert_same_weights(adapter, lite)


@pytest.mark.parametrize("kind", ["full", "lite"])
def test_kijai_files_with_unhelpful_names(kind, save, request):
    tiny = request.getfixturevalue(kind)
    assert_same_weights(open_adapter(save("x", tiny.kijai_files())), tiny)


@pytest.mark.parametrize("kind", ["full", "lite"])
def test_wan2gp_module_beside_its_resampler(kind, save, request):
    tiny = request.getfixturevalue(kind)
    folder = save("x", {"module": tiny.wan2gp_module(), "res": tiny.resampler})
    assert_same_weights(open_adapter(folder / "module.safetensors", folder / "res.safetensors"), tiny)


@pytest.mark.parametrize("prefix", ["model.", "diffusion_model.", "model.diffusion_model."])
def test_prefixed_keys(prefix, full, save):
    files = {
        name: {prefix + key: t for key, t in state.items()} for name, state in full.kijai_files().items()
    }
    assert_same_weights(open_adapter(save("x", files)), full)


def test_full_reference_layers_with_lite_id(full, lite, save):
    lite_folder, full_folder = save("lite", lite.release_files()), save("full", full.release_files())
    adapter = open_adapter(lite_folder, full_folder / "ref_layers.safetensors")
    lite.ref = full.ref
    assert_same_weights(adapter, lite)
    assert adapter.name == "lite + ref_layers"


def test_reference_layers_alone(full, save):
    adapter = open_adapter(save("x", full.release_files()) / "ref_layers.safetensors")
    assert adapter.resampler is None and adapter.id is None and adapter.ref is not None
    with pytest.raises(AdapterError, match="no ID layer for block 0"):
        adapter.read_id_layer(0)
    with pytest.raises(AdapterError, match="no resampler"):
        adapter.load_resampler()


def test_a_block_without_layers_is_named(lite, save):
    adapter = open_adapter(save("x", lite.release_files()))
    with pytest.raises(AdapterError, match=r"no ID layer for block 1; it has blocks \[0, 2\]"):
        adapter.read_id_layer(1)


@pytest.mark.parametrize("zipped", [True, False])
def test_instantid_resampler_from_a_nested_pickle_names_its_recogniser(zipped, lite, save, tmp_path):
    checkpoint = {"image_proj": lite.resampler, "ip_adapter": {"1.to_k_ip.weight": torch.zeros(2, 2)}}
    torch.save(checkpoint, tmp_path / "ip-adapter.bin", _use_new_zipfile_serialization=zipped)
    layers = save("x", lite.release_files()) / "ip_layers.safetensors"
    adapter = open_adapter(tmp_path / "ip-adapter.bin", layers)
    assert adapter.recogniser == INSTANTID_RECOGNISER
    assert_same_weights(adapter, lite)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_other_dtypes(dtype, make_adapter, save):
    tiny = make_adapter(lite=False, with_ref=True, dtype=dtype)
    assert_same_weights(open_adapter(save("x", tiny.release_files())), tiny)


def test_opening_reads_headers_only(full, save, monkeypatch):
    folder = save("x", full.release_files())
    from lynx_core.formats.tensor_file import SafetensorsFile

    read = []
    original = SafetensorsFile._read
    monkeypatch.setattr(
        SafetensorsFile, "_read", lambda self, name: read.append(name) or original(self, name)
    )
    adapter = open_adapter(folder)
    assert read == []
    adapter.read_ref_layer(2)
    assert sorted(read) == ["2.to_k_ref.bias", "2.to_k_ref.weight", "2.to_v_ref.bias", "2.to_v_ref.weight"]


def test_a_layer_does_not_change_with_the_file(full, save):
    full.id = [(block, {leaf: t.float() for leaf, t in state.items()}) for block, state in full.id]
    folder = save("x", full.release_files())
    layer = open_adapter(folder).read_id_layer(3)
    path = folder / "ip_layers.safetensors"
    with path.open("r+b") as file:
        file.seek(-path.stat().st_size // 2, os.SEEK_END)
        file.write(b"\x01" * (path.stat().st_size // 2))
    assert torch.equal(layer.to_k_ip.weight, full.id[3][1]["to_k_ip.weight"])


def test_fingerprint_follows_the_weights_not_the_place(full, save):
    first = open_adapter(save("x", full.release_files()))
    assert open_adapter(save("y", full.release_files())).fingerprint == first.fingerprint
    full.ref[1][1]["to_v_ref.bias"][3] += 1
    assert open_adapter(save("z", full.release_files())).fingerprint != first.fingerprint


# Refusals: each names the file, what was seen, and the way out.


def test_lite_resampler_with_full_layers(full, lite, save):
    a, b = save("lite", lite.release_files()), save("full", full.release_files())
    with pytest.raises(
        AdapterError, match=r"resampler.*width 24.*take width 32.*use the lynx_full resampler"
    ) as error:
        open_adapter(a / "resampler.safetensors", b / "ip_layers.safetensors")
    assert str(a / "resampler.safetensors") in str(error.value)


def test_layers_of_another_base_model(full, make_adapter, save):
    other = make_adapter(lite=False, with_ref=True, dim=48)
    a, b = save("a", full.release_files()), save("b", other.release_files())
    with pytest.raises(AdapterError, match=r"width 32.*width 48.*different\s+base models"):
        open_adapter(a / "resampler.safetensors", a / "ip_layers.safetensors", b / "ref_layers.safetensors")


def test_layers_without_resampler_and_the_reverse(lite, save):
    folder = save("x", lite.release_files())
    with pytest.raises(AdapterError, match=r"Add resampler\.safetensors of lynx_lite"):
        open_adapter(folder / "ip_layers.safetensors")
    with pytest.raises(AdapterError, match=r"Add ip_layers\.safetensors"):
        open_adapter(folder / "resampler.safetensors")


def test_two_files_with_the_same_part(full, lite, save):
    a, b = save("a", full.release_files()), save("b", lite.release_files())
    with pytest.raises(AdapterError, match="Two files hold") as error:
        open_adapter(a, b)
    assert str(a) in str(error.value) and str(b) in str(error.value)


def test_gap_in_a_release_file_names_the_missing_entry(full, save):
    files = full.release_files()
    files["ip_layers"] = {k: t for k, t in files["ip_layers"].items() if not k.startswith("1.")}
    with pytest.raises(AdapterError, match=r"1\.to_k_ip\.weight is missing"):
        open_adapter(save("x", files))


def test_half_a_block_names_the_missing_tensor(lite, save):
    files = lite.kijai_files()
    del files["b"]["blocks.2.cross_attn.ip_adapter.to_v_ip.weight"]
    with pytest.raises(AdapterError, match=r"blocks\.2\.cross_attn\.ip_adapter\.to_v_ip\.weight is missing"):
        open_adapter(save("x", files))


def test_incomplete_resampler(lite, save):
    files = lite.release_files()
    del files["resampler"]["layers.1.0.norm2.bias"]
    with pytest.raises(AdapterError, match=r"layers\.1\.0\.norm2\.bias is missing"):
        open_adapter(save("x", files))


def test_resampler_for_clip_embeddings(lite, save):
    files = lite.release_files()
    files["resampler"]["proj_in.weight"] = torch.zeros(16, 1280)
    with pytest.raises(AdapterError, match=r"width 1280, not for face embeddings \(width 512\)"):
        open_adapter(save("x", files))


def test_layers_of_mixed_shapes(lite, save):
    files = lite.release_files()
    files["ip_layers"]["1.to_v_ip.weight"] = torch.zeros(32, 20)
    with pytest.raises(AdapterError, match=r"1\.to_v_ip\.weight is \[32, 20\].*\[32, 24\]"):
        open_adapter(save("x", files))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value, full, save):
    full.ref[2][1]["to_k_ref.weight"][4, 5] = value
    adapter = open_adapter(save("x", full.release_files()))
    adapter.read_ref_layer(1)
    with pytest.raises(
        AdapterError, match=r"ref_layers\.safetensors: 2\.to_k_ref\.weight holds 1 values that are NaN"
    ):
        adapter.read_ref_layer(2)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["blocks.0.self_attn.q.weight", "head.modulation", "patch_embedding.weight"], "Wan base model"),
        (["model.diffusion_model.blocks.0.self_attn.q.weight"], "Wan base model"),
        (["diffusion_model.blocks.0.self_attn.q.lora_up.weight"], "LoRA"),
        (["blocks.0.cross_attn.k.lora_A.default.weight"], "LoRA"),
        (["decoder.head.0.gamma", "encoder.conv1.weight"], "VAE"),
        (["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"], "text encoder"),
        (["something.else"], "no known layout"),
        (["1.to_k_ip.bias.oops"], "no known layout"),
    ],
)
def test_files_given_by_mistake(keys, expected, save):
    folder = save("x", {"file": {key: torch.zeros(2, 2) for key in keys}})
    with pytest.raises(AdapterError, match=expected) as error:
        open_adapter(folder / "file.safetensors")
    assert str(folder / "file.safetensors") in str(error.value) and keys[0] in str(error.value)


def test_adapter_merged_into_a_base_model(full, save):
    state = full.wan2gp_module() | {"head.modulation": torch.zeros(1, 2, 32)}
    with pytest.raises(AdapterError, match=r"1 other tensors beside a Lynx adapter \(head\.modulation\)"):
        open_adapter(save("x", {"module": state}))


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [("weight._data", "quanto int8"), ("input_scale", "quanto int8"), ("scale_weight", "scaled fp8")],
)
def test_quantised_files(leaf, expected, full, save):
    state = full.wan2gp_module() | {f"blocks.0.cross_attn.to_k_ip.{leaf}": torch.zeros(2)}
    with pytest.raises(AdapterError, match=rf"{expected}.*Use the bf16 or fp16"):
        open_adapter(save("x", {"module": state}))


def test_whole_numbers_as_weights(full, save):
    files = full.release_files()
    files["ref_layers"]["0.to_k_ref.weight"] = torch.zeros(32, 32, dtype=torch.int8)
    with pytest.raises(AdapterError, match=r"0\.to_k_ref\.weight is stored as I8"):
        open_adapter(save("x", files))


def test_missing_and_empty_places(tmp_path):
    with pytest.raises(AdapterError, match=r"nowhere does not exist.*lynx_core.cli.main download"):
        open_adapter(tmp_path / "nowhere")
    with pytest.raises(AdapterError, match=r"holds no file of weights.*lynx_core.cli.main download"):
        open_adapter(tmp_path)
    with pytest.raises(AdapterError, match="No adapter file was given"):
        open_adapter()


def test_file_replaced_while_open(full, lite, save):
    folder = save("x", full.release_files())
    adapter = open_adapter(folder)
    save_file(full.ref[0][1], folder / "ref_layers.safetensors")
    with pytest.raises(AdapterError, match="changed since it was opened"):
        adapter.read_ref_layer(0)


GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "conformance" / "setA"


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden set is not on this machine")
def test_golden_release_folders():
    full, lite = open_adapter(GOLDEN / "lynx_full"), open_adapter(GOLDEN / "lynx_lite")
    assert full.id.blocks == (0, 1, 2, 3) and full.ref.blocks == (0, 1, 2, 3)
    assert lite.id.blocks == (0, 2) and lite.id.token_dim == 192
    stored = load_file(GOLDEN / "lynx_lite" / "ip_layers.safetensors")
    assert torch.equal(lite.read_id_layer(2).to_v_ip.weight, stored["1.to_v_ip.weight"].float())
