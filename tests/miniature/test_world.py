"""The miniature world: what a seed gives, what stays with a person, what words may say, and the files of it."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lynx_core.data.manifest import read_manifest
from lynx_core.data.media.decoding import DecodingConfig, decode_clip, plan_clip, probe_media
from lynx_core.faces.crops import crop_aligned
from miniature.dataset import (
    FIRST_HELD_OUT_IDENTITY,
    draw_held_out_pairs,
    draw_training_pairs,
    read_clip,
    write_clip,
    write_dataset,
)
from miniature.world.caption import is_held_out, list_captions
from miniature.world.clip import FPS, FRAME_PX, NUM_FRAMES, Shot
from miniature.world.crop import draw_crops
from miniature.world.draws import caption_of, draw_shot, draw_training_shot
from miniature.world.head import Head
from miniature.world.identity import (
    BEARDS,
    CHOICES,
    GLASSES,
    HAIR_STYLES,
    MARK_COLOURS,
    MARK_PLACES,
    SHARES,
    Identity,
    change_mark,
    draw_identity,
)
from miniature.world.pairs import OWN_SCENE_SORTS, SORTS, draw_pair
from miniature.world.portrait import MARK_SPOTS, draw_portrait
from miniature.world.scene import ACTIONS, BACKGROUNDS, Pose, Scene

FRONT = Pose(yaw=0, pitch=0, roll=0, x=0.5, y=0.48, scale=0.31, smile=0.2, mouth_open=0)
PLAIN = Scene(background=4, background_seed=1, light=0, light_side=0.0, clothes_colour=1)
IDENTITY_WORDS = {
    "skin", "hair", "bald", "curly", "bun", "bob", "mohawk", "eyes", "eyed", "brow", "nose", "lips", "beard",
    "moustache", "goatee", "glasses", "freckles", "mark", "spot", "scar", "face", "man", "woman", "he", "she",
    "his", "her", "young", "old",
}  # fmt: skip


def list_pairs(sort: str, is_video: bool, count: int = 20) -> list:
    return [draw_pair(seed, sort, is_video) for seed in range(count)]


# --- seeds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_video", [False, True])
@pytest.mark.parametrize("sort", SORTS)
def test_equal_seeds_give_equal_pairs_and_pixels(sort: str, is_video: bool) -> None:
    first, again, other = (draw_pair(seed, sort, is_video) for seed in (7, 7, 8))
    assert first == again
    assert np.array_equal(first.draw_reference(), again.draw_reference())
    assert np.array_equal(first.draw_target(), again.draw_target())
    assert not np.array_equal(first.draw_reference(), other.draw_reference())
    assert not np.array_equal(first.draw_target(), other.draw_target())


def test_shapes() -> None:
    clip, image = draw_pair(3, "multi-scene", True), draw_pair(3, "multi-scene", False)
    assert clip.draw_target().shape == (NUM_FRAMES, FRAME_PX, FRAME_PX, 3)
    assert image.draw_target().shape == (FRAME_PX, FRAME_PX, 3)
    assert clip.draw_reference().shape == (256, 256, 3)
    assert clip.draw_target().dtype == clip.draw_reference().dtype == np.uint8


# --- identity ------------------------------------------------------------------------------------


def plain_person() -> Identity:
    """A person all of whose factors can be seen: nothing hides another."""
    values = dict.fromkeys(SHARES, 0.5) | dict.fromkeys(CHOICES, 0)
    values |= {"hair_style": HAIR_STYLES.index("short"), "glasses": GLASSES.index("round")}
    return Identity(**values)


@pytest.mark.parametrize("name", [*SHARES, *CHOICES])
def test_every_factor_of_a_person_changes_the_picture(name: str) -> None:
    person = plain_person()
    values = range(len(CHOICES[name])) if name in CHOICES else (0.0, 0.5, 1.0)
    pictures = [
        draw_portrait(dataclasses.replace(person, **{name: value}), PLAIN, FRONT, 64) for value in values
    ]
    for place, picture in enumerate(pictures):
        for other in pictures[:place]:
            # Levels away, in pixels that a 64 px frame can show.
            assert (np.abs(picture.astype(int) - other.astype(int)).max(-1) > 12).sum() >= 4


def test_people_differ_in_every_factor() -> None:
    people = [draw_identity(number) for number in range(400)]
    for name, table in CHOICES.items():
        assert {getattr(person, name) for person in people} == set(range(len(table)))
    for name in SHARES:
        values = [getattr(person, name) for person in people]
        assert max(values) > 0.9 and len(set(values)) > 100


@pytest.mark.parametrize(("name", "value"), [*((n, v) for n in SHARES for v in (-0.1, 1.1)), *((n, v) for n, t in CHOICES.items() for v in (-1, len(t)))])  # fmt: skip
def test_bad_factors_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*{value}"):
        dataclasses.replace(plain_person(), **{name: value})


def test_another_mark_changes_nothing_else() -> None:
    person = draw_identity(5)
    others = [change_mark(person, seed) for seed in range(200)]
    assert {(o.mark_colour, o.mark_place) for o in others} == {
        (colour, place) for colour in range(len(MARK_COLOURS)) for place in range(len(MARK_PLACES))
    }
    for other in others:
        marks = {"mark_colour": person.mark_colour, "mark_place": person.mark_place}
        assert dataclasses.replace(other, **marks) == person


def test_the_mark_is_seen_in_its_colour_at_its_place() -> None:
    """On people of every sort: no hair, beard or glasses may hide the colour."""
    size_px = 128
    for number in range(150):
        person = draw_identity(number)
        head = Head(person, FRONT, size_px)
        x, y = head.place_on_face(*MARK_SPOTS[MARK_PLACES[person.mark_place]])
        reach = 0.1 * head.unit_px
        picture = draw_portrait(person, PLAIN, FRONT, size_px).astype(float)
        spot = picture[round(y - reach) : round(y + reach) + 1, round(x - reach) : round(x + reach) + 1]
        near = np.abs(spot - np.array(MARK_COLOURS[person.mark_colour])).max(-1) < 40
        assert near.mean() > 0.5, (number, HAIR_STYLES[person.hair_style], BEARDS[person.beard])


@pytest.mark.parametrize("frame", [0, NUM_FRAMES // 2, NUM_FRAMES - 1])
def test_landmarks_lie_in_the_face_and_in_their_order(frame: int) -> None:
    for number in range(100):
        shot = draw_training_shot(number)
        points = shot.find_landmarks(frame)
        left, top, right, bottom = Head(shot.identity, shot.pose_at(frame), FRAME_PX).box()
        # The front of a head that is turned far stands out over the edge of the face a little.
        slack = 0.0 if frame == 0 else 0.08 * (bottom - top)
        assert (points > (left - slack, top - slack)).all(), number
        assert (points < (right + slack, bottom + slack)).all(), number
        eye, other_eye, nose, corner, other_corner = points
        assert eye[0] < other_eye[0] and corner[0] < other_corner[0]
        assert eye[1] < nose[1] < corner[1] and other_eye[1] < nose[1] < other_corner[1]


def test_a_ready_crop_gives_the_id_crop_of_the_photo() -> None:
    for number in range(10):
        shot = draw_training_shot(number)
        id_crop, reference_crop = draw_crops(shot)
        again = crop_aligned(reference_crop).id_crop
        assert np.abs(again.astype(int) - id_crop.astype(int)).mean() < 1.5


# --- pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_video", [False, True])
@pytest.mark.parametrize("sort", SORTS)
def test_both_sides_of_a_pair_show_one_person(sort: str, is_video: bool) -> None:
    for pair in list_pairs(sort, is_video):
        assert pair.reference.identity == pair.target.identity == draw_identity(pair.identity_number)
        assert pair.kind == SORTS[sort]
        assert pair.reference.pose_at(0) == pair.reference.pose_at(NUM_FRAMES - 1), "a photo stands still"


@pytest.mark.parametrize("is_video", [False, True])
def test_what_each_sort_of_pair_keeps_and_changes(is_video: bool) -> None:
    pairs = {sort: list_pairs(sort, is_video, 40) for sort in SORTS}
    face = ("smile", "mouth_open")
    head = tuple(field.name for field in dataclasses.fields(Pose) if field.name not in face)
    for sort, found in pairs.items():
        for pair in found:
            photo, scene = pair.reference, pair.target.scene
            frames = range(NUM_FRAMES) if is_video else [pair.target_frame]
            poses = [pair.target.pose_at(frame) for frame in frames]
            heads = [[getattr(pose, name) for name in head] for pose in poses]
            same_head = [getattr(photo.pose, name) for name in head] in heads
            light = (photo.scene.light, photo.scene.light_side) == (scene.light, scene.light_side)
            place = (photo.scene.background, photo.scene.background_seed) == (
                scene.background,
                scene.background_seed,
            )
            kept = {
                "scene": photo.scene == scene,
                "pose": photo.pose in poses,
                "head": same_head,
                "light": light,
                "place": place,
            }
            expected = {
                "single": {"scene": True, "pose": True},
                "expression": {"scene": True, "pose": False, "head": True},
                "relight": {"pose": True, "light": False, "place": True},
                "background": {"pose": True, "light": True, "place": False},
                "multi-scene": {"scene": False, "head": False, "place": False},
            }[sort]
            assert {name: kept[name] for name in expected} == expected, (sort, pair)
            if sort in ("background", "multi-scene"):
                assert photo.scene.background != scene.background
    frames = {pair.reference.pose for pair in pairs["single"]}
    assert len(frames) == 40


def test_an_image_shows_what_its_caption_says() -> None:
    """The told frame is where the action has gone furthest."""
    sign = {"turn left": ("yaw", -1), "turn right": ("yaw", 1), "nod": ("pitch", 1), "smile": ("smile", 1)}
    sign["lean in"] = ("scale", 1)
    seen = set()
    for pair in list_pairs("multi-scene", False, 60):
        action = ACTIONS[pair.target.action]
        seen.add(action)
        if action in sign:
            name, towards = sign[action]
            values = [towards * getattr(pair.target.pose_at(frame), name) for frame in range(NUM_FRAMES)]
            assert values[pair.target_frame] == max(values)
    assert seen == set(ACTIONS)


def test_multi_scene_pairs_of_a_person_share_the_photo() -> None:
    first, second = (draw_pair(seed, "multi-scene", False, identity_number=4) for seed in (12, 13))
    assert np.array_equal(first.draw_reference(), second.draw_reference())
    assert first.target != second.target


def test_an_unknown_sort_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'multiscene'; the sorts are .*multi-scene"):
        draw_pair(0, "multiscene", False)


# --- words ---------------------------------------------------------------------------------------


def test_no_caption_names_the_person() -> None:
    captions = [caption for caption, _ in list_captions()]
    words = {word for caption in captions for word in caption.split()}
    assert len(words) > 40, "an empty grammar would pass"
    assert not words & IDENTITY_WORDS
    grammar = set(captions)
    assert all(caption_of(draw_training_shot(number), number) in grammar for number in range(300))


def test_a_caption_does_not_depend_on_who_it_is_about() -> None:
    shot = draw_training_shot(1)
    twin = Shot(draw_identity(99), shot.scene, shot.pose, shot.action)
    assert [caption_of(shot, seed) for seed in range(9)] == [caption_of(twin, seed) for seed in range(9)]


def test_training_never_names_a_held_out_combination() -> None:
    every = {(b, a) for b in range(len(BACKGROUNDS)) for a in range(len(ACTIONS))}
    held_out = {pair for pair in every if is_held_out(*pair)}
    # Each word must be known from other sentences.
    assert {b for b, _ in every - held_out} == set(range(len(BACKGROUNDS)))
    assert {a for _, a in every - held_out} == set(range(len(ACTIONS)))
    trained = {(p.target.scene.background, p.target.action) for p in draw_training_pairs(400)}
    assert trained == every - held_out
    tested = {(p.target.scene.background, p.target.action) for p in draw_held_out_pairs(200)}
    assert tested == held_out
    assert is_held_out(
        *(lambda s: (s.scene.background, s.action))(draw_shot(draw_identity(0), 0, held_out_captions=True))
    )


# --- files ---------------------------------------------------------------------------------------


def test_people_of_training_and_held_out_people_are_apart() -> None:
    trained, held_out = list(draw_training_pairs(16)), list(draw_held_out_pairs(16))
    assert max(pair.identity_number for pair in trained) < FIRST_HELD_OUT_IDENTITY
    assert min(pair.identity_number for pair in held_out) >= FIRST_HELD_OUT_IDENTITY
    assert {(pair.sort, pair.is_video) for pair in trained} == {
        (sort, v) for sort in SORTS for v in (False, True)
    }
    assert len({pair.identity_number for pair in held_out}) == 16
    assert set(OWN_SCENE_SORTS) | {"multi-scene"} == set(SORTS)


def test_a_clip_comes_back_as_the_trainer_reads_it(tmp_path: Path) -> None:
    clip = draw_training_shot(2).draw_clip()
    path = tmp_path / "clip.mp4"
    write_clip(path, clip)
    assert np.array_equal(read_clip(path), clip)
    plan = plan_clip(path, probe_media(path), DecodingConfig(max_frames=NUM_FRAMES, fps=FPS))
    assert np.array_equal(decode_clip(path, plan), clip)


def test_a_data_set_that_was_stopped_goes_on(tmp_path: Path) -> None:
    assert not write_dataset(tmp_path, 2, 2, stop_at=time.monotonic() - 1)
    assert not (tmp_path / "train.jsonl").exists()
    assert write_dataset(tmp_path, 2, 2)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*g")}
    victim = next(path for path in written if path.suffix == ".png")
    pixels = victim.read_bytes()
    victim.unlink()
    assert write_dataset(tmp_path, 2, 2)
    assert victim.read_bytes() == pixels
    assert all(path.stat().st_mtime_ns == when for path, when in written.items() if path != victim)
    manifest = read_manifest(tmp_path / "train.jsonl")
    assert len(manifest.pairs) == 6 and not manifest.rejections and not manifest.ignored_columns
    assert Counter(pair.target.suffix for pair in manifest.pairs) == {".png": 4, ".mp4": 2}
    assert len({pair.references for pair in manifest.pairs}) == 4, "two photos for each person"
    assert len(read_manifest(tmp_path / "heldout.jsonl").pairs) == 2


def test_pictures_of_another_version_are_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, 1, 1)
    first, second = sorted((tmp_path / "images" / "0000").glob("*.png"))[:2]
    first.write_bytes(second.read_bytes())
    with pytest.raises(ValueError, match="another version of the world; delete"):
        write_dataset(tmp_path, 1, 1)
