"""Pictures as networks take them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_signal(pictures: np.ndarray | Tensor) -> Tensor:
    """[..., H, W, 3] uint8 -> [..., 3, H, W] float32, -1 to 1, on the pictures' device."""
    return torch.as_tensor(pictures).movedim(-1, -3).float() / 127.5 - 1


def to_video_signal(clips: np.ndarray | Tensor) -> Tensor:
    """[N, T, H, W, 3] uint8 -> [N, 3, T, H, W] float32, -1 to 1, on the clips' device."""
    return to_signal(clips).transpose(1, 2)


def to_pictures(signal: Tensor) -> np.ndarray:
    """[..., 3, H, W], about -1 to 1, on any device -> [..., H, W, 3] uint8."""
    pictures: np.ndarray = ((signal.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(-3, -1).cpu().numpy()
    return pictures
