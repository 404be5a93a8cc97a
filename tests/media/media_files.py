"""Making of small media files with ffmpeg, and its own pixels and times of them to compare with.

A source of frames is 96x64 RGB: quadrants of saturated colours and skin, a ramp of grey, a bar that moves,
and a lightness that differs from frame to frame. A file is made by a recipe, a function of its path.
"""

from __future__ import annotations

import shlex
import struct
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

FFMPEG = ["ffmpeg", "-hide_banner", "-nostdin", "-v", "error", "-y", "-threads", "1"]
SCALING = "lanczos+accurate_rnd+full_chroma_int+full_chroma_inp"
NUM_FRAMES = 9
SIZE = (96, 64)

Recipe = Callable[[Path], None]


def draw_frames(count: int = NUM_FRAMES, size: tuple[int, int] = SIZE, alpha: bool = False) -> np.ndarray:
    """[frames, height, width, 3 or 4] uint8."""
    width, height = size
    frames = np.empty((count, height, width, 4 if alpha else 3), np.uint8)
    middle_x, middle_y = width // 2, height // 2
    for number, frame in enumerate(frames):
        step = 7 * number % 64
        frame[:middle_y, :middle_x, :3] = (180, 30 + step, 40)
        frame[:middle_y, middle_x:, :3] = (30, 120 + step, 50)
        frame[middle_y:, :middle_x, :3] = (40 + step, 50, 170)
        frame[middle_y:, middle_x:, :3] = (224 - step // 2, 172 - step // 2, 140)
        frame[-16:, :middle_x, :3] = np.linspace(0, 255, middle_x).astype(np.uint8)[:, None]
        left = 4 * number % (width - 8)
        frame[middle_y - 8 : middle_y + 8, left : left + 8, :3] = 235
        if alpha:
            frame[..., 3] = 255
            frame[:16, :16, 3] = 0
            frame[16:32, :32, 3] = np.linspace(0, 255, 32).astype(np.uint8)
    return frames


def run_ffmpeg(*arguments: str | Path, data: bytes | None = None) -> bytes:
    """What it writes to stdout."""
    command = [*FFMPEG, *map(str, arguments)]
    if data is not None:
        command.remove("-nostdin")
    done = subprocess.run(command, input=data, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr.decode()[-2000:]}"
    return done.stdout


def encode(
    options: str,
    *,
    count: int = NUM_FRAMES,
    size: tuple[int, int] = SIZE,
    alpha: bool = False,
    rate: int = 16,
    inputs: str = "",
    frames: np.ndarray | None = None,
) -> Recipe:
    """The drawn frames, encoded; `inputs` are further ones."""

    def make(path: Path) -> None:
        pixels = draw_frames(count, size, alpha) if frames is None else frames
        height, width, channels = pixels.shape[1:]
        raw = (
            f"-f rawvideo -pix_fmt {'rgba' if channels == 4 else 'rgb24'} -s {width}x{height} -r {rate} -i -"
        )
        run_ffmpeg(
            *shlex.split(raw), *shlex.split(inputs), *shlex.split(options), path, data=pixels.tobytes()
        )

    return make


def then(first: Recipe, suffix: str, command: str) -> Recipe:
    """A file made by `first`, and out of that by a second command: "{in}" is the first file."""

    def make(path: Path) -> None:
        between = path.with_name(f"between_{path.stem}{suffix}")
        first(between)
        run_ffmpeg(*shlex.split(command.replace("{in}", shlex.quote(str(between)))), path)
        between.unlink()

    return make


def with_cover(first: Recipe, options: str) -> Recipe:
    """A clip and a larger picture: "{cover}" and "{clip}" in the options are the two files."""

    def make(path: Path) -> None:
        clip, cover = path.with_name("clip.mkv"), path.with_name("cover.jpg")
        first(clip)
        run_ffmpeg(*shlex.split("-f lavfi -i color=c=orange:s=640x640:d=0.1 -frames:v 1"), cover)
        run_ffmpeg(*shlex.split(options.format(clip=clip, cover=cover)), path)

    return make


def joined(*parts: Recipe) -> Recipe:
    """The bytes of several files, one after another."""

    def make(path: Path) -> None:
        raw = b""
        for part in parts:
            part(path)
            raw += path.read_bytes()
        path.write_bytes(raw)

    return make


def changed(recipe: Recipe, change: Callable[[bytearray], bytearray]) -> Recipe:
    """The bytes of a file, changed."""

    def make(path: Path) -> None:
        recipe(path)
        path.write_bytes(change(bytearray(path.read_bytes())))

    return make


def cut(recipe: Recipe, share: float) -> Recipe:
    """The first part of a file."""
    return changed(recipe, lambda raw: raw[: int(len(raw) * share)])


def zero_tail(recipe: Recipe, share: float) -> Recipe:
    """A download whose place on disk was taken before its data came."""
    return changed(recipe, lambda raw: raw[: int(len(raw) * share)] + bytes(len(raw) - int(len(raw) * share)))


def noise(recipe: Recipe, share: float, length: int = 1500) -> Recipe:
    """Some bytes in the middle replaced at random."""

    def change(raw: bytearray) -> bytearray:
        start = int(len(raw) * share)
        raw[start : start + length] = np.random.default_rng(0).integers(0, 256, length, np.uint8).tobytes()
        return raw

    return changed(recipe, change)


def from_byte(recipe: Recipe, share: float, multiple: int) -> Recipe:
    """The file from a byte on that is a multiple of a packet's length."""
    return changed(recipe, lambda raw: raw[int(len(raw) * share) // multiple * multiple :])


def turned(recipe: Recipe, a: float, b: float, c: float, d: float) -> Recipe:
    """An mp4 with this display matrix: x' = ax + cy, y' = bx + dy."""

    def change(raw: bytearray) -> bytearray:
        header = raw.find(b"tkhd") + 4
        place = header + (52 if raw[header] else 40)
        numbers = [round(value * 65536) for value in (a, b, 0, c, d, 0, 0, 0)]
        raw[place : place + 36] = struct.pack(">8i", *numbers) + struct.pack(">i", 1 << 30)
        return raw

    return changed(recipe, change)


def text(content: str) -> Recipe:
    """A file of text; "{dir}" is its folder."""
    return lambda path: void(path.write_text(content.replace("{dir}", str(path.parent))))


def enclosed(head: bytes) -> Recipe:
    """Another kind of file, which begins with `head` and holds two whole JPEGs."""

    def write(path: Path) -> None:
        picture = path.with_suffix(".inner.jpg")
        encode("-frames:v 1 -q:v 2", count=1)(picture)
        path.write_bytes(head + picture.read_bytes() + b"\n" + picture.read_bytes())
        picture.unlink()

    return write


def void(_: object) -> None:
    """Drop a value."""


def read_reference(
    path: Path, filters: str = "", inputs: str = "", outputs: str = "", pixels: str = "rgb24"
) -> tuple[np.ndarray, np.ndarray]:
    """What ffmpeg makes of a file: frames [frames, height, width, 3 or 4] uint8, and their times in seconds.

    Args:
        path: the file.
        filters: what comes before the conversion to RGB.
        inputs, outputs: further options.
        pixels: "rgb24" or "rgba".
    """
    log = path.parent / "times.txt"
    plain = path.parent / "same_content"  # ffmpeg sees more than names in "%" and ":"
    plain.unlink(missing_ok=True)
    plain.hardlink_to(path)
    square = f"scale='round(iw*sar)':ih:flags={SCALING}:out_range=full"
    chain = ",".join([*filter(None, [filters]), square, f"format={pixels}"])
    options = ["-an", "-sn", "-dn", "-fps_mode", "passthrough", "-enc_time_base", "-1", *shlex.split(outputs)]
    try:
        raw = run_ffmpeg(
            *shlex.split(inputs), "-i", plain, *options, "-vf", chain, "-f", "rawvideo", "-",
            *options, "-vf", chain, "-f", "framecrc", log,
        )  # fmt: skip
        lines = log.read_text().splitlines()
    finally:
        log.unlink(missing_ok=True)
        plain.unlink()
    tags = dict(line[1:].split(" 0: ", 1) for line in lines if line.startswith("#") and " 0: " in line)
    width, height = map(int, tags["dimensions"].split("x"))
    time_base = float(Fraction(tags["tb"]))
    times = np.array([int(line.split(",")[2]) * time_base for line in lines if not line.startswith("#")])
    frames = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 4 if pixels == "rgba" else 3)
    return frames, times - times[0]
