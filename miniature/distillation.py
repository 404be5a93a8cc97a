"""Distils the miniature's base into few steps at cfg 1, as a LoRA: python -m miniature.distillation OUT.safetensors

Trajectory distillation: the base samples videos in 20 Euler steps with prompt guidance, and the LoRA learns to go
from each fifth of their states straight to the next, in one prediction. So 4 Euler steps at cfg 1 follow 40 predictions.
The base is distilled alone and knows nothing of Lynx, as with the published LoRAs of lightx2v and CausVid. These match
distributions, and may surpass their teacher; this one learns nothing that its teacher does not do.

Captions are training's, noise is its own. Stop it at any moment; the same command continues.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lynx_core.formats.base_file import load_transformer
from lynx_core.hashing import hash_file, hash_values
from lynx_core.rng import numpy_generator
from lynx_core.training.flow_matching import TIMESTEP_SCALE

from .encoders import unpack_encoders
from .experiment.sampling import LATENT_SHAPE, SamplingSettings
from .making import Making
from .parts.base import predict
from .parts.low_rank import add_low_rank, save_low_rank
from .parts.resumable import run_steps, set_cosine_rate, take_step, write_beside
from .parts.text_encoder import encode_texts
from .world.caption import is_held_out, list_captions

TEACHER = SamplingSettings()
STEPS = 4
"""Of the student."""
RANK, RATE, BATCH = 32, 1e-3, 40
TRAJECTORIES, TRAINING_STEPS = 800, 1200
NUM_CHECKED = 50
"""Trajectories that no step learns from, the first."""
SHARD = 50
"""Trajectories of a file."""


@dataclass(frozen=True)
class Trajectories:
    """What the teacher sampled."""

    states: Tensor
    """At each of the student's sigmas, [N, STEPS + 1, 16, 3, 8, 8]; the last is clean."""
    captions: Tensor
    """Rows of the texts, [N]."""


@dataclass(frozen=True)
class PromptedBase:
    """A base, and what it is asked for."""

    base: Any
    making: Making
    texts: Tensor
    """[captions, longest + 1, 4096] float16, zeros from `lengths` on; row 0 is the empty prompt."""
    lengths: Tensor

    def predict(self, x: Tensor, sigmas: float | Tensor, captions: Tensor) -> Tensor:
        """Velocities [N, 16, 3, 8, 8] float32, at one sigma or [N]."""
        times = TIMESTEP_SCALE * torch.as_tensor(sigmas, device=x.device).expand(len(x))
        lengths = self.lengths[captions]
        texts = self.texts[captions, : int(lengths.max()) + 1]
        with self.making.autocast():
            return predict(self.base, x, times, texts, lengths).float()

    @torch.no_grad()
    def sample(self, x: Tensor, captions: Tensor, num_steps: int, guidance: float = 1.0) -> list[Tensor]:
        """Take Euler steps from noise; what each begins with, and the clean latents."""
        states, is_guided = [x], guidance != 1
        rows = torch.cat([captions, torch.zeros_like(captions)]) if is_guided else captions
        for sigma, after in pairwise(list_sigmas(num_steps)):
            velocity = self.predict(x.repeat(1 + is_guided, 1, 1, 1, 1), sigma, rows)
            if is_guided:
                wanted, empty = velocity.chunk(2)
                velocity = empty + guidance * (wanted - empty)
            x = x + (after - sigma) * velocity
            states.append(x)
        return states


def list_sigmas(num_steps: int) -> list[float]:
    """Those that the host's scheduler `simple` visits, from 1 to 0."""
    return replace(TEACHER, steps=num_steps).sigmas


def distil(making: Making, num_trajectories: int, num_steps: int) -> nn.ModuleList | None:
    """Sample the teacher and train the LoRA; None when time ran out first."""
    path = making.assets / "diffusion_models" / "lynx_mini_wan_t2v.safetensors"
    key = hash_values([hash_file(path), TEACHER.steps, TEACHER.guidance, TEACHER.shift, STEPS, SHARD])[:8]
    folder = making.folder / f"distillation-{key}"
    captions = [draw_start(number)[0] for number in range(NUM_CHECKED + num_trajectories)]
    named, rows = np.unique(captions, return_inverse=True)
    base = load_transformer(path, torch.float32).to(making.device)
    teacher = PromptedBase(base, making, *encode_captions(making, folder, ["", *named]))
    states = sample_teacher(teacher, folder, torch.from_numpy(rows + 1).to(making.device))
    if states is None:
        return None
    found = Trajectories(states, torch.from_numpy(rows + 1).to(making.device))
    checked, learned = split(found, NUM_CHECKED)
    student = replace(teacher, base=copy.deepcopy(base))
    updates = add_low_rank(student.base, RANK).to(making.device)
    if not train(student, updates, learned, f"{folder.name}/lora-{num_trajectories}-{num_steps}", num_steps):
        return None
    print(
        f"from the teacher's videos, as a share of their spread: {measure_distance(student, checked):.3f}; the base "
        f"in as many predictions {measure_distance(teacher, checked):.3f}, "
        f"in twice as many with guidance {measure_distance(teacher, checked, TEACHER.guidance):.3f}",
        flush=True,
    )
    return updates


