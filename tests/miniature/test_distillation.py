"""The distilled LoRA: learned along the teacher's steps, and the same in the host."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from in_process import InProcessComfy
from torch import nn

from lynx_core.formats.base_file import load_transformer
from miniature import distillation
from miniature.distillation import (
    STEPS,
    TEACHER,
    PromptedBase,
    Trajectories,
    encode_captions,
    list_sigmas,
    measure_distance,
    sample_teacher,
    train,
)
from miniature.making import Making
from miniature.parts.low_rank import add_low_rank, save_low_rank

CAPTION = "a person nods in a room"
NUM_STEPS = 20
LORA_NAME = "distilled.safetensors"


@pytest.fixture(scope="module")
def making(tmp_path_factory: pytest.TempPathFactory) -> Making:
    """A folder of its own, with the shipped files."""
    root = tmp_path_factory.mktemp("distillation")
    (root / "assets").symlink_to(Making().assets.parent)
    return Making(root)


@pytest.fixture(scope="module")
def mini(comfy: InProcessComfy) -> tuple[Any, ...]:
    """Mini Lynx in the host, at the shift that the teacher samples with."""
    model, clip, *_ = comfy.run("LynxLoadMini")
    return comfy.run("ModelSamplingSD3", model=model, shift=TEACHER.shift)[0], clip


@pytest.mark.parametrize("num_steps", [STEPS, TEACHER.steps])
def test_the_sigmas_are_the_hosts(mini: tuple[Any, ...], num_steps: int) -> None:
    import comfy.samplers

    model_sampling = mini[0].get_model_object("model_sampling")
    found = comfy.samplers.calculate_sigmas(model_sampling, "simple", num_steps)
    torch.testing.assert_close(found, torch.tensor(list_sigmas(num_steps)), atol=1e-6, rtol=0)


def test_the_host_loads_every_key_and_samples_what_the_student_does(
    comfy: InProcessComfy,
    mini: tuple[Any, ...],
    making: Making,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Random updates, at the sigmas and in the layout that a distilled LoRA is made with."""
    monkeypatch.setattr(Making, "autocast", lambda _: nullcontext())  # the host computes in float32
    model, clip = mini
    shipped = making.assets / "diffusion_models" / "lynx_mini_wan_t2v.safetensors"
    base = load_transformer(shipped, torch.float32)
    linear = [name for name, layer in base.blocks.named_modules() if isinstance(layer, nn.Linear)]
    student = PromptedBase(base, making, *encode_captions(making, making.folder / "texts", ["", CAPTION]))
    noise = torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    row = torch.tensor([1])
    plain = student.sample(noise, row, STEPS)[-1]
    updates = add_low_rank(base, 4)
    for update in updates:
        nn.init.normal_(update.lora_up.weight, std=0.6)
    expected = student.sample(noise, row, STEPS)[-1]
    save_low_rank(updates, comfy.base_dir / "models" / "loras" / LORA_NAME)

    with caplog.at_level(logging.WARNING):
        (patched,) = comfy.run("LoraLoaderModelOnly", model=model, lora_name=LORA_NAME)
    assert not [line for line in caplog.messages if "not loaded" in line.lower()]
    assert len(patched.patches) == len(linear) == 50, "every linear layer of every block"
    (prompt,) = comfy.run("CLIPTextEncode", clip=clip, text=CAPTION)
    found = sample_in_host(patched, prompt, noise)
    change = (expected - plain).norm()
    assert change > 0.3 * plain.norm()
    assert (found - expected).norm() < 0.05 * change
    assert (sample_in_host(model, prompt, noise) - plain).norm() < 0.05 * change, "the LoRA is out again"


def sample_in_host(model: Any, prompt: Any, noise: torch.Tensor) -> torch.Tensor:
    """Euler steps at cfg 1 from this noise, in model space."""
    import comfy.sample

    latent = torch.zeros_like(noise)
    with torch.inference_mode():
        sampled = comfy.sample.sample(
            model, noise, STEPS, 1.0, "euler", "simple", prompt, prompt, latent, disable_pbar=True, seed=0
        )
    latents: torch.Tensor = model.model.process_latent_in(sampled)
    return latents


def test_it_learns_to_go_the_teachers_way(making: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the trajectories that it learns from; stopped on the way, as the sampling before it."""
    for name, value in {"SHARD": 2, "BATCH": 4}.items():
        monkeypatch.setattr(distillation, name, value)
    shipped = making.assets / "diffusion_models" / "lynx_mini_wan_t2v.safetensors"
    base = load_transformer(shipped, torch.float32)
    folder, captions = making.folder / "few", torch.tensor([1, 2, 1])
    teacher = PromptedBase(base, making, *encode_captions(making, folder, ["", CAPTION, "someone smiles"]))
    stopped = replace(teacher, making=replace(making, stop_at=time.monotonic()))
    assert sample_teacher(stopped, folder, captions) is None
    states = sample_teacher(teacher, folder, captions)
    assert states is not None and states.shape == (3, STEPS + 1, 16, 3, 8, 8)
    assert torch.equal(states, sample_teacher(teacher, folder, captions)), "read from the files"
    learned = Trajectories(states, captions)
    before = measure_distance(teacher, learned)
    updates = add_low_rank(base, 8)
    assert not train(stopped, updates, learned, "few", NUM_STEPS)
    assert train(teacher, updates, learned, "few", NUM_STEPS)
    after = measure_distance(teacher, learned)
    print(f"distance {before:.3f}, after {NUM_STEPS} steps {after:.3f}")
    assert after < 0.8 * before
