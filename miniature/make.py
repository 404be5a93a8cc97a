"""Make Mini Lynx: every part, the training data, and the adapters.

python -m miniature.make [--minutes 60] [--only vae base] [--processes 2]
python -m miniature.make --only unpack data cache resampler adapter0

The second takes VAE and text encoder out of the shipped files and makes an adapter alone.

Stop it at any moment with Ctrl-C, or give it minutes, and run it again: it goes on where it was. What is
done stays in `.miniature/`; the finished files go to `assets/mini/`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .adapters import (
    ADAPTER_CONFIG,
    ASSETS_DIR,
    KEEP_FREED_MEMORY,
    REPO_DIR,
    SEEDS,
    SHIPPED_SEED,
    WORK_DIR,
    run_lynx,
    ship_adapter,
    train_controls,
    train_full,
)
from .parts.resumable import join_ranks

UNPACK = "unpack"
"""The part that is made only when asked for: it stands in for training VAE and text encoder."""

UNFINISHED = 3
"""Exit code when time ran out first."""

Train = Callable[[float | None], bool]


@dataclass(frozen=True)
class Part:
    """One thing to make."""

    train: Train
    """Takes the time to stop at; gives whether all is done."""
    export: Callable[[], None] = lambda: None
    is_shared: bool = False
    """Whether several processes train it together."""


def list_parts() -> dict[str, Part]:
    """All parts by name, each after those it needs."""
    from .dataset import write_dataset
    from .experiment.reader_training import export_readers, train_readers
    from .parts import base, base_data, detector, embedder, landmarks, text_encoder, vae

    def on(train: Callable[..., bool]) -> Train:
        return lambda stop_at: train(WORK_DIR, stop_at)

    parts = {
        "data": Part(lambda stop_at: write_dataset(WORK_DIR / "data", stop_at=stop_at)),
        "vae": Part(on(vae.train_vae), lambda: vae.export_vae(WORK_DIR, ASSETS_DIR), is_shared=True),
        "text": Part(
            on(text_encoder.train_text_encoder),
            lambda: text_encoder.export_text_encoder(WORK_DIR, ASSETS_DIR),
        ),
        "embedder": Part(on(embedder.train_embedder), lambda: embedder.export_embedder(WORK_DIR, ASSETS_DIR)),
        "detector": Part(on(detector.train_detector), lambda: detector.export_detector(WORK_DIR, ASSETS_DIR)),
        "landmarks": Part(
            on(landmarks.train_landmarks), lambda: landmarks.export_landmarks(WORK_DIR, ASSETS_DIR)
        ),
        "drawings": Part(
            lambda stop_at: base_data.encode_drawings(WORK_DIR, ASSETS_DIR, stop_at), is_shared=True
        ),
        "base": Part(
            lambda stop_at: base.train_base(WORK_DIR, base_data.load_drawings(WORK_DIR), stop_at),
            lambda: base.export_base(WORK_DIR, ASSETS_DIR),
            is_shared=True,
        ),
    }
    parts["cache"] = Part(lambda stop_at: run_lynx("prepare", stop_at))
    parts["resampler"] = Part(start_resampler)
    for seed in SEEDS:
        parts[f"adapter{seed}"] = Part(
            lambda stop_at, seed=seed: train_full(seed, stop_at),
            ship_adapter if seed == SHIPPED_SEED else lambda: None,
        )
    return parts | {
        "controls": Part(train_controls),
        "readers": Part(on(train_readers), lambda: export_readers(WORK_DIR, ASSETS_DIR)),
        UNPACK: Part(lambda stop_at: unpack_encoders(WORK_DIR)),
    }


def unpack_encoders(folder: Path) -> bool:
    """Write the trainer's folders of VAE, text encoder and tokenizer from the shipped files."""
    from .parts.text_encoder import unpack_text_encoder
    from .parts.vae import unpack_vae

    unpack_vae(ASSETS_DIR, folder)
    unpack_text_encoder(ASSETS_DIR, folder)
    return True


def start_resampler(stop_at: float | None) -> bool:
    """Train what the adapters' resampler starts from, on the embeddings of the base's faces."""
    from lynx_core.training.assembly import configure_new_adapter
    from lynx_core.training.configuration_file import read_configuration

    from .parts.base import DIM, NUM_BLOCKS
    from .parts.base_data import load_face_embeddings
    from .parts.resampler import train_resampler

    configs = configure_new_adapter(read_configuration(ADAPTER_CONFIG).adapter, DIM, NUM_BLOCKS)
    assert configs.resampler is not None
    return train_resampler(WORK_DIR, configs.resampler, load_face_embeddings(WORK_DIR), stop_at)


def make(names: list[str], stop_at: float | None, num_processes: int) -> bool:
    """Make the named parts in order; whether all are done."""
    parts = list_parts()
    for name in names:
        part = parts[name]
        begun = time.monotonic()
        if part.is_shared and num_processes > 1:
            done = run_together(name, stop_at, num_processes)
        else:
            done = part.train(stop_at)
        if not done:
            print(f"{name}: not finished; the same command goes on", flush=True)
            return False
        part.export()
        print(f"{name}: done, {(time.monotonic() - begun) / 60:.1f} min this time", flush=True)
    return True


def run_together(name: str, stop_at: float | None, num_processes: int) -> bool:
    """Train a part in several processes; whether it is done."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={num_processes}"]
    command += ["-m", "miniature.make", "--worker", name]
    if stop_at is not None:
        command += ["--minutes", str(max(stop_at - time.monotonic(), 1) / 60)]
    environment = os.environ | KEEP_FREED_MEMORY
    code = subprocess.run(command, check=False, cwd=REPO_DIR, env=environment).returncode
    if code:
        raise SystemExit(code)
    return list_parts()[name].train(time.monotonic())  # one step at most


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m miniature.make", description=__doc__.partition("\n\n")[0]
    )
    parser.add_argument(
        "--minutes", type=float, help="stop after about this long (default: when all is done)"
    )
    parser.add_argument("--only", nargs="+", metavar="PART", help="make these parts alone")
    parser.add_argument(
        "--processes", type=int, default=2, help="for the VAE and the base (default: %(default)s)"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    stop_at = None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    parts = list_parts()
    if arguments.worker:
        join_ranks()
        parts[arguments.worker].train(stop_at)
        return 0
    names = arguments.only or [name for name in parts if name != UNPACK]
    unknown = [name for name in names if name not in parts]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; the parts are {', '.join(parts)}")
    return 0 if make(names, stop_at, arguments.processes) else UNFINISHED


if __name__ == "__main__":
    sys.exit(main())