def draw_start(number: int) -> tuple[str, np.ndarray]:
    """Caption and noise [16, 3, 8, 8] of a trajectory."""
    captions = _list_training_captions()
    rng = numpy_generator("distillation", number)
    return captions[rng.integers(len(captions))], rng.standard_normal(LATENT_SHAPE, dtype="float32")


@cache
def _list_training_captions() -> list[str]:
    return [text for text, asked in list_captions() if not is_held_out(asked.background, asked.action)]


def encode_captions(making: Making, folder: Path, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Texts and lengths of `PromptedBase`."""
    if not (folder / "tokenizer").is_dir():
        unpack_encoders(making.assets, folder)
    texts, lengths = encode_texts(folder, captions)
    return texts.to(making.device), lengths.to(making.device)


def sample_teacher(teacher: PromptedBase, folder: Path, captions: Tensor) -> Tensor | None:
    """States of all trajectories, sampled now or before in files of `SHARD`; None when time ran out first."""
    found, begun = [], time.monotonic()
    for first in range(0, len(captions), SHARD):
        path = folder / f"trajectories-{first // SHARD:03d}.safetensors"
        numbers = range(first, min(first + SHARD, len(captions)))
        states = load_file(path)["states"] if path.is_file() else torch.zeros(0)
        if len(states) < len(numbers):
            if teacher.making.is_out_of_time:
                return None
            noise = np.stack([draw_start(number)[1] for number in numbers])
            x = torch.from_numpy(noise).to(teacher.making.device)
            visited = teacher.sample(x, captions[first : numbers.stop], TEACHER.steps, TEACHER.guidance)
            states = torch.stack(visited[:: TEACHER.steps // STEPS], 1).cpu()
            write_beside(path, partial(save_file, {"states": states}))
            print(f"teacher: {numbers.stop} videos, {time.monotonic() - begun:.0f} s", flush=True)
        found.append(states[: len(numbers)])
    return torch.cat(found).to(teacher.making.device)


def split(trajectories: Trajectories, count: int) -> tuple[Trajectories, Trajectories]:
    """The first and the rest."""
    states, captions = trajectories.states, trajectories.captions
    return Trajectories(states[:count], captions[:count]), Trajectories(states[count:], captions[count:])


class DistillationDraws(NamedTuple):
    """What is drawn for one step."""

    rows: Any
    """Of the trajectories, [BATCH]."""
    places: Any
    """Of the states to go on from, [BATCH]."""


def draw_states(num_trajectories: int, number: int) -> DistillationDraws:
    """Choose the states of one step."""
    rng = numpy_generator("distillation step", number)
    return DistillationDraws(rng.integers(num_trajectories, size=BATCH), rng.integers(STEPS, size=BATCH))


def train(
    student: PromptedBase, updates: nn.ModuleList, learned: Trajectories, name: str, num_steps: int
) -> bool:
    """Train the updates on the student's base; whether it is done."""
    adam = torch.optim.Adam(updates.parameters(), lr=RATE, betas=(0.9, 0.98))
    sigmas = torch.tensor(list_sigmas(STEPS), device=student.making.device)

    def step(number: int, drawn: DistillationDraws) -> Tensor:
        set_cosine_rate(adam, number, num_steps, RATE, warmup_steps=max(num_steps // 12, 1))
        rows, places = drawn
        x, after = learned.states[rows, places], learned.states[rows, places + 1]
        velocity = student.predict(x, sigmas[places], learned.captions[rows])
        width = (sigmas[places + 1] - sigmas[places]).view(-1, 1, 1, 1, 1)
        loss = F.mse_loss(velocity, (after - x) / width)
        return take_step(loss, updates.parameters(), adam, max_norm=1.0)

    draw = partial(draw_states, len(learned.captions))
    return run_steps(student.making, name, {"updates": updates, "adam": adam}, num_steps, step, draw)


def measure_distance(student: PromptedBase, checked: Trajectories, guidance: float = 1.0) -> float:
    """How far the student's steps end from the teacher's videos, as a share of what these differ from their mean."""
    end = checked.states[:, -1]
    found = student.sample(checked.states[:, 0], checked.captions, STEPS, guidance)[-1]
    return float((found - end).norm() / (end - end.mean(0)).norm())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m miniature.distillation", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument("out", type=Path, help="the LoRA to write")
    parser.add_argument(
        "--trajectories", type=int, default=TRAJECTORIES, help=f"to learn from (default: {TRAJECTORIES})"
    )
    parser.add_argument(
        "--steps", type=int, default=TRAINING_STEPS, help=f"of training (default: {TRAINING_STEPS})"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    updates = distil(Making(), arguments.trajectories, arguments.steps)
    if updates is not None:
        save_low_rank(updates, arguments.out)


if __name__ == "__main__":
    main()
