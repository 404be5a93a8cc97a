"""A benchmark that has been made and scored: three methods whose order is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from small_benchmark import (
    FACES,
    RECOGNISERS,
    draw_scene,
    hide_face,
    judge_drawings,
    list_cells,
    make_matrix,
    write_finished,
)
from stub_judge import StubJudge, serve

from lynx_core.evaluation.cells import Matrix
from lynx_core.evaluation.generation import generate
from lynx_core.evaluation.scoring import score

METHODS = [
    {"name": "faithful", "label": "Right person", "conditioned_by": ["mini"], "ablation": "full"},
    {"name": "hiding", "label": "Half hidden", "conditioned_by": [], "ablation": "id"},
    {"name": "stranger", "label": "A stranger", "conditioned_by": []},
]


@dataclass(frozen=True)
class Evaluated:
    matrix: Matrix
    stub: StubJudge


def evaluate_small(data: Path, folder: Path) -> Evaluated:
    """Make and score: the right person; the right one hidden in half of the frames; somebody else, and another
    scene than any prompt's."""
    cells = list_cells(data)
    draws = {
        "faithful": draw_scene,
        "hiding": lambda s, p: hide_face(draw_scene(s, p), 0.5),
        "stranger": lambda s, p: draw_scene(s + 7, p + 3),
    }
    methods = [
        {**method, "videos": write_finished(folder / str(method["name"]), cells, draws[str(method["name"])])}
        for method in METHODS
    ]
    stub = StubJudge()
    with serve(stub):
        matrix = make_matrix(
            data,
            folder / "out",
            methods,
            faces=FACES,
            recognisers=RECOGNISERS,
            judge={"base_url": stub.url, "model": "stub-1", "repeats": 2, "control_every": 2, "frames": 2},
            people={"raters": 6, "cells": 6, "repeats": 2, "pairs": 3},
        )
        stub.answer = judge_drawings(
            {prompt.text: number for number, prompt in enumerate(matrix.prompts.values())}
        )
        generate(matrix, lambda _: None)
        score(matrix, lambda _: None)
    return Evaluated(matrix, stub)
