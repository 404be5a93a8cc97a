"""Text alignment and aesthetics by CLIP, on a small network in the published layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from small_benchmark import draw_scene, list_cells, make_matrix, write_finished

from lynx_core.evaluation.clip_scores import ClipScorer, load_aesthetic_head
from lynx_core.evaluation.configuration import ClipSettings
from lynx_core.evaluation.generation import generate
from lynx_core.evaluation.ledger import ScoreRow, open_scores
from lynx_core.evaluation.report import write_report
from lynx_core.evaluation.scored_cell import AESTHETIC_SCORE, TEXT_ALIGNMENT, Cell
from lynx_core.evaluation.scoring import list_scorable, score
from lynx_core.evaluation.video import Video
from lynx_core.faces.errors import FaceError

DIM, FRAME_PX, NUM_TOKENS = 24, 32, 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with random weights and letters as its vocabulary."""
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(number) for number in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.save_pretrained(folder)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    end = words.index("<|endoftext|>")
    text = {"vocab_size": len(words), "max_position_embeddings": NUM_TOKENS, "eos_token_id": end}
    config = transformers.CLIPConfig(
        text_config=size | text,
        vision_config=size | {"image_size": FRAME_PX, "patch_size": 8},
        projection_dim=DIM,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    crop = {"height": FRAME_PX, "width": FRAME_PX}
    transformers.CLIPImageProcessor(size={"shortest_edge": FRAME_PX}, crop_size=crop).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cell(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Cell:
    folder = tmp_path_factory.mktemp("made")
    videos = write_finished(folder / "a", list_cells(data), draw_scene)
    matrix = make_matrix(
        data, folder / "out", [{"name": "a", "videos": videos, "conditioned_by": []}], max_subjects=1
    )
    generate(matrix, lambda _: None)
    return list_scorable(matrix)[0]


def test_alignment_is_the_cosine_that_clip_itself_gives(clip: Path, cell: Cell) -> None:
    frames = draw_scene(0, 1)
    [(value, detail)] = ClipScorer(ClipSettings(folder=clip, frames=2)).score(cell, Video(frames, 8))
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    tokens = transformers.CLIPTokenizerFast.from_pretrained(clip)(
        cell.prompt.text, truncation=True, max_length=NUM_TOKENS, return_tensors="pt"
    )
    pixels = transformers.CLIPImageProcessor.from_pretrained(clip)(
        images=[frames[0], frames[-1]], return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**tokens, **pixels).logits_per_image / model.logit_scale.exp()
    assert value == pytest.approx(logits.mean().item(), abs=1e-5)
    assert detail["frames"] == pytest.approx(logits[:, 0].tolist(), abs=1e-4)
    assert detail["prompt cut"], "a caption that is longer than CLIP reads is said to be cut"


def test_a_video_of_fewer_frames_is_looked_at_whole(clip: Path, cell: Cell) -> None:
    [(_, detail)] = ClipScorer(ClipSettings(folder=clip, frames=8)).score(
        cell, Video(draw_scene(0, 1)[:3], 8)
    )
    assert len(detail["frames"]) == 3


@pytest.mark.parametrize("layout", ["linear", "stack"])
def test_both_published_heads_open(layout: str, clip: Path, cell: Cell, tmp_path: Path) -> None:
    torch.manual_seed(1)
    # The stack has 12 entries in the published file, where "layers.10" must not come before "layers.2".
    sizes = [(DIM, 1)] if layout == "linear" else [(DIM, 16), (16, 8), (8, 1)]
    layers = [torch.nn.Linear(*size) for size in sizes]
    if layout == "linear":
        weights = dict(layers[0].state_dict())
    else:
        places = (0, 2, 10)
        weights = {
            f"layers.{place}.{name}": value
            for place, layer in reversed(list(zip(places, layers, strict=True)))
            for name, value in layer.state_dict().items()
        }
    torch.save(weights, tmp_path / "head.pth")
    settings = ClipSettings(folder=clip, aesthetic_head=tmp_path / "head.pth", frames=1)
    _, (value, _) = ClipScorer(settings).score(cell, Video(draw_scene(0, 1), 8))
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    pixels = transformers.CLIPImageProcessor.from_pretrained(clip)(
        images=[draw_scene(0, 1)[0]], return_tensors="pt"
    )
    with torch.no_grad():
        seen = model.visual_projection(model.vision_model(**pixels).pooler_output)
        expected = torch.nn.Sequential(*layers)(seen / seen.norm()).item()
    assert value == pytest.approx(expected, abs=1e-5)


def test_a_head_for_another_clip_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(768, 1).state_dict(), tmp_path / "head.pth")
    with pytest.raises(
        FaceError, match=r"no aesthetic head for CLIP embeddings of 24.*sa_0_4_vit_l_14_linear"
    ):
        load_aesthetic_head(tmp_path / "head.pth", DIM)


def test_weights_with_holes_are_refused(clip: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(clip, tmp_path / "clip")
    weights = load_file(clip / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "clip" / "model.safetensors", {"format": "pt"})
    with pytest.raises(FaceError, match=r"no whole CLIP: 1 are missing, as visual_projection.weight"):
        ClipScorer(ClipSettings(folder=tmp_path / "clip"))


def test_a_name_of_the_hub_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FaceError, match=r"holds no CLIP of the Hugging Face layout .*no such folder"):
        ClipScorer(ClipSettings(folder=tmp_path / "openai" / "clip-vit-large-patch14"))


def test_the_figures_stand_in_the_report(clip: Path, data: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    torch.save(torch.nn.Linear(DIM, 1).state_dict(), tmp_path / "head.pth")
    videos = write_finished(tmp_path / "a", list_cells(data), draw_scene)
    matrix = make_matrix(
        data,
        tmp_path / "out",
        [{"name": "a", "videos": videos, "conditioned_by": []}],
        clip={"folder": clip, "name": "small CLIP", "aesthetic_head": tmp_path / "head.pth"},
    )
    generate(matrix, lambda _: None)
    score(matrix, lambda _: None)
    rows: list[ScoreRow] = open_scores(matrix.output).read()
    found = {
        name: [row.value for row in rows if row.metric == name] for name in (TEXT_ALIGNMENT, AESTHETIC_SCORE)
    }
    assert all(len(values) == 6 and None not in values for values in found.values())
    write_report(matrix, tmp_path / "report")
    page = (tmp_path / "report" / "report.md").read_text()
    for column in ("Text alignment, small CLIP", "Aesthetic score, small CLIP"):
        assert column in page
    assert f"{np.mean(found[TEXT_ALIGNMENT]):.3f}" in page
