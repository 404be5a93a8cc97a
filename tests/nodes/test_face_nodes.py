"""Photo to identity through the nodes: a real photo, detected by a stand-in that knows where its faces are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import standin_faces
import torch
from wan_bench import EMBEDDER, Conditioning, WanBench, max_error

ENCODER = "test_arcface.pth"


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """A photo of six people as IMAGE [1, 886, 1280, 3]."""
    return torch.from_numpy(standin_faces.photo_with_six_faces()[0].astype(np.float32) / 255)[None]


@pytest.fixture(scope="module")
def analyzer(bench: WanBench, photo: torch.Tensor) -> Any:
    """LYNX_FACE_ANALYZER of stand-in files, found where a user puts them."""
    models = bench.comfy.base_dir / "models"
    height, width = photo.shape[1:3]
    standin_faces.write_detector_pack(
        models / "insightface", "buffalo_l", standin_faces.six_faces(), (height, width)
    )
    path = models / "lynx" / "faces" / ENCODER
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(standin_faces.random_arcface(seed=1).state_dict(), path)
    return bench.comfy.run("LynxLoadFaceAnalyzer", detector_pack="buffalo_l", encoder=ENCODER)[0]


def crop(bench: WanBench, analyzer: Any, image: torch.Tensor, **inputs: Any) -> tuple[Any, ...]:
    return bench.comfy.run("LynxCropFace", image=image, face_analyzer=analyzer, **inputs)


def test_crops_and_preview(bench: WanBench, analyzer: Any, photo: torch.Tensor) -> None:
    face, id_crop, reference_crop, annotated = crop(bench, analyzer, photo)
    assert len(face) == 1
    assert id_crop.shape == (1, 112, 112, 3)
    assert reference_crop.shape == (1, 256, 256, 3)
    assert annotated.shape == photo.shape
    changed = (annotated != photo).any(-1).float().mean()
    assert 0 < changed < 0.2, "boxes and numbers on the photo"
    for picture in (id_crop, reference_crop, annotated):
        assert picture.dtype == torch.float32
        assert 0 <= picture.min() < picture.max() <= 1


def test_faces_are_chosen_by_order_and_number(bench: WanBench, analyzer: Any, photo: torch.Tensor) -> None:
    from_left = [crop(bench, analyzer, photo, order="left to right", face_number=n)[1] for n in range(1, 7)]
    from_right = [crop(bench, analyzer, photo, order="right to left", face_number=n)[1] for n in range(1, 7)]
    assert all(torch.equal(a, b) for a, b in zip(from_left, reversed(from_right), strict=True))
    assert not any(torch.equal(from_left[0], other) for other in from_left[1:])
    with pytest.raises(ValueError, match=r"7.*6|6.*7"):
        crop(bench, analyzer, photo, face_number=7)


def test_no_face(bench: WanBench, analyzer: Any, photo: torch.Tensor, tmp_path: Any) -> None:
    standin_faces.write_detector_pack(tmp_path, "buffalo_l", [], photo.shape[1:3])
    blind = type(analyzer)(tmp_path, "buffalo_l", "CPU", None)
    with pytest.raises(ValueError, match="no face"):
        crop(bench, blind, photo)


def test_an_aligned_crop_needs_no_detector(bench: WanBench, analyzer: Any, photo: torch.Tensor) -> None:
    _, id_crop, reference_crop, _ = crop(bench, analyzer, photo)
    face, again, same, _ = bench.comfy.run("LynxCropFace", image=reference_crop, already_aligned=True)
    assert torch.equal(same, reference_crop)
    assert again.shape == id_crop.shape
    assert len(face) == 1


def test_id_is_a_unit_vector_that_tells_faces_apart(
    bench: WanBench, analyzer: Any, photo: torch.Tensor
) -> None:
    faces = [crop(bench, analyzer, photo, order="left to right", face_number=n)[0] for n in (1, 2)]
    ids = [
        bench.comfy.run("LynxEncodeID", face_analyzer=analyzer, face=face)[0] for face in (*faces, faces[0])
    ]
    assert ids[0].embedder == EMBEDDER
    assert ids[0].embedding.shape == (512,)
    assert abs(float(ids[0].embedding.norm()) - 1) < 1e-5
    assert torch.equal(ids[0].embedding, ids[2].embedding)
    assert max_error(ids[0].embedding, ids[1].embedding) > 1e-3


def test_several_photos_are_averaged_in_any_form(bench: WanBench, analyzer: Any, photo: torch.Tensor) -> None:
    flipped = photo.roll(4, dims=1)
    (one,), (two,) = (crop(bench, analyzer, image)[0] for image in (photo, flipped))
    (batch, id_crops, *_) = crop(bench, analyzer, torch.cat([photo, flipped]))
    assert len(id_crops) == 2
    encode = {"face_analyzer": analyzer}
    by_socket = bench.comfy.run("LynxEncodeID", face=[one], face_2=[two], **encode)[0].embedding
    by_batch = bench.comfy.run("LynxEncodeID", face=batch, **encode)[0].embedding
    singles = [bench.comfy.run("LynxEncodeID", face=[f], **encode)[0].embedding for f in (one, two)]
    assert torch.allclose(by_socket, by_batch, atol=1e-5)
    mean = (singles[0] + singles[1]) / 2
    assert torch.allclose(by_batch, mean / mean.norm(), atol=1e-5)


def test_photo_to_latent(
    bench: WanBench,
    analyzer: Any,
    photo: torch.Tensor,
    base: Any,
    full: Any,
    prompt: Conditioning,
    negative: Conditioning,
) -> None:
    """The main job: crop, encode, bake, apply, sample."""
    (clip,) = bench.comfy.run("CLIPLoader", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan")
    (vae,) = bench.comfy.run("VAELoader", vae_name="wan_2.1_vae.safetensors")
    latents = []
    for number in (1, 2):
        face = crop(bench, analyzer, photo, order="left to right", face_number=number)[0]
        (face_id,) = bench.comfy.run("LynxEncodeID", face_analyzer=analyzer, face=face)
        (reference,) = bench.comfy.run(
            "LynxEncodeReference", adapter=full, face=face, model=base, clip=clip, vae=vae
        )
        on = bench.apply(base, prompt, negative, adapter=full, id=face_id, reference=reference)
        (latent,) = bench.comfy.run(
            "LynxSampler", **on._asdict(), latent_image=bench.make_latent(), steps=3, seed=3
        )
        latents.append(latent["samples"])
    assert latents[0].isfinite().all()
    assert max_error(*latents) > 1e-3
