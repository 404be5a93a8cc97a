"""The training data of the adapters as files: `train.jsonl`, `heldout.jsonl`, and the media beside them.

python -m miniature.dataset FOLDER [--identities 2400]

Each person has three pairs, two of images and one of a clip, and two photos: one from another scene, which
most pairs share, and one of the own scene of a target. Both are aligned crops of 256 px, found by landmarks
with the errors of a detector, for `data.faces_aligned = true`: the trainer cuts the ID crop out of it by the
same template as from a photo, which interpolates once more (0.5 levels of 255 in the mean). Targets are
lossless; the photos are JPEG, as photos are (0.8 levels).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lynx_core.data.media.video_file import probe_video, read_frames
from lynx_core.durable_file import write_durably

from .parts.resumable import write_beside
from .world.clip import FPS, FRAME_PX
from .world.draws import FIRST_HELD_OUT_IDENTITY
from .world.pairs import OWN_SCENE_SORTS, Pair, draw_pair

NUM_IDENTITIES = 2400
NUM_HELD_OUT = 32
PAIRS_PER_IDENTITY = 3
_FOLDER_FILES = 1000
_LOG_EVERY_S = 30.0


def write_dataset(
    folder: Path,
    num_identities: int = NUM_IDENTITIES,
    num_held_out: int = NUM_HELD_OUT,
    *,
    stop_at: float | None = None,
) -> bool:
    """Write what is not there yet; the manifests come last, so that they name finished files alone.

    Args:
        folder: of the data set.
        num_identities: people in training, three pairs each.
        num_held_out: pairs of other people with captions that training never shows.
        stop_at: time (`time.monotonic`) after which to leave.

    Returns:
        Whether all is written.

    Raises:
        ValueError: when the folder holds pictures that are drawn otherwise.
    """
    if num_identities < 1 or num_held_out < 1:
        raise ValueError(
            f"a data set needs people and held-out pairs, got {num_identities} and {num_held_out}"
        )
    _check_drawing(folder)
    parts = {
        "train": (draw_training_pairs(num_identities), num_identities * PAIRS_PER_IDENTITY),
        "heldout": (draw_held_out_pairs(num_held_out), num_held_out),
    }
    for part, (pairs, num_pairs) in parts.items():
        rows: list[dict[str, Any]] = []
        logged = time.monotonic()
        for pair in pairs:
            if stop_at is not None and time.monotonic() > stop_at:
                return False
            rows.append(_write_pair(folder, pair, f"{len(rows):06d}"))
            if time.monotonic() - logged > _LOG_EVERY_S:
                logged = time.monotonic()
                print(f"data: {part} {len(rows)}/{num_pairs} pairs", flush=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_durably(folder / f"{part}.jsonl", text.encode())
    print(f"data: {num_identities} people and {num_held_out} held-out pairs in {folder}", flush=True)
    return True


def draw_training_pairs(num_identities: int) -> Iterator[Pair]:
    """Three pairs for each person: multi-scene, but for one of the own scene, by turns an image or a clip."""
    for number in range(num_identities):
        own_sort = OWN_SCENE_SORTS[number // 2 % len(OWN_SCENE_SORTS)]
        own_place = 2 if number % 2 else 1
        for place in range(PAIRS_PER_IDENTITY):
            sort = own_sort if place == own_place else "multi-scene"
            yield draw_pair(
                PAIRS_PER_IDENTITY * number + place, sort, is_video=place == 2, identity_number=number
            )


def draw_held_out_pairs(num_pairs: int) -> Iterator[Pair]:
    """A multi-scene pair for each of other people, by turns a clip and an image."""
    for place in range(num_pairs):
        number = FIRST_HELD_OUT_IDENTITY + place
        yield draw_pair(number, "multi-scene", is_video=place % 2 == 0, held_out_captions=True)


def _write_pair(folder: Path, pair: Pair, place: str) -> dict[str, Any]:
    """Write what is missing of a pair; gives its row."""
    person = f"{pair.identity_number:07d}"
    is_shared = pair.sort == "multi-scene"
    reference = _place_file("references", f"{person}.jpg" if is_shared else f"{person}-{pair.sort}.jpg")
    target = _place_file("clips" if pair.is_video else "images", f"{person}-{place}")
    target += ".mp4" if pair.is_video else ".png"
    write_once(folder / reference, lambda path: write_photo(path, pair.draw_reference()))
    write_target = write_clip if pair.is_video else write_image
    write_once(folder / target, lambda path: write_target(path, pair.draw_target()))
    return {
        "id": f"{person}-{place}-{pair.sort}",
        "target": target,
        "references": [reference],
        "caption": pair.caption,
        "kind": pair.kind,
    }


def _place_file(sort: str, name: str) -> str:
    return f"{sort}/{int(name[:7]) // _FOLDER_FILES:04d}/{name}"


def write_once(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file that is not there yet."""
    if not path.is_file():
        write_beside(path, write)


def write_photo(path: Path, pixels: np.ndarray) -> None:
    """[H, W, 3] uint8 RGB as JPEG."""
    Image.fromarray(pixels).save(path, format="JPEG", quality=95, subsampling=0)


def write_image(path: Path, pixels: np.ndarray) -> None:
    """[H, W, 3] uint8 RGB as PNG."""
    Image.fromarray(pixels).save(path, format="PNG")


def write_clip(path: Path, pixels: np.ndarray) -> None:
    """[T, H, W, 3] uint8 RGB as MP4, H.264 without loss: in RGB, for YUV rounds."""
    import av

    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("libx264rgb", rate=Fraction(FPS), options={"qp": "0", "preset": "veryfast"})
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "rgb24"
        stream.codec_context.thread_count = 1
        for frame in pixels:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def read_clip(path: Path) -> np.ndarray:
    """The frames of a clip of this data set, [T, H, W, 3] uint8 RGB."""
    pts = probe_video(path).pts
    return np.stack([frame for _, frame in read_frames(path, pts, FRAME_PX, FRAME_PX)])


def _check_drawing(folder: Path) -> None:
    """Refuse to continue with files of another version of the world."""
    for place, pair in enumerate(draw_training_pairs(1)):
        path = folder / "images" / "0000" / f"{pair.identity_number:07d}-{place:06d}.png"
        if not pair.is_video and path.is_file():
            with Image.open(path) as image:
                if not np.array_equal(np.array(image), pair.draw_target()):
                    raise ValueError(f"{path} was drawn by another version of the world; delete {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the training data of the adapters.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--identities", type=int, default=NUM_IDENTITIES)
    arguments = parser.parse_args()
    write_dataset(arguments.folder, arguments.identities)


if __name__ == "__main__":
    main()
