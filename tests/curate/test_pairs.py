"""Windows of footage, and which reference stands beside which target."""

from __future__ import annotations

import numpy as np
import pytest
from drawn import make_config
from made_tracks import make_sample, make_track, person_vector

from lynx_core.curate.configuration import TargetsConfig
from lynx_core.curate.pairing import make_pairs
from lynx_core.curate.people import find_people
from lynx_core.curate.records import Candidate, Membership
from lynx_core.curate.target_crops import find_crop
from lynx_core.curate.windows import Window, find_windows
from lynx_core.engine.stage import Rejected

CLIP = range(0, 500, 5)  # 20 s


def change(track, name, rows):
    values = getattr(track, name).reshape(-1, 5 if name == "looks" else 2).copy()
    rows(values)
    return values.ravel()


def test_windows_are_as_long_as_may_be_and_do_not_overlap():
    track = make_track("t", person_vector(1), frames=CLIP)
    windows, fault = find_windows(track, TargetsConfig(min_s=2, max_s=5, max_per_shot=10), 0.9)
    assert fault is None and windows == [Window(0, 125), Window(125, 250), Window(250, 375), Window(375, 496)]
    assert len(find_windows(track, TargetsConfig(max_per_shot=2), 0.9)[0]) == 2


def test_a_face_turned_away_for_half_of_the_shot_gives_the_other_half():
    track = make_track("t", person_vector(1), frames=CLIP)
    seen = track.looks.reshape(-1, 5)
    half = make_track("t", person_vector(1), frames=CLIP, looks=seen[seen[:, 0] >= 250].ravel())
    windows, _ = find_windows(half, TargetsConfig(min_s=2, max_s=5, max_per_shot=9), 0.9)
    assert windows and min(window.first_frame for window in windows) >= 230
    scattered = make_track("t", person_vector(1), frames=CLIP, looks=seen[::2].ravel())
    windows, fault = find_windows(scattered, TargetsConfig(), 0.9)
    assert not windows and fault.reason == "face out of view" and "52%" in fault.detail


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"shot_end": 40}, "shot too short"),
        ({"motion": np.array([[f, 0.0] for f in CLIP], np.float32).ravel()}, "no motion"),
        ({"others": np.array([[f, 1] for f in CLIP], np.float32).ravel()}, "several people in the target"),
        (
            {"looks": np.array([[f, f / 600, 0.3, f / 600 + 0.2, 0.6] for f in CLIP], np.float32).ravel()},
            "face wanders",
        ),
    ],
)
def test_footage_that_makes_no_target_says_why(changes, reason):
    track = make_track("t", person_vector(1), frames=CLIP, **changes)
    windows, fault = find_windows(track, TargetsConfig(max_crop_shift=0.1), 0.9)
    assert not windows and fault.reason == reason and fault.detail


def pair(tracks, tmp_path, **sections):
    config = make_config(tmp_path / "none", tmp_path / "set", **({"identity": {"threshold": 0.5}} | sections))
    members = [item for item in find_people(tracks, config.identity, 0.5) if isinstance(item, Membership)]
    return make_pairs(tracks, members, config, 0.5)


def test_another_scene_comes_before_the_own_one(tmp_path):
    vector = person_vector(1)
    frames = range(0, 100, 5)
    turned = [
        make_sample(person_vector(1, 0.3, 1), 0),
        make_sample(person_vector(1, 0.3, 2), 95, yaw_deg=40.0),
    ]
    clip = make_track("clip", vector, frames=frames, samples=turned, scene=10.0)
    photo = make_track("photo", person_vector(1, 0.3, 3), scene=150.0)
    targets = {"min_s": 1, "max_s": 2, "photos": False, "max_per_shot": 1}
    (made,) = [item for item in pair([clip, photo], tmp_path, targets=targets) if isinstance(item, Candidate)]
    assert (
        made.kind == "multi-scene"
        and made.references[0].track == "photo"
        and made.raw_kind == "multi-scene videos"
    )
    (alone,) = pair([clip], tmp_path, targets=targets)
    assert (
        alone.kind == "single-scene" and alone.references[0].sample == 1 and alone.raw_kind == "single video"
    )
    assert not alone.first_frame <= 95 < alone.end_frame


def test_the_own_frame_needs_an_augmenter(tmp_path):
    photo = make_track("photo", person_vector(1))
    (rejected,) = pair([photo], tmp_path)
    assert (
        isinstance(rejected, Rejected) and rejected.reason == "only the target's own frames show the person"
    )
    assert "augmenter" in rejected.detail
    (made,) = pair([photo], tmp_path, augmenters=[{"name": "relight"}])
    assert made.kind == "augmented" and made.raw_kind == "single image"


def test_pairs_are_filtered_on_both_sides(tmp_path):
    vector = person_vector(1)
    tracks = [make_track("a", vector, scene=10.0), make_track("b", person_vector(1, 0.05, 3), scene=150.0)]
    made = pair(tracks, tmp_path, identity={"threshold": 0.5, "too_alike": 0.99})
    assert {item.reason for item in made} == {"reference too alike the target"}
    assert all(
        isinstance(item, Candidate)
        for item in pair(tracks, tmp_path, identity={"threshold": 0.5, "too_alike": 1.0})
    )


