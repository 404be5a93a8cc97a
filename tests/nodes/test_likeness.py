"""Lynx Face Similarity and Lynx Likeness Gate: drawn people, whose likeness is known beforehand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from wan_bench import WanBench

from miniature.benchmark import FIRST_SUBJECT
from miniature.world.draws import draw_shot
from miniature.world.identity import draw_identity

PX = 128


def draw(person: int, seed: int = 5, num_frames: int = 4) -> Tensor:
    """Frames of a drawn person, [num_frames, PX, PX, 3]."""
    shot = draw_shot(draw_identity(FIRST_SUBJECT + person), seed)
    frames = np.stack([shot.draw_frame(2 * frame, PX) for frame in range(num_frames)])
    return torch.from_numpy(frames.astype(np.float32) / 255)


@pytest.fixture(scope="module")
def analyzer(bench: WanBench) -> Any:
    return bench.comfy.run("LynxLoadMini")[4]


@pytest.fixture(scope="module")
def mine() -> Tensor:
    return draw(0)


@pytest.fixture(scope="module")
def photo() -> Tensor:
    return draw(0, seed=77)[:1]


def measure(bench: WanBench, images: Tensor, analyzer: Any, **inputs: Any) -> tuple[Any, ...]:
    return bench.comfy.run("LynxFaceSimilarity", images=images, face_analyzer=analyzer, **inputs)


def test_the_person_scores_high_and_a_stranger_low(
    bench: WanBench, analyzer: Any, mine: Tensor, photo: Tensor
) -> None:
    own, rate, own_all, plot, sheet = measure(bench, mine, analyzer, reference=photo)
    stranger = measure(bench, draw(4), analyzer, reference=photo)[0]
    assert rate == 1 and own == own_all
    assert own > 0.6 and stranger < 0.3
    for picture in (plot, sheet):
        assert picture.ndim == 4 and picture.shape[-1] == 3 and picture.std() > 0.05


def test_frames_without_a_face_count_in_one_mean_alone(
    bench: WanBench, analyzer: Any, mine: Tensor, photo: Tensor
) -> None:
    half = torch.cat([mine, torch.full_like(mine, 0.5)])
    whole = measure(bench, mine, analyzer, reference=photo)
    mean_detected, rate, mean_all, *_ = measure(bench, half, analyzer, reference=photo)
    assert rate == 0.5
    assert mean_detected == pytest.approx(whole[0]) and mean_all == pytest.approx(whole[0] / 2)


def test_of_two_people_the_right_one_is_measured(
    bench: WanBench, analyzer: Any, mine: Tensor, photo: Tensor, notes: list[str]
) -> None:
    alone = measure(bench, mine, analyzer, reference=photo)[0]
    for pair in ((mine, draw(4)), (draw(4), mine)):
        both = measure(bench, torch.cat(pair, dim=2), analyzer, reference=photo)
        assert both[0] == pytest.approx(alone, abs=0.1) and both[1] == 1
        assert "2 people are in these frames" in notes[-1]


def test_several_references_give_the_mean_of_their_scores(
    bench: WanBench, analyzer: Any, mine: Tensor, photo: Tensor, notes: list[str]
) -> None:
    photos = torch.cat([photo, draw(0, seed=9)[:1]])
    apart = [measure(bench, mine, analyzer, reference=each[None])[0] for each in photos]
    assert measure(bench, mine, analyzer, reference=photos)[0] == pytest.approx(sum(apart) / 2, abs=1e-4)
    measure(bench, mine, analyzer, reference=torch.cat([photos, draw(4)[:1]]))
    assert "reference photo 3 is unlike the others" in notes[-1]


def test_an_identity_is_compared_with_by_its_own_recogniser_alone(
    bench: WanBench, analyzer: Any, mine: Tensor, photo: Tensor
) -> None:
    face = bench.comfy.run("LynxCropFace", image=photo, face_analyzer=analyzer)[0]
    face_id = bench.comfy.run("LynxEncodeID", face_analyzer=analyzer, face=face)[0]
    by_photo, by_id = (
        measure(bench, mine, analyzer, **given)[0] for given in ({"reference": photo}, {"id": face_id})
    )
    assert by_id == pytest.approx(by_photo, abs=1e-5)
    with pytest.raises(
        ValueError, match="recogniser 'facexlib/arcface_ir_se50', but face_analyzer has 'lynx_mini"
    ):
        measure(bench, mine, analyzer, id=bench.make_id())
    with pytest.raises(ValueError, match="nobody to compare with"):
        measure(bench, mine, analyzer)


def test_no_face_at_all_is_0_and_said(
    bench: WanBench, analyzer: Any, photo: Tensor, notes: list[str]
) -> None:
    empty = torch.full((3, PX, PX, 3), 0.5)
    mean_detected, rate, mean_all, plot, sheet = measure(bench, empty, analyzer, reference=photo)
    assert (mean_detected, rate, mean_all) == (0, 0, 0)
    assert "No face is found in any frame" in notes[-1]
    assert plot.isfinite().all() and sheet.isfinite().all()
    with pytest.raises(ValueError, match="no face found in photo 2 of 2"):
        measure(bench, empty, analyzer, reference=torch.cat([photo, empty[:1]]))


def test_a_grey_or_transparent_single_frame_is_taken(
    bench: WanBench, analyzer: Any, mine: Tensor, photo: Tensor
) -> None:
    alpha = torch.cat([mine[:1], torch.ones(1, PX, PX, 1)], dim=-1)
    assert measure(bench, alpha, analyzer, reference=photo)[0] > 0.6
    with pytest.raises(ValueError, match="empty"):
        measure(bench, mine[:0], analyzer, reference=photo)


# --- who judges ---------------------------------------------------------------------------


def explain(bench: WanBench, analyzer: Any, prompt: dict[str, Any] | None) -> str:
    module = bench.comfy.pack_module("nodes.host.conditioned_by")
    return str(
        module.explain_recogniser_use(analyzer, None, SimpleNamespace(prompt=prompt, unique_id="score"))
    )


def make_graph(kind: str, **loader: Any) -> dict[str, Any]:
    """A video through Lynx Apply, whose ID comes through a loader of this class."""
    return {
        "load": {"class_type": kind, "inputs": loader},
        "id": {"class_type": "LynxEncodeID", "inputs": {"face_analyzer": ["load", 0]}},
        "apply": {"class_type": "LynxApply", "inputs": {"id": ["id", 0]}},
        "sample": {"class_type": "KSampler", "inputs": {"model": ["apply", 0], "positive": ["apply", 1]}},
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0]}},
        "score": {"class_type": "LynxFaceSimilarity", "inputs": {"images": ["decode", 0]}},
    }


def test_a_recogniser_that_conditioned_the_video_is_said(bench: WanBench, analyzer: Any) -> None:
    conditioned, independent = "also conditioned the video", "did not condition the video"
    assert conditioned in explain(bench, analyzer, make_graph("LynxLoadMini"))
    release = {"detector_pack": "buffalo_l", "encoder": "recognition_arcface_ir_se50.pth"}
    own = {"detector_pack": "buffalo_l", "encoder": "the detector pack's own"}
    assert independent in explain(bench, analyzer, make_graph("LynxLoadFaceAnalyzer", **release))
    recogniser = SimpleNamespace(name="insightface/buffalo_l/w600k_r50")
    judge = SimpleNamespace(recogniser=recogniser, recogniser_path=None, pack="buffalo_l")
    assert conditioned in explain(bench, judge, make_graph("LynxLoadFaceAnalyzer", **own))
    assert independent in explain(bench, judge, make_graph("LynxLoadFaceAnalyzer", **release))
    other_pack = own | {"detector_pack": "antelopev2"}
    assert independent in explain(bench, judge, make_graph("LynxLoadFaceAnalyzer", **other_pack))
    plain = make_graph("LynxLoadFaceAnalyzer", **own)
    plain["sample"]["inputs"] = {}
    assert "no recogniser conditioned them" in explain(bench, judge, plain)
    loaded = {
        "score": plain["score"] | {"inputs": {"images": ["video", 0]}},
        "video": {"class_type": "LoadVideo", "inputs": {}},
    }
    assert "does not show in this graph" in explain(bench, judge, loaded)
    assert "does not show in this graph" in explain(bench, judge, None)


# --- the gate -----------------------------------------------------------------------------


def run_gate(
    bench: WanBench, scores: list[float], threshold: float, keep: str, videos: int | None = None
) -> Any:
    node = bench.comfy.node_classes["LynxLikenessGate"]
    images = [torch.full((2, 8, 8, 3), float(n)) for n in range(len(scores) if videos is None else videos)]
    clone = node.PREPARE_CLASS_CLONE(None)
    return clone.EXECUTE_NORMALIZED(images=images, score=scores, threshold=[threshold], keep=[keep])


def test_the_gate_keeps_what_passes_in_order(bench: WanBench) -> None:
    images, scores, numbers = run_gate(bench, [0.5, 0.2, 0.4], 0.4, "all that pass").result
    assert [float(image.mean()) for image in images] == [0, 2] and scores == [0.5, 0.4] and numbers == [1, 3]
    _, scores, numbers = run_gate(bench, [0.5, 0.7, 0.7], 0.4, "the best alone").result
    assert (scores, numbers) == ([0.7], [2])


@pytest.mark.parametrize("keep", ["all that pass", "the best alone"])
def test_below_the_threshold_nothing_passes_and_the_figures_are_said(bench: WanBench, keep: str) -> None:
    message = run_gate(bench, [0.31, 0.2], 0.4, keep).block_execution
    assert "0.310, 0.200" in message and "the threshold 0.4" in message


def test_bad_input_of_the_gate_is_refused(bench: WanBench) -> None:
    with pytest.raises(ValueError, match="3 videos and 2 scores"):
        run_gate(bench, [0.5, 0.2], 0.4, "all that pass", videos=3)
    with pytest.raises(ValueError, match="NaN passes nothing"):
        run_gate(bench, [float("nan")], 0.4, "all that pass")
    with pytest.raises(ValueError, match="keep 'some' is none of"):
        run_gate(bench, [0.5], 0.4, "some")
