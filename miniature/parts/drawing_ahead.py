"""Drawing by processes of their own, ahead of the training that waits for the pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader, Dataset, default_convert

Subject = TypeVar("Subject")
Drawn = TypeVar("Drawn")


class _Drawings(Dataset[Any]):
    def __init__(self, draw: Callable[[Any], Any], subjects: Sequence[Any]) -> None:
        self.draw, self.subjects = draw, subjects

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, place: int) -> Any:
        return self.draw(self.subjects[place])


def draw_ahead(
    draw: Callable[[Subject], Drawn], subjects: Sequence[Subject], num_drawers: int
) -> Iterator[Drawn]:
    """Give the drawing of each subject, in order.

    Args:
        draw: gives numpy arrays, in tuples, lists and dicts. A process finds it by its name, so it is a function
            of a module or a `functools.partial` of one.
        num_drawers: processes; with 0 each drawing is made when it is asked for.
    """
    yield from DataLoader(
        _Drawings(draw, subjects),
        batch_size=None,
        num_workers=num_drawers,
        collate_fn=_keep,  # arrays go through a pipe; tensors would need shared memory, of which containers have little
        generator=torch.Generator(),  # else it would draw from the generator of the dropout
    )


def _keep(drawn: Drawn) -> Drawn:
    return drawn


def send_drawn(drawn: Any, device: torch.device) -> Any:
    """Arrays to tensors on the device, whatever they lie in."""
    return send_to_device(default_convert(drawn), device)
