"""Pictures as networks take them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_signal(pictures: np.ndarray) -> Tensor:
    """[..., H, W, 3] uint8 -> [..., 3, H, W] float32, -1 to 1."""
    return torch.from_numpy(pictures).movedim(-1, -3).float() / 127.5 - 1
