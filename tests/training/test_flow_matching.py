"""The objective: what is drawn, what it depends on, and a loss that packing cannot change."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lynx_core.rng import RNGKey, derive_seed, torch_generator
from lynx_core.training import step as step_module
from lynx_core.training.configuration import ObjectiveConfig
from lynx_core.training.flow_matching import (
    add_noise,
    draw_sample,
    draw_timestep,
    make_batch,
    shift_timestep,
    velocity_target,
)
from lynx_core.training.loop import Trainer
from lynx_core.training.progress import timestep_quantile
from lynx_core.training.step import LoadedStep

KEY = RNGKey(0, "images", 0, "a")
SHAPE = torch.Size((16, 2, 4, 4))
PACKINGS = ([[0, 1, 2, 3, 4, 5]], [[5, 2], [0, 4], [3, 1]], [[3], [1, 0, 2, 4, 5]])


def test_path_and_target() -> None:
    x0, noise = torch.randn(2, 16, 1, 2, 2)
    assert torch.equal(add_noise(x0, noise, 0.0), x0)
    assert torch.equal(add_noise(x0, noise, 1.0), noise)
    # The target is the path's derivative.
    step = 1e-3
    slope = (add_noise(x0, noise, 0.5 + step) - add_noise(x0, noise, 0.5 - step)) / (2 * step)
    assert torch.allclose(slope, velocity_target(x0, noise), atol=1e-3)


@pytest.mark.parametrize("timesteps", ["uniform", "logit_normal", "shifted"])
def test_timesteps_follow_their_distribution(timesteps: str) -> None:
    config = ObjectiveConfig(timestep_sampling=timesteps, logit_mean=0.3, logit_std=0.8, shift=3.0)
    draws = [draw_timestep(config, torch_generator(0, "t", i)) for i in range(4000)]
    assert all(0 < t < 1 for t in draws)
    counts = torch.histc(torch.tensor([timestep_quantile(t, config) for t in draws]), 4, 0, 1)
    assert ((counts - 1000).abs() < 110).all(), counts  # four standard deviations


def test_shift_is_the_samplers() -> None:
    assert shift_timestep(0.5, 5.0) == pytest.approx(5 / 6)
    assert shift_timestep(shift_timestep(0.3, 5.0), 1 / 5.0) == pytest.approx(0.3)


def test_draws_depend_on_their_key_alone() -> None:
    config = ObjectiveConfig()
    first = draw_sample(SHAPE, config, KEY)
    torch.randn(7)
    again = draw_sample(SHAPE, config, KEY)
    assert torch.equal(first.noise, again.noise) and first.t == again.t
    for change in ({"seed": 1}, {"stage": "videos"}, {"epoch": 1}, {"sample_id": "b"}, {"repeat": 1}):
        other = draw_sample(SHAPE, config, replace(KEY, **change))
        assert not torch.equal(first.noise, other.noise) and first.t != other.t, change
    assert derive_seed(0, "1", 2) != derive_seed(0, 1, "2") != derive_seed(0, "12")


def test_dropout_rates() -> None:
    config = ObjectiveConfig(text_dropout=0.2, identity_dropout=0.1, id_dropout=0.3, reference_dropout=0.0)
    draws = [draw_sample(torch.Size((1,)), config, replace(KEY, repeat=i)) for i in range(3000)]
    for share, seen in (
        (0.2, [draw.null_text for draw in draws]),
        (0.1 + 0.9 * 0.3, [draw.null_id for draw in draws]),
        (0.1, [draw.null_reference for draw in draws]),
    ):
        deviation = math.sqrt(share * (1 - share) / len(seen))
        assert abs(sum(seen) / len(seen) - share) < 4 * deviation
    assert all(draw.null_id for draw in draws if draw.null_reference)


def test_nulls_are_those_of_inference(trainer: Trainer) -> None:
    source, nulls = trainer.source, trainer.source.nulls()
    samples = [source.load(index) for index in range(2)]
    keys = [replace(KEY, sample_id=sample.id) for sample in samples]
    kept = ObjectiveConfig(text_dropout=0, identity_dropout=0)
    dropped = ObjectiveConfig(text_dropout=1, identity_dropout=1)
    parts, device = trainer.adapter.configs, torch.device("cpu")
    given = make_batch(samples, keys, nulls, kept, parts, device).inputs
    null = make_batch(samples, keys, nulls, dropped, parts, device).inputs
    assert null.embeddings is not None and given.embeddings is not None
    assert not null.embeddings.any() and given.embeddings.norm(dim=1).allclose(torch.ones(2))
    assert null.reference_latents is not None and given.reference_latents is not None
    for index, sample in enumerate(samples):
        assert torch.equal(null.texts[index], nulls.empty_text)
        assert torch.equal(given.texts[index], sample.text)
        assert torch.equal(null.reference_latents[index], nulls.grey_reference)
        assert torch.equal(given.reference_latents[index], sample.reference_latents)
        # Dropping changes conditions only.
        assert torch.equal(null.latents[index], given.latents[index])


def _gradients(trainer: Trainer, packing: list[list[int]]) -> tuple[Tensor, float]:
    """Gradients and loss of a step on the same six samples, packed in one way or another."""
    samples = [trainer.source.load(index) for index in range(6)]
    packs = tuple(
        trainer.loader.draw_pack(
            [samples[index] for index in pack],
            [RNGKey(0, "images", 0, samples[index].id) for index in pack],
        )
        for pack in packing
    )
    before = {name: parameter.detach().clone() for name, parameter in trainer.parameters.items()}
    outcome = trainer.stepper.run(LoadedStep(trainer.config.stages[0], packs, {}), 1e-3)
    gradients = [p.grad.flatten() for p in trainer.parameters.values() if p.grad is not None]
    with torch.no_grad():
        for name, parameter in trainer.parameters.items():
            parameter.copy_(before[name])
    assert len(gradients) == len(trainer.parameters) and not outcome.is_skipped
    return torch.cat(gradients), outcome.loss


def _assert_invariant(trainer: Trainer) -> None:
    expected, expected_loss = _gradients(trainer, PACKINGS[0])
    assert expected.norm() > 0
    for packing in PACKINGS[1:]:
        gradients, loss = _gradients(trainer, packing)
        assert abs(loss - expected_loss) < 1e-5 * expected_loss
        assert (gradients - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("reduction", ["token", "sample"])
def test_loss_is_invariant_to_packing_and_accumulation(trainer: Trainer, reduction: str) -> None:
    config = trainer.config
    config = replace(config, objective=replace(config.objective, loss_reduction=reduction))
    trainer.stepper = replace(trainer.stepper, config=config)
    _assert_invariant(trainer)


def test_planted_mean_of_means_is_noticed(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        step_module,
        "loss_weight_share",
        lambda losses, weights, total: (losses * weights).sum() / weights.sum(),
    )
    with pytest.raises(AssertionError):
        _assert_invariant(trainer)


def test_planted_unseeded_noise_is_noticed(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = iter(range(1000))
    monkeypatch.setattr(RNGKey, "generator", lambda key, purpose: torch_generator(next(counter)))
    with pytest.raises(AssertionError):
        _assert_invariant(trainer)
