"""Model files that are missing, wrong or exchanged while the editor is open."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from comfy_host import ComfyHost
from editor import Editor, assert_other, assert_same
from graphs import NARROW_CLIP, SHALLOW_WAN, make_lynx, node
from safetensors.torch import load_file, save_file
from standin_faces import write_arcface_weights

pytestmark = [pytest.mark.host, pytest.mark.browser]

I2V = "wan2.1_i2v_480p_14B_fp8_e4m3fn.safetensors"
RESAMPLER, ID_LAYERS = "lynx_full/resampler.safetensors", "lynx_full/ip_layers.safetensors"
ENCODER = "lynx/faces/recognition_arcface_ir_se50.pth"

Replace = Callable[[str, Path | None], Path]


@pytest.fixture
def replace(wiring_host: ComfyHost, tmp_path: Path) -> Iterator[Replace]:
    """Put another file (None: nothing) where one is under `models`; all are put back at the end."""
    models = wiring_host.base_dir / "models"
    kept: dict[Path, Path] = {}

    def put(name: str, new: Path | None) -> Path:
        path = models / name
        if path not in kept:
            kept[path] = tmp_path / f"kept_{len(kept)}"
            shutil.move(path, kept[path])
        elif path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if new is not None:
            shutil.copyfile(new, tmp_path / "incoming")
            (tmp_path / "incoming").replace(path)
        return kept[path]

    yield put
    for path, old in kept.items():
        if path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.move(old, path)


def test_all_missing_files_are_told_at_once_before_the_run(editor: Editor, replace: Replace) -> None:
    editor.host.forget_results()
    kept = [replace("lynx/lynx_full", None), replace(ENCODER, None)]
    kept.append(replace("insightface/models/buffalo_l", None))
    assert all(path.exists() for path in kept)
    editor.build(make_lynx())
    run = editor.run()
    assert not run.was_run, "the run began although files are missing"
    assert run.red >= {"adapter", "analyzer"}
    for name in ("lynx_full", "recognition_arcface_ir_se50.pth", "buffalo_l"):
        assert name in run.message, run.said
    models = str(editor.host.base_dir / "models")
    for words in ("MB", "GB", models, sys.executable, " -m "):
        assert words in run.message, f"{words}: {run.message}"


def test_files_that_are_there_are_not_missed(editor: Editor, replace: Replace) -> None:
    replace("lynx/lynx_lite", None)
    editor.build(make_lynx())
    assert_same(editor.run(), editor.render(make_lynx()))


def test_one_missing_part_of_an_adapter_is_named(editor: Editor, replace: Replace) -> None:
    replace(f"lynx/{RESAMPLER}", None)
    editor.build(make_lynx())
    run = editor.run()
    assert "resampler" in run.message and "lynx_full" in run.message, run.said
    assert run.red and run.red <= {"adapter", "apply"}


def test_a_broken_adapter_file_that_is_replaced_works_without_a_restart(
    editor: Editor, replace: Replace, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"<html>404 Not Found</html>")
    good = replace(f"lynx/{ID_LAYERS}", broken)
    editor.build(make_lynx())
    run = editor.run()
    assert "ip_layers.safetensors" in run.message and run.red == {"adapter"}, run.said

    replace(f"lynx/{ID_LAYERS}", good)
    cured = editor.run()
    assert_same(cured, editor.render(make_lynx()))
    assert cured.red == frozenset() and not editor.shows_an_error()


def test_a_new_adapter_file_acts_in_the_next_run(editor: Editor, replace: Replace, tmp_path: Path) -> None:
    editor.build(make_lynx())
    before = editor.run().latent
    good = replace(f"lynx/{ID_LAYERS}", None)
    louder = tmp_path / "louder.safetensors"
    tensors = load_file(good)
    save_file({name: 3 * value if "to_v" in name else value for name, value in tensors.items()}, louder)
    replace(f"lynx/{ID_LAYERS}", louder)
    editor.edit("sample", seed=2)  # what an artist does who believes that nothing has changed
    editor.edit("sample", seed=1)
    after = editor.run()
    assert_other(after.latent, before)

    replace(f"lynx/{ID_LAYERS}", good)
    assert_same(editor.run(), before)


def test_an_adapter_file_replaced_before_its_weights_are_read_again(
    editor: Editor, replace: Replace, tmp_path: Path
) -> None:
    """The adapter is open, its weights are streamed when a new face is encoded."""
    editor.build(make_lynx())
    editor.run()
    good = replace(f"lynx/{ID_LAYERS}", None)
    replace(f"lynx/{ID_LAYERS}", good)
    editor.edit("face", face_number=3)
    run = editor.run()
    assert run.latents, run.said


def test_a_new_face_model_acts_in_the_next_run(editor: Editor, replace: Replace, tmp_path: Path) -> None:
    editor.build(make_lynx())
    before = editor.run().latent
    good = replace(ENCODER, write_arcface_weights(tmp_path / "other.pth", seed=1))
    assert_other(editor.run().latent, before)
    replace(ENCODER, good)
    assert_same(editor.run(), before)


def test_a_broken_face_model_that_is_replaced_works_without_a_restart(
    editor: Editor, replace: Replace, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"<html>404 Not Found</html>")
    good = replace(ENCODER, broken)
    editor.host.forget_results()
    editor.build(make_lynx())
    run = editor.run()
    assert "recognition_arcface_ir_se50.pth" in run.message and run.red, run.said
    assert not run.latents
    replace(ENCODER, good)
    assert_same(editor.run(), editor.render(make_lynx()))


@pytest.mark.parametrize(
    ("model", "words"),
    [(I2V, ("image-to-video", "text-to-video")), (SHALLOW_WAN, ("2 blocks", "at least 4 blocks"))],
    ids=["another family", "another size"],
)
def test_a_wrong_base_model_is_refused_by_name(editor: Editor, model: str, words: tuple[str, ...]) -> None:
    editor.build(make_lynx())
    editor.edit("model", unet_name=model)
    run = editor.run()
    for word in (*words, model):
        assert word in run.message, run.said
    assert run.red and run.red <= {"apply", "reference"}

    editor.edit("model", unet_name=make_lynx()["model"]["inputs"]["unet_name"])
    assert_same(editor.run(), editor.render(make_lynx()))


def test_a_wrong_vae_is_refused_at_lynx_encode_reference(editor: Editor) -> None:
    editor.build(make_lynx() | {"wrong": node("VAELoader", vae_name="pixel_space")})
    editor.link("reference", vae=("wrong", 0))
    run = editor.run()
    assert "VAE" in run.message and "wan_2.1_vae" in run.message, run.said
    assert run.red == {"reference"}
    editor.link("reference", vae=("vae", 0))
    assert_same(editor.run(), editor.render(make_lynx()))


def test_a_wrong_clip_is_refused_at_lynx_encode_reference(editor: Editor) -> None:
    editor.build(make_lynx() | {"wrong": node("CLIPLoader", clip_name=NARROW_CLIP, type="wan")})
    editor.link("reference", clip=("wrong", 0))
    run = editor.run()
    assert "CLIP" in run.message and "umt5_xxl" in run.message, run.said
    assert run.red == {"reference"}
    editor.link("reference", clip=("clip", 0))
    assert_same(editor.run(), editor.render(make_lynx()))


MIXED: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "nothing": ({"adapter": "none"}, ("othing is chosen",)),
    "full layers, lite resampler": (
        {
            "adapter": "none",
            "resampler": "lynx_lite/resampler.safetensors",
            "id_layers": "lynx_full/ip_layers.safetensors",
        },
        ("resampler", "lite", "full"),
    ),
    "twice": ({"id_layers": "lynx_lite/ip_layers.safetensors"}, ("ID layers", "lynx_lite", "lynx_full")),
    "a part in the wrong place": (
        {"adapter": "none", "resampler": "lynx_full/ip_layers.safetensors"},
        ("resampler", "ip_layers"),
    ),
}


@pytest.mark.parametrize("case", MIXED)
def test_mixed_up_adapter_parts_are_refused_by_name(editor: Editor, case: str) -> None:
    widgets, words = MIXED[case]
    editor.build(make_lynx())
    editor.edit("adapter", **widgets)
    run = editor.run()
    for word in words:
        assert word in run.message, run.said
    assert run.red and run.red <= {"adapter", "apply"}
    assert not run.latents

    editor.edit("adapter", adapter="lynx_full", resampler="none", id_layers="none", ref_layers="none")
    assert_same(editor.run(), editor.render(make_lynx()))


def test_an_adapter_without_the_part_that_is_asked_for(editor: Editor) -> None:
    editor.build(make_lynx())
    editor.edit("adapter", adapter="lynx_lite")
    run = editor.run()
    assert "reference" in run.message and "lynx_lite" in run.message, run.said
    assert run.red == {"reference"}

    editor.bypass("reference")
    run = editor.run()
    assert run.latents, run.said


def test_a_wrong_encoder_is_refused_with_the_right_one(editor: Editor) -> None:
    editor.build(make_lynx())
    editor.edit("analyzer", encoder="the detector pack's own")
    run = editor.run()
    assert "recognition_arcface_ir_se50" in run.message and "Load Face Analyzer" in run.message, run.said
    assert run.red and run.red <= {"apply", "analyzer", "id"}

    editor.edit("analyzer", encoder="recognition_arcface_ir_se50.pth")
    assert_same(editor.run(), editor.render(make_lynx()))
