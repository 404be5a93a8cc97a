"""What is held while sampling: keys and values, counted by the host, and no adapter weight."""

from __future__ import annotations

import gc
import types
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from wan_bench import OTHER_T2V, Applied, Conditioning, WanBench, max_error, seeded

DIM, NUM_BLOCKS = 256, 4
ID_TOKENS, NUM_REGISTERS, REFERENCE_TOKENS = 16, 16, 16


@pytest.fixture(scope="module")
def on(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> Applied:
    return bench.apply(base, prompt, negative, **identity)


def list_kv(cond: Conditioning) -> list[Any]:
    return [patcher.model for patcher in cond[0][1]["additional_models"]]


def count_storage_bytes(modules: list[Any]) -> int:
    """Bytes of the memory that the modules' tensors keep alive, shared memory counted once."""
    storages = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for m in modules for p in m.parameters()
    }
    return sum(storages.values())


def test_no_adapter_weight_is_alive_after_apply(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = bench.open_adapter("lynx_full")
    read: list[weakref.ref[Any]] = []

    def watch(name: str) -> None:
        method = getattr(type(adapter), name)

        def read_and_watch(self: Any, *block: int) -> Any:
            module = method(self, *block)
            read.extend(weakref.ref(thing) for thing in (module, *module.parameters()))
            return module

        monkeypatch.setattr(type(adapter), name, read_and_watch)

    for name in ("load_resampler", "read_id_layer", "read_ref_layer"):
        watch(name)
    on = bench.apply(
        base,
        prompt,
        negative,
        adapter=adapter,
        id=bench.make_id(21),
        reference=bench.make_reference(base, adapter, seed=21),
    )
    bench.sample(on.model, on.positive, on.negative)
    gc.collect()
    assert len(read) > 3 * NUM_BLOCKS
    assert not any(reference() is not None for reference in read)


def test_only_keys_and_values_are_held(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: dict[str, Any],
    lite: Any,
) -> None:
    on = bench.apply(base, prompt, negative, **identity)
    for cond in (on.positive, on.negative, on.middle):
        tokens = ID_TOKENS + NUM_REGISTERS + REFERENCE_TOKENS
        assert count_storage_bytes(list_kv(cond)) == NUM_BLOCKS * tokens * DIM * 2 * 4
    light = bench.apply(base, prompt, negative, adapter=lite, id=bench.make_id())
    assert count_storage_bytes(list_kv(light.positive)) == NUM_BLOCKS // 2 * ID_TOKENS * DIM * 2 * 4


def test_half_precision_base_keeps_half_the_bytes(
    bench: WanBench, full: Any, prompt: Conditioning, negative: Conditioning
) -> None:
    base = bench.load_base(dtype=torch.bfloat16)
    base.model.manual_cast_dtype = (
        None  # the host computes in float32 on a CPU, in the weights' own dtype on a GPU
    )
    on = bench.apply(
        base, prompt, negative, adapter=full, id=bench.make_id(), reference=bench.make_reference(base, full)
    )
    parts = list_kv(on.positive)
    assert {p.dtype for part in parts for p in part.parameters()} == {torch.bfloat16}
    tokens = ID_TOKENS + NUM_REGISTERS + REFERENCE_TOKENS
    assert count_storage_bytes(parts) == NUM_BLOCKS * tokens * DIM * 2 * 2


def test_the_host_counts_and_loads_what_is_held(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    import comfy.model_management

    on = bench.apply(base, prompt, negative, **identity)
    expected = list_kv(on.positive) + list_kv(on.negative)
    seen: list[dict[int, int]] = []

    def look(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        loaded = comfy.model_management.current_loaded_models
        seen.append(
            {id(entry.model.model): entry.model_memory() for entry in loaded if entry.model is not None}
        )
        return extra["original_block"](args)

    model = on.model.clone()
    model.set_model_patch_replace(look, "dit", "double_block", 0)
    bench.sample(model, on.positive, on.negative, steps=1)
    for module in expected:
        assert seen[0][id(module)] == sum(p.nbytes for p in module.parameters())


def test_a_query_that_the_host_frees_early_is_free(
    bench: WanBench, on: Applied, prompt: Conditioning, negative: Conditioning
) -> None:
    """Newer hosts hand q, k and v over in boxes that are emptied as soon as the attention is computed."""
    alive: list[bool] = []

    def forward(self: Any, x: Tensor, context: Tensor, **_: Any) -> Tensor:
        box = [self.norm_q(self.q(x))]
        query = weakref.ref(box[0])
        key, value = (
            t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for t in (self.norm_k(self.k(context)), self.v(context))
        )
        heads = box.pop().unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        out = torch.nn.functional.scaled_dot_product_attention(heads, key, value).transpose(1, 2).flatten(2)
        del heads
        alive.append(query() is not None)
        return self.o(out)

    model = on.model.clone()
    for block in range(NUM_BLOCKS):
        path = f"diffusion_model.blocks.{block}.cross_attn"
        model.add_object_patch(f"{path}.forward", types.MethodType(forward, model.get_model_object(path)))
    conds = [on.positive, on.negative]
    for got, expected in zip(bench.predict(model, conds), bench.predict(on.model, conds), strict=True):
        assert max_error(got, expected) < 1e-5
    assert alive == [False] * NUM_BLOCKS


def test_the_null_is_computed_once_and_shared(
    bench: WanBench, base: Any, full: Any, prompt: Conditioning, negative: Conditioning, monkeypatch: Any
) -> None:
    first = bench.apply(
        base,
        prompt,
        negative,
        adapter=full,
        id=bench.make_id(31),
        reference=bench.make_reference(base, full, seed=31),
    )
    same_files = bench.open_adapter("lynx_full")
    layers: list[int] = []
    read = type(full).read_ref_layer
    monkeypatch.setattr(
        type(full), "read_ref_layer", lambda self, block: layers.append(block) or read(self, block)
    )
    second = bench.apply(
        base,
        prompt,
        negative,
        adapter=same_files,
        id=bench.make_id(32),
        reference=bench.make_reference(base, same_files, seed=32),
    )
    assert layers == [0, 1, 2, 3], "the face alone; the null was there"
    nulls = list_kv(first.negative), list_kv(second.negative)
    assert [id(part) for part in nulls[0]] == [id(part) for part in nulls[1]]
    faces = list_kv(first.positive), list_kv(second.positive)
    assert not {id(part) for part in faces[0]} & {id(part) for part in faces[1]}
    # Face and middle share one part, too: the identity is held once.
    assert [id(part) for part in list_kv(first.middle)] == [id(part) for part in faces[0]]


def test_changing_a_strength_bakes_nothing_again(
    bench: WanBench, base: Any, full: Any, prompt: Conditioning, negative: Conditioning, monkeypatch: Any
) -> None:
    face_id = bench.make_id(41)
    bench.apply(base, prompt, negative, adapter=full, id=face_id)
    layers: list[int] = []
    read = type(full).read_id_layer
    monkeypatch.setattr(
        type(full), "read_id_layer", lambda self, block: layers.append(block) or read(self, block)
    )
    bench.apply(base, prompt, negative, adapter=full, id=face_id, id_strength=0.5)
    assert layers == []
    bench.apply(base, prompt, negative, adapter=full, id=bench.make_id(42))
    assert layers == [0, 1, 2, 3]


@pytest.mark.parametrize("change", ["another base", "a LoRA"])
def test_a_null_of_another_base_is_not_taken(bench: WanBench, base: Any, full: Any, change: str) -> None:
    other = bench.load_base(OTHER_T2V) if change == "another base" else bench.load_lora(base)
    nulls = [bench.make_reference(model, full).null.kv_cache.get_block(3).key for model in (base, other)]
    assert not torch.allclose(*nulls, atol=1e-2)


def test_the_identity_survives_the_adapters_files(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, tmp_path: Any
) -> None:
    """Keys and values once computed, the adapter's files may go: nothing reads them while sampling."""
    import shutil

    source = bench.comfy.base_dir / "models" / "lynx" / "lynx_full"
    folder = tmp_path / "lynx_full"
    shutil.copytree(source, folder)
    adapter = bench.comfy.pack_module("lynx_core.formats.adapter").open_adapter(folder)
    on, expected = (
        bench.apply(
            base,
            prompt,
            negative,
            adapter=opened,
            id=bench.make_id(51),
            reference=bench.make_reference(base, opened, seed=51),
        )
        for opened in (adapter, bench.open_adapter("lynx_full"))
    )
    shutil.rmtree(folder)
    got = bench.sample(on.model, on.positive, on.negative)
    assert torch.equal(got, bench.sample(expected.model, expected.positive, expected.negative))
    assert max_error(got, bench.sample(base, prompt, negative)) > 1e-3


def test_moving_to_the_rows_does_not_change_what_is_held(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    on = bench.apply(base, prompt, negative, **identity)
    before = [p.clone() for part in list_kv(on.positive) for p in part.parameters()]
    x = seeded(1, 16, 2, 8, 8, seed=3)
    for sigma in (0.9, 0.1):
        bench.predict(on.model, [on.positive], sigma, x)
    after = [p for part in list_kv(on.positive) for p in part.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
