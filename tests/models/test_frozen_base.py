"""The frozen base: loading every kind of file, quantising, offloading, hashing."""

from __future__ import annotations

import copy
import types
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_packs import (
    flatten,
    hash_weights,
    make_adapter,
    make_samples,
    make_transformer,
    pack,
    relative_error,
    run_pack,
)

from lynx_core.formats.base_file import BaseModelError, load_transformer
from lynx_core.models import frozen_base
from lynx_core.models.frozen_base import BlockOffload, quantise_base
from lynx_core.models.packed_wan import PackedWan
from lynx_core.spec import Quantisation

ORIGINAL_NAMES = (
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("attn1.to_out.0", "self_attn.o"),
    ("attn2.to_out.0", "cross_attn.o"),
    ("attn1.to_", "self_attn."),
    ("attn2.to_", "cross_attn."),
    ("attn1", "self_attn"),
    ("attn2", "cross_attn"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    ("norm2", "norm3"),
    ("proj_out", "head.head"),
)


def name_as_original(name: str) -> str:
    """Name a tensor as the original release and ComfyUI do."""
    if name == "scale_shift_table":
        return "head.modulation"
    for theirs, original in ORIGINAL_NAMES:
        name = name.replace(theirs, original)
    return name.replace("scale_shift_table", "modulation")


def make_original(transformer: Any) -> dict[str, torch.Tensor]:
    return {name_as_original(name): t.contiguous() for name, t in transformer.state_dict().items()}


@pytest.fixture(scope="module")
def transformer() -> Any:
    return make_transformer()


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_single_files_of_comfyui_users(transformer: Any, prefix: str, tmp_path: Path) -> None:
    original = {prefix + name: t for name, t in make_original(transformer).items()}
    save_file(original, tmp_path / "wan.safetensors")
    loaded = load_transformer(tmp_path / "wan.safetensors", torch.float32)
    assert hash_weights(loaded) == hash_weights(transformer)
    assert not any(p.requires_grad for p in loaded.parameters())
    keys = (
        "num_layers",
        "ffn_dim",
        "text_dim",
        "freq_dim",
        "num_attention_heads",
        "in_channels",
        "out_channels",
    )
    assert {k: loaded.config[k] for k in keys} == {k: transformer.config[k] for k in keys}
    assert tuple(loaded.config.patch_size) == (1, 2, 2)


def test_diffusers_folders_and_shards(transformer: Any, tmp_path: Path) -> None:
    transformer.save_pretrained(tmp_path / "pipeline" / "transformer")
    for path in (tmp_path / "pipeline", tmp_path / "pipeline" / "transformer"):
        assert hash_weights(load_transformer(path, torch.float32)) == hash_weights(transformer)
    save_file(transformer.state_dict(), tmp_path / "diffusers.safetensors")
    assert hash_weights(load_transformer(tmp_path / "diffusers.safetensors", torch.float32)) == hash_weights(
        transformer
    )
    shards = tmp_path / "shards"
    shards.mkdir()
    names = sorted(original := make_original(transformer))
    for i, part in enumerate((names[::2], names[1::2])):
        save_file({name: original[name] for name in part}, shards / f"part-{i}.safetensors")
    assert hash_weights(load_transformer(shards, torch.float32)) == hash_weights(transformer)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_half_precision_keeps_positions_and_modulation_wide(
    transformer: Any, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "base"
    if kind == "folder":
        transformer.save_pretrained(path)
    else:
        path = path.with_suffix(".safetensors")
        save_file(make_original(transformer), path)
    loaded = load_transformer(path, torch.bfloat16)
    dtypes = {name: t.dtype for name, t in [*loaded.named_parameters(), *loaded.named_buffers()]}
    wide = {name for name, dtype in dtypes.items() if dtype == torch.float32}
    assert {"scale_shift_table", "rope.freqs_cos", "blocks.0.norm2.weight"} <= wide
    assert dtypes["blocks.0.attn1.to_q.weight"] == dtypes["patch_embedding.weight"] == torch.bfloat16
    with torch.no_grad():
        outputs = PackedWan(loaded)(pack(make_samples()))
        expected = PackedWan(load_transformer(path, torch.float32))(pack(make_samples()))
    for found, wanted in zip(outputs, expected, strict=True):
        assert found.dtype == torch.bfloat16
        assert relative_error(found, wanted) < 0.02


def test_files_that_are_no_base_are_refused(transformer: Any, tmp_path: Path) -> None:
    def refuse(state: dict[str, torch.Tensor], reason: str) -> None:
        path = tmp_path / "wan.safetensors"
        save_file(state, path)
        with pytest.raises(BaseModelError, match=reason):
            load_transformer(path, torch.float32)

    original = make_original(transformer)
    one = torch.ones(1)
    refuse({**original, "vace_blocks.0.after_proj.bias": one}, "is a VACE model.*text-to-video")
    refuse({**original, "img_emb.proj.0.bias": one}, "is an image-to-video model")
    refuse({**original, "blocks.0.ffn.0.scale_weight": one}, "scaled fp8.*bf16 or fp16 file")
    refuse({n: t for n, t in original.items() if "norm_k" not in n}, r"incomplete.*norm_k.weight")
    refuse({n: t for n, t in original.items() if "patch_embedding" not in n}, "incomplete.*patch_embedding")
    refuse({"something": one}, "no Wan transformer: head.modulation is missing, it holds something")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    with pytest.raises(BaseModelError, match=r"cut\.safetensors has only 1 bytes"):
        load_transformer(tmp_path / "cut.safetensors", torch.float32)
    with pytest.raises(BaseModelError, match="no base model at"):
        load_transformer(tmp_path / "nowhere", torch.float32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseModelError, match=r"no config\.json"):
        load_transformer(tmp_path / "empty", torch.float32)
    with pytest.raises(BaseModelError, match="is a GGUF"):
        (tmp_path / "wan.gguf").write_bytes(b"GGUF")
        load_transformer(tmp_path / "wan.gguf", torch.float32)


def test_image_to_video_base_is_refused() -> None:
    from diffusers import WanTransformer3DModel

    base = WanTransformer3DModel(
        num_attention_heads=1, in_channels=36, out_channels=16, num_layers=1, ffn_dim=8
    )
    with pytest.raises(ValueError, match="takes an image beside its prompt"):
        PackedWan(base)


@pytest.mark.parametrize(("precision", "cosine"), [("int8", 0.999), ("fp8", 0.99)])
def test_gradient_passes_through_a_quantised_base(precision: Quantisation, cosine: float) -> None:
    pytest.importorskip("torchao")
    adapter, samples = make_adapter("full"), make_samples()
    _, expected = run_pack(PackedWan(make_transformer()), adapter, samples)
    quantised = make_transformer()
    quantise_base(quantised, precision)
    before = hash_weights(quantised)
    assert before != hash_weights(make_transformer())
    _, found = run_pack(PackedWan(quantised, gradient_checkpointing=True), adapter, samples)
    reached = {name for gradient in found for name, g in gradient.items() if g.any()}
    assert reached == {name for name, _ in adapter.named_parameters()}
    for i in range(len(samples)):
        similarity = torch.cosine_similarity(flatten(found[i]), flatten(expected[i]), dim=0)
        print(f"sample {i}: cosine {similarity:.5f}")
        assert similarity > cosine
    assert hash_weights(quantised) == before
    assert not any(p.requires_grad for p in quantised.parameters())


@pytest.mark.parametrize("precision", ["none", "int8"])
def test_offloaded_blocks_compute_the_same(precision: Quantisation) -> None:
    if precision != "none":
        pytest.importorskip("torchao")
    adapter, samples, base = make_adapter("full"), make_samples(), make_transformer()
    quantise_base(base, precision)
    outputs, gradients = run_pack(PackedWan(base, gradient_checkpointing=True), adapter, samples)
    offload = BlockOffload(base, torch.device("cpu"))
    fetched: list[int] = []
    fetch = offload.fetch
    offload.fetch = lambda index: (fetched.append(index), fetch(index))[1]  # type: ignore[method-assign]
    offloaded, gradients_again = run_pack(
        PackedWan(base, gradient_checkpointing=True, offload=offload), adapter, samples
    )
    assert all(torch.equal(a, b) for a, b in zip(offloaded, outputs, strict=True))
    for a, b in zip(gradients_again, gradients, strict=True):
        assert torch.equal(flatten(a), flatten(b))
    # The reference pass walks beside the other, so each block is fetched once for both.
    assert fetched[:4] == [0, 0, 1, 1]


def test_offloaded_weights_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    offload = BlockOffload(make_transformer(), torch.device("cpu"))
    first = offload.fetch(0)
    assert offload.fetch(0) is first, "copied once while it runs"
    kept = weakref.ref(first)
    del first
    assert kept() is not None
    alive: list[bool] = []

    def copy_block(shell: torch.nn.Module) -> torch.nn.Module:
        alive.append(kept() is not None)
        return copy.deepcopy(shell)

    monkeypatch.setattr(frozen_base, "copy", types.SimpleNamespace(deepcopy=copy_block))
    offload.fetch(1)
    assert alive == [False], "the block before is gone when the next is copied"


def test_hash_sees_one_bit() -> None:
    first, second = make_transformer(), make_transformer()
    assert hash_weights(first) == hash_weights(second)
    with torch.no_grad():
        bias = second.blocks[1].attn2.to_v.bias
        bias[3] = torch.nextafter(bias[3], torch.tensor(2.0))
    assert hash_weights(first) != hash_weights(second)
