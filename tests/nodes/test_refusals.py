"""Bad input: each message names the thing, the value seen, and the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from wan_bench import I2V, OTHER_T2V, RECOGNISER, T2V, Conditioning, WanBench, max_error

Inputs = dict[str, Any]


def assert_refused(parts: list[str], run: Callable[[], object], error: type[Exception] = ValueError) -> None:
    """Check that `run` is refused with a message that holds every one of `parts`."""
    with pytest.raises(error) as refusal:
        run()
    message = str(refusal.value)
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in: {message}"


@pytest.fixture
def apply(bench: WanBench, prompt: Conditioning, negative: Conditioning) -> Callable[..., object]:
    return lambda model, **inputs: bench.apply(model, prompt, negative, **inputs)


# --- base models ---------------------------------------------------------------------------


def test_base_of_another_width(bench: WanBench, apply: Any, identity: Inputs, full: Any) -> None:
    small = bench.make_base(128, 4, "wan2.1_t2v_1.3B.safetensors")
    way_out = ["lynx_full", "dim 256", "wan2.1_t2v_1.3B.safetensors", "dim 128", "dim 5120"]
    assert_refused(way_out, lambda: apply(small, **identity))
    assert_refused(way_out, lambda: bench.make_reference(small, full))


def test_base_with_too_few_blocks(bench: WanBench, apply: Any, identity: Inputs) -> None:
    short = bench.make_base(256, 2, "wan_two_blocks.safetensors")
    assert_refused(
        ["lynx_full", "at least 4 blocks", "wan_two_blocks.safetensors", "2 blocks", "load that base model"],
        lambda: apply(short, **identity),
    )


def test_image_to_video_base(bench: WanBench, apply: Any, identity: Inputs, full: Any) -> None:
    i2v = bench.load_base(I2V)
    for run in (lambda: apply(i2v, **identity), lambda: bench.make_reference(i2v, full)):
        assert_refused(["image-to-video", "dim 256", "text-to-video or VACE"], run)


def test_base_that_is_no_wan(bench: WanBench, apply: Any, identity: Inputs, full: Any) -> None:
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SD15(
        {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1], "channel_mult": [1],
         "transformer_depth": [1], "transformer_depth_output": [1, 1], "transformer_depth_middle": 1, "context_dim": 32, "num_heads": 2,
         "use_spatial_transformer": True, "use_temporal_attention": False, "legacy": False, "dtype": torch.float32}
    )  # fmt: skip
    device = torch.device("cpu")
    model = comfy.model_patcher.ModelPatcher(
        comfy.model_base.BaseModel(config, device=device), device, device
    )
    for run in (lambda: apply(model, **identity), lambda: bench.make_reference(model, full)):
        assert_refused(["Wan", "BaseModel", "UNetModel", "Load Diffusion Model"], run)


def test_reference_of_another_base(bench: WanBench, apply: Any, identity: Inputs) -> None:
    other = bench.load_base(OTHER_T2V)
    assert_refused([T2V, OTHER_T2V, "expert", "own Lynx Encode Reference"], lambda: apply(other, **identity))
    apply(other, **{**identity, "reference": None})


def test_conditionings_of_another_expert(
    bench: WanBench, base: Any, full: Any, identity: Inputs, prompt: Conditioning, negative: Conditioning
) -> None:
    """Wan 2.2 with the wires crossed: one expert's MODEL with the other's positive and negative."""
    expert = bench.load_base(OTHER_T2V)
    ours = bench.apply(base, prompt, negative, **identity)
    inputs = {"adapter": full, "id": bench.make_id(), "reference": bench.make_reference(expert, full)}
    theirs = bench.apply(expert, prompt, negative, **inputs)
    for mine, other in ((ours, theirs), (theirs, ours)):
        assert_refused(
            [T2V, OTHER_T2V, "same Lynx Apply"],
            lambda mine=mine, other=other: bench.sample(mine.model, other.positive, other.negative),
        )
        plain = bench.sample(mine.model, prompt, negative, steps=1)
        assert max_error(bench.sample(mine.model, mine.positive, mine.negative, steps=1), plain) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reference_of_the_same_base_in_another_precision(
    bench: WanBench, apply: Any, identity: Inputs, dtype: torch.dtype
) -> None:
    apply(bench.load_base(dtype=dtype), **identity)


# --- identities and adapters ---------------------------------------------------------------


def test_no_identity_connected(apply: Any, base: Any, full: Any) -> None:
    assert_refused(
        ["LYNX_ID", "LYNX_REFERENCE", "bypass", "strengths to 0"], lambda: apply(base, adapter=full)
    )


def test_id_of_another_recogniser(bench: WanBench, apply: Any, base: Any, full: Any) -> None:
    wrong = bench.make_id(recogniser="insightface/antelopev2/glintr100")
    assert_refused(
        ["lynx_full", RECOGNISER, "insightface/antelopev2/glintr100", "Lynx Load Face Analyzer"],
        lambda: apply(base, adapter=full, id=wrong),
    )


def test_id_of_another_length(bench: WanBench, apply: Any, base: Any, full: Any) -> None:
    face_id = bench.comfy.pack_module("nodes.host.identity").FaceID
    short = face_id(torch.ones(128), RECOGNISER)
    assert_refused(["128", "512", "lynx_full"], lambda: apply(base, adapter=full, id=short))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_id_that_is_not_finite(bench: WanBench, apply: Any, base: Any, full: Any, value: float) -> None:
    face_id = bench.comfy.pack_module("nodes.host.identity").FaceID
    broken = torch.ones(512)
    broken[3] = value
    assert_refused(["LYNX_ID", "NaN"], lambda: apply(base, adapter=full, id=face_id(broken, RECOGNISER)))


def test_adapter_without_id_part(bench: WanBench, apply: Any, base: Any) -> None:
    only_ref = bench.open_adapter("lynx_full/ref_layers.safetensors")
    assert_refused(
        ["ref_layers", "no ID part", "disconnect LYNX_ID"],
        lambda: apply(base, adapter=only_ref, id=bench.make_id()),
    )


def test_adapter_without_reference_part(bench: WanBench, base: Any, lite: Any) -> None:
    assert_refused(
        ["lynx_lite", "no reference part", "reference layers"], lambda: bench.make_reference(base, lite)
    )


def test_adapter_with_nan_weights(bench: WanBench, apply: Any, base: Any, tmp_path: Any) -> None:
    import shutil

    from safetensors.torch import load_file

    folder = tmp_path / "broken"
    shutil.copytree(bench.comfy.base_dir / "models" / "lynx" / "lynx_full", folder)
    tensors = load_file(str(folder / "ip_layers.safetensors"))
    tensors["2.to_v_ip.weight"][5, 5] = torch.nan
    save_file(tensors, str(folder / "ip_layers.safetensors"))
    adapter = bench.comfy.pack_module("lynx_core.formats.adapter").open_adapter(folder)
    assert_refused(
        ["ip_layers.safetensors", "2.to_v_ip.weight", "NaN", "download"],
        lambda: apply(base, adapter=adapter, id=bench.make_id(61)),
    )


# --- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("five", "'five'"),
        ("3-1", "'3-1'"),
        ("1,,2", "''"),
        ("", "''"),
        ("0-9; 12", "'0-9; 12'"),
        ("-1", "'-1'"),
    ],
)
def test_bad_blocks(apply: Any, base: Any, identity: Inputs, text: str, seen: str) -> None:
    for name in ("id_blocks", "ref_blocks"):
        assert_refused(
            [seen, "'0-9, 20, 30-39'", "'all'"], lambda name=name: apply(base, **identity, **{name: text})
        )


def test_blocks_the_adapter_does_not_have(apply: Any, base: Any, identity: Inputs) -> None:
    assert_refused(["'20-39'", "0 to 3", "'0-3'"], lambda: apply(base, **identity, id_blocks="20-39"))


def test_window_that_ends_before_it_starts(apply: Any, base: Any, identity: Inputs) -> None:
    assert_refused(["0.8", "0.3", "start"], lambda: apply(base, **identity, ref_start=0.8, ref_end=0.3))


def test_strength_out_of_range(apply: Any, base: Any, identity: Inputs) -> None:
    """The host checks widgets; a value that comes over a link it does not."""
    assert_refused(["-10", "10", "11"], lambda: apply(base, **identity, id_strength=11.0))


# --- text encoder, VAE and files -------------------------------------------------------------


@pytest.fixture(scope="module")
def encoders(bench: WanBench) -> dict[str, Any]:
    (clip,) = bench.comfy.run("CLIPLoader", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan")
    (vae,) = bench.comfy.run("VAELoader", vae_name="wan_2.1_vae.safetensors")
    return {"clip": clip, "vae": vae}


@pytest.fixture
def face(bench: WanBench) -> Any:
    """An aligned 256 px crop as LYNX_FACE."""
    image = torch.rand(1, 256, 256, 3, generator=torch.Generator().manual_seed(1))
    return bench.comfy.run("LynxCropFace", image=image, already_aligned=True)[0]


class OtherClip:
    """A text encoder of another width, such as SD 1.5's."""

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str) -> list[list[Any]]:
        return [[torch.zeros(1, 77, 768), {}]]


