"""Trains the readers, and measures them on people they never saw.

    python -m miniature.experiment.reader_training

Every batch is drawn anew. What they are for is generated frames, which went through the VAE, so pictures are
blurred, tinted and made noisy, and in the last steps half of them went through the trained VAE.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lynx_core.durable_file import write_durably
from lynx_core.rng import numpy_generator

from ..making import Making
from ..parts.drawing_ahead import send_drawn
from ..parts.picture_labels import LabelWeights, picture_loss
from ..parts.pixel_signal import to_signal
from ..parts.resumable import run_steps, save_arrays, set_cosine_rate, take_step, write_beside
from ..parts.vae import open_vae
from ..world.clip import FRAME_PX, NUM_FRAMES, Shot
from ..world.draws import FIRST_HELD_OUT_IDENTITY, draw_shot
from ..world.identity import CHOICES, SHARES, Identity, draw_identity
from ..world.labels import POSE_NAMES, label_picture, pose_numbers, stack_labels
from .readers import WEIGHTS_NAME, ActionReader, Readers, load_readers, save_readers
from .sampling import reconstruct

FIRST_IDENTITY = 500_000
"""The readers' own people: no other part trains on them."""
DRAWN_STEPS = 2800
MIXED_STEPS = {64: 550, 128: 4200}[FRAME_PX]
LABEL_WEIGHTS = {64: LabelWeights(), 128: LabelWeights(shares=30.0, pose=4.0)}[FRAME_PX]
"""With the lighter ones, a smile at 128 px is not read in one of 14 clips."""
PEOPLE, VIEWS = 24, 2
"""Of one batch for identity; pictures of the other reader are as many."""
SIBLING_CHANGE = 0.3
"""Share of factors in which every second person differs from the one before, so that each factor counts."""
MARGIN, SCALE = 0.2, 20.0
LEARNING_RATE = 2e-3
VAE_PEOPLE = 1024
"""People whose pictures go through the VAE, two each."""
ACTION_STEPS, ACTION_BATCH = 800, 64
SCORED_PEOPLE = 128


