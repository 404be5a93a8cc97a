"""How far what a network read in pictures is from what was drawn."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from ..world.identity import CHOICES
from ..world.labels import LABEL_SIZES


def split_reading(numbers: Tensor) -> dict[str, Tensor]:
    """[N, all labels] -> by label: logits of each choice and the background, amounts, the pose in spreads."""
    return dict(zip(LABEL_SIZES, numbers.split(list(LABEL_SIZES.values()), 1), strict=True))


def picture_loss(read: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
    """Sum over all that is read."""
    loss = 6 * F.smooth_l1_loss(read["shares"].float(), labels["shares"], beta=0.2)
    loss = loss + 0.5 * F.smooth_l1_loss(read["pose"].float(), labels["pose"], beta=0.5)
    for name in ("background", *CHOICES):
        loss = loss + 0.3 * F.cross_entropy(read[name].float(), labels[name])
    return loss
