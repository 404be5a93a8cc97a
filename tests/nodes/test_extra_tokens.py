"""Tokens that the host puts beside the video's: a reference image, a subject, a context. The reference stays out of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from wan_bench import T2V, Conditioning, WanBench, max_error, seeded

FRAMES, TOKENS_PER_FRAME, DIM = 3, 16, 256


@pytest.fixture(scope="module")
def base(bench: WanBench) -> Any:
    """A T2V model with the convolution that takes a reference image, as Fun Control models have it."""
    folder = bench.comfy.base_dir / "models" / "diffusion_models"
    tensors = load_file(str(folder / T2V))
    tensors["ref_conv.weight"] = 0.1 * seeded(DIM, 16, 2, 2, seed=90)
    tensors["ref_conv.bias"] = 0.1 * seeded(DIM, seed=91)
    save_file(tensors, str(folder / "wan_with_ref_conv.safetensors"))
    return bench.load_base("wan_with_ref_conv.safetensors")


EXTRAS: dict[str, tuple[dict[str, Any], int, int]] = {
    "none": ({}, 0, 0),
    "reference image": ({"reference_latents": [seeded(1, 16, 1, 8, 8, seed=92)]}, TOKENS_PER_FRAME, 0),
    "subjects": ({"time_dim_concat": seeded(1, 16, 2, 8, 8, seed=93)}, 0, 2 * TOKENS_PER_FRAME),
    "context": ({"context_latents": [seeded(1, 16, 1, 4, 8, seed=94)]}, 0, TOKENS_PER_FRAME // 2),
}
"""What a conditioning brings, and the tokens that it puts in front of the video's and after them."""


def record_last_block(bench: WanBench, model: Any, cond: Conditioning) -> Tensor:
    return bench.record_blocks(model, cond, x=seeded(1, 16, FRAMES, 8, 8, seed=95))[3]


@pytest.mark.parametrize("skipped", [0, 1])
@pytest.mark.parametrize("name", EXTRAS)
def test_the_reference_acts_on_the_videos_tokens_alone(
    bench: WanBench, base: Any, full: Any, negative: Conditioning, name: str, skipped: int
) -> None:
    """Nothing after the last block's self-attention mixes tokens: those left out are the base's, to the bit."""
    options, in_front, after = EXTRAS[name]
    text = [[bench.make_text(1)[0][0], options]]
    on = bench.apply(
        base, text, negative, adapter=full, reference=bench.make_reference(base, full), ref_blocks="3",
        vace_reference_frames=skipped,
    )  # fmt: skip
    plain, got = (record_last_block(bench, *at) for at in ((base, text), (on.model, on.positive)))
    if name == "context" and plain.shape[1] == FRAMES * TOKENS_PER_FRAME:
        pytest.skip("this host knows no context latents")
    video = FRAMES * TOKENS_PER_FRAME
    assert plain.shape[1] == in_front + video + after
    changed = (got != plain).any(-1)[0]
    expected = torch.zeros(len(changed), dtype=torch.bool)
    expected[in_front + skipped * TOKENS_PER_FRAME : in_front + video] = True
    assert torch.equal(changed, expected)


def test_tokens_that_another_node_cuts_out(
    bench: WanBench, base: Any, full: Any, prompt: Conditioning, negative: Conditioning
) -> None:
    """Without reference frames every token is the same to Lynx; with them it must know which they are."""
    inputs = {"adapter": full, "reference": bench.make_reference(base, full), "ref_blocks": "3"}

    def cut(args: dict[str, Any], extra: Any) -> dict[str, Any]:
        half = args["img"].shape[1] // 2
        out = extra["original_block"]({**args, "img": args["img"][:, :half], "pe": args["pe"][:, :half]})
        return {"img": torch.cat([out["img"], args["img"][:, half:]], 1)}

    def predict(skipped: int, **strength: float) -> Tensor:
        on = bench.apply(base, prompt, negative, **inputs, vace_reference_frames=skipped, **strength)
        model = on.model.clone()
        model.set_model_patch_replace(cut, "dit", "double_block", 3)
        return bench.predict(model, [on.positive], x=seeded(1, 16, 4, 8, 8, seed=96))[0]

    assert max_error(predict(0), predict(0, ref_strength=0.0)) > 1e-3
    with pytest.raises(ValueError, match=r"32 of the video's tokens.*1 vace_reference_frames"):
        predict(1)
