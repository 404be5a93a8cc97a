"""Photos and clips that are fuzzed, and how they are read."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from seeds import Seed, saved


def make_photos(_: Path) -> list[Seed]:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 10, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    seeds = []
    for suffix, mode, options in (
        ("jpg", "RGB", {}), ("jpg", "CMYK", {}), ("png", "RGBA", {}), ("png", "P", {}), ("webp", "RGB", {}), ("gif", "P", {}),
        ("tiff", "RGB", {"compression": "tiff_lzw"}), ("bmp", "RGB", {}), ("avif", "RGB", {}), ("ppm", "L", {}),
    ):  # fmt: skip
        raw = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        if suffix in ("jpg", "png", "webp"):
            options = {**options, "exif": exif}
        Image.fromarray(pixels).convert(mode).save(raw, {"jpg": "jpeg"}.get(suffix, suffix), **options)
        seeds.append(Seed(f"{mode.lower()}.{suffix}", raw.getvalue()))
    frames = [Image.fromarray(np.roll(pixels, shift, 0)) for shift in range(4)]
    for suffix in ("gif", "png", "webp"):
        raw = io.BytesIO()
        frames[0].save(raw, suffix, save_all=True, append_images=frames[1:], duration=100)
        seeds.append(Seed(f"animated.{suffix}", raw.getvalue()))
    return seeds


def make_videos(folder: Path) -> list[Seed]:
    import av

    def write(path: Path, codec: str) -> None:
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=16)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(12):
                pixels = np.full((48, 64, 3), 20 * number, dtype=np.uint8)
                for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)

    kinds = {
        "mp4": "libx264", "mkv": "libx264", "webm": "libvpx-vp9", "mov": "mpeg4", "avi": "mpeg4", "ts": "mpeg2video",
        "flv": "libx264", "ogv": "mpeg4",
    }  # fmt: skip
    kinds.pop("ogv")
    return [
        saved(folder, f"clip.{suffix}", lambda path, c=codec: write(path, c))
        for suffix, codec in kinds.items()
    ]


def open_photo(path: Path) -> None:
    from lynx_core.data.media.decoding import probe_media
    from lynx_core.faces.photo import load_photo

    _try_both(lambda: load_photo(path), lambda: _read_media(path, probe_media(path)))


def open_video(path: Path) -> None:
    from lynx_core.data.media.decoding import probe_media

    _read_media(path, probe_media(path))


def _try_both(*calls: Callable[[], Any]) -> None:
    """Make every call, and then raise the first refusal."""
    from lynx_core.spec import LynxError

    refusals = []
    for call in calls:
        try:
            call()
        except LynxError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def _read_media(path: Path, info: Any) -> None:
    from lynx_core.data.media.decoding import DecodingConfig, decode_clip, plan_clip

    decode_clip(path, plan_clip(path, info, DecodingConfig(), None))
