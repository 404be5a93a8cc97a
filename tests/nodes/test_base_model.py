"""Base models: which families are taken, how one is told from another, and what it is called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from wan_bench import OTHER_T2V, T2V, VACE, Conditioning, WanBench, max_error

State = dict[str, Tensor]
DIM = 256


def read_state(bench: WanBench, name: str = T2V) -> State:
    return {
        k: v.float()
        for k, v in load_file(str(bench.comfy.base_dir / "models/diffusion_models" / name)).items()
    }


def load_state(state: State, metadata: dict[str, str] | None = None, **options: Any) -> Any:
    import comfy.sd

    return comfy.sd.load_diffusion_model_state_dict(
        dict(state), model_options={"dtype": torch.float32, **options}, metadata=metadata
    )


@pytest.fixture(scope="module")
def state(bench: WanBench) -> State:
    return read_state(bench)


@pytest.fixture(scope="module")
def describe(bench: WanBench) -> Callable[[Any], Any]:
    return bench.comfy.pack_module("nodes.host.base_model").describe_base


# --- families --------------------------------------------------------------------------------


def widen(state: State, in_dim: int) -> State:
    """A model that takes more channels beside the latent: a first image, a control video."""
    weight = state["patch_embedding.weight"]
    return {
        **state,
        "patch_embedding.weight": torch.cat([weight, 0.1 * weight.repeat(1, 3, 1, 1, 1)], 1)[:, :in_dim],
    }


REFUSED: dict[str, tuple[dict[str, tuple[int, ...]], int, str]] = {
    "I2V 2.1": ({"img_emb.proj.0.bias": (1280,)}, 36, "image-to-video"),
    "Fun Control 2.1": ({"img_emb.proj.0.bias": (1280,)}, 48, "image-to-video"),
    "Camera 2.1": ({"control_adapter.conv.weight": (DIM, 1536, 2, 2), "img_emb.proj.0.bias": (1280,)}, 32, "image-to-video"),
    "Camera 2.2": ({"control_adapter.conv.weight": (DIM, 1536, 2, 2)}, 36, "camera"),
    "S2V": ({"casual_audio_encoder.encoder.final_linear.weight": (DIM, DIM)}, 16, "S2V"),
    "HuMo": ({"audio_proj.audio_proj_glob_1.layer.bias": (512,)}, 16, "HuMo"),
    "Animate": ({"face_adapter.fuser_blocks.0.k_norm.weight": (1,)}, 36, "image-to-video"),
    "SCAIL": ({"patch_embedding_pose.weight": (DIM, 20, 1, 2, 2)}, 20, "image-to-video"),
    "SCAIL 2": ({"patch_embedding_pose.weight": (DIM, 20, 1, 2, 2), "patch_embedding_mask.weight": (DIM, 28, 1, 2, 2)},
                20, "image-to-video"),
    "WanDancer": ({"patch_embedding_global.weight": (DIM, 36, 1, 2, 2)}, 36, "image-to-video"),
}  # fmt: skip


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_with_parts_of_its_own_is_refused(
    state: State, describe: Callable[[Any], Any], family: str
) -> None:
    if family == "WanDancer":
        pytest.importorskip("comfy.ldm.wan.model_wandancer", reason="newer than this host")
    shapes, in_dim, word = REFUSED[family]
    extra = {key: torch.zeros(shape) for key, shape in shapes.items()}
    model = load_state({**widen(state, in_dim), **extra})
    with pytest.raises(ValueError, match="Lynx was not made for") as refusal:
        describe(model)
    for part in (word, type(model.model).__name__, "text-to-video or VACE model of Wan 2.1", "Wan 2.2"):
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    ("config", "word"),
    [({"model_type": "flow_rvs"}, "WAN21_FlowRVS"), ({"causal_ar": True}, "CausalWanModel")],
)
def test_a_family_told_by_its_metadata_is_refused(
    state: State, describe: Callable[[Any], Any], config: dict[str, Any], word: str
) -> None:
    if word == "CausalWanModel":
        pytest.importorskip("comfy.ldm.wan.ar_model", reason="newer than this host")
    model = load_state(state, {"config": json.dumps({"transformer": config})})
    with pytest.raises(ValueError, match=word):
        describe(model)


def test_wan_22_5b_is_refused_by_its_size(bench: WanBench, state: State, full: Any) -> None:
    """It has another latent, and 30 blocks of dim 3072."""
    narrow = bench.make_base(128, 4, "wan2.2_ti2v_5B.safetensors")
    with pytest.raises(ValueError, match="dim 128"):
        bench.make_reference(narrow, full)


TAKEN = {
    "T2V": lambda state: state,
    "I2V 2.2": lambda state: widen(state, 36),
    "Fun Control 2.2": lambda state: {
        **widen(state, 52), "ref_conv.weight": 0.1 * torch.ones(DIM, 16, 2, 2), "ref_conv.bias": torch.zeros(DIM)
    },
}  # fmt: skip


@pytest.mark.parametrize("family", TAKEN)
def test_plain_blocks_are_taken(
    bench: WanBench, state: State, full: Any, prompt: Conditioning, negative: Conditioning, family: str
) -> None:
    model = load_state(TAKEN[family](state))
    reference = bench.make_reference(model, full)
    applied = bench.apply(model, prompt, negative, adapter=full, id=bench.make_id(), reference=reference)
    with_person = bench.sample(applied.model, applied.positive, applied.negative)
    assert max_error(with_person, bench.sample(model, prompt, negative)) > 1e-3


# --- classes that other packs exchange ----------------------------------------------------------


def make_renamed_class() -> type[nn.Module]:
    """A model class as RES4LYF's ReWanModel: no subclass of the host's, the same parts."""
    from comfy.ldm.wan.model import WanModel

    body = {k: v for k, v in vars(WanModel).items() if k not in ("__dict__", "__weakref__", "__module__")}
    return type("ReWanModel", (nn.Module,), {**body, "__module__": "custom_nodes.RES4LYF.wan.model"})


def test_a_class_exchanged_in_place_is_taken(state: State, describe: Callable[[Any], Any]) -> None:
    """RES4LYF's ReWanPatcher does so, and it stays so for every MODEL of that file."""
    model = load_state(state)
    before = describe(model)
    model.model.diffusion_model.__class__ = make_renamed_class()
    assert describe(model) == before


