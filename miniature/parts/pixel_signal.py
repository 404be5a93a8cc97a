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