def train_readers(making: Making) -> bool:
    """Train all three; whether all is done. The last steps wait for the trained VAE."""
    torch.manual_seed(7)
    readers: Any = Readers()
    readers.to(making.device, memory_format=torch.channels_last)
    trained = nn.ModuleList([readers.identity, readers.picture])
    optimizer = torch.optim.AdamW(trained.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    num_drawn = making.count(DRAWN_STEPS)
    total = num_drawn + making.count(MIXED_STEPS)

    def step(number: int, drawn: Batch) -> Tensor:
        set_cosine_rate(optimizer, number, total, LEARNING_RATE)
        pixels = _disturb(to_signal(drawn.pictures), number)
        with making.autocast():
            embeddings, read = readers.identity(pixels), readers.picture(pixels)
        loss = identity_loss(embeddings.float()) + picture_loss(read, drawn.labels, LABEL_WEIGHTS)
        return take_step(loss, trained.parameters(), optimizer)

    parts = {"readers": readers, "optimizer": optimizer}
    if not run_steps(making, "readers", parts, num_drawn, step, draw_batch):
        return False
    if not (making.folder / "vae").is_dir():
        return False
    decoded = _load_vae_pictures(making)
    if not run_steps(making, "readers", parts, total, step, partial(draw_mixed_batch, decoded)):
        return False
    readers.eval().requires_grad_(False)
    readers.action = _train_action(readers, making)
    save_readers(readers.cpu(), making.folder / WEIGHTS_NAME)
    return True


def export_readers(making: Making) -> None:
    """Copy the trained readers to the files that ship, and write their scores beside the work."""
    weights = (making.folder / WEIGHTS_NAME).read_bytes()
    write_durably(making.assets / WEIGHTS_NAME, weights)
    score_readers(making)


def draw_people(first: int, count: int) -> list[Identity]:
    """People by number; every second is a sibling of the one before."""
    people: list[Identity] = []
    for number in range(first, first + count):
        identity = draw_identity(number)
        if number % 2:
            rng = numpy_generator("sibling", number)
            names = [name for name in (*SHARES, *CHOICES) if rng.uniform() > SIBLING_CHANGE]
            identity = replace(identity, **{name: getattr(people[-1], name) for name in names})
        people.append(identity)
    return people


class Batch(NamedTuple):
    """Pictures with what is in them: arrays when drawn, tensors in a step."""

    pictures: Any
    """[N, H, W, 3] uint8, the views of one person in a row."""
    labels: dict[str, Any]


def draw_batch(step: int) -> Batch:
    """Pictures of new people."""
    people = draw_people(FIRST_IDENTITY + step * PEOPLE % 400_000, PEOPLE)
    return _draw_pictures([p for p in people for _ in range(VIEWS)], step * PEOPLE * VIEWS)


def draw_mixed_batch(decoded: Batch, step: int) -> Batch:
    """By turns new people, and families of siblings among those that went through the VAE."""
    if step % 2 == 0:
        return draw_batch(step)
    rng = numpy_generator("vae batch", step)
    family = 2 * VIEWS
    families = rng.choice(len(decoded.pictures) // family, PEOPLE // 2, replace=False)
    rows = (families[:, None] * family + np.arange(family)).ravel()
    return Batch(decoded.pictures[rows], {name: value[rows] for name, value in decoded.labels.items()})


def _draw_pictures(people: list[Identity], first_seed: int) -> Batch:
    pictures, labels = [], []
    for number, identity in enumerate(people, first_seed):
        rng = numpy_generator("reader picture", number)
        shot, frame = draw_shot(identity, int(rng.integers(2**31))), int(rng.integers(NUM_FRAMES))
        pictures.append(shot.draw_frame(frame))
        labels.append(label_picture(identity, shot.scene, shot.pose_at(frame)))
    return Batch(np.stack(pictures), stack_labels(labels))


def identity_loss(embeddings: Tensor) -> Tensor:
    """Find the other view of each person among all pictures, with a margin. [N, 128], views in a row."""
    count = len(embeddings)
    other = torch.arange(count, device=embeddings.device) ^ 1
    cosines = embeddings @ embeddings.T
    cosines = cosines - MARGIN * F.one_hot(other, count)
    cosines = cosines - 1e4 * torch.eye(count, device=embeddings.device)
    return F.cross_entropy(SCALE * cosines, other)


def _disturb(pixels: Tensor, seed: int) -> Tensor:
    """Tint, blur and noise, each picture by its own draw."""
    generator = torch.Generator().manual_seed(seed)
    count, device = len(pixels), pixels.device

    def draw(*shape: int, normal: bool = False) -> Tensor:
        return (torch.randn if normal else torch.rand)(shape, generator=generator).to(device)

    pixels = pixels * (1 + 0.08 * (draw(count, 3, 1, 1) - 0.5) * 2)
    pixels = pixels + 0.06 * draw(count, 3, 1, 1, normal=True)
    sigma = 0.15 + 0.85 * draw(count, 1)
    kernel = torch.exp(-0.5 * (torch.arange(-2, 3, device=device)[None] / sigma) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    padded = F.pad(pixels, (2, 2, 2, 2), mode="replicate")
    wide, high = pixels.shape[-1], pixels.shape[-2]
    taps = kernel.T[..., None, None, None]
    rows: Any = sum(taps[i] * padded[..., i : i + wide] for i in range(5))
    blurred: Any = sum(taps[i] * rows[..., i : i + high, :] for i in range(5))
    noise = draw(*pixels.shape, normal=True) * 0.08 * draw(count, 1, 1, 1)
    return (blurred + noise).contiguous(memory_format=torch.channels_last)


def _load_vae_pictures(making: Making) -> Batch:
    """Pictures that went through the VAE, made once."""
    path = making.folder / "reader_vae_pictures.npz"
    if not path.is_file():
        people = draw_people(FIRST_IDENTITY + 400_000, making.count(VAE_PEOPLE, least=PEOPLE))
        pictures, labels = _draw_pictures([p for p in people for _ in range(VIEWS)], 10**9)
        arrays = {
            **labels,
            "pictures": reconstruct(
                open_vae(making.folder).to(making.device), pictures[:, None], batch_size=64
            )[:, 0],
        }
        write_beside(path, lambda beside: save_arrays(beside, arrays))
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return Batch(arrays.pop("pictures"), arrays)


def _train_action(readers: Readers, making: Making) -> ActionReader:
    """Train on the true poses of drawn clips, with the errors that the other reader makes."""
    torch.manual_seed(8)
    reader = ActionReader().to(making.device)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-3)
    pictures, labels = send_drawn(draw_batch(10**6), making.device)
    errors = (readers.picture(to_signal(pictures))["pose"] - labels["pose"]).std(0)
    num_steps = making.count(ACTION_STEPS)

    def step(number: int, drawn: tuple[Tensor, Tensor]) -> Tensor:
        set_cosine_rate(optimizer, number, num_steps, 2e-3)
        poses, actions = drawn
        generator = torch.Generator().manual_seed(number)
        for shape in (poses.shape, (len(poses), 1, len(POSE_NAMES))):  # of each frame, and of the whole clip
            poses = poses + errors * torch.randn(shape, generator=generator).to(making.device)
        return take_step(F.cross_entropy(reader(poses), actions), reader.parameters(), optimizer)

    parts = {"reader": reader, "optimizer": optimizer}
    to_the_end = replace(making, stop_at=None)  # a matter of seconds
    run_steps(to_the_end, "reader_action", parts, num_steps, step, draw_pose_paths)
    return reader.eval().requires_grad_(False)


def draw_pose_paths(step: int) -> tuple[np.ndarray, np.ndarray]:
    """True poses [64, T, 6] and actions [64] of one step."""
    shots = [draw_shot(draw_identity(0), step * ACTION_BATCH + i) for i in range(ACTION_BATCH)]
    return np.stack([_pose_path(shot) for shot in shots]), np.array([shot.action for shot in shots])


def _pose_path(shot: Shot) -> np.ndarray:
    return np.stack([pose_numbers(shot.pose_at(frame)) for frame in range(NUM_FRAMES)])


def score_readers(making: Making) -> dict[str, dict[str, float]]:
    """Scores on held-out people, on drawn clips and on clips that went through the VAE."""
    readers = load_readers(making.folder / WEIGHTS_NAME)
    numbers = range(making.count(SCORED_PEOPLE, least=8))
    people = [draw_identity(FIRST_HELD_OUT_IDENTITY + number) for number in numbers]
    shots = [draw_shot(p, 3 * 10**8 + i, held_out_captions=True) for i, p in enumerate(people)]
    clips = np.stack([shot.draw_clip() for shot in shots])
    gallery = np.stack([draw_shot(p, 4 * 10**8 + i).draw_frame(0) for i, p in enumerate(people)])
    scores = {"drawn": _score_clips(readers, shots, clips, gallery)}
    decoded = reconstruct(open_vae(making.folder).to(making.device), clips)
    scores["through the VAE"] = _score_clips(readers, shots, decoded, gallery)
    text = json.dumps(scores, indent=1)
    write_durably(making.folder / "scores_readers.json", (text + "\n").encode())
    return scores


def _score_clips(
    readers: Readers, shots: list[Shot], clips: np.ndarray, gallery: np.ndarray
) -> dict[str, float]:
    read = readers.read_clips(clips)
    cosines = read.embedding @ readers.embed(gallery).T
    poses = np.stack([_pose_path(shot) for shot in shots])
    scores = {
        "top1 of 128": (cosines.argmax(1) == np.arange(len(shots))).mean(),
        "cosine, same person": np.diag(cosines).mean(),
        "cosine, others": cosines[~np.eye(len(cosines), dtype=bool)].mean(),
        "background accuracy": (read.background == [shot.scene.background for shot in shots]).mean(),
        "action accuracy": (read.action == [shot.action for shot in shots]).mean(),
    }
    for i, name in enumerate(POSE_NAMES):
        scores[f"{name} R2"] = _r2(read.poses[..., i].ravel(), poses[..., i].ravel())
    for name in SHARES:
        scores[f"{name} R2"] = _r2(read.factors[name], np.array([getattr(s.identity, name) for s in shots]))
    for name in CHOICES:
        scores[f"{name} accuracy"] = np.mean(read.factors[name] == [getattr(s.identity, name) for s in shots])
    return {name: round(float(value), 4) for name, value in scores.items()}


def _r2(read: np.ndarray, true: np.ndarray) -> float:
    return 1 - np.mean((read - true) ** 2) / np.var(true)


def main() -> int:
    """Train as far as the parts at hand allow; 0 when all is done, 3 while the VAE is not trained."""
    torch.set_num_threads(1)
    making = Making()
    if not train_readers(making):
        print("the rest waits for the trained VAE: python -m miniature.make, then this command again")
        return 3
    print(json.dumps(score_readers(making), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
