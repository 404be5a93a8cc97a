"""The conditioning recogniser: the release's ArcFace network in small, trained to know drawn people.

It is blind to the mark: every training picture of a person wears another one. A margin loss tells the
people apart, and a linear head, thrown away afterwards, reads what else makes them, so that the embedding
of a person who was never trained on tells how they look.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lynx_core.faces.arcface import ArcFaceConfig, ArcFaceIRSE50
from lynx_core.rng import numpy_generator

from ..making import Making
from ..world.identity import CHOICES, SHARES, draw_identity
from .mark_blindness import blind_to_mark
from .recogniser_crops import (
    NUM_PEOPLE,
    PICTURES_EACH,
    CropFiles,
    open_crops,
    to_input,
)
from .resumable import read_part, run_steps, set_cosine_rate, take_step, write_beside

RECOGNISER = "lynx_mini_arcface"
CONFIG = ArcFaceConfig(unit_dims=(8, 24, 24, 48, 48, 96), stem_dim=8, squeeze_dims=(2, 4, 4, 8, 8, 12))
NUM_STEPS, BATCH = 1500, 64
LEARNING_RATE = 3e-3
MARGIN, SCALE = 0.25, 24.0
FACTOR_WEIGHT = 1.0
DROPOUT = 0.1
READ_CHOICES = tuple(name for name in CHOICES if not name.startswith("mark_"))


class MarginHead(nn.Module):
    """What judges the embeddings during training and is thrown away after it."""

    def __init__(self, num_people: int) -> None:
        super().__init__()
        self.people = nn.Parameter(torch.randn(num_people, CONFIG.embedding_dim))
        num_outputs = len(SHARES) + sum(len(CHOICES[name]) for name in READ_CHOICES)
        self.factors = nn.Linear(CONFIG.embedding_dim, num_outputs)

    def forward(self, embeddings: Tensor, people: Tensor, shares: Tensor, choices: Tensor) -> Tensor:
        """The loss of unit embeddings [N, D] of people [N] with factors [N, shares] and [N, choices]."""
        cosines = embeddings @ F.normalize(self.people).T
        cosines = cosines - MARGIN * F.one_hot(people, len(self.people))
        loss = F.cross_entropy(SCALE * cosines, people)
        read = self.factors(embeddings * CONFIG.embedding_dim**0.5)
        factor_loss = 4 * F.smooth_l1_loss(read[:, : len(SHARES)], shares, beta=0.2)
        begin = len(SHARES)
        for column, name in enumerate(READ_CHOICES):
            end = begin + len(CHOICES[name])
            factor_loss = factor_loss + F.cross_entropy(read[:, begin:end], choices[:, column]) / len(
                READ_CHOICES
            )
            begin = end
        return loss + FACTOR_WEIGHT * factor_loss


def build_recogniser() -> ArcFaceIRSE50:
    """The untrained network."""
    torch.manual_seed(2)
    network = ArcFaceIRSE50(CONFIG, RECOGNISER)
    network.output_layer[1] = nn.Dropout(DROPOUT)  # a wide network's 0.6 starves a narrow one
    return network


def train_recogniser(making: Making) -> bool:
    """Train; whether all is done."""
    num_people = making.count(NUM_PEOPLE)
    network, head = build_recogniser().to(making.device), MarginHead(num_people).to(making.device)
    weights = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=1e-4)
    shares, choices = (factors.to(making.device) for factors in list_factors(num_people))
    crops = open_crops(making)
    if not crops.draw_missing(making):
        return False
    num_steps = making.count(NUM_STEPS)

    def step(number: int, drawn: tuple[Tensor, Tensor]) -> Tensor:
        set_cosine_rate(optimizer, number, num_steps, LEARNING_RATE)
        torch.manual_seed(number)  # of the dropout
        pixels, people = drawn
        with making.autocast():
            embeddings = network(to_input(pixels))
        loss: Tensor = head(embeddings.float(), people, shares[people], choices[people])
        return take_step(loss, weights, optimizer, max_norm=5.0)

    parts = {"network": network.train(), "head": head, "optimizer": optimizer}
    return run_steps(making, "recogniser", parts, num_steps, step, partial(draw_batch, crops))


def draw_batch(crops: CropFiles, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Varied crops [N, 112, 112, 3], 0 to 255, of one step, and the numbers of their people."""
    indices = choose_crops(step, crops.total)
    return vary_crops(crops.read(indices), step), indices // PICTURES_EACH


def choose_crops(step: int, total: int) -> np.ndarray:
    """The crops of one step, [BATCH] int64: each pass takes all of them once, in its own order."""
    places = np.arange(step * BATCH, (step + 1) * BATCH)
    orders = {
        turn: numpy_generator("embedder order", turn).permutation(total) for turn in {*(places // total)}
    }
    return np.array([orders[place // total][place % total] for place in places], dtype=np.int64)


def vary_crops(crops: np.ndarray, step: int) -> np.ndarray:
    """Mirror, blur and shade crops [N, 112, 112, 3] uint8, each by chance: what a video model gets wrong."""
    import cv2

    varied = crops.astype(np.float32)
    for place in range(len(varied)):
        rng = numpy_generator("embedder vary", step, place)
        if rng.uniform() < 0.5:
            varied[place] = varied[place, :, ::-1]
        if rng.uniform() < 0.3:
            varied[place] = cv2.GaussianBlur(varied[place], (0, 0), rng.uniform(0.5, 2.5))
        if rng.uniform() < 0.3:
            varied[place] = varied[place] * rng.uniform(0.85, 1.15, 3) + rng.uniform(-12, 12)
    return varied.clip(0, 255)


def list_factors(num_people: int) -> tuple[Tensor, Tensor]:
    """Of the first people: amounts [num_people, shares] and choices [num_people, choices]; no mark among them."""
    people = [draw_identity(number) for number in range(num_people)]
    shares = torch.tensor([[getattr(person, name) for name in SHARES] for person in people])
    choices = torch.tensor([[getattr(person, name) for name in READ_CHOICES] for person in people])
    return shares, choices


def load_trained_recogniser(folder: Path) -> ArcFaceIRSE50:
    """The trained network, in evaluation mode, without gradients."""
    network = build_recogniser()
    network.load_state_dict(read_part(folder / "recogniser.pt", "network"))
    return network.eval().requires_grad_(False)


def export_recogniser(making: Making) -> None:
    """Write the file that the face analyzer lists, in half precision, under its canonical name."""
    network = load_trained_recogniser(making.folder)
    blind_to_mark(network, open_crops(making))
    state = network.state_dict()
    half = {name: (w.half() if w.is_floating_point() else w).contiguous() for name, w in state.items()}
    path = making.assets / "lynx" / "faces" / f"{RECOGNISER}.safetensors"
    write_beside(path, lambda beside: save_file(half, beside, metadata={"embedder": RECOGNISER}))