def test_a_class_patched_by_another_model_is_taken(
    bench: WanBench,
    state: State,
    describe: Callable[[Any], Any],
    prompt: Conditioning,
    negative: Conditioning,
) -> None:
    """An object patch of the class stays on until another MODEL of that file is sampled."""
    model = load_state(state)
    before = describe(model)
    patched = model.clone()
    patched.add_object_patch("diffusion_model.__class__", make_renamed_class())
    assert describe(patched) == before
    bench.sample(patched, prompt, negative, steps=1)
    assert type(model.model.diffusion_model).__name__ == "ReWanModel"
    assert describe(model) == before
    assert describe(patched) == before


def test_a_subclass_of_the_plain_model_is_taken_and_one_of_a_family_is_not(
    state: State, describe: Callable[[Any], Any]
) -> None:
    from comfy.ldm.wan.model import HumoWanModel, WanModel

    model = load_state(state)
    model.model.diffusion_model.__class__ = type("MyWan", (WanModel,), {"__module__": "custom_nodes.mine"})
    describe(model)
    model.model.diffusion_model.__class__ = type(
        "MyHumo", (HumoWanModel,), {"__module__": "custom_nodes.mine"}
    )
    with pytest.raises(ValueError, match="HumoWanModel"):
        describe(model)


# --- names -----------------------------------------------------------------------------------


def test_a_base_is_called_by_its_file(bench: WanBench, describe: Callable[[Any], Any], state: State) -> None:
    assert describe(bench.load_base()).name == f"{T2V} (WAN21)"
    unnamed = load_state(state)
    assert describe(unnamed).name == "the base model of kind WAN21"

    class GGUFModelPatcher(type(unnamed)):  # type: ignore[misc]
        """As ComfyUI-GGUF's loader makes it; it does not keep the file's name."""

    gguf = GGUFModelPatcher.clone(unnamed)
    gguf.__class__ = GGUFModelPatcher
    assert describe(gguf).name == "the GGUF base model of kind WAN21"


# --- the checksum ------------------------------------------------------------------------------

