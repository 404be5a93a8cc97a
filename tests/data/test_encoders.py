"""Encoders: equal to diffusers' own pipeline, told apart by their files, opened late."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_encoders import make_small_encoders
from standin_faces import face_from_landmarks, photo_with_six_faces, six_faces, write_detector_pack

from lynx_core.data.encoders import (
    AnalyzerRecogniser,
    Encoders,
    UMT5TextEncoder,
    WanVideoEncoder,
    clean_caption,
)
from lynx_core.data.errors import DataError, MediaError
from lynx_core.faces.analyzer import FaceAnalyzer
from lynx_core.faces.crops import crop_for_id, crop_for_reference


def test_text_equals_the_pipeline_of_diffusers(models_dir: Path, encoders: Encoders) -> None:
    from diffusers import WanPipeline
    from transformers import AutoTokenizer, UMT5EncoderModel

    pipeline = WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(models_dir / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(models_dir / "text_encoder"),
        vae=None,
        scheduler=None,
        transformer=None,
    )
    for caption in ("a man  of a face\n", "", "a " * 700):
        expected, _ = pipeline.encode_prompt(
            caption, do_classifier_free_guidance=False, max_sequence_length=512
        )
        tokens = encoders.text.encode(caption)
        assert tokens.shape[0] == min(len(caption.split()) + 1, 512)
        torch.testing.assert_close(tokens, expected[0, : len(tokens)], atol=1e-4, rtol=1e-4)
        assert not expected[0, len(tokens) :].any()


@pytest.mark.parametrize("num_frames", [5, 1])  # a single frame takes a shorter way
def test_latents_are_the_normalised_mean(models_dir: Path, encoders: Encoders, num_frames: int) -> None:
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan.from_pretrained(models_dir / "vae")
    pixels = torch.rand(3, num_frames, 32, 48) * 2 - 1
    latents = encoders.video.encode(pixels)
    assert latents.shape == (16, (num_frames + 3) // 4, 4, 6) and latents.dtype == torch.float16
    # Back to what diffusers' decoder takes, as its pipeline does.
    mean = torch.tensor(vae.config.latents_mean).view(-1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(-1, 1, 1, 1)
    with torch.no_grad():
        expected = vae.encode(pixels[None]).latent_dist.mean[0]
    torch.testing.assert_close(latents.float() * std + mean, expected, atol=5e-3, rtol=1e-3)


def test_shorter_clips_are_the_first_latent_frames(encoders: Encoders) -> None:
    """What trimming over-long samples rests on."""
    pixels = torch.rand(3, 9, 32, 32) * 2 - 1
    assert torch.equal(encoders.video.encode(pixels)[:, :2], encoders.video.encode(pixels[:, :5]))


def test_fingerprints_tell_files_and_precision_apart(models_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(models_dir, tmp_path / "copy")
    before, same = make_small_encoders(models_dir), make_small_encoders(tmp_path / "copy")
    assert before.fingerprint() == same.fingerprint()
    half = WanVideoEncoder(models_dir / "vae", dtype=torch.bfloat16)
    assert half.fingerprint != before.video.fingerprint
    for name in (
        "vae/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "arcface.pth",
    ):
        changed = tmp_path / name.replace("/", "_")
        shutil.copytree(models_dir, changed)
        raw = bytearray((changed / name).read_bytes())
        raw[-2] ^= 1
        (changed / name).write_bytes(raw)
        assert make_small_encoders(changed).fingerprint() != before.fingerprint(), name


def test_release_frees_and_opens_again(encoders: Encoders) -> None:
    first = encoders.text.encode("a man")
    encoders.text.release()
    assert torch.equal(encoders.text.encode("a man"), first)


def test_faces_are_cropped_as_in_the_nodes(tmp_path: Path, models_dir: Path) -> None:
    photo, landmarks = photo_with_six_faces()
    write_detector_pack(tmp_path, "buffalo_l", six_faces(), photo.shape[:2])
    analyzer = FaceAnalyzer(tmp_path, "buffalo_l", "CPU", models_dir / "arcface.pth")
    faces = AnalyzerRecogniser(analyzer, "left to right")
    crop = faces.crop(photo, Path("t1.jpg"))
    id_crop, reference_crop = crop.id_crop, crop.reference_crop
    expected = face_from_landmarks(landmarks[0]).landmarks
    assert np.abs(id_crop.astype(int) - crop_for_id(photo, expected)).mean() < 3
    assert np.abs(reference_crop.astype(int) - crop_for_reference(photo, expected)).mean() < 3
    assert faces.embed(id_crop).norm() == pytest.approx(1)
    other = AnalyzerRecogniser(analyzer, "right to left")
    assert other.crop_fingerprint != faces.crop_fingerprint


def test_photo_without_a_face_is_an_error_of_the_photo(tmp_path: Path) -> None:
    write_detector_pack(tmp_path, "buffalo_l", [], (64, 64))
    faces = AnalyzerRecogniser(FaceAnalyzer(tmp_path, "buffalo_l", "CPU", None))
    with pytest.raises(MediaError, match=r"wall.jpg: no face"):
        faces.crop(np.zeros((64, 64, 3), np.uint8), Path("wall.jpg"))


def test_missing_and_broken_models_are_named(tmp_path: Path, models_dir: Path) -> None:
    with pytest.raises(DataError, match=r"the VAE is not at .*gone; name the folder"):
        WanVideoEncoder(tmp_path / "gone")
    (tmp_path / "vae").mkdir()
    with pytest.raises(DataError, match="does not open as AutoencoderKLWan"):
        WanVideoEncoder(tmp_path / "vae").encode(torch.zeros(3, 1, 16, 16))
    with pytest.raises(DataError, match="does not open as"):
        UMT5TextEncoder(tmp_path / "vae", models_dir / "tokenizer").encode("a man")


def test_captions_are_cleaned() -> None:
    assert clean_caption("  a\n man &amp;amp; a  dog ") == "a man & a dog"
