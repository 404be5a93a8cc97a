"""Where the miniature is made, on what, and how much of it."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from .edition import EDITION

REPO_DIR = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Making:
    """What all trainings share.

    Raises:
        ValueError: when a value cannot be.
    """

    root: Path = REPO_DIR
    """Holds the folders of what is under way and of what is finished."""
    device: torch.device = CPU
    """What the networks train on. What is begun on one can continue on another."""
    num_drawers: int = 0
    """Processes that draw ahead of the training, so that a GPU does not wait; 0: it draws for itself."""
    stop_at: float | None = None
    """Time (`time.monotonic`) after which to save and leave."""
    share: float = 1.0
    """Of all steps and drawings: a rehearsal has few."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"the share of the making is {self.share}; it must be above 0 and at most 1")
        if self.num_drawers < 0:
            raise ValueError(f"{self.num_drawers} processes cannot draw; 0 or more can")

    @property
    def folder(self) -> Path:
        """What is under way."""
        return self.root / EDITION.folder

    @property
    def assets(self) -> Path:
        """What is finished."""
        return self.root / "assets" / EDITION.assets

    @property
    def is_out_of_time(self) -> bool:
        """Whether to save and leave."""
        return self.stop_at is not None and time.monotonic() > self.stop_at

    def count(self, number: int, least: int = 1) -> int:
        """How many of `number` steps or drawings are made."""
        return max(round(number * self.share), least)

    def autocast(self) -> torch.autocast:
        """Autocast to bfloat16."""
        return torch.autocast(self.device.type, torch.bfloat16)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Let a command choose its device."""
    parser.add_argument(
        "--device", choices=("auto", "cpu"), default="auto", help="auto: the GPU if there is one (default)"
    )


def choose_device(wanted: str) -> torch.device:
    """The device of `--device`."""
    return torch.device("cuda") if wanted == "auto" and torch.cuda.is_available() else CPU
