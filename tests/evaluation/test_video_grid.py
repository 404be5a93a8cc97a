"""Videos side by side."""

from __future__ import annotations

import numpy as np
import pytest

from lynx_core.evaluation.video_grid import draw_grid


def make_videos(*lengths: int) -> list[np.ndarray]:
    return [np.full((length, 40, 60, 3), 40 * number + 10, np.uint8) for number, length in enumerate(lengths)]


def test_every_video_is_whole_in_its_cell_and_a_short_one_keeps_its_last_frame() -> None:
    videos = make_videos(3, 5, 5)
    videos[0][2] = 250
    grid = draw_grid(videos, ["a", "b", "c"], num_columns=2)
    assert len(grid) == 5 and grid.shape[1] % 2 == 0 and grid.shape[2] % 2 == 0
    for value in (250, 50, 90):
        assert (grid[-1] == value).all(-1).sum() >= 40 * 60


def test_a_label_is_drawn_above_each_however_long() -> None:
    named = draw_grid(make_videos(1, 1), ["ID 1   reference 0.5", "x" * 80], num_columns=2)
    bare = draw_grid(make_videos(1, 1), ["", ""], num_columns=2)
    assert named.shape == bare.shape and (named != bare).any()


@pytest.mark.parametrize(
    ("videos", "labels", "words"),
    [
        ([], [], "0 videos"),
        (make_videos(1, 1), ["a"], "1 labels"),
        ([*make_videos(1), np.zeros((1, 8, 8, 3), np.uint8)], ["a", "b"], "8 x 8"),
    ],
)
def test_what_makes_no_grid_is_refused(videos: list[np.ndarray], labels: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        draw_grid(videos, labels, 2)
