"""How far what a network read in pictures is from what was drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ..world.identity import CHOICES
from ..world.labels import LABEL_SIZES


def split_reading(numbers: Tensor) -> dict[str, Tensor]:
    """[N, all labels] -> by label: logits of each choice and the background, amounts, the pose in spreads."""
    return dict(zip(LABEL_SIZES, numbers.split(list(LABEL_SIZES.values()), 1), strict=True))


@dataclass(frozen=True)
class LabelWeights:
    """What the amounts of a person and the pose weigh beside choices."""

    shares: float = 6.0
    pose: float = 0.5


def picture_loss(
    read: Mapping[str, Tensor], labels: Mapping[str, Tensor], weights: LabelWeights | None = None
) -> Tensor:
    """Sum over all that is read."""
    weights = weights or LabelWeights()
    loss = weights.shares * F.smooth_l1_loss(read["shares"].float(), labels["shares"], beta=0.2)
    loss = loss + weights.pose * F.smooth_l1_loss(read["pose"].float(), labels["pose"], beta=0.5)
    for name in ("background", *CHOICES):
        loss = loss + 0.3 * F.cross_entropy(read[name].float(), labels[name])
    return loss