def test_a_reference_of_the_own_scene_turns_or_changes(tmp_path):
    targets = {"min_s": 1, "max_s": 2, "max_per_shot": 1}
    same = [make_sample(person_vector(1, 0.3, 1), 0), make_sample(person_vector(1, 0.3, 2), 95)]
    clip = make_track("clip", person_vector(1), frames=range(0, 100, 5), samples=same)
    (rejected,) = pair([clip], tmp_path, targets=targets)
    assert isinstance(rejected, Rejected)
    smiling = [
        same[0],
        make_sample(
            person_vector(1, 0.3, 2), 95, shade=np.tile([1.0, 1.0, -1.0, -1.0], 64).astype(np.float32)
        ),
    ]
    (made,) = pair(
        [make_track("clip", person_vector(1), frames=range(0, 100, 5), samples=smiling)],
        tmp_path,
        targets=targets,
    )
    assert made.kind == "single-scene"


def test_references_are_used_in_turn(tmp_path):
    tracks = [make_track(f"t{n}", person_vector(1, 0.4, n), scene=40.0 * n) for n in range(6)]
    made = pair(tracks, tmp_path)
    assert len(made) == 6 and len({item.references[0].track for item in made}) >= 5
    several = pair(tracks, tmp_path, references={"per_target": 2, "pairs_per_target": 2})
    assert len(several) == 12 and all(len(item.references) == 2 for item in several)
    assert len({item.id for item in several}) == 12


def make_person_with_all_kinds():
    """A clip whose second half shows the head turned, and a photo elsewhere."""
    looks = [
        make_sample(person_vector(1, 0.3, 1), 0),
        make_sample(person_vector(1, 0.3, 2), 95, yaw_deg=40.0),
    ]
    clip = make_track("clip", person_vector(1), frames=range(0, 100, 5), samples=looks, scene=10.0)
    return [clip, make_track("photo", person_vector(1, 0.3, 3), scene=150.0)]


def candidates(tracks, tmp_path, **sections):
    return [item for item in pair(tracks, tmp_path, **sections) if isinstance(item, Candidate)]


def test_every_kind_gives_a_target_pairs_of_each_kind(tmp_path):
    targets = {"min_s": 1, "max_s": 2, "photos": False, "max_per_shot": 1}
    people, relight = make_person_with_all_kinds(), [{"name": "relight", "share": 0.1}]
    made = candidates(people, tmp_path, targets=targets, augmenters=relight, references={"every_kind": True})
    assert [item.kind for item in made] == ["multi-scene", "single-scene", "augmented"]
    assert len({item.id for item in made}) == 3
    without = candidates(people, tmp_path, targets=targets, references={"every_kind": True})
    assert [item.kind for item in without] == ["multi-scene", "single-scene"]


@pytest.mark.parametrize("kind", ["multi-scene", "single-scene", "augmented"])
def test_kinds_leaves_the_others_out(tmp_path, kind):
    targets = {"min_s": 1, "max_s": 2, "photos": False, "max_per_shot": 1}
    references = {"kinds": [kind], "pairs_per_target": 3}
    made = candidates(
        make_person_with_all_kinds(),
        tmp_path,
        targets=targets,
        augmenters=[{"name": "relight"}],
        references=references,
    )
    assert {item.kind for item in made} == {kind}
    assert len(made) == (2 if kind == "augmented" else 1)


def test_a_target_without_the_wanted_kinds_says_so(tmp_path):
    (rejected,) = pair(
        [make_track("photo", person_vector(1))],
        tmp_path,
        augmenters=[{"name": "relight"}],
        references={"kinds": ["multi-scene"]},
    )
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "only the target's own frames show the person"


def test_an_augmented_pair_has_one_reference(tmp_path):
    targets = {"min_s": 1, "max_s": 2, "photos": False, "max_per_shot": 1}
    looks = [
        make_sample(person_vector(1, 0.3, n), 5 * n, yaw_deg=40.0 * (n > 0)) for n in range(0, 20, 10)
    ] + [make_sample(person_vector(1, 0.3, 7), 95, yaw_deg=-40.0)]
    clip = make_track("clip", person_vector(1), frames=range(0, 100, 5), samples=looks)
    (made,) = pair(
        [clip], tmp_path, targets=targets, augmenters=[{"name": "relight"}], references={"per_target": 2}
    )
    assert made.kind == "augmented" and len(made.references) == 1


def look(left: float, right: float, frames=CLIP):
    """A face that stays between two places of the frame's width."""
    return np.array([[f, left, 0.3, right, 0.6] for f in frames], np.float32).ravel()


def crop_between(left_of: float | None, right_of: float | None, **changes):
    """The crop of a face in the middle of a frame of 1920x1080 px, with others beside it."""
    size = {"width_px": 1920, "height_px": 1080}
    own = make_track("own", person_vector(1), path="x", frames=CLIP, looks=look(0.45, 0.55), **size)
    beside = [
        make_track("l", person_vector(2), path="x", frames=CLIP, looks=look(left_of - 0.1, left_of), **size)
        if left_of is not None
        else None,
        make_track("r", person_vector(3), path="x", frames=CLIP, looks=look(right_of, right_of + 0.1), **size)
        if right_of is not None
        else None,
    ]
    others = [track for track in beside if track]
    return find_crop(own, Window(0, 100), others, TargetsConfig(crop=True, **changes))


def test_a_crop_ends_half_way_to_the_neighbours():
    left, top, width, height = crop_between(0.3, 0.7)
    assert left == pytest.approx(0.375 * 1920, abs=2) and left + width == pytest.approx(0.625 * 1920, abs=2)
    assert top == 0 and height == 1080
    alone = crop_between(None, None)
    assert alone[0] < left and alone[0] + alone[2] > left + width
    assert all(number % 2 == 0 for number in (*alone, left, width))


def test_people_too_close_and_crops_too_small_are_rejected():
    assert crop_between(0.44, 0.7).reason == "people too close for a crop"
    assert crop_between(0.3, 0.56).reason == "people too close for a crop"
    assert crop_between(0.3, 0.7, min_crop_px=600).reason == "crop too small"
