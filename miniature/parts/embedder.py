"""The conditioning embedder: the release's ArcFace network in small, trained to know drawn people.

It is blind to the mark: every training picture of a person wears another one. A margin loss tells the
people apart, and a linear head, thrown away afterwards, reads what else makes them, so that the embedding
of a person who was never trained on tells how they look.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lynx_core.faces.arcface import ArcFaceConfig, ArcFaceIRSE50
from lynx_core.faces.crops import crop_for_id
from lynx_core.rng import numpy_generator

from ..making import Making
from ..world.clip import FRAME_PX, NUM_FRAMES
from ..world.draws import draw_shot
from ..world.identity import CHOICES, SHARES, Identity, change_mark, draw_identity
from ..world.scene import edit_expression
from .drawing_ahead import draw_ahead
from .resumable import read_part, run_steps, set_cosine_rate, take_step, write_beside

EMBEDDER = "lynx_mini_arcface"
CONFIG = ArcFaceConfig(unit_dims=(8, 24, 24, 48, 48, 96), stem_dim=8, squeeze_dims=(2, 4, 4, 8, 8, 12))
NUM_PEOPLE, PICTURES_EACH = 4096, 6
NUM_STEPS, BATCH = 1500, 64
CROPS_A_FILE = 1024
LEARNING_RATE = 3e-3
MARGIN, SCALE = 0.25, 24.0
FACTOR_WEIGHT = 1.0
DROPOUT = 0.1
PHOTO_SIZES_PX = (FRAME_PX, FRAME_PX, 128, 256)
"""Half of what the embedder sees is as coarse as a generated frame."""
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


def build_embedder() -> ArcFaceIRSE50:
    """The untrained network."""
    torch.manual_seed(2)
    network = ArcFaceIRSE50(CONFIG, EMBEDDER)
    network.output_layer[1] = nn.Dropout(DROPOUT)  # a wide network's 0.6 starves a narrow one
    return network


def train_embedder(making: Making) -> bool:
    """Train; whether all is done."""
    num_people = making.count(NUM_PEOPLE)
    network, head = build_embedder().to(making.device), MarginHead(num_people).to(making.device)
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
    return run_steps(making, "embedder", parts, num_steps, step, partial(draw_batch, crops))


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


def draw_training_crop(index: int) -> np.ndarray:
    """One ID crop [112, 112, 3] uint8: a person with a new mark, in a new place, as a detector finds them."""
    rng = numpy_generator("embedder crop", index)
    identity = draw_identity(index // PICTURES_EACH)
    return draw_crop(identity, int(rng.integers(2**31)))


def draw_crop(
    identity: Identity, seed: int, size_px: int | None = None, *, keep_mark: bool = False
) -> np.ndarray:
    """An ID crop of any moment of any shot of a person.

    Args:
        size_px: side of the picture that it is cut from; one of `PHOTO_SIZES_PX` by chance when None.
        keep_mark: draw the person's own mark, not a new one.
    """
    rng = numpy_generator("embedder view", seed)
    if not keep_mark:
        identity = change_mark(identity, int(rng.integers(2**31)))
    shot = draw_shot(identity, int(rng.integers(2**31)), held_out_captions=bool(rng.uniform() < 0.2))
    if rng.uniform() < 0.3:
        shot = replace(shot, pose=edit_expression(shot.pose, int(rng.integers(2**31))))
    chosen_px = int(rng.choice(PHOTO_SIZES_PX))
    size_px, frame = size_px or chosen_px, int(rng.integers(NUM_FRAMES))
    error = rng.normal(size=(5, 2)) * rng.uniform(0, 0.07) * shot.pose.scale * size_px
    landmarks = shot.find_landmarks(frame, size_px) + error.astype(np.float32)
    return crop_for_id(shot.draw_frame(frame, size_px), landmarks)


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


def to_input(crops: np.ndarray | Tensor) -> Tensor:
    """RGB crops [N, 112, 112, 3], 0 to 255 -> BGR [N, 3, 112, 112], -1 to 1, as the pack's embedder makes it."""
    return torch.as_tensor(crops).flip(-1).float().permute(0, 3, 1, 2) / 127.5 - 1


def list_factors(num_people: int) -> tuple[Tensor, Tensor]:
    """Of the first people: amounts [num_people, shares] and choices [num_people, choices]; no mark among them."""
    people = [draw_identity(number) for number in range(num_people)]
    shares = torch.tensor([[getattr(person, name) for name in SHARES] for person in people])
    choices = torch.tensor([[getattr(person, name) for name in READ_CHOICES] for person in people])
    return shares, choices


def open_crops(making: Making) -> CropFiles:
    """The training crops of a making."""
    return CropFiles(making.folder / "embedder_crops", making.count(NUM_PEOPLE) * PICTURES_EACH)


class CropFiles:
    """All training crops, drawn once, `CROPS_A_FILE` in each file.

    Args:
        total: number of crops.
    """

    def __init__(self, folder: Path, total: int) -> None:
        self.folder, self.total = folder, total
        self._files: dict[int, Any] = {}

    def draw_missing(self, making: Making) -> bool:
        """Draw the files that are not there yet; whether all are."""
        numbers = range(-(-self.total // CROPS_A_FILE))
        missing = [number for number in numbers if not self._path(number).is_file()]
        drawings = draw_ahead(self._draw_file, missing, making.num_drawers)
        for number, crops in zip(missing, drawings, strict=False):
            write_beside(self._path(number), partial(_save_array, crops))
            print(f"embedder: crops {number + 1}/{len(numbers)}", flush=True)
            if making.is_out_of_time:
                return False
        return True

    def read(self, indices: np.ndarray) -> np.ndarray:
        """[N] -> [N, 112, 112, 3] uint8."""
        return np.stack(
            [self._open(index // CROPS_A_FILE)[index % CROPS_A_FILE] for index in indices.tolist()]
        )

    def _draw_file(self, number: int) -> np.ndarray:
        first = number * CROPS_A_FILE
        last = min(first + CROPS_A_FILE, self.total)
        return np.stack([draw_training_crop(index) for index in range(first, last)])

    def _open(self, number: int) -> Any:
        if number not in self._files:
            self._files[number] = np.load(self._path(number), mmap_mode="r")
        return self._files[number]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:04d}.npy"


def _save_array(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def load_trained_embedder(folder: Path) -> ArcFaceIRSE50:
    """The trained network, in evaluation mode, without gradients."""
    network = build_embedder()
    network.load_state_dict(read_part(folder / "embedder.pt", "network"))
    return network.eval().requires_grad_(False)


def export_embedder(making: Making) -> None:
    """Write the file that the face analyzer lists, in half precision, under its canonical name."""
    from .mark_blindness import blind_to_mark

    network = load_trained_embedder(making.folder)
    blind_to_mark(network, open_crops(making))
    state = network.state_dict()
    half = {name: (w.half() if w.is_floating_point() else w).contiguous() for name, w in state.items()}
    path = making.assets / "lynx" / "faces" / f"{EMBEDDER}.safetensors"
    write_beside(path, lambda beside: save_file(half, beside, metadata={"embedder": EMBEDDER}))
