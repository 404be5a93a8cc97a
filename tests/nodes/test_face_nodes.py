"""Photo to identity through the nodes: a real photo, detected by a stand-in that knows where its faces are."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import standin_faces
import torch
from wan_bench import RECOGNISER, Conditioning, WanBench, max_error

from lynx_core.faces.crops import draw_number

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
    assert ids[0].recogniser == RECOGNISER
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
    """The main job: crop, encode, apply, sample."""
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
    latents.append(bench.sample(base, prompt, negative, steps=3, seed=3, sampler_name="uni_pc", cfg=5.0))
    for one, other in itertools.combinations(latents, 2):
        assert max_error(one, other) > 1e-3, "two persons and nobody: three videos"


HIGHLIGHT = torch.tensor([40, 220, 90]) / 255


def read_number(annotated: torch.Tensor) -> int:
    """Read the number on the green plate of the chosen face: the digit that looks most alike."""
    picture = (annotated * 255).round().to(torch.uint8).numpy()
    green = np.abs(picture.astype(int) - (HIGHLIGHT * 255).numpy()).max(-1) < 8
    rows, columns = np.nonzero(green)
    top, left = rows.min(), columns[rows == rows.min()].min()
    plate = cv2.cvtColor(np.ascontiguousarray(picture[top : top + 60, left : left + 60]), cv2.COLOR_RGB2GRAY)
    scores = {}
    for digit in range(10):
        drawn = np.full((60, 60, 3), (HIGHLIGHT * 255).round().numpy(), np.uint8)
        draw_number(drawn, digit, (2, 2), (40, 220, 90), 3)
        size = cv2.getTextSize(str(digit), cv2.FONT_HERSHEY_SIMPLEX, 0.45 * 3, 3)[0]
        wanted = cv2.cvtColor(drawn[: size[1] + 12, : size[0] + 12], cv2.COLOR_RGB2GRAY)
        scores[digit] = cv2.matchTemplate(plate, wanted, cv2.TM_CCOEFF_NORMED).max()
    return max(scores, key=lambda digit: scores[digit])


@pytest.mark.parametrize("order", ["largest", "right to left", "nearest to centre"])
def test_the_number_typed_is_the_number_drawn(
    bench: WanBench, analyzer: Any, photo: torch.Tensor, order: str
) -> None:
    for number in (1, 3, 6):
        *_, annotated = crop(bench, analyzer, photo, order=order, face_number=number)
        assert read_number(annotated[0]) == number


def test_a_photo_number_outside_the_batch_names_the_choice(
    bench: WanBench, analyzer: Any, photo: torch.Tensor, base: Any, full: Any
) -> None:
    """Linked numbers are not held to the widget's range: 0 must not mean the last photo."""
    one, two = (crop(bench, analyzer, image)[0] for image in (photo, photo.repeat(2, 1, 1, 1)))
    inputs = {"adapter": full, "model": base, "clip": None, "vae": None}
    for face, number, words in (
        (one, 2, "photo_number is 2.*only 1 photo; its number is 1"),
        (two, 3, "photo_number is 3.*2 photos; choose 1 to 2"),
        (two, 0, "photo_number is 0.*2 photos"),
    ):
        with pytest.raises(ValueError, match=words):
            bench.comfy.run("LynxEncodeReference", face=face, photo_number=number, **inputs)


def test_widgets_that_an_aligned_photo_ignores_are_named(
    bench: WanBench, analyzer: Any, photo: torch.Tensor, notes: list[str]
) -> None:
    reference_crop = crop(bench, analyzer, photo)[2]
    notes.clear()
    bench.comfy.run("LynxCropFace", image=reference_crop, already_aligned=True, face_number=2)
    assert "order and face_number do nothing" in notes[-1]


