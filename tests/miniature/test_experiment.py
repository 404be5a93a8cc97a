"""The experiment's statistics, readers, sampler and report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lynx_core.models.adapter_configs import configure_variant
from lynx_core.models.adapter_modules import AdapterModules
from lynx_core.models.packed_wan import PackedInputs, PackedWan
from miniature.experiment.cases import draw_cases
from miniature.experiment.measures import Measured, Truth
from miniature.experiment.readers import Readers, load_readers, save_readers
from miniature.experiment.report import fill_in, judge_targets, make_tables
from miniature.experiment.sampling import (
    LATENT_SHAPE,
    BatchSampler,
    Conditions,
    SamplingSettings,
    draw_noise,
    record_references,
)
from miniature.experiment.statistics import estimate_correlation, estimate_mean, estimate_r2
from miniature.world.clip import NUM_FRAMES
from miniature.world.draws import FIRST_HELD_OUT_IDENTITY, draw_shot
from miniature.world.identity import draw_identity
from miniature.world.labels import pose_numbers

REPO_DIR = Path(__file__).resolve().parents[2]
READERS = REPO_DIR / "assets" / "mini" / "readers.safetensors"
REPORT_DIR = REPO_DIR / "docs" / "mini"
NUM_PEOPLE = 24


def test_interval_of_known_numbers() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, (1, 400))
    estimate = estimate_mean(values)
    half = 1.96 * values.std() / np.sqrt(values.size)
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.hi - estimate.lo == pytest.approx(2 * half, rel=0.1)
    assert estimate.n == 400


def test_interval_is_wider_where_seeds_disagree() -> None:
    alike = np.random.default_rng(2).normal(0, 1, (3, 200))
    apart = alike + np.array([[-1.0], [0.0], [1.0]])
    assert estimate_mean(apart).hi - estimate_mean(apart).lo > 3 * (
        estimate_mean(alike).hi - estimate_mean(alike).lo
    )


def test_a_lead_is_nothing_for_a_guess_and_much_for_knowledge() -> None:
    """One colour for everybody is right as often as that colour occurs, and yet knows nobody."""
    truth = Truth(draw_cases()[:64], np.zeros((64, 2)))
    colours = truth.factor("mark_colour", 64)
    often = np.bincount(colours.astype(int)).argmax()
    guessed, known = (
        Measured(truth, [{"background": np.zeros(64), "factor mark_colour": read}])
        for read in (np.full(64, often), colours)
    )
    assert guessed.hits("mark_colour").mean() > 1 / 6
    assert guessed.lead("mark_colour").mean() == pytest.approx(0)
    assert 0.7 < known.lead("mark_colour").mean() < 1


def test_cases_that_are_not_known_do_not_count() -> None:
    values = np.array([[1.0, np.nan, 3.0], [1.0, 2.0, 3.0]])
    assert estimate_mean(values).mean == 2.0
    assert estimate_mean(values).n == 4
    with pytest.raises(ValueError, match="no case"):
        estimate_mean(np.full((1, 3), np.nan))


def test_r2_and_correlation() -> None:
    true = np.random.default_rng(3).normal(size=(1, 300))
    assert estimate_r2(true, true).mean == 1.0
    assert estimate_r2(np.full_like(true, true.mean()), true).mean == pytest.approx(0.0)
    assert estimate_correlation(2 * true + 1, true).mean == pytest.approx(1.0)


@pytest.fixture(scope="module")
def small_wan() -> PackedWan:
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=32,
        text_dim=24,
        freq_dim=32,
        ffn_dim=96,
        num_layers=2,
    )
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return PackedWan(transformer)


@pytest.mark.parametrize("variant", ["full", "id_only", "ref_only", "lite"])
def test_velocities_are_those_of_the_trainer(small_wan: PackedWan, variant: str) -> None:
    options = {"lite_token_dim": 24, "resampler_dim": 64, "resampler_depth": 1, "resampler_heads": 1}
    configs = configure_variant(variant, small_wan.dim, 2, **options)
    adapter = AdapterModules.create(configs, 1, zero_init=False).requires_grad_(False)
    generator = torch.Generator().manual_seed(4)
    texts = [torch.randn(length, 24, generator=generator) for length in (3, 7)]
    embeddings = F.normalize(torch.randn(2, 512, generator=generator), dim=1)
    references = [torch.randn(16, 1, 4, 4, generator=generator) for _ in range(2)]
    reference_text = torch.randn(5, 24, generator=generator)
    noise = torch.stack([draw_noise(case, 0) for case in range(2)])
    inputs = PackedInputs(list(noise), torch.full((2,), 700.0), texts, embeddings, references, reference_text)
    with torch.no_grad():
        expected = torch.stack(small_wan(inputs, adapter, id_scale=0.8, ref_scale=1.2))
        sampler = BatchSampler(small_wan, adapter, half=False)
        features = record_references(small_wan, references, reference_text)
        side = sampler.prepare(Conditions(texts, embeddings, features))
        seen = sampler.predict(noise, 0.7, side, SamplingSettings(id_scale=0.8, ref_scale=1.2))
    assert seen.shape == (2, *LATENT_SHAPE)
    # The reference's features are kept in bfloat16.
    assert (seen - expected).abs().max() < 2e-3 * expected.abs().max()


def test_readers_come_back_from_their_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    readers = Readers().eval()
    save_readers(readers, tmp_path / "readers.safetensors")
    clips = np.random.default_rng(0).integers(0, 256, (2, NUM_FRAMES, 64, 64, 3), dtype=np.uint8)
    first, second = (
        readers.read_clips(clips),
        load_readers(tmp_path / "readers.safetensors").read_clips(clips),
    )
    assert np.allclose(first.embedding, second.embedding, atol=2e-3)
    assert np.allclose(np.linalg.norm(first.embedding, axis=1), 1, atol=1e-5)
    with pytest.raises(FileNotFoundError, match="reader_training"):
        load_readers(tmp_path / "missing.safetensors")


@pytest.mark.skipif(not READERS.is_file(), reason="the readers are not shipped")
def test_shipped_readers_read_drawn_clips() -> None:
    readers = load_readers(READERS)
    people = [draw_identity(FIRST_HELD_OUT_IDENTITY + 500 + number) for number in range(NUM_PEOPLE)]
    shots = [draw_shot(person, 7 * 10**8 + number) for number, person in enumerate(people)]
    read = readers.read_clips(np.stack([shot.draw_clip() for shot in shots]))
    elsewhere = [draw_shot(p, 8 * 10**8 + number).draw_frame(0) for number, p in enumerate(people)]
    nearest = (read.embedding @ readers.embed(np.stack(elsewhere)).T).argmax(1)
    assert np.mean(nearest == np.arange(NUM_PEOPLE)) > 0.8
    assert np.mean(read.background == [shot.scene.background for shot in shots]) > 0.9
    assert np.mean(read.action == [shot.action for shot in shots]) > 0.8
    assert np.mean(read.factors["mark_colour"] == [person.mark_colour for person in people]) > 0.8
    yaw = [[pose_numbers(shot.pose_at(frame))[0] for frame in range(NUM_FRAMES)] for shot in shots]
    assert np.corrcoef(read.poses[..., 0].ravel(), np.ravel(yaw))[0, 1] > 0.9


def test_a_lost_marker_is_named() -> None:
    assert (
        fill_in("<!-- begin a -->\nold\n<!-- end a -->", {"a": "new"})
        == "<!-- begin a -->\nnew\n<!-- end a -->"
    )
    with pytest.raises(ValueError, match="begin a"):
        fill_in("no marker", {"a": "new"})


@pytest.mark.skipif(not (REPORT_DIR / "results.json").is_file(), reason="the experiment was not run")
def test_report_says_what_was_measured() -> None:
    results = json.loads((REPORT_DIR / "results.json").read_text(encoding="utf-8"))
    text = (REPORT_DIR / "report.md").read_text(encoding="utf-8")
    assert fill_in(text, make_tables(results)) == text
    assert judge_targets(results)
    for variant in ("base", "id_only", "ref_only", "full"):
        for measure in ("top1", "cosine", "mark", "background", "action", "motion"):
            figures = results[variant][measure]
            assert figures["lo"] <= figures["mean"] <= figures["hi"]
            assert figures["n"] > 0


def test_likeness_is_told_apart_by_the_length_of_captions() -> None:
    cases = draw_cases()[:6]
    long = "a short video of someone in a red coat, alone in the picture and seen from the front, who nods in a room"
    cases = [replace(case, caption=long) if place % 2 else case for place, case in enumerate(cases)]
    gallery = np.eye(6)
    embedding = np.where(np.arange(6)[:, None] % 2, 0.4, 0.9) * np.eye(6)
    rows = {"embedding": embedding, "background": np.zeros(6, int)}
    found = Measured(Truth(cases, gallery), [rows]).by_caption()
    assert found["short"]["mean"] == pytest.approx(0.9) and found["long"]["mean"] == pytest.approx(0.4)
    assert not Measured(Truth(draw_cases()[:6], gallery), [rows]).by_caption()


def test_tables_of_a_larger_world_are_made_when_it_was_measured() -> None:
    results = json.loads((REPORT_DIR / "results.json").read_text())
    estimate = {"mean": 0.5, "lo": 0.4, "hi": 0.6, "n": 8}
    figures = {"frechet": estimate, "found": estimate, "landmark_error": estimate}
    larger = results | {
        "quality": {"vae": figures, "full": figures},
        "captions": {"full": {"short": estimate, "long": estimate}},
    }
    assert not {"quality", "captions"} & make_tables(results).keys()
    tables = make_tables(larger)
    assert "the same after the VAE | 0.500 (0.400 to 0.600)" in tables["quality"]
    assert "| full | 0.500 (0.400 to 0.600) | 0.500 (0.400 to 0.600) |" in tables["captions"]
