"""A square that follows a face: cut out and put back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lynx_core.faces.moving_crop import MAX_GAP, follow_face

HEIGHT, WIDTH, NUM_FRAMES = 96, 128, 12


def make_frames() -> torch.Tensor:
    """Smooth frames [n, height, width, 3] in which every place differs."""
    y, x = torch.meshgrid(torch.linspace(0, 1, HEIGHT), torch.linspace(0, 1, WIDTH), indexing="ij")
    picture = torch.stack([x, y, 0.5 + 0.3 * torch.sin(6 * x) * torch.cos(5 * y)], dim=-1)
    return picture[None].repeat(NUM_FRAMES, 1, 1, 1)


def box_at(x: float, y: float, side: float = 20) -> np.ndarray:
    return np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])


def follow(boxes: dict[int, np.ndarray], num_frames: int = NUM_FRAMES, smoothing: int = 0) -> object:
    return follow_face(boxes, num_frames, (HEIGHT, WIDTH), room=2.0, smoothing=smoothing)


@pytest.mark.parametrize("size_px", [24, 40, 160])
def test_faces_that_were_not_changed_leave_the_video_as_it_was(size_px: int) -> None:
    frames = make_frames()
    track = follow({number: box_at(50 + number, 40) for number in range(NUM_FRAMES)})
    pasted = track.paste(frames, track.cut(frames, size_px), feather=0.2)
    assert (pasted - frames).abs().max() < 0.02


def test_a_new_face_lies_where_the_old_one_was_and_fades_at_its_edge() -> None:
    frames = make_frames()
    track = follow({number: box_at(60, 50) for number in range(NUM_FRAMES)})
    pasted = track.paste(frames, torch.ones(NUM_FRAMES, 64, 64, 3), feather=0.25)
    assert torch.allclose(pasted[:, 50, 60], torch.ones(3), atol=1e-3)
    changed = (pasted - frames).abs().amax((0, 3)) > 1e-3
    rows, columns = torch.nonzero(changed, as_tuple=True)
    assert rows.min() >= 30 and rows.max() <= 69 and columns.min() >= 40 and columns.max() <= 79
    edge = pasted[0, 50, 40:60, 0] - frames[0, 50, 40:60, 0]
    assert (edge.diff() >= -0.02).all() and edge[0] < 0.1, "no seam"


def test_the_square_stays_inside_the_picture_and_no_larger_than_it() -> None:
    track = follow({0: box_at(2, 2), 5: box_at(126, 94, side=90)})
    half = track.sides / 2
    assert (track.sides <= HEIGHT).all()
    assert (track.centres[:, 0] >= half - 1e-6).all() and (track.centres[:, 0] <= WIDTH - half + 1e-6).all()
    assert (track.centres[:, 1] >= half - 1e-6).all() and (track.centres[:, 1] <= HEIGHT - half + 1e-6).all()


def test_between_two_sights_the_square_moves_evenly_and_far_from_any_nothing_is_put_back() -> None:
    track = follow({0: box_at(40, 48), 4: box_at(60, 48)}, num_frames=40)
    assert track.centres[:5, 0] == pytest.approx([40, 45, 50, 55, 60])
    assert (track.weights[:5] > 0).all() and track.weights[4 + MAX_GAP + 1 :].max() == 0
    frames = torch.zeros(40, HEIGHT, WIDTH, 3)
    pasted = track.paste(frames, torch.ones(40, 32, 32, 3), feather=0.0)
    assert pasted[0].max() == 1 and pasted[-1].max() == 0


def test_smoothing_steadies_what_jitters() -> None:
    random = np.random.default_rng(0)
    boxes = {number: box_at(60 + random.normal(0, 3), 48) for number in range(60)}
    rough, steady = follow(boxes, 60), follow(boxes, 60, smoothing=5)
    assert np.diff(steady.centres[:, 0]).std() < 0.3 * np.diff(rough.centres[:, 0]).std()


def test_a_face_in_no_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="no frame"):
        follow({})
