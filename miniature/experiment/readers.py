"""Networks that read pictures, so that videos can be judged without looking at them.

They are trained on drawn pictures alone, and share no weights, architecture or seed with the recogniser that
conditions the adapter. `IdentityReader` says how alike two people are, `PictureReader` names every factor of the
person, the place and the pose, `ActionReader` names the action from the poses of a clip.

Letters: N pictures, K clips, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..parts.picture_labels import split_reading
from ..parts.pixel_signal import to_signal
from ..parts.resumable import write_beside
from ..world.clip import FRAME_PX, NUM_FRAMES
from ..world.identity import CHOICES, SHARES
from ..world.labels import LABEL_SIZES, POSE_NAMES
from ..world.scene import ACTIONS

EMBEDDING_DIM = 128
WEIGHTS_NAME = "readers.safetensors"
_WIDTHS = {64: (24, 64, 96, 128), 128: (16, 32, 64, 96, 128)}[FRAME_PX]
_READ_BATCH = 256


def _trunk(out_dim: int) -> nn.Sequential:
    """Plain convolutions, [N, 3, H, W] -> [N, out_dim]."""
    before = _WIDTHS[0]
    layers: list[nn.Module] = [nn.Conv2d(3, before, 5, 2, 2, bias=False), nn.BatchNorm2d(before), nn.ReLU()]
    for width in _WIDTHS[1:]:
        layers += [nn.Conv2d(before, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    cells = (FRAME_PX // 2 ** len(_WIDTHS)) ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * cells, out_dim))


class IdentityReader(nn.Module):
    """Who somebody is, marks included."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = _trunk(EMBEDDING_DIM)

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, 3, H, W], -1 to 1 -> [N, 128], each of length 1."""
        return F.normalize(self.trunk(pixels), dim=1)


class PictureReader(nn.Module):
    """Every factor of the person, the background, and the pose."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = _trunk(EMBEDDING_DIM)
        self.norm = nn.BatchNorm1d(EMBEDDING_DIM)
        self.head = nn.Linear(EMBEDDING_DIM, sum(LABEL_SIZES.values()))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """[N, 3, H, W], -1 to 1 -> logits of each choice and the background; shares; the pose in spreads."""
        return split_reading(self.head(F.relu(self.norm(self.trunk(pixels)))))


class ActionReader(nn.Module):
    """The action, from the pose read in every frame."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * NUM_FRAMES * len(POSE_NAMES), 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, len(ACTIONS)),
        )

    def forward(self, poses: Tensor) -> Tensor:
        """[K, T, 6] in spreads -> logits [K, 6]."""
        steps = poses - poses[:, :1]
        return self.layers(torch.cat([poses, 4 * steps], 1).flatten(1))


Rows = dict[str, np.ndarray]
"""What was read in each video, by name, [cases, ...]."""


@dataclass(frozen=True)
class Reading:
    """What was read in the frames of one or more clips."""

    embedding: np.ndarray
    """[K, 128], each of length 1: the mean over the frames."""
    factors: dict[str, np.ndarray]
    """By name, [K]: an amount for each of `SHARES`, a position for each of `CHOICES`."""
    background: np.ndarray
    """[K] positions."""
    action: np.ndarray
    """[K] positions."""
    poses: np.ndarray
    """[K, T, 6] in spreads."""
    frame_embeddings: np.ndarray
    """[K, T, 128], each of length 1."""


class Readers(nn.Module):
    """All three, for use."""

    def __init__(self) -> None:
        super().__init__()
        self.identity = IdentityReader()
        self.picture = PictureReader()
        self.action = ActionReader()

    @torch.no_grad()
    def embed(self, pictures: np.ndarray) -> np.ndarray:
        """[N, H, W, 3] uint8 RGB -> [N, 128], each of length 1."""
        return torch.cat([self.identity(part) for part in _to_signal(pictures).split(_READ_BATCH)]).numpy()

    @torch.no_grad()
    def read_clips(self, clips: np.ndarray) -> Reading:
        """[K, T, H, W, 3] uint8 RGB -> what is in them; logits are averaged over the frames."""
        count, frames = clips.shape[:2]
        flat = clips.reshape(-1, *clips.shape[2:])
        parts = [self.picture(part) for part in _to_signal(flat).split(_READ_BATCH)]
        read = {
            name: torch.cat([part[name] for part in parts]).unflatten(0, (count, frames)) for name in parts[0]
        }
        mean = {name: value.mean(1) for name, value in read.items()}
        factors = {name: mean["shares"][:, i].numpy() for i, name in enumerate(SHARES)}
        factors |= {name: mean[name].argmax(1).numpy() for name in CHOICES}
        each = self.embed(flat).reshape(count, frames, -1)
        middle = each.mean(1)
        return Reading(
            embedding=middle / np.linalg.norm(middle, axis=1, keepdims=True),
            factors=factors,
            background=mean["background"].argmax(1).numpy(),
            action=self.action(read["pose"]).argmax(1).numpy(),
            poses=read["pose"].numpy(),
            frame_embeddings=each,
        )


def save_readers(readers: Readers, path: Path) -> None:
    """Write the weights in float16."""
    state = {
        name: tensor.half().contiguous()
        for name, tensor in readers.state_dict().items()
        if tensor.is_floating_point()
    }
    write_beside(path, lambda beside: save_file(state, beside))


def load_readers(path: Path) -> Readers:
    """Open `readers.safetensors`, float32.

    Raises:
        FileNotFoundError: when it was not made yet.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"the readers are not at {path}; train them with: python -m miniature.experiment.reader_training"
        )
    readers = Readers()
    state = {name: tensor.float() for name, tensor in load_file(path).items()}
    counters = {name: value for name, value in readers.state_dict().items() if name not in state}
    readers.load_state_dict(state | counters)
    return readers.eval().requires_grad_(False)


def _to_signal(pictures: np.ndarray) -> Tensor:
    return to_signal(np.ascontiguousarray(pictures)).contiguous(memory_format=torch.channels_last)
