"""How well the conditioning recogniser tells held-out people apart, and that it does not see their mark."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..world.draws import FIRST_HELD_OUT_IDENTITY
from ..world.identity import SHARES, change_mark, draw_identity
from .recogniser import READ_CHOICES
from .recogniser_crops import draw_crop

NUM_HELD_OUT = 128
NUM_READ_TRAIN, NUM_READ_TEST = 1500, 500
PROBED = (*READ_CHOICES, "mark_colour", "mark_place")
Embed = Callable[[list[np.ndarray]], Tensor]
"""ID crops [112, 112, 3] uint8 RGB -> unit embeddings [n, 512], as `ArcFaceRecogniser.embed`."""


def score_verification(embed: Embed, photo_px: int = 256, view_px: int = 256) -> dict[str, float]:
    """Two pictures of each held-out person, with other marks, poses, places and lights: who is who?"""
    people = [draw_identity(FIRST_HELD_OUT_IDENTITY + number) for number in range(NUM_HELD_OUT)]
    first = embed([draw_crop(person, 2 * n, photo_px) for n, person in enumerate(people)])
    second = embed([draw_crop(person, 2 * n + 1, view_px) for n, person in enumerate(people)])
    cosines = first @ second.T
    same, rank = cosines.diagonal(), cosines.argmax(1) == torch.arange(NUM_HELD_OUT)
    others = cosines[~torch.eye(NUM_HELD_OUT, dtype=torch.bool)]
    return {
        "top1_of_128": rank.float().mean().item(),
        "cosine_same": same.mean().item(),
        "cosine_same_lowest_tenth": same.quantile(0.1).item(),
        "cosine_other": others.mean().item(),
        "cosine_other_highest_hundredth": others.quantile(0.99).item(),
    }


def score_mark_change(embed: Embed) -> dict[str, float]:
    """The cosine of a picture and itself with another mark."""
    people = [draw_identity(FIRST_HELD_OUT_IDENTITY + number) for number in range(NUM_HELD_OUT)]
    first = embed([draw_crop(person, n, 256, keep_mark=True) for n, person in enumerate(people)])
    marked = [change_mark(person, n) for n, person in enumerate(people)]
    second = embed([draw_crop(person, n, 256, keep_mark=True) for n, person in enumerate(marked)])
    cosines = (first * second).sum(1)
    return {"cosine_other_mark": cosines.mean().item(), "cosine_other_mark_lowest": cosines.min().item()}


def score_factors(embed: Embed) -> dict[str, float]:
    """What a ridge regression reads from embeddings of held-out people: accuracies, and R2 of amounts."""
    begin = FIRST_HELD_OUT_IDENTITY + NUM_HELD_OUT
    people = [draw_identity(begin + number) for number in range(NUM_READ_TRAIN + NUM_READ_TEST)]
    crops = [draw_crop(person, 10**6 + n, 256, keep_mark=True) for n, person in enumerate(people)]
    inputs = torch.cat([embed(crops[n : n + 100]) for n in range(0, len(crops), 100)]).double()
    inputs = torch.cat([inputs * inputs.shape[1] ** 0.5, torch.ones(len(inputs), 1)], 1)
    train, test = inputs[:NUM_READ_TRAIN], inputs[NUM_READ_TRAIN:]
    inverse = torch.linalg.inv(train.T @ train + 30.0 * torch.eye(inputs.shape[1]))
    scores = {}
    for name in PROBED:
        truth = torch.tensor([getattr(person, name) for person in people])
        wanted = torch.nn.functional.one_hot(truth[:NUM_READ_TRAIN]).double()
        read = (test @ (inverse @ (train.T @ (wanted - wanted.mean(0))))) + wanted.mean(0)
        scores[f"read_{name}"] = (read.argmax(1) == truth[NUM_READ_TRAIN:]).double().mean().item()
    for name in SHARES:
        amounts = torch.tensor([getattr(person, name) for person in people]).double()
        mean, held = amounts[:NUM_READ_TRAIN].mean(), amounts[NUM_READ_TRAIN:]
        read = test @ (inverse @ (train.T @ (amounts[:NUM_READ_TRAIN] - mean))) + mean
        scores[f"read_{name}_r2"] = 1 - ((read - held).square().mean() / held.var()).item()
    return scores


def score_recogniser(embed: Embed) -> dict[str, float]:
    """All of the above; names that end in _64px are of crops from pictures as coarse as generated frames."""
    coarse = score_verification(embed, view_px=64)
    return {
        **score_verification(embed),
        **{f"{name}_64px": value for name, value in coarse.items()},
        **score_mark_change(embed),
        **score_factors(embed),
    }
