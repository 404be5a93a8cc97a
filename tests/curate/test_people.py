"""Who is who, and who is held out."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import defaultdict

import numpy as np
import pytest
from made_tracks import DIM, make_sample, make_track, person_vector

from lynx_core.curate import clustering
from lynx_core.curate.configuration import IdentityConfig, QualityConfig, SplitsConfig
from lynx_core.curate.duplicates import _HashIndex
from lynx_core.curate.people import find_people
from lynx_core.curate.quality import judge_track
from lynx_core.curate.records import JudgedTrack, Membership, TrackFacts
from lynx_core.curate.splits import split_people
from lynx_core.engine.stage import Rejected

CONFIG = IdentityConfig(threshold=0.5)


def group(tracks, config=CONFIG, threshold=0.5):
    found = find_people(tracks, config, threshold)
    groups = defaultdict(set)
    for item in found:
        if isinstance(item, Membership):
            groups[item.person].add(item.track)
    return sorted(map(sorted, groups.values())), [item for item in found if isinstance(item, Rejected)], found


@pytest.mark.parametrize("limit", [4000, 3], ids=["all pairs", "neighbours"])
def test_tracks_of_a_person_are_joined_across_files(limit, monkeypatch):
    monkeypatch.setattr(clustering, "MAX_EXACT", limit)
    tracks = [
        make_track(f"{person}{n}", person_vector(person, 0.4, 10 * person + n), scene=60 * n)
        for person in range(5)
        for n in range(4)
    ]
    groups, rejected, _ = group(tracks)
    assert groups == [[f"{person}{n}" for n in range(4)] for person in range(5)] and not rejected
    again, _, _ = group(tracks[::-1])
    assert again == groups


def test_two_who_are_seen_together_are_two_people_however_alike():
    twin = person_vector(1)
    frames = range(0, 50, 5)
    left = make_track("left", twin, "/media/twins.mp4", frames=frames)
    right = make_track("right", person_vector(1, 0.1), "/media/twins.mp4", frames=frames)
    groups, _, found = group([left, right])
    assert groups == [["left"], ["right"]]
    assert all(item.look_alike for item in found)


def test_one_face_lost_and_found_in_a_shot_is_one_person():
    early = make_track("early", person_vector(1), "/media/a.mp4", frames=range(0, 50, 5))
    late = make_track("late", person_vector(1, 0.1), "/media/a.mp4", frames=range(100, 150, 5))
    assert group([early, late])[0] == [["early", "late"]]


def test_look_alikes_near_the_threshold_are_reported():
    vector = person_vector(1)
    near = 0.49 * vector + np.sqrt(1 - 0.49**2) * _orthogonal(vector)
    config = IdentityConfig(threshold=0.5, margin=0.05)
    groups, _, found = group([make_track("a", vector), make_track("b", near.astype(np.float32))], config)
    assert len(groups) == 2 and all(item.look_alike for item in found)
    assert found[0].runner_up_similarity == pytest.approx(0.49, abs=1e-3)
    far = IdentityConfig(threshold=0.5, margin=0.005)
    assert not any(
        item.look_alike
        for item in group([make_track("a", vector), make_track("b", near.astype(np.float32))], far)[2]
    )


def _orthogonal(vector):
    other = np.roll(vector, 1)
    other = other - (other @ vector) * vector
    return other / np.linalg.norm(other)


def test_a_stranger_in_a_persons_folder_is_no_part_of_them():
    anna = [
        make_track(f"anna{n}", person_vector(1, 0.3, n), folder_name="Анна", scene=60 * n) for n in range(3)
    ]
    stranger = make_track("stranger", person_vector(2), folder_name="Анна", scene=200)
    groups, rejected, found = group([*anna, stranger])
    assert groups == [["anna0", "anna1", "anna2"]]
    assert {item.person for item in found if isinstance(item, Membership)} == {"Анна"}
    assert [item.reason for item in rejected] == ["not the person of the folder"]


def test_rare_people_are_left_out_with_a_reason():
    tracks = [
        make_track("a", person_vector(1)),
        make_track("b", person_vector(1, 0.1), scene=90),
        make_track("c", person_vector(2)),
    ]
    groups, rejected, _ = group(tracks, IdentityConfig(threshold=0.5, min_tracks=2))
    assert groups == [["a", "b"]] and rejected[0].reason == "a person seen too rarely"


def test_a_name_stays_when_others_come():
    tracks = [
        make_track(f"{p}{n}", person_vector(p, 0.3, n), scene=60 * n) for p in range(3) for n in range(2)
    ]
    names = {item.track: item.person for item in group(tracks)[2]}
    more = [*tracks, make_track("z9", person_vector(7))]
    assert names.items() <= {item.track: item.person for item in group(more)[2]}.items()


def test_scenes_of_a_person_are_told_by_what_is_behind_them():
    vectors = [person_vector(1, 0.2, n) for n in range(3)]
    tracks = [make_track(f"t{n}", vectors[n], scene=scene) for n, scene in enumerate((50.0, 54.0, 120.0))]
    found = {item.track: item.scene for item in group(tracks)[2]}
    assert found["t0"] == found["t1"] != found["t2"]


def judge(track: JudgedTrack, **changes):
    facts = TrackFacts(**{field.name: getattr(track, field.name) for field in dataclasses.fields(TrackFacts)})
    return judge_track(facts, QualityConfig(**changes), 0.5)


def test_a_poster_on_a_wall_is_no_person():
    still = make_track("poster", person_vector(1), frames=range(0, 50, 5), face_change=0.2)
    assert [item.reason for item in judge(still)] == ["a still picture of a face"]
    moving = make_track("moving", person_vector(1), frames=range(0, 50, 5), face_change=3.0)
    assert isinstance(judge(moving)[0], JudgedTrack)
    photo = make_track("photo", person_vector(1), face_change=-1.0)
    assert isinstance(judge(photo)[0], JudgedTrack)


def test_a_track_that_slips_to_another_person_is_cut_or_dropped():
    mine, other = person_vector(1), person_vector(2)
    samples = [make_sample(mine, 0), make_sample(mine, 5), make_sample(other, 10)]
    judged, rest = judge(make_track("t", mine, samples=samples, frames=range(0, 15, 5)))
    assert judged.usable == (0, 1) and rest.reason == "look: another face than the rest of the track"
    half = [make_sample(person_vector(n), 5 * n) for n in range(4)]
    assert [item.reason for item in judge(make_track("t", mine, samples=half))] == [
        "more than one person in a track"
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"face_px": 20.0}, "face too small"),
        ({"sharpness": 3.0}, "face blurred"),
        ({"yaw_deg": -75.0}, "face turned away"),
        ({"pitch_deg": 60.0}, "face turned away"),
        ({"brightness": 8.0}, "face too dark"),
        ({"brightness": 250.0}, "face too bright"),
        ({"clipped": 0.6}, "face badly exposed"),
        ({"occluded": 0.71}, "face covered"),
    ],
)
def test_a_poor_look_is_rejected_with_its_figure(changes, reason):
    vector = person_vector(1)
    track = make_track("t", vector, samples=[make_sample(vector, 0, **changes)])
    (rejected,) = judge(track)
    assert rejected.reason == reason and "the bound is" in rejected.detail
    both = make_track("t", vector, samples=[make_sample(vector, 0, **changes), make_sample(vector, 5)])
    kept, look = judge(both)
    assert kept.usable == (1,) and look.reason == f"look: {reason}"


def test_splits_keep_people_of_one_file_together_and_stay_when_people_come():
    places = [(f"/{n}.png", f"p{n}") for n in range(200)] + [("/both.mp4", "p1"), ("/both.mp4", "p2")]
    config = SplitsConfig(heldout_share=0.2)
    splits = split_people(places, config)
    assert splits["p1"] == splits["p2"]
    assert 0.1 < sum(split == "heldout" for split in splits.values()) / 200 < 0.3
    more = split_people([*places, *((f"/x{n}.png", f"q{n}") for n in range(50))], config)
    assert splits.items() <= more.items()
    assert set(split_people(places[:2], SplitsConfig(heldout_share=0.01)).values()) == {"train", "heldout"}
    assert set(split_people(places[:1], config).values()) == {"train"}
    assert set(split_people(places, SplitsConfig(heldout_share=0.0)).values()) == {"train"}


def test_vectors_are_wide_enough_for_the_rules_above():
    cosines = [abs(float(person_vector(a) @ person_vector(b))) for a in range(8) for b in range(a)]
    assert max(cosines) < 0.5 and DIM == 32


@pytest.mark.parametrize("seed", range(5))
def test_neighbours_join_as_all_pairs_do(seed, monkeypatch):
    """With people of many looks, twins seen together, and faces between two people."""
    rng = np.random.default_rng(seed)
    tracks = [
        make_track(
            f"{person}-{n}", person_vector(person, rng.uniform(0.3, 0.8), 100 * person + n), scene=60 * n
        )
        for person in range(12)
        for n in range(rng.integers(1, 9))
    ]
    tracks += [
        make_track(f"twin{n}", person_vector(50, 0.1, n), "/media/twins.mp4", frames=range(0, 50, 5))
        for n in range(2)
    ]
    exact, _, _ = group(tracks)
    monkeypatch.setattr(clustering, "MAX_EXACT", 1)
    assert group(tracks)[0] == exact and len(exact) > 10


def test_a_hash_finds_all_that_differ_in_six_bits():
    rng = np.random.default_rng(0)
    index, values = _HashIndex(), [int(value) for value in rng.integers(0, 2**63, 300)]
    for number, value in enumerate(values):
        index.add(value, str(number))
    for number, value in enumerate(values):
        for count, is_found in ((0, True), (3, True), (6, True), (7, False)):
            bits = rng.choice(64, count, replace=False)
            changed = value ^ sum(1 << int(bit) for bit in bits)
            assert (str(number) in index.find(changed)) == is_found


@pytest.mark.skipif(not os.environ.get("LYNX_SCALE"), reason="some minutes; LYNX_SCALE=1 runs it")
def test_thirty_thousand_people_are_told_apart():
    count, looks = 30_000, 2
    rng = np.random.default_rng(0)
    people = rng.normal(size=(count, 512))
    vectors = np.repeat(people, looks, 0) + 0.6 * rng.normal(size=(count * looks, 512))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    tracks = [make_track(f"{n}", vector.astype(np.float32)) for n, vector in enumerate(vectors)]
    started, before = time.process_time(), peak_mb()
    groups = clustering.cluster_tracks(tracks, 0.5)
    print(f"{len(tracks)} tracks: {time.process_time() - started:.0f} s, {peak_mb() - before:.0f} MB more")
    assert len(groups) == count and all(len(members) == looks for members in groups)


def peak_mb():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
