"""A base that draws two people: the shipped one, continued on wide frames of two beside what it knows.

    python -m miniature.duo_base BASE.safetensors

Everything of it lies in `.miniature`, and a second call resumes. benchmarks/two_people.py measures with it.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from lynx_core.formats.base_file import load_transformer

from .encoders import unpack_encoders
from .make import MAX_TOGETHER, UNFINISHED, run_together
from .making import CPU, Making
from .parts import base, base_data, base_training
from .parts.resumable import joined_ranks
from .parts.text_encoder import open_text_encoder

SIZES = {"images": 12_000, "clips": 6_000, "crops": 600, "duos": 3_000}
COURSE = base_training.Course(
    "base_duo",
    steps=2400,
    turns=("duos", "clips", "images", "duos", "clips", "duos", "crops", "clips"),
    batch_sizes={"clips": 40, "images": 96, "crops": 8, "duos": 20},
    rate=0.4,
)


def train(making: Making) -> bool:
    """Continue the shipped base; whether all is done."""
    shipped = load_transformer(base.find_base(making), torch.float32)
    course = replace(COURSE, start=shipped.state_dict())
    data = base_data.load_drawings(making, SIZES)
    return base_training.train_course(making, data, open_text_encoder(making), course)


STEPS = {
    "drawings": lambda making: base_data.encode_drawings(making, SIZES),
    "base": train,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m miniature.duo_base", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("path", nargs="?", type=Path, metavar="BASE", help="the file to write")
    parser.add_argument("--minutes", type=float, help="stop after about this long")
    parser.add_argument("--worker", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    stop_at = None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    making = Making(device=CPU, stop_at=stop_at)
    if arguments.worker:
        with joined_ranks():
            STEPS[arguments.worker](making)
        return 0
    if arguments.path is None:
        parser.error("say where to write the base: python -m miniature.duo_base BASE.safetensors")
    if not (making.folder / "text_encoder").is_dir():
        unpack_encoders(making.assets, making.folder)
    for name in STEPS:
        run_together(name, making, MAX_TOGETHER, "miniature.duo_base")
    if not base_training.is_course_done(making, COURSE):
        print("not finished; the same command continues")
        return UNFINISHED
    base.save_base(base_training.read_mean(making, COURSE), arguments.path)
    print(f"a base for two people is in {arguments.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
