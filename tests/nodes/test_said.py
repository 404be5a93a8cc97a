"""What Lynx Apply and the sampling say of settings that would else act in silence, or be refused with a wrong way out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from wan_bench import Conditioning, WanBench

Inputs = dict[str, Any]


def spot(size_px: int, value: float = 1.0) -> torch.Tensor:
    """A mask with one square of this size."""
    mask = torch.zeros(1, 128, 128)
    mask[:, 40 : 40 + size_px, 40 : 40 + size_px] = value
    return mask


@pytest.mark.parametrize(
    "mask",
    [torch.full((1, 128, 128), 1 / 255), spot(2), spot(64, 0.05)],
    ids=["dark grey", "a dot", "a dark square"],
)
def test_a_nearly_black_mask_is_said(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: Inputs,
    notes: list[str],
    mask: torch.Tensor,
) -> None:
    bench.apply(base, prompt, negative, **identity, mask=mask)
    assert "The mask is nearly black: nowhere does the person act with more than" in notes[-1]


def test_the_text_says_where_the_mask_is(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: Inputs,
    notes: list[str],
) -> None:
    bench.apply(base, prompt, negative, **identity, mask=spot(64))
    assert "mask: white in 25% of the picture, the same in every frame" in notes[-1]
    assert "nearly black" not in notes[-1]
    frames = torch.cat([spot(64), torch.zeros(3, 128, 128), spot(64)])
    bench.apply(base, prompt, negative, **identity, mask=frames)
    assert "mask: white in 10% of the picture, 5 frames" in notes[-1]
    assert "black or nearly so in 3 of its 5 frames" in notes[-1]
    bench.apply(base, prompt, negative, **identity)
    assert "mask" not in notes[-1]


def test_a_mask_of_another_length_names_vace_reference_frames(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: Inputs
) -> None:
    on = bench.apply(base, prompt, negative, **identity, mask=torch.ones(5, 64, 64))
    with pytest.raises(
        ValueError, match=r"5 frames, the video has 9: .*connect trim_latent of WanVaceToVideo to vace_ref"
    ):
        bench.sample(on.model, on.positive, on.negative, latent_image=bench.make_latent(frames=3))
    on = bench.apply(base, prompt, negative, **identity, mask=torch.ones(9, 64, 64), vace_reference_frames=1)
    with pytest.raises(
        ValueError, match="the video has 5 without the 1 latent frames of vace_reference_frames"
    ):
        bench.sample(on.model, on.positive, on.negative, latent_image=bench.make_latent(frames=3))


# --- blocks as text -------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0-3:0", "all:0", "0-3, all:0", "middle half:0"])
def test_weights_that_are_all_0_are_called_so(
    bench: WanBench, base: Any, prompt: Conditioning, negative: Conditioning, identity: Inputs, text: str
) -> None:
    with pytest.raises(
        ValueError, match=r"gives the weight 0 to every block .* set the strength to 0"
    ) as refusal:
        bench.apply(base, prompt, negative, **identity, id_blocks=text)
    assert "holds none" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("middle half, 0", "0-2"),
        ("first half:0.5, 3", "0-1:0.5, 3"),
        ("ALL, 2:0", "0, 1, 3"),
        (" second half : -1 ", "2-3:-1"),
        ("all:0, 1", "1"),
    ],
)
def test_names_go_with_numbers_and_weights(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: Inputs,
    text: str,
    same: str,
) -> None:
    by_name, by_number = (
        bench.apply(base, prompt, negative, **identity, id_blocks=blocks, ref_blocks=blocks)
        for blocks in (text, same)
    )
    got, want = (bench.predict(on.model, [on.positive])[0] for on in (by_name, by_number))
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    "text", ["middle halves", "half", "0-3, first", "first half:11", "", ",", "3-1", "1:x"]
)
def test_what_is_no_range_is_refused_with_the_names(bench: WanBench, text: str) -> None:
    presets = bench.comfy.pack_module("nodes.presets")
    with pytest.raises(ValueError, match=r"is no block number or range; write .*'middle half'"):
        presets.parse_blocks(text)


def test_a_curve_s_name_among_points_is_refused_as_such(bench: WanBench) -> None:
    presets = bench.comfy.pack_module("nodes.presets")
    with pytest.raises(
        ValueError, match=r"'weak middle' is no point; .* or one of .*'weak middle', 'weak ends' alone"
    ):
        presets.parse_curve("weak middle, 1:1")


# --- two Lynx Apply in a row ----------------------------------------------------------------

MISSING = "a person is missing from one of them"


@pytest.mark.parametrize("skipped", ["positive", "negative"])
@pytest.mark.parametrize("order", [("id", "reference"), ("reference", "id")])
def test_id_and_reference_of_two_lynx_apply_are_counted_each(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: Inputs,
    skipped: str,
    order: tuple[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, other = ({"adapter": identity["adapter"], part: identity[part]} for part in order)
    first = bench.apply(base, prompt, negative, **one)
    both = bench.apply(first.model, first.positive, first.negative, **other)
    bench.sample(both.model, both.positive, both.negative)
    assert MISSING not in caplog.text
    conds = {"positive": both.positive, "negative": both.negative, skipped: getattr(first, skipped)}
    bench.sample(both.model, **conds)
    assert MISSING in caplog.text


def test_two_lynx_apply_without_masks_say_that_they_blend(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: Inputs,
    notes: list[str],
) -> None:
    blend = "two people blend into one"
    other = {"adapter": identity["adapter"], "id": bench.make_id(4)}
    for masks, is_said in (
        ((None, None), True),
        ((spot(64), None), True),
        ((None, spot(64)), True),
        ((spot(64), spot(32)), False),
    ):
        first = bench.apply(base, prompt, negative, **identity, mask=masks[0])
        assert blend not in notes[-1]
        bench.apply(first.model, first.positive, first.negative, **other, mask=masks[1])
        assert (blend in notes[-1]) is is_said, masks
    # Two halves of one person, and two people in two prompts, are no blend.
    half = bench.apply(base, prompt, negative, adapter=identity["adapter"], reference=identity["reference"])
    bench.apply(half.model, half.positive, half.negative, **other)
    assert blend not in notes[-1]


# --- Mini Lynx and text encoders of another world --------------------------------------------


def with_vocabulary(clip: Any, num_words: int) -> Any:
    """A CLIP like this one, whose vocabulary is of another size."""
    holder = torch.nn.Module()
    holder.transformer = torch.nn.Module()
    holder.transformer.shared = torch.nn.Embedding(num_words, 1)
    return SimpleNamespace(
        cond_stage_model=holder,
        tokenize=clip.tokenize,
        encode_from_tokens_scheduled=clip.encode_from_tokens_scheduled,
    )


def test_another_text_encoder_on_mini_lynx_is_refused(bench: WanBench) -> None:
    model, clip, vae, adapter, analyzer, photo = bench.comfy.run("LynxLoadMini")
    text = bench.comfy.run("CLIPTextEncode", clip=clip, text="a person")[0]
    face = bench.comfy.run("LynxCropFace", image=photo, face_analyzer=analyzer)[0]
    bench.comfy.run("LynxEncodeReference", adapter=adapter, face=face, model=model, clip=clip, vae=vae)
    xxl = with_vocabulary(clip, 256384)
    with pytest.raises(
        ValueError, match=r"MODEL is Mini Lynx, and this CLIP is another text encoder \(256384 words"
    ):
        bench.comfy.run("LynxEncodeReference", adapter=adapter, face=face, model=model, clip=xxl, vae=vae)
    with pytest.raises(ValueError, match="Connect CLIP of Lynx Load Mini"):
        bench.comfy.run(
            "LynxPerson",
            image=photo,
            model=model,
            clip=xxl,
            vae=vae,
            positive=text,
            negative=text,
            loaded_adapter=adapter,
        )


# --- sizes and words -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (72, 64, "The width of 72 px is no multiple of 16"),
        (64, 40, "The height of 40 px is no multiple of 16"),
        (64, 64, ""),
    ],
)
def test_a_size_that_tears_the_picture_is_said(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: Inputs,
    caplog: pytest.LogCaptureFixture,
    width: int,
    height: int,
    message: str,
) -> None:
    on = bench.apply(base, prompt, negative, **identity)
    latent = {"samples": torch.zeros(1, 16, 2, height // 8, width // 8)}
    bench.sample(on.model, on.positive, on.negative, latent_image=latent)
    if message:
        assert (
            message in caplog.text
            and ("Take 64 or 80 px" if width == 72 else "Take 32 or 48 px") in caplog.text
        )
    else:
        assert "no multiple" not in caplog.text


def test_lynx_sampler_says_which_video_it_makes(
    bench: WanBench,
    base: Any,
    prompt: Conditioning,
    negative: Conditioning,
    identity: Inputs,
    notes: list[str],
) -> None:
    """EmptyHunyuanLatentVideo takes a length of 11, and makes 9 frames."""
    on = bench.apply(base, prompt, negative, **identity)
    (latent,) = bench.comfy.run("EmptyHunyuanLatentVideo", width=64, height=64, length=11)
    conds = {"positive": on.positive, "negative": on.negative, "middle": on.middle}
    bench.comfy.run("LynxSampler", model=on.model, **conds, latent_image=latent, steps=1)
    assert any("64 x 64 px, 9 frames" in note for note in notes if note.startswith("Lynx Sampler"))


@pytest.mark.parametrize(
    "word", ["instantid", "pulid", "faceid", "likeness", "character", "face swap", "photo to video"]
)
def test_search_words_lead_to_the_nodes_that_a_graph_begins_with(bench: WanBench, word: str) -> None:
    for node in ("LynxPerson", "LynxApply", "LynxLoadAdapter"):
        assert word in bench.comfy.node_classes[node].GET_SCHEMA().search_aliases