def test_an_error_of_the_face_models_names_no_path_and_no_class_of_ours(
    bench: WanBench, analyzer: Any, photo: torch.Tensor, tmp_path: Any
) -> None:
    """The host shows the class with its module, which is the pack's folder on this machine."""
    models = bench.comfy.base_dir / "models"
    pack = models / "insightface" / "models" / "buffalo_l"
    whole = {path: path.read_bytes() for path in pack.glob("*.onnx")}
    broken = models / "lynx" / "faces" / "broken.pth"
    broken.write_bytes(b"<html>404 Not Found</html>")
    face = crop(bench, analyzer, photo)[0]
    raised = []
    try:
        for path in whole:
            path.unlink()  # it may be a link to a file that other tests use
            path.write_bytes(whole[path][:1000])
        (damaged,) = bench.comfy.run("LynxLoadFaceAnalyzer", detector_pack="buffalo_l", encoder=ENCODER)
        (no_encoder,) = bench.comfy.run(
            "LynxLoadFaceAnalyzer", detector_pack="buffalo_l", encoder=broken.name
        )
        for run in (
            lambda: crop(bench, damaged, photo),
            lambda: bench.comfy.run("LynxEncodeID", face_analyzer=no_encoder, face=face),
            lambda: crop(bench, analyzer, photo, face_number=7),
        ):
            with pytest.raises(ValueError) as error:
                run()
            raised.append(error.value)
    finally:
        for path, content in whole.items():
            path.write_bytes(content)
        broken.unlink()
    for error in raised:
        assert type(error) is ValueError
        assert str(bench.comfy.base_dir) not in str(error) and "/tmp" not in str(error), error
    assert "insightface/models/buffalo_l" in str(raised[0]) and "faces/broken.pth" in str(raised[1])
    assert "lynx_core.cli.main download faces" in str(raised[0])


def test_the_encoder_of_another_pack_is_refused_where_it_is_chosen(bench: WanBench, analyzer: Any) -> None:
    models = bench.comfy.base_dir / "models" / "insightface" / "models"
    own = {"encoder": "the detector pack's own"}
    (models / "my_pack").mkdir()
    (models / "my_pack" / "det.onnx").write_bytes(b"not looked into")
    try:
        node = bench.comfy.node_classes["LynxLoadFaceAnalyzer"]
        with pytest.raises(ValueError) as error:
            bench.comfy.run("LynxLoadFaceAnalyzer", detector_pack="my_pack", **own)
        for said in (node.validate_inputs(detector_pack="my_pack", **own), str(error.value)):
            for words in ("the detector pack's own", "'my_pack'", "buffalo_l, ", "detector_pack"):
                assert words in said
    finally:
        (models / "my_pack" / "det.onnx").unlink()
        (models / "my_pack").rmdir()


def test_a_replaced_face_model_is_another_fingerprint(bench: WanBench, analyzer: Any) -> None:
    """By size, by time, and by a name that comes or goes; the same files give the same one."""
    models = bench.comfy.base_dir / "models"
    node = bench.comfy.node_classes["LynxLoadFaceAnalyzer"]
    chosen = {"detector_pack": "buffalo_l", "encoder": ENCODER, "provider": "CPU"}

    def stamp() -> str:
        return node.fingerprint_inputs(**chosen)

    encoder, added = (
        models / "lynx" / "faces" / ENCODER,
        models / "insightface" / "models" / "buffalo_l" / "more.onnx",
    )
    seen = [stamp()]
    assert stamp() == seen[0]
    os.utime(encoder, ns=(1, encoder.stat().st_mtime_ns + 1))
    seen.append(stamp())
    added.write_bytes(b"new")
    seen.append(stamp())
    added.write_bytes(b"newer")
    seen.append(stamp())
    added.unlink()
    assert len(set(seen)) == 4 and stamp() == seen[1]


