"""A benchmark of a few drawn people and captions, with drawn clips in place of made ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lynx_core.evaluation.cells import Matrix
from lynx_core.evaluation.configuration import Benchmark
from miniature.benchmark import FIRST_SUBJECT, write_benchmark
from miniature.world.draws import draw_shot
from miniature.world.identity import draw_identity

REPO = Path(__file__).resolve().parents[2]
MINI = REPO / "assets" / "mini"
RECOGNISER = MINI / "lynx" / "faces" / "lynx_mini_arcface.safetensors"
FACES = {"root": MINI / "insightface", "pack": "lynx_mini"}
RECOGNISERS = [{"name": "mini", "kind": "arcface", "file": RECOGNISER, "same_person": 0.6}]
NUM_FRAMES, FRAME_PX, FPS = 4, 64, 8


def write_clip(path: Path, frames: np.ndarray, fps: int = FPS) -> Path:
    """[T, H, W, 3] uint8 RGB as H.264, as ComfyUI saves it."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(fps), options={"crf": "8", "preset": "veryfast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return path


def draw_person(number: int, seed: int = 5, px: int = FRAME_PX) -> np.ndarray:
    """A clip of subject `number` of the small benchmark, [5, px, px, 3] uint8."""
    shot = draw_shot(draw_identity(FIRST_SUBJECT + number), seed)
    return np.stack([shot.draw_frame(2 * frame, px) for frame in range(NUM_FRAMES)])


def write_data(folder: Path, subjects: int = 3, prompts: int = 2) -> Path:
    write_benchmark(folder, subjects, prompts, num_supplement=0)
    return folder


def write_finished(
    folder: Path, cells: Iterable[tuple[str, str]], draw: Callable[[int, int], np.ndarray]
) -> Path:
    """Clips of some cells and their list; `draw` gets the numbers of subject and prompt."""
    lines = []
    for number, (subject, prompt) in enumerate(cells):
        frames = draw(int(subject[-3:]), int(prompt[-2:]))
        write_clip(folder / f"{number}.mp4", frames)
        lines.append(
            json.dumps({"subject": subject, "prompt": prompt, "video": f"{number}.mp4", "latency_s": 2.0})
        )
    (folder / "videos.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "videos.jsonl"


def make_matrix(data: Path, output: Path, methods: list[dict[str, Any]], **more: Any) -> Matrix:
    """A benchmark over `data`."""
    values = {"subjects": data / "subjects.jsonl", "prompts": data / "prompts.toml", "output": output}
    return Matrix(Benchmark.model_validate({**values, "methods": methods, **more}))


def list_cells(data: Path) -> list[tuple[str, str]]:
    """Ids of subject and prompt of every cell."""
    matrix = make_matrix(data, data, [{"name": "x", "videos": "x", "conditioned_by": []}])
    return [(subject.id, prompt.id) for subject, prompt in matrix.list_cells()]


def hide_face(frames: np.ndarray, share: float) -> np.ndarray:
    """The last frames without anybody: a plain wall."""
    hidden = frames.copy()
    hidden[round(len(frames) * (1 - share)) :] = 120
    return hidden


def judge_drawings(truths: dict[str, int]) -> Callable[[str, list[np.ndarray]], str]:
    """An honest judge of `draw_scene` clips: it sees the colour that stands for each prompt.

    Args:
        truths: prompt's text to its number.
    """

    def answer(prompt: str, frames: list[np.ndarray]) -> str:
        shown = round(float(frames[0][-4:, :, 2].mean()) / 60)
        good = truths[prompt] == shown
        marks = {
            "prompt_following": 9 if good else 2,
            "aesthetics": 6,
            "motion_naturalness": 7,
            "video_quality": 8,
        }
        return json.dumps(marks)

    return answer


def draw_scene(person: int, prompt: int, seed: int = 5) -> np.ndarray:
    """A clip of a person with a bar below whose blue tells the prompt."""
    frames = draw_person(person, seed + prompt)
    frames[:, -6:] = (0, 0, 60 * prompt)
    return frames
