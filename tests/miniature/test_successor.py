"""What the successor of 128 px adds to the world: two people in a frame, and captions that say more."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lynx_core.formats.base_file import load_transformer
from miniature.edition import EDITIONS, VARIABLE
from miniature.encoders import build_text_encoder
from miniature.making import REPO_DIR, Making
from miniature.parts import base, base_training
from miniature.parts.base_data import FIRST_NUMBERS, EncodedSet
from miniature.parts.resumable import read_part, take_step
from miniature.parts.text_encoder import tokenize_texts
from miniature.world import caption
from miniature.world.caption import Meaning, is_held_out, list_captions, list_duo_captions
from miniature.world.clip import NUM_FRAMES
from miniature.world.draws import FIRST_HELD_OUT_IDENTITY, caption_of, draw_shot, draw_training_shot
from miniature.world.duo import Duo, caption_of_duo, draw_duo, draw_training_duo
from miniature.world.identity import MARK_COLOURS, draw_identity
from miniature.world.labels import pose_numbers
from miniature.world.scene import ACTIONS, CLOTHES_COLOURS


@pytest.fixture
def successor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption, "EDITION", EDITIONS["128"])


def test_each_of_two_people_is_drawn_as_alone_but_for_the_place(successor: None) -> None:
    duo = draw_training_duo(3)
    frame = duo.draw_frame(0, 128)
    assert frame.shape == (128, 256, 3)
    plain = replace(duo.left.scene, light=0, light_side=0.0)
    lit = Duo(
        replace(duo.left, scene=plain),
        replace(duo.right, scene=replace(plain, clothes_colour=duo.right.scene.clothes_colour)),
    )
    for side, shot in enumerate((lit.left, lit.right)):
        alone = shot.draw_frame(0, 128)
        half = lit.draw_frame(0, 128)[:, 128 * side : 128 * (side + 1)]
        eyes = shot.find_landmarks(0, 128)[:3].round().astype(int)
        for x, y in eyes:
            assert np.abs(half[y, x].astype(int) - alone[y, x]).max() <= 4


def test_two_people_share_the_place_and_each_has_an_action(successor: None) -> None:
    duos = [draw_training_duo(number) for number in range(60)]
    assert {duo.left.action for duo in duos} == {duo.right.action for duo in duos} == set(range(len(ACTIONS)))
    assert not any(
        is_held_out(shot.scene.background, shot.action) for duo in duos for shot in (duo.left, duo.right)
    )
    held_out = draw_duo(draw_identity(1), draw_identity(2), 5, held_out_captions=True)
    for shot in (held_out.left, held_out.right):
        assert is_held_out(shot.scene.background, shot.action)
    other = draw_shot(draw_identity(2), 1)
    with pytest.raises(ValueError, match="share its scene"):
        Duo(duos[0].left, other)


def test_captions_that_say_more_are_of_the_grammar_and_mean_it(successor: None) -> None:
    meanings = dict(list_captions())
    longest = 0
    clothed = 0
    for number in range(400):
        shot = draw_training_shot(number)
        text = caption_of(shot, number)
        asked = meanings[text]
        assert asked[:3] == (shot.scene.background, shot.action, shot.scene.light)
        assert asked.clothes in (shot.scene.clothes_colour, len(CLOTHES_COLOURS))
        clothed += asked.clothes == shot.scene.clothes_colour
        longest = max(longest, len(text.split()))
        duo = draw_training_duo(number)
        scene = duo.left.scene
        assert meanings[caption_of_duo(duo, number)] == Meaning(
            scene.background, duo.left.action, scene.light, right_action=duo.right.action
        )
    assert longest >= 25 and 120 < clothed < 280


def test_the_edition_that_ships_says_what_it_said() -> None:
    asked = {meaning for _, meaning in list_captions()}
    assert all(meaning.clothes == len(CLOTHES_COLOURS) for meaning in asked)
    assert caption_of(draw_shot(draw_identity(FIRST_HELD_OUT_IDENTITY), 7), 7) in dict(list_captions())


def test_an_unknown_edition_is_refused() -> None:
    command = [sys.executable, "-c", "import miniature.edition"]
    environment = os.environ | {VARIABLE: "256"}
    found = subprocess.run(
        command, check=False, cwd=REPO_DIR, env=environment, capture_output=True, text=True
    )
    assert found.returncode != 0 and "'256'; the editions are 64, 128" in found.stderr


def test_a_base_is_continued_from_the_weights_that_it_is_given(tmp_path: Path) -> None:
    shipped = load_transformer(base.find_base(Making()), torch.float32).state_dict()
    generator = torch.Generator().manual_seed(1)
    shapes = {"images": (1, 8, 8), "duos": (3, 8, 16)}
    latents = {sort: torch.randn(4, 16, *shape, generator=generator).half() for sort, shape in shapes.items()}
    token_ids, lengths = tokenize_texts(["", *(text for text, _ in islice(list_duo_captions(), 3))])
    data = EncodedSet(latents, {sort: torch.arange(4) for sort in shapes}, token_ids, lengths)
    course = base_training.Course(
        "continued", 2, ("images", "duos"), {"images": 2, "duos": 2}, rate=0.0, start=shipped
    )
    making = Making(tmp_path)
    making.folder.mkdir()
    assert base_training.train_course(making, data, build_text_encoder().requires_grad_(False), course)
    assert base_training.is_course_done(making, course)
    weights = read_part(making.folder / "continued.pt", "base")
    assert all(torch.equal(weights[name], value) for name, value in shipped.items())
    moving = base_training.Course("moving", 2, ("duos",), {"duos": 2}, start=shipped)
    assert base_training.train_course(making, data, build_text_encoder().requires_grad_(False), moving)
    weights = read_part(making.folder / "moving.pt", "base")
    assert not torch.equal(weights["blocks.0.attn1.to_q.weight"], shipped["blocks.0.attn1.to_q.weight"])


def test_tokens_learn_to_tell_what_the_picture_shows() -> None:
    """From tokens that hold the labels, and not from others."""
    labels = base_training.label_rows("clips", np.arange(6))
    frames = len(labels["pose"])
    assert frames == 6 * (1 + (NUM_FRAMES - 1) // 4)
    shot = draw_training_shot(FIRST_NUMBERS["clips"] + 3)
    assert labels["mark_colour"][frames // 2] == shot.identity.mark_colour
    assert np.array_equal(labels["pose"][frames // 2 + 1], pose_numbers(shot.pose_at(4)))
    targets = {name: torch.from_numpy(np.asarray(each)) for name, each in labels.items()}
    told = torch.zeros(frames, base.DIM)
    told[:, : len(MARK_COLOURS)] = 4 * F.one_hot(targets["mark_colour"], len(MARK_COLOURS)).float()
    losses = {}
    for name, frame_tokens in (("told", told), ("untold", torch.zeros_like(told))):
        reader = base_training.build_token_reader()
        optimizer = torch.optim.Adam(reader.parameters(), lr=0.02)
        seen = frame_tokens.repeat_interleave(4, 0).unflatten(0, (6, -1))
        for _ in range(60):
            loss = base_training.reading_loss(reader, seen, targets)
            take_step(loss, reader.parameters(), optimizer)
        losses[name] = loss.item()
    assert losses["told"] < losses["untold"] - 0.2
