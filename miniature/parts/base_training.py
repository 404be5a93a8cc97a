"""Trains the base by flow matching, on drawings of its own.

A share of the batches are 256 px reference crops, whose features the Ref-adapter reads. A second course learns more
from noisier pictures, where it is decided what a face is made of; meanwhile each token must tell what all of the
picture shows, so that one part of a face knows of the others (as REPA aligns a transformer's tokens with features of
the clean picture, Yu et al., 2025; here it is known what was drawn).

Shapes: N samples, T latent frames, S tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lynx_core.rng import numpy_generator

from ..edition import EDITION
from ..making import CPU, Making
from ..world.labels import LABEL_SIZES
from .base import DIM, RunBlock, build_base, find_base, predict, run_plainly, save_base
from .base_data import EMPTY, EncodedSet, list_drawn_poses
from .muon import Muon, split_weights
from .noisy_latents import label_latent_frames
from .picture_labels import picture_loss, split_reading
from .resumable import (
    count_done_steps,
    my_rank,
    num_ranks,
    read_part,
    run_steps,
    set_cosine_rate,
    take_step,
)
from .text_encoder import embed_tokens

MUON_RATE, ADAM_RATE = 0.02, 2e-3
MEAN_DECAY = 0.998
DROP_TEXT = 0.1
READ_BLOCK = 3
"""After which the tokens tell what the picture shows."""
READ_SORTS = ("images", "clips")
MIN_COMPILED_STEPS = 1000
"""Compiling the blocks takes a minute or two on a CPU, and saves a third of each step."""


@dataclass(frozen=True)
class Course:
    """What a base learns from, by turns, and for how long."""

    name: str
    """Of its file."""
    steps: int
    turns: tuple[str, ...]
    batch_sizes: Mapping[str, int]
    """Of all processes together."""
    rate: float = 1.0
    """Share of the learning rates."""
    shift: float = 3.0
    """Of the timesteps, s t / (1 + (s - 1) t): a larger one means more noise."""
    reading_weight: float = 0.0
    """Of what the tokens must tell."""
    start: Mapping[str, Tensor] | None = None
    """Weights of the base that it continues; None for random ones."""

    def sort_of(self, number: int) -> str:
        """What a step learns from."""
        return self.turns[number % len(self.turns)]


COURSES: tuple[Course, ...] = (
    Course(
        "base",
        6000,
        ("clips", "images", "clips", "images", "crops", "clips", "images", "clips"),
        {"clips": 40, "images": 96, "crops": 8},
    ),
)
"""One after the other, each from the mean of the one before."""
if EDITION.has_duos:
    _SIZES = {"clips": 16, "images": 64, "crops": 8, "duos": 8}
    COURSES = (
        Course(
            "base",
            6000,
            ("clips", "images", "duos", "images", "crops", "clips", "images", "clips"),
            _SIZES,
        ),
        Course(
            "base_structure",
            4800,
            ("clips", "images", "duos", "images", "clips", "images", "crops", "clips"),
            _SIZES,
            rate=0.5,
            shift=5.0,
            reading_weight=0.01,
        ),
    )


def train_base(making: Making, data: EncodedSet, text_encoder: Any) -> bool:
    """Train all courses; whether they are done.

    Args:
        text_encoder: as `open_text_encoder` gives it.
    """
    for before, course in zip((None, *COURSES), COURSES, strict=False):
        if is_course_done(making, course):
            continue
        start = read_mean(making, before) if before else None
        if not train_course(making, data, text_encoder, replace(course, start=start)):
            return False
    return True


def is_base_trained(making: Making) -> bool:
    """Whether `train_base` has no step left."""
    return all(is_course_done(making, course) for course in COURSES)


def is_course_done(making: Making, course: Course) -> bool:
    """Whether `train_course` has no step left."""
    return count_done_steps(making, course.name) == making.count(course.steps)


def read_mean(making: Making, course: Course) -> dict[str, Tensor]:
    """The mean of the weights that a course has come to."""
    return read_part(making.folder / f"{course.name}.pt", "mean")


def export_base(making: Making) -> None:
    """Write the mean of the last course as the file for the host."""
    save_base(read_mean(making, COURSES[-1]), find_base(making))


def train_course(making: Making, data: EncodedSet, text_encoder: Any, course: Course) -> bool:
    """Train one course; whether it is done."""
    base = build_base()
    if course.start is not None:
        base.load_state_dict(course.start)
    base.to(making.device)
    mean = build_base().to(making.device).requires_grad_(False)
    mean.load_state_dict(base.state_dict())
    reader = build_token_reader().to(making.device)
    inside, rest = split_weights(base.blocks)
    rest += [weight for name, weight in base.named_parameters() if not name.startswith("blocks.")]
    parts: dict[str, Any] = {"base": base, "mean": mean}
    if course.reading_weight:
        rest += list(reader.parameters())
        parts["reader"] = reader
    muon, adam = Muon(inside, MUON_RATE), torch.optim.Adam(rest, lr=ADAM_RATE, betas=(0.9, 0.98))
    here = data.to(making.device)
    num_steps = making.count(course.steps)
    is_compiled = making.device == CPU and num_steps >= MIN_COMPILED_STEPS
    run_block = torch.compile(run_plainly, dynamic=False) if is_compiled else run_plainly

    def step(number: int, drawn: FlowDraws) -> Tensor:
        set_cosine_rate(muon, number, num_steps, course.rate * MUON_RATE)
        set_cosine_rate(adam, number, num_steps, course.rate * ADAM_RATE)
        texts = embed_tokens(text_encoder, here.token_ids[drawn.captions, : drawn.num_tokens])
        # One length for all steps, so that a block is compiled once for each turn.
        texts = F.pad(texts, (0, 0, 0, here.token_ids.shape[1] - drawn.num_tokens))
        with making.autocast():
            flow, seen = _flow_loss(base, here, drawn, course.sort_of(number), texts, run_block)
        loss = flow
        if drawn.labels:
            loss = flow + course.reading_weight * reading_loss(reader, seen, drawn.labels)
        take_step(loss, [*base.parameters(), *reader.parameters()], muon, adam, max_norm=1.0)
        share = 1 - min(MEAN_DECAY, (number + 1) / (number + 10))
        with torch.no_grad():
            for slow, fast in zip(mean.parameters(), base.parameters(), strict=True):
                slow.lerp_(fast, share)
        return flow.detach()

    alone = replace(making, num_drawers=0)  # all data is in memory, and what is drawn here is little
    parts |= {"muon": muon, "adam": adam}
    return run_steps(alone, course.name, parts, num_steps, step, partial(draw_flow, data, course))


def build_token_reader() -> nn.Sequential:
    """From a token to all labels of its picture; for training alone."""
    torch.manual_seed(12)
    return nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, sum(LABEL_SIZES.values())))


def reading_loss(reader: nn.Module, seen: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
    """How far each token is from telling what its latent frame shows.

    Args:
        seen: [N, S, D].
        labels: of N T latent frames, by name.
    """
    numbers = reader(seen.float()).flatten(0, 1)
    repeats = len(numbers) // len(labels["pose"])
    return picture_loss(
        split_reading(numbers), {name: each.repeat_interleave(repeats, 0) for name, each in labels.items()}
    )


class FlowDraws(NamedTuple):
    """What is drawn for one step."""

    rows: Any
    """Of the latents, [N]."""
    captions: Any
    """Rows of the token ids, [N]."""
    num_tokens: int
    """Of the longest, and one of padding."""
    times: Any
    """[N], 0 to 1."""
    noise: Any
    """[N, 16, T, H, W]."""
    labels: dict[str, Any]
    """Of N T latent frames; none where nothing is to be told."""


def draw_flow(data: EncodedSet, course: Course, number: int) -> FlowDraws:
    """This process's share of one step."""
    sort = course.sort_of(number)
    rng = numpy_generator(course.name, number, my_rank())
    size = course.batch_sizes[sort] // num_ranks()
    latents = data.latents[sort]
    rows = rng.integers(len(latents), size=size)
    captions = data.captions[sort].numpy()[rows]
    captions = np.where(rng.uniform(size=size) >= DROP_TEXT, captions, EMPTY)
    uniform = rng.uniform(size=size).astype(np.float32)
    times = course.shift * uniform / (1 + (course.shift - 1) * uniform)
    if sort == "crops":  # the reference pass sees them without noise
        times = times * (rng.uniform(size=size) < 0.7)
    noise = rng.standard_normal((size, *latents.shape[1:]), dtype="float32")
    labels = label_rows(sort, rows) if course.reading_weight and sort in READ_SORTS else {}
    return FlowDraws(rows, captions, int(data.lengths.numpy()[captions].max()) + 1, times, noise, labels)


def label_rows(sort: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What the latent frames of some drawings show, [N T, ...] by name."""
    shots, poses = zip(*(list_drawn_poses(sort, int(row)) for row in rows), strict=True)
    return label_latent_frames(shots, poses)


def _flow_loss(
    base: Any, data: EncodedSet, drawn: FlowDraws, sort: str, texts: Tensor, run_block: RunBlock
) -> tuple[Tensor, Tensor]:
    """The loss, and what the tokens are after `READ_BLOCK`."""
    clean = data.latents[sort][drawn.rows].float()
    share = drawn.times.view(-1, 1, 1, 1, 1)
    noisy, lengths = clean.lerp(drawn.noise, share), data.lengths[drawn.captions]
    seen: list[Tensor] = []
    velocity = predict(base, noisy, 1000 * drawn.times, texts, lengths, run_block, seen)
    return F.mse_loss(velocity.float(), drawn.noise - clean), seen[READ_BLOCK]
