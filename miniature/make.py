"""Make Mini Lynx: every part, the training data, and the adapters.

python -m miniature.make [--device auto] [--minutes 60] [--only vae base] [--processes 2]
python -m miniature.encoders && python -m miniature.make --only data cache resampler adapter0
python -m miniature.make --rehearse FOLDER

The second takes VAE and text encoder out of the shipped files and makes an adapter alone. The third goes through
everything in a few minutes, with few steps, in a folder of its own.

Stop it at any moment with Ctrl-C, or give it minutes, and run it again: it resumes where it stopped. What is
done stays in `.miniature/`; the finished files go to `assets/mini/`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from .adapters import (
    KEEP_FREED_MEMORY,
    SEEDS,
    SHIPPED_SEED,
    configure_adapter,
    run_lynx,
    ship_adapter,
    train_controls,
    train_full,
)
from .making import CPU, REPO_DIR, Making, add_device, choose_device
from .parts.resumable import joined_ranks

UNFINISHED, INTERRUPTED = 3, 130
"""Exit codes when time ran out first, and after Ctrl-C."""
REHEARSAL_SHARE = 1 / 2000
MAX_TOGETHER = 2
"""Processes that train one part on the CPU: the smallest batch has two pictures."""


@dataclass(frozen=True)
class Part:
    """One thing to make."""

    train: Callable[[Making], bool]
    """Gives whether all is done."""
    export: Callable[[Making], None] = lambda making: None
    is_done: Callable[[Making], bool] | None = None
    """Of a part that several processes of a CPU train together: whether they need not be started."""


def list_parts() -> dict[str, Part]:
    """All parts by name, each after those it needs."""
    from .experiment.points import export_points, train_points
    from .experiment.reader_training import export_readers, train_readers
    from .parts import base_data, base_training, detector, landmarks, recogniser, text_encoder, vae

    parts = {
        "data": Part(write_data),
        "vae": Part(vae.train_vae, vae.export_vae, is_done=vae.is_vae_trained),
        "text": Part(text_encoder.train_text_encoder, text_encoder.export_text_encoder),
        "recogniser": Part(recogniser.train_recogniser, recogniser.export_recogniser),
        "detector": Part(detector.train_detector, detector.export_detector),
        "landmarks": Part(landmarks.train_landmarks, landmarks.export_landmarks),
        "drawings": Part(base_data.encode_drawings, is_done=base_data.are_drawings_encoded),
        "base": Part(
            lambda making: base_training.train_base(
                making, base_data.load_drawings(making), text_encoder.open_text_encoder(making)
            ),
            base_training.export_base,
            is_done=base_training.is_base_trained,
        ),
        "cache": Part(lambda making: run_lynx("prepare", making)),
        "resampler": Part(start_resampler),
    }
    for seed in SEEDS:
        train = Part(partial(train_full, seed=seed))
        parts[f"adapter{seed}"] = replace(train, export=ship_adapter) if seed == SHIPPED_SEED else train
    return parts | {
        "controls": Part(train_controls),
        "readers": Part(train_readers, export_readers),
        "points": Part(train_points, export_points),
    }


def write_data(making: Making) -> bool:
    """Write the adapters' training data."""
    from .dataset import NUM_HELD_OUT, NUM_IDENTITIES, write_dataset

    # Fewer people have no augmented pair in a rehearsal.
    numbers = making.count(NUM_IDENTITIES, least=5), making.count(NUM_HELD_OUT)
    return write_dataset(making.folder / "data", *numbers, stop_at=making.stop_at)


def start_resampler(making: Making) -> bool:
    """Train what the adapters' resampler starts from, on the embeddings of the base's faces."""
    from .parts.base_data import load_face_embeddings
    from .parts.resampler import train_resampler

    config = configure_adapter(making).resampler
    assert config is not None
    return train_resampler(making, config, load_face_embeddings(making))


def make(names: list[str], making: Making, num_together: int) -> bool:
    """Make the named parts in order; whether all are done."""
    parts = list_parts()
    for name in names:
        part = parts[name]
        begun = time.monotonic()
        if part.is_done and num_together > 1:
            if not part.is_done(making):
                run_together(name, making, num_together)
            done = part.is_done(making)
        else:
            done = part.train(making)
        if not done:
            print(f"{name}: not finished; the same command continues", flush=True)
            return False
        part.export(making)
        print(f"{name}: done, {(time.monotonic() - begun) / 60:.1f} min this time", flush=True)
    return True


def run_together(name: str, making: Making, num_together: int, module: str = "miniature.make") -> None:
    """Train a part in several processes of the CPU, by the `--worker` of a module."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={num_together}"]
    command += ["-m", module, "--worker", name]
    if making.share < 1:
        command += ["--rehearse", str(making.root)]
    if making.stop_at is not None:
        command += ["--minutes", str(max(making.stop_at - time.monotonic(), 1) / 60)]
    environment = os.environ | KEEP_FREED_MEMORY
    code = subprocess.run(command, check=False, cwd=REPO_DIR, env=environment).returncode
    if code:
        raise SystemExit(code)


def main() -> int:
    parser, arguments = _parse()
    making = _set_up(arguments)
    parts = list_parts()
    if arguments.worker:
        with joined_ranks():
            parts[arguments.worker].train(making)
        return 0
    names = arguments.only or list(parts)
    unknown = [name for name in names if name not in parts]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; the parts are {', '.join(parts)}")
    is_on_cpu = making.device == CPU
    if is_on_cpu and arguments.processes and not 1 <= arguments.processes <= MAX_TOGETHER:
        parser.error(f"on the CPU --processes is 1 or {MAX_TOGETHER}, got {arguments.processes}")
    together = (arguments.processes or MAX_TOGETHER) if is_on_cpu else 1
    try:
        return 0 if make(names, making, together) else UNFINISHED
    except KeyboardInterrupt:
        print("stopped; the same command continues", flush=True)
        return INTERRUPTED


def _parse() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="python -m miniature.make", description=(__doc__ or "").partition("\n\n")[0]
    )
    add_device(parser)
    parser.add_argument(
        "--minutes", type=float, help="stop after about this long (default: when all is done)"
    )
    parser.add_argument("--only", nargs="+", metavar="PART", help="make these parts alone")
    parser.add_argument(
        "--processes",
        type=int,
        help=f"on the CPU: that train VAE and base together (default: {MAX_TOGETHER}); "
        "with a GPU: that draw for it (default: one for each core)",
    )
    parser.add_argument(
        "--rehearse", type=Path, metavar="FOLDER", help="make everything with few steps in this folder"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser, parser.parse_args()


def _set_up(arguments: argparse.Namespace) -> Making:
    device = CPU if arguments.worker else choose_device(arguments.device)
    making = Making(
        device=device,
        num_drawers=0 if device == CPU else arguments.processes or os.cpu_count() or 1,
        stop_at=None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes,
    )
    if arguments.rehearse is None:
        return making
    return replace(making, root=arguments.rehearse.resolve(), share=REHEARSAL_SHARE)


if __name__ == "__main__":
    sys.exit(main())
