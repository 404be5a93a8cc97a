"""Training that can be stopped at any moment and resumes where it stopped."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from lynx_core.durable_file import write_aside

from ..making import Making
from .drawing_ahead import draw_ahead, send_drawn

SAVE_EVERY_S = 60.0
LOG_EVERY_S = 30.0


def run_steps(
    making: Making,
    name: str,
    parts: Mapping[str, Any],
    num_steps: int,
    step: Callable[[int, Any], Tensor],
    draw: Callable[[int], Any] | None = None,
) -> bool:
    """Run what is left of `num_steps`, saving to `<name>.pt` on the way.

    Args:
        parts: everything with a state_dict that the steps change; the file is read first when it is there.
        step: does one step, given its number, which all its chance must follow from, and what was drawn for
            it, as tensors on the device; gives the loss.
        draw: draws for one step, given its number, as `draw_ahead` asks; None: the steps need no drawings.

    Returns:
        Whether all steps are done.
    """
    path = making.folder / f"{name}.pt"
    first = _load(path, parts)
    begun = saved = logged = time.monotonic()
    recent: list[Tensor] = []
    numbers = range(first, num_steps)
    drawings = draw_ahead(draw, numbers, making.num_drawers) if draw else repeat(None)
    for number, drawn in zip(numbers, drawings, strict=False):
        recent.append(step(number, send_drawn(drawn, making.device)))
        now = time.monotonic()
        if now - logged > LOG_EVERY_S or number + 1 == num_steps:
            rate = (number + 1 - first) / (now - begun)
            mean = torch.stack(recent).mean().item()
            if my_rank() == 0:
                print(f"{name}: step {number + 1}/{num_steps}, loss {mean:.4f}, {rate:.2f}/s", flush=True)
            logged, recent = now, []
        out_of_time = _anyone_says(making.is_out_of_time)
        if now - saved > SAVE_EVERY_S or number + 1 == num_steps or out_of_time:
            if my_rank() == 0:
                _save(path, parts, number + 1)
            saved = now
        if out_of_time and number + 1 < num_steps:
            return False
    if num_ranks() > 1:
        torch.distributed.barrier()  # the first process has written the file that the others may open next
    return True


def count_done_steps(making: Making, name: str) -> int:
    """How many steps of `run_steps` the file `<name>.pt` holds; 0 when it is not there."""
    path = making.folder / f"{name}.pt"
    return int(torch.load(path, mmap=True, weights_only=True)["step"]) if path.is_file() else 0


def read_part(path: Path, name: str) -> dict[str, Tensor]:
    """The weights of one part in a file of `run_steps`, on the CPU."""
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)[name]
    return weights


def set_cosine_rate(
    optimizer: torch.optim.Optimizer, step: int, num_steps: int, peak: float, warmup_steps: int = 100
) -> None:
    """Set the learning rate of one step: a short rise, then half a cosine down to a fiftieth."""
    rise = min((step + 1) / warmup_steps, 1.0)
    fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / num_steps))
    for group in optimizer.param_groups:
        group["lr"] = peak * rise * fall


def my_rank() -> int:
    """Which of the processes that train together this is; 0 when it is alone."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def num_ranks() -> int:
    """How many processes train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


@contextmanager
def joined_ranks() -> Iterator[None]:
    """Work with the other processes that torchrun started, if it did; each computes on one thread."""
    torch.set_num_threads(1)
    if "WORLD_SIZE" not in os.environ:
        yield
        return
    torch.distributed.init_process_group("gloo")
    yield
    # Gloo aborts a process whose peer leaves before it.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def take_step(
    loss: Tensor, weights: Iterable[Tensor], *optimizers: torch.optim.Optimizer, max_norm: float = math.inf
) -> Tensor:
    """Move the weights down the loss, by the mean gradient of all processes; gives the loss.

    Args:
        max_norm: longer gradients are scaled down to it.
    """
    weights = list(weights)
    for weight in weights:
        weight.grad = None
    loss.backward()
    average_gradients(weights)
    if max_norm < math.inf:
        nn.utils.clip_grad_norm_(weights, max_norm)
    for optimizer in optimizers:
        optimizer.step()
    return loss.detach()


def average_gradients(weights: Iterable[Tensor]) -> None:
    """Give all processes the mean of their gradients."""
    if num_ranks() == 1:
        return
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= num_ranks()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _anyone_says(it: bool) -> bool:
    if num_ranks() == 1:
        return it
    votes = torch.tensor(int(it))
    torch.distributed.all_reduce(votes)
    return bool(votes)


def write_beside(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file to the side, flush it, and put it in its place."""
    with write_aside(path) as (aside,):
        write(aside)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file of numpy's under exactly this name."""
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _load(path: Path, parts: Mapping[str, Any]) -> int:
    if not path.is_file():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])


def _save(path: Path, parts: Mapping[str, Any], step: int) -> None:
    state = {name: part.state_dict() for name, part in parts.items()} | {"step": step}
    write_beside(path, lambda beside: torch.save(state, beside))