class ImageVAE:
    """A VAE for images."""

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(image), 4, 32, 32)


def test_wrong_clip_and_wrong_vae(
    bench: WanBench, base: Any, full: Any, face: Any, encoders: dict[str, Any]
) -> None:
    inputs = {"model": base, "adapter": full, "face": face, **encoders}
    (reference,) = bench.comfy.run("LynxEncodeReference", **inputs)
    assert reference.base.name.startswith(T2V)
    assert_refused(
        ["768", "4096", "umt5_xxl", "Load CLIP", "wan"],
        lambda: bench.comfy.run("LynxEncodeReference", **inputs | {"clip": OtherClip()}),
    )
    assert_refused(
        ["(1, 4, 32, 32)", "16 channels", "wan_2.1_vae", "Load VAE"],
        lambda: bench.comfy.run("LynxEncodeReference", **inputs | {"vae": ImageVAE()}),
    )
    assert_refused(
        ["photo_number", "2", "1 photo"],
        lambda: bench.comfy.run("LynxEncodeReference", **inputs, photo_number=2),
    )


def test_missing_adapter_names_file_folder_and_command(
    bench: WanBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = bench.comfy.pack_module("nodes.host.model_files")
    empty = bench.comfy.base_dir / "empty"
    monkeypatch.setattr(files.folder_paths, "models_dir", str(empty))
    known = files.folder_paths.folder_names_and_paths
    for folder in ("lynx", "lynx_faces"):
        monkeypatch.setitem(known, folder, ([str(empty / "lynx")], {".safetensors"}))
    for name in ("lynx_full", "lynx_lite"):
        command = f"-m lynx_core.cli.main download {name} --models"
        assert_refused(
            [name, "resampler.safetensors, about 3", str(empty / "lynx" / name), command],
            lambda name=name: bench.comfy.run("LynxLoadAdapter", adapter=name),
        )
    command = "-m lynx_core.cli.main download faces"
    assert_refused(
        ["recognition_arcface_ir_se50.pth, 175 MB", str(empty / "lynx" / "faces"), command],
        lambda: bench.comfy.run("LynxLoadFaceAnalyzer"),
    )


def test_nothing_chosen_in_the_adapter_loader(bench: WanBench) -> None:
    assert_refused(
        ["nothing is chosen", "Choose"], lambda: bench.comfy.run("LynxLoadAdapter", adapter="none")
    )


def test_no_detector_pack(bench: WanBench, tmp_path: Any) -> None:
    image = torch.rand(1, 64, 64, 3)
    assert_refused(
        ["face analyzer", "Lynx Load Face Analyzer", "already_aligned"],
        lambda: bench.comfy.run("LynxCropFace", image=image),
    )
    analyzer = bench.comfy.pack_module("lynx_core.faces.analyzer").FaceAnalyzer
    missing = analyzer(tmp_path, "buffalo_l", "CPU", None)
    assert_refused(
        ["det_10g.onnx", "buffalo_l", "lynx_core.cli.main download faces"],
        lambda: bench.comfy.run("LynxCropFace", image=image, face_analyzer=missing),
    )
