"""Small real media files, and manifests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lynx_core.data.cache.shard_file import ShardEntry, read_entries
from lynx_core.data.dataset import PairDataset
from lynx_core.data.quarantine import Rejection
from lynx_core.tokens import count_tokens


def write_video(
    path: Path,
    num_frames: int = 9,
    size: tuple[int, int] = (64, 48),
    fps: int = 16,
    codec: str = "libx264",
    rotation: int | None = None,
    seed: int = 0,
) -> Path:
    """A video of (width, height) whose grey level is 8 times the frame's number, red in the upper left."""
    import av

    width, height = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number in range(num_frames):
            pixels = np.full((height, width, 3), 8 * number % 256, dtype=np.uint8)
            pixels[: height // 3, : width // 3] = (255, 0, 0)
            pixels[-4:, -4:] = seed % 256
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_image(path: Path, size: tuple[int, int] = (64, 48), seed: int = 0, **options: Any) -> Path:
    """A picture of (width, height): random blocks of 8 px."""
    width, height = size
    blocks = np.random.default_rng(seed).integers(
        0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8
    )
    pixels = blocks.repeat(8, 0).repeat(8, 1)[:height, :width]
    Image.fromarray(pixels).save(path, **options)
    return path


def write_rows(path: Path, rows: list[Any]) -> Path:
    """A JSONL manifest; text goes in as it is."""
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def list_entries(path: Path) -> list[ShardEntry]:
    """What a shard holds."""
    with path.open("rb") as file:
        return read_entries(file)


def read_cache(root: Path) -> dict[str, bytes]:
    """Every entry of a prepared cache by its name."""
    return {
        entry.name: path.read_bytes()[entry.offset : entry.offset + entry.length]
        for path in sorted((root / "shards").glob("*.safetensors"))
        for entry in list_entries(path)
    }


def list_ids(dataset: PairDataset) -> list[str]:
    """Of each sample, by its number."""
    return [item.pair.id for item in dataset.items]


def count_sample_tokens(dataset: PairDataset) -> list[int]:
    """Of each sample as decoded."""
    return [count_tokens(item.plan.latent_shape) for item in dataset.items]


def quarantine_sample(dataset: PairDataset, index: int, detail: str = "") -> None:
    """Quarantine a sample as another process would that could not load it."""
    pair = dataset.items[index].pair
    dataset.quarantine.add(Rejection(pair.id, pair.line, "does not decode", detail))
