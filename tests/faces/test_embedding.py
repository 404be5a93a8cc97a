"""The recognisers against facexlib's own network and insightface's own recogniser."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from facexlib.recognition.arcface_arch import Backbone
from safetensors.torch import save_file
from standin_faces import (
    photo_with_six_faces,
    random_arcface,
    six_faces,
    write_arcface_weights,
    write_detector_pack,
    write_recogniser,
)

from lynx_core.faces.analyzer import (
    ArcFaceRecogniser,
    InsightFaceRecogniser,
    average_embeddings,
    min_pairwise_cosine,
)
from lynx_core.faces.arcface import ArcFaceConfig, load_arcface
from lynx_core.faces.crops import crop_for_id
from lynx_core.faces.errors import FaceError

MINIATURE = ArcFaceConfig(
    unit_dims=(8, 8, 12, 16, 24), stem_dim=8, squeeze_dims=(2, 2, 3, 4, 6), embedding_dim=32
)


def six_crops() -> list[np.ndarray]:
    photo, landmarks = photo_with_six_faces()
    return [crop_for_id(photo, points) for points in landmarks]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The full network's file, 175 MB, written once."""
    return write_arcface_weights(
        tmp_path_factory.mktemp("arcface") / "recognition_arcface_ir_se50.pth", seed=3
    )


def test_full_network_equals_facexlibs_on_the_same_file(weights: Path) -> None:
    theirs = Backbone(num_layers=50, drop_ratio=0.6, mode="ir_se").eval()
    theirs.load_state_dict(torch.load(weights, weights_only=True), strict=True)
    ours = ArcFaceRecogniser(load_arcface(weights))
    crops = six_crops()[:3]
    # The release's own preparation, by other means than ours.
    pixels = np.stack([cv2.cvtColor(crop, cv2.COLOR_RGB2BGR) for crop in crops]).astype(np.float32)
    x = torch.from_numpy(((pixels / 255.0) - 0.5) / 0.5).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        expected = theirs(x)
        flipped = theirs(x.flip(1))
    embeddings = ours.embed(crops)
    assert embeddings.shape == (3, 512) and ours.name == "facexlib/arcface_ir_se50"
    assert torch.allclose(embeddings, expected, atol=1e-5)
    assert min_pairwise_cosine(expected) < 0.9999, "three faces must not embed alike, or nothing is tested"
    assert (flipped - expected).abs().max() > 1e-3, "a wrong channel order must show"


def test_the_loaded_network_is_frozen_and_in_evaluation_mode(weights: Path) -> None:
    network = load_arcface(weights)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert network.config == ArcFaceConfig()


def test_a_miniature_is_read_off_its_shapes_with_its_name(tmp_path: Path) -> None:
    network = random_arcface(5, MINIATURE)
    path = tmp_path / "mini.safetensors"
    save_file(network.state_dict(), path, metadata={"embedder": "lynx/miniature"})
    loaded = ArcFaceRecogniser(load_arcface(path))
    assert loaded.name == "lynx/miniature" and loaded.network.config == MINIATURE
    # Not to the bit: how the weights lie in memory decides which kernel runs.
    torch.testing.assert_close(
        loaded.embed(six_crops()), ArcFaceRecogniser(network).embed(six_crops()), atol=1e-6, rtol=0
    )
    assert loaded.embed(six_crops()).shape == (6, 32)


def test_batches_do_not_mix(tmp_path: Path) -> None:
    recogniser = ArcFaceRecogniser(random_arcface(5, MINIATURE))
    crops = six_crops()
    alone = torch.cat([recogniser.embed([crop]) for crop in crops])
    together = recogniser.embed(crops)
    assert torch.allclose(alone, together, atol=1e-6)
    assert torch.allclose(together.norm(dim=1), torch.ones(6), atol=1e-6)


