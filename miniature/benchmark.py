"""The benchmark of drawn people: 40 subjects and 20 captions, and 100 more subjects as in the paper's supplement.

    python -m miniature.benchmark runs/benchmark_mini/data

Nobody of them is in any training. Each has three pictures: the reference, and two as anchors. A caption carries
its truth, so that readers can tell what a video shows of it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .experiment.readers import load_readers
from .world.caption import ACTION_WORDS, LIGHT_WORDS, PLACE_WORDS
from .world.clip import FRAME_PX
from .world.draws import FIRST_HELD_OUT_IDENTITY, draw_shot
from .world.identity import draw_identity
from .world.scene import ACTIONS, BACKGROUNDS, LIGHTS

NUM_SUBJECTS, NUM_SUPPLEMENT, NUM_PROMPTS, NUM_PHOTOS = 40, 100, 20, 3
FIRST_SUBJECT = FIRST_HELD_OUT_IDENTITY + 60_000
FIRST_SHOT = 6 * 10**8
PHOTO_PX = 256


def write_benchmark(
    folder: Path,
    num_subjects: int = NUM_SUBJECTS,
    num_prompts: int = NUM_PROMPTS,
    num_supplement: int = NUM_SUPPLEMENT,
) -> None:
    """Write `subjects.jsonl` with its photos, and `prompts.toml`."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(num_subjects + num_supplement):
        identity, name = draw_identity(FIRST_SUBJECT + number), f"drawn_{number:03d}"
        photos = []
        for place in range(NUM_PHOTOS):
            pixels = draw_shot(identity, FIRST_SHOT + NUM_PHOTOS * number + place).draw_frame(0, PHOTO_PX)
            photos.append(f"photos/{name}_{place}.png")
            Image.fromarray(pixels).save(folder / photos[-1])
        rows.append(
            {
                "id": name,
                "photos": photos,
                "kind": "drawn",
                "consent": "not needed: a drawing of nobody",
                "licence": "Apache-2.0",
                "source": f"miniature.world, identity {FIRST_SUBJECT + number}",
                "split": "main" if number < num_subjects else "supplement",
            }
        )
    (folder / "subjects.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "prompts.toml").write_text("\n".join(_write_prompts(num_prompts)), encoding="utf-8")


def _write_prompts(count: int) -> list[str]:
    """Captions that differ in action and place; every action, place and light comes about equally often."""
    lines = ['licence = "Apache-2.0"', 'source = "miniature.world.caption"', ""]
    for number in range(count):
        action = ACTIONS[number % len(ACTIONS)]
        place = BACKGROUNDS[(number + number // len(BACKGROUNDS)) % len(BACKGROUNDS)]
        light = LIGHTS[number // 2 % len(LIGHTS)]
        words = ("a person", ACTION_WORDS[action][0], PLACE_WORDS[place][0], LIGHT_WORDS[light][0])
        truth = f'truth = {{ action = "{action}", place = "{place}", light = "{light}" }}'
        text = " ".join(word for word in words if word)
        lines += ["[[prompts]]", f'id = "caption_{number:02d}"', f'text = "{text}"', truth, ""]
    return lines


class ReaderNetwork:
    """The identity reader as a recogniser of the benchmark: it was trained apart from the one that conditions.

    It reads whole pictures, so it sees the square of the frame's height around the face.
    """

    def __init__(self, file: Path) -> None:
        self.readers = load_readers(file)

    def embed(self, faces: list[Any]) -> np.ndarray:
        """Unit vectors [n, 128] of n `SeenFace`."""
        return self.readers.embed(np.stack([_cut_square(face.frame, face.face.centre[0]) for face in faces]))


def open_reader(file: Path) -> ReaderNetwork:
    """What `callable` of a recogniser names in configs/benchmark_mini.toml."""
    return ReaderNetwork(file)


def _cut_square(frame: np.ndarray, x: float) -> np.ndarray:
    height, width = frame.shape[:2]
    left = int(np.clip(x - height / 2, 0, max(width - height, 0)))
    square = Image.fromarray(frame[:, left : left + height])
    return np.asarray(square.resize((FRAME_PX, FRAME_PX), Image.Resampling.BOX))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the benchmark of drawn people.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subjects", type=int, default=NUM_SUBJECTS)
    parser.add_argument("--prompts", type=int, default=NUM_PROMPTS)
    parser.add_argument("--supplement", type=int, default=NUM_SUPPLEMENT)
    arguments = parser.parse_args()
    write_benchmark(arguments.folder, arguments.subjects, arguments.prompts, arguments.supplement)
    print(
        f"{arguments.subjects} + {arguments.supplement} subjects and {arguments.prompts} prompts in {arguments.folder}"
    )


if __name__ == "__main__":
    main()