def test_a_replaced_adapter_is_another_fingerprint(bench: WanBench) -> None:
    folder = bench.comfy.base_dir / "models" / "lynx" / "mine"
    folder.mkdir()
    node = bench.comfy.node_classes["LynxLoadAdapter"]
    named = {"adapter": "mine", "resampler": "none", "id_layers": "none", "ref_layers": "none"}
    linked = {**named, "adapter": None}
    try:
        seen = []
        for size in (3, 4):
            (folder / "a.safetensors").write_bytes(b"x" * size)
            seen.append((node.fingerprint_inputs(**named), node.fingerprint_inputs(**linked)))
        assert seen[0][0] != seen[1][0] and seen[0][1] != seen[1][1]
        assert node.fingerprint_inputs(**named) == seen[1][0]
    finally:
        (folder / "a.safetensors").unlink()
        folder.rmdir()


def test_no_note_scans_the_model_folders(
    bench: WanBench, analyzer: Any, photo: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = bench.comfy.pack_module("nodes.host.model_files")
    asked: list[str] = []
    monkeypatch.setattr(files, "list_adapter_files", lambda: asked.append("files") or [])
    monkeypatch.setattr(files, "list_adapters", lambda: asked.append("adapters") or [])
    bench.comfy.node_classes["LynxLoadAdapter"].execute("lynx_full", "none", "none", "none")
    assert asked == []


# --- YuNet -----------------------------------------------------------------------------------

YUNET = "face_detection_yunet_2023mar.onnx"


@pytest.fixture
def yunet(bench: WanBench, photo: torch.Tensor) -> Iterator[Path]:
    """YuNet's file where a user puts it."""
    path = bench.comfy.base_dir / "models" / "lynx" / "faces" / YUNET
    yield standin_faces.write_yunet(path, standin_faces.six_faces(), photo.shape[1:3])
    path.unlink()


def test_yunet_takes_the_place_of_the_detector(
    bench: WanBench, analyzer: Any, photo: torch.Tensor, yunet: Any, notes: list[str]
) -> None:
    (other,) = bench.comfy.run("LynxLoadFaceAnalyzer", detector_pack=YUNET, encoder=ENCODER, provider="CUDA")
    assert f"detector {YUNET}: MIT" in notes[-1] and "provider CUDA does nothing" in notes[-1]
    for number in (1, 4):
        by_yunet, by_insightface = (
            crop(bench, each, photo, order="left to right", face_number=number)[1]
            for each in (other, analyzer)
        )
        assert (by_yunet - by_insightface).abs().mean() < 0.01
    bench.comfy.run("LynxLoadFaceAnalyzer", detector_pack="buffalo_l", encoder=ENCODER)
    assert "detector buffalo_l: non-commercial research" in notes[-1] and "provider" not in notes[-1]


def test_yunet_is_listed_before_it_is_there_and_is_no_encoder(bench: WanBench, yunet: Any) -> None:
    node = bench.comfy.node_classes["LynxLoadFaceAnalyzer"]

    def list_choices(name: str) -> list[str]:
        return node.INPUT_TYPES()["required"][name][1]["options"]

    assert YUNET in list_choices("detector_pack") and YUNET not in list_choices("encoder")
    assert node.validate_inputs(detector_pack=YUNET, encoder=ENCODER) is True
    named, linked = ({"detector_pack": pack, "encoder": ENCODER} for pack in (YUNET, None))
    before = [node.fingerprint_inputs(**chosen) for chosen in (named, linked)]
    yunet.write_bytes(yunet.read_bytes() + b" ")
    after = [node.fingerprint_inputs(**chosen) for chosen in (named, linked)]
    # What is linked is not known when the host asks: then any detector counts.
    assert after[0] != before[0] and after[1] != before[1]
    assert "A file of YuNet has none" in node.validate_inputs(
        detector_pack=YUNET, encoder="the detector pack's own"
    )
    yunet.write_bytes(b"")
    assert f"{YUNET} (not downloaded)" in list_choices("detector_pack")
    fault = node.validate_inputs(detector_pack=YUNET, encoder=ENCODER)
    assert "download yunet" in fault and f"{YUNET}, 233 kB" in fault
    outside = node.validate_inputs(detector_pack=f"../faces/{YUNET}", encoder=ENCODER)
    assert outside is not True, "a name from an edited prompt must not reach files elsewhere"