PARTS = [*(f"{a}_attn.{p}" for a in ("self", "cross") for p in ("q", "k", "v", "o")), "ffn.0", "ffn.2"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("block", [0, 3])
def test_a_merged_lora_is_another_base(
    state: State, describe: Callable[[Any], Any], part: str, block: int
) -> None:
    """Of rank 4, on one matrix of one block, at 2 % of its size."""
    key = f"blocks.{block}.{part}.weight"
    weight = state[key]
    generator = torch.Generator().manual_seed(3)
    down, up = (
        torch.randn(4, weight.shape[1], generator=generator),
        torch.randn(weight.shape[0], 4, generator=generator),
    )
    merged = weight + 0.02 * weight.std() * (up @ down) / 2
    assert describe(load_state({**state, key: merged})).checksum != describe(load_state(state)).checksum


def test_another_norm_is_another_base(state: State, describe: Callable[[Any], Any]) -> None:
    key = "blocks.1.cross_attn.norm_k.weight"
    assert (
        describe(load_state({**state, key: state[key] * 1.1})).checksum
        != describe(load_state(state)).checksum
    )


def test_a_lora_of_the_graph_is_the_same_base_loaded_or_not(
    bench: WanBench, describe: Callable[[Any], Any], prompt: Conditioning, negative: Conditioning
) -> None:
    model = bench.load_base()
    before = describe(model)
    with_lora = bench.load_lora(model)
    assert describe(with_lora) == before
    bench.sample(with_lora, prompt, negative, steps=1)
    assert model.backup, "the LoRA is in the weights"
    assert describe(with_lora) == before
    assert describe(model) == before


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_the_same_numbers_have_one_checksum_in_any_precision(
    bench: WanBench, state: State, describe: Callable[[Any], Any], tmp_path: Path, stored: torch.dtype
) -> None:
    """One file, loaded in each precision that holds its numbers; small ones are rounded in fp16."""
    import comfy.sd

    generator = torch.Generator().manual_seed(1)
    scales = {k: 10 ** (-6 * torch.rand(v.shape, generator=generator)) for k, v in state.items()}
    path = tmp_path / "base.safetensors"
    numbers = {k: (v * scales[k] if v.ndim == 2 else v).to(stored) for k, v in state.items()}
    save_file({k: v if v.ndim == 2 else v.float() for k, v in numbers.items()}, str(path))
    loads = [torch.float32, torch.bfloat16, torch.float16]
    loads += [torch.float8_e4m3fn] if stored == torch.float8_e4m3fn else []
    models = [comfy.sd.load_diffusion_model(str(path), {"dtype": dtype}) for dtype in loads]
    assert models[-1].model.diffusion_model.blocks[0].ffn[0].weight.dtype == loads[-1]
    assert len({describe(model).checksum for model in models}) == 1


def test_scaled_fp8_is_taken_as_stored(describe: Callable[[Any], Any], state: State) -> None:
    """The numbers and their scale: twice the scale is another base."""

    def quantise(factor: float) -> State:
        out: State = {}
        for key, weight in state.items():
            if weight.ndim == 2 and key.startswith("blocks"):
                scale = weight.abs().max() / 448
                out[key] = (weight / scale).to(torch.float8_e4m3fn)
                out[key.replace(".weight", ".scale_weight")] = (scale * factor).float()
            else:
                out[key] = weight
        out["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
        return out

    import comfy.sd

    def load(factor: float) -> Any:
        return comfy.sd.load_diffusion_model_state_dict(quantise(factor), model_options={})

    model = load(1.0)
    assert hasattr(model.model.diffusion_model.blocks[0].ffn[0].weight, "_qdata")
    assert describe(model) == describe(load(1.0)) == describe(model.clone())
    assert describe(model).checksum != describe(load(2.0)).checksum
    assert describe(model).checksum != describe(load_state(state)).checksum


def test_shipped_stand_ins_differ_and_a_compiled_block_does_not(
    bench: WanBench, describe: Callable[[Any], Any]
) -> None:
    model = bench.load_base()
    checksums = {describe(bench.load_base(name)).checksum for name in (OTHER_T2V, VACE)}
    assert len(checksums | {describe(model).checksum}) == 3
    before = describe(model)
    blocks = model.model.diffusion_model.blocks
    blocks[1] = torch.compile(blocks[1], backend="eager")
    assert describe(model) == before


def test_a_gguf_weight_is_taken_as_stored(describe: Callable[[Any], Any], state: State) -> None:
    """ComfyUI-GGUF's tensor: bytes under the shape of the numbers that they stand for; `detach` gives itself."""

    class StoredTensor(Tensor):
        logical_shape: tuple[int, ...]

        def detach(self, *_: Any) -> Tensor:
            return self

        @property
        def shape(self) -> Any:
            return self.logical_shape

    def load(change: int) -> Any:
        model = load_state(state)
        for block in model.model.diffusion_model.blocks:
            generator = torch.Generator().manual_seed(1)
            raw = torch.randint(0, 256, (DIM, DIM + 16), dtype=torch.uint8, generator=generator) + change
            stored = raw.as_subclass(StoredTensor)
            stored.logical_shape = (DIM, DIM)
            block.self_attn.q.weight = nn.Parameter(stored, requires_grad=False)
        return model

    assert describe(load(0)) == describe(load(0))
    assert describe(load(0)).checksum != describe(load(1)).checksum
    assert describe(load(0)).checksum != describe(load_state(state)).checksum