def test_half_precision_and_old_files_load(tmp_path: Path) -> None:
    """A file older than torch 0.4.1 has no batch counters and no zip container."""
    network = random_arcface(5, MINIATURE)
    old = {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(
        ArcFaceRecogniser(load_arcface(tmp_path / "old.pth")).embed(six_crops()),
        ArcFaceRecogniser(network).embed(six_crops()),
    )
    torch.save({name: t.half() for name, t in old.items()}, tmp_path / "half.pth")
    assert next(load_arcface(tmp_path / "half.pth").parameters()).dtype == torch.float32


class RunsCode:
    """What an attacker would put in a weight file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.witness,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_of_code_is_refused_and_never_run(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    torch.save({"weight": RunsCode(witness)}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(RunsCode(witness)))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(FaceError, match=rf"{name} is refused.*run code"):
            load_arcface(tmp_path / name)
    assert not witness.exists()


def test_wrong_files_are_refused_with_what_is_missing(tmp_path: Path) -> None:
    state = dict(random_arcface(5, MINIATURE).state_dict())
    with pytest.raises(FaceError, match=r"recognition.pth in .*lynx_core.cli.main download faces"):
        load_arcface(tmp_path / "recognition.pth")

    torch.save({"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(
        FaceError, match=r"not ArcFace IR-SE50: it lacks \d+ tensors \(.*\.\.\.\) and has besides 2"
    ):
        load_arcface(tmp_path / "other.pth")

    lacking = {name: t for name, t in state.items() if name != "body.3.res_layer.4.running_var"}
    torch.save(lacking, tmp_path / "lacking.pth")
    with pytest.raises(FaceError, match=r"lacks 1 tensors \(body.3.res_layer.4.running_var\)"):
        load_arcface(tmp_path / "lacking.pth")

    torch.save(state | {"head.weight": torch.zeros(2)}, tmp_path / "surplus.pth")
    with pytest.raises(FaceError, match=r"has besides 1 tensors \(head.weight\)"):
        load_arcface(tmp_path / "surplus.pth")

    torch.save(state | {"body.1.res_layer.1.weight": torch.zeros(8, 8, 1, 1)}, tmp_path / "shape.pth")
    with pytest.raises(FaceError, match=r"body.1.res_layer.1.weight is \[8, 8, 1, 1\]"):
        load_arcface(tmp_path / "shape.pth")

    spoilt = state["body.2.res_layer.1.weight"].clone()
    spoilt[0, 0] = float("nan")
    torch.save(state | {"body.2.res_layer.1.weight": spoilt}, tmp_path / "nan.pth")
    with pytest.raises(FaceError, match=r"body.2.res_layer.1.weight holds NaN"):
        load_arcface(tmp_path / "nan.pth")

    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(FaceError, match="table of tensors but list"):
        load_arcface(tmp_path / "list.pth")

    torch.save({"state_dict": state}, tmp_path / "nested.pth")
    with pytest.raises(FaceError, match="table of tensors but dict"):
        load_arcface(tmp_path / "nested.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_and_empty_files_are_refused(tmp_path: Path, suffix: str) -> None:
    state = random_arcface(5, MINIATURE).state_dict()
    path = tmp_path / f"whole{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(dict(state), path)
    whole = path.read_bytes()
    for length in (0, 5, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(FaceError, match="whole"):
            load_arcface(path)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_insightface_recogniser_gives_insightfaces_own_embedding(tmp_path: Path) -> None:
    """Against FaceAnalysis with detection and recognition on the BGR photo, as insightface's users call it."""
    from insightface.app import FaceAnalysis

    photo, _ = photo_with_six_faces()
    pack = write_detector_pack(tmp_path, "antelopev2", six_faces(), photo.shape[:2])
    write_recogniser(pack, "glintr100")
    app = FaceAnalysis(name=str(pack), root=str(tmp_path), providers=["CPUExecutionProvider"])
    app.prepare(ctx_id=0, det_size=(640, 640))
    found = sorted(app.get(np.ascontiguousarray(photo[..., ::-1])), key=lambda face: face.bbox[0])
    expected = torch.from_numpy(np.stack([face.normed_embedding for face in found]))

    recogniser = InsightFaceRecogniser(tmp_path, "antelopev2", "glintr100")
    assert recogniser.name == "insightface/antelopev2/glintr100"
    assert torch.allclose(recogniser.embed(six_crops()), expected, atol=1e-5)
    wrong = recogniser.embed([crop[..., ::-1] for crop in six_crops()])
    assert not torch.allclose(wrong, expected, atol=1e-2), "a wrong channel order must show"


def test_insightface_recogniser_refusals(tmp_path: Path) -> None:
    pack = write_detector_pack(tmp_path, "antelopev2", [], (640, 640))
    with pytest.raises(
        FaceError, match=r"expected glintr100.onnx in .*antelopev2.*lynx_core.cli.main download faces"
    ):
        InsightFaceRecogniser(tmp_path, "antelopev2", "glintr100").embed(six_crops())
    with pytest.raises(FaceError, match="no recogniser but: detection"):
        InsightFaceRecogniser(tmp_path, "antelopev2", "det_10g").load()
    (pack / "glintr100.onnx").write_bytes(b"not onnx")
    with pytest.raises(FaceError, match=r"glintr100.onnx does not open"):
        InsightFaceRecogniser(tmp_path, "antelopev2", "glintr100").load()


def test_crops_of_another_shape_are_refused() -> None:
    recogniser = ArcFaceRecogniser(random_arcface(5, MINIATURE))
    for crop in (np.zeros((256, 256, 3), np.uint8), np.zeros((112, 112, 3), np.float32)):
        with pytest.raises(FaceError, match=r"\[112, 112, 3\] uint8, got"):
            recogniser.embed([crop])
    with pytest.raises(FaceError, match="no face crop"):
        recogniser.embed([])


def test_average_is_the_unit_mean_of_unit_vectors() -> None:
    pair = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.2, 0.0]])
    assert torch.allclose(average_embeddings(pair), torch.tensor([0.5, 0.5, 0.0]).sqrt(), atol=1e-6)
    assert torch.equal(average_embeddings(pair[:1]), torch.tensor([1.0, 0.0, 0.0]))
    assert min_pairwise_cosine(pair) == pytest.approx(0.0)
    assert min_pairwise_cosine(pair[:1]) == 1.0
    three = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    assert min_pairwise_cosine(three) == pytest.approx(-1.0)


def test_average_refuses_nan_zero_and_opposites() -> None:
    vector = torch.randn(1, 512, generator=torch.Generator().manual_seed(0))
    with pytest.raises(FaceError, match="NaN"):
        average_embeddings(torch.cat([vector, vector * float("nan")]))
    with pytest.raises(FaceError, match="zero"):
        average_embeddings(torch.cat([vector, vector * 0]))
    with pytest.raises(FaceError, match=r"2 faces cancel out .* cosine -1.00"):
        average_embeddings(torch.cat([vector, -vector * 1.01]))
    with pytest.raises(FaceError, match=r"\[0, 512\]"):
        average_embeddings(torch.zeros(0, 512))
