"""The base model's weights: LoRAs on either side of the node, fp8, fp16 and bf16 files."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from wan_bench import T2V, Conditioning, WanBench, max_error, seeded

NUM_BLOCKS, DIM = 4, 256


def predict_both(bench: WanBench, model: Any, *conds: Conditioning) -> Tensor:
    return torch.cat(bench.predict(model, conds))


def make_norm_lora() -> dict[str, Tensor]:
    """Changes of the key norms, as distilled LoRAs carry them: whole differences, no low rank."""
    return {
        f"diffusion_model.blocks.{block}.{attention}.norm_k.diff": 0.5 * seeded(DIM, seed=block)
        for block in range(NUM_BLOCKS)
        for attention in ("self_attn", "cross_attn")
    }


def load_norm_lora(model: Any) -> Any:
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, make_norm_lora(), 1.0, 0.0)[0]


def test_lora_before_or_after_apply(
    bench: WanBench, base: Any, full: Any, prompt: Conditioning, negative: Conditioning
) -> None:
    for put_on in (bench.load_lora, load_norm_lora):
        with_lora = put_on(base)
        inputs = {"adapter": full, "id": bench.make_id(), "reference": bench.make_reference(with_lora, full)}
        before = bench.apply(with_lora, prompt, negative, **inputs)
        after = bench.apply(base, prompt, negative, **inputs)
        without = predict_both(bench, after.model, after.positive, after.negative)
        a = predict_both(bench, before.model, before.positive, before.negative)
        b = predict_both(bench, put_on(after.model), after.positive, after.negative)
        assert torch.equal(a, b)
        assert max_error(a, without) > 1e-2
        assert torch.equal(without, predict_both(bench, after.model, after.positive, after.negative))


@pytest.mark.parametrize("kind", ["low rank", "norms"])
def test_lora_equals_the_base_with_the_lora_merged_in(
    bench: WanBench, base: Any, full: Any, prompt: Conditioning, negative: Conditioning, kind: str
) -> None:
    """The adapters' keys pass the norms and projections as the LoRA left them."""
    import comfy.sd

    with_lora = bench.load_lora(base) if kind == "low rank" else load_norm_lora(base)
    bench.predict(with_lora, [prompt])  # loads it: the weights now hold the LoRA
    merged_path = bench.comfy.base_dir / f"merged_{kind.replace(' ', '_')}.safetensors"
    prefix = "diffusion_model."
    merged = {
        name.removeprefix(prefix): tensor.detach().clone()
        for name, tensor in with_lora.model.state_dict().items()
        if name.startswith(prefix)
    }
    save_file(merged, str(merged_path))
    merged_base = comfy.sd.load_diffusion_model(str(merged_path), model_options={"dtype": torch.float32})
    results = []
    for model in (with_lora, merged_base):
        inputs = {"adapter": full, "id": bench.make_id(), "reference": bench.make_reference(model, full)}
        on = bench.apply(model, prompt, negative, **inputs)
        results.append(predict_both(bench, on.model, on.positive, on.negative))
    assert max_error(results[0], results[1]) < 1e-5


def test_a_reference_is_known_by_its_base_whatever_lora_is_loaded_now(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    """The host writes a LoRA into the shared weights and takes it out again later."""
    with_lora = load_norm_lora(base)
    bench.predict(with_lora, [prompt])
    bench.apply(with_lora, prompt, negative, **identity)
    bench.apply(base, prompt, negative, **identity)
    bench.predict(base, [prompt])
    bench.apply(with_lora, prompt, negative, **identity)


def test_fp8_base_equals_its_values_in_float32(
    bench: WanBench, full: Any, prompt: Conditioning, negative: Conditioning
) -> None:
    import comfy.sd

    (fp8,) = bench.comfy.run("UNETLoader", unet_name=T2V, weight_dtype="fp8_e4m3fn")
    stored = fp8.model.diffusion_model.state_dict()
    assert stored["blocks.0.self_attn.q.weight"].dtype == torch.float8_e4m3fn
    path = bench.comfy.base_dir / "fp8_values.safetensors"
    save_file({name: tensor.float() for name, tensor in stored.items()}, str(path))
    plain = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})
    results = []
    for model in (fp8, plain):
        inputs = {"adapter": full, "id": bench.make_id(), "reference": bench.make_reference(model, full)}
        on = bench.apply(model, prompt, negative, **inputs)
        results.append(predict_both(bench, on.model, on.positive, on.negative, on.middle))
    assert max_error(*results) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_base(
    bench: WanBench, base: Any, full: Any, prompt: Conditioning, negative: Conditioning, dtype: torch.dtype
) -> None:
    """The stand-in's float16 values, computed in the weights' own dtype as on a GPU."""
    half = bench.load_base(dtype=dtype)
    half.model.manual_cast_dtype = None
    results = []
    for model in (half, base):
        inputs = {"adapter": full, "id": bench.make_id(), "reference": bench.make_reference(model, full)}
        on = bench.apply(model, prompt, negative, **inputs)
        results.append(predict_both(bench, on.model, on.positive, on.negative))
    assert max_error(*results) < (0.01 if dtype == torch.float16 else 0.05)
    plain = predict_both(bench, base, prompt, negative)
    assert max_error(plain, results[1]) > 0.1, "without the identity it would not be near"


def test_adapter_in_a_base_saved_by_another_name(
    bench: WanBench, prompt: Conditioning, negative: Conditioning, identity: dict[str, Any]
) -> None:
    """A copy of the base under another file name is the same base."""
    folder = bench.comfy.base_dir / "models" / "diffusion_models"
    save_file(load_file(str(folder / T2V)), str(folder / "my_copy.safetensors"))
    bench.apply(bench.load_base("my_copy.safetensors"), prompt, negative, **identity)
