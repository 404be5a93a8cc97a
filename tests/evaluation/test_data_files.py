"""Subjects, prompts and the TOML: what is wrong is named before anything is made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_benchmark import FACES, RECOGNISERS, REPO, make_matrix

from lynx_core.evaluation.configuration import Faces, RecogniserSettings, read_benchmark
from lynx_core.evaluation.errors import ConfigurationError
from lynx_core.evaluation.face_scores import Gallery
from lynx_core.evaluation.prompts import load_prompts
from lynx_core.evaluation.recognisers import open_detector, open_recogniser
from lynx_core.evaluation.subjects import load_subjects
from miniature.benchmark import FIRST_SUBJECT
from miniature.world.draws import draw_shot
from miniature.world.identity import draw_identity

LINE = {
    "id": "ada",
    "photos": ["a.png"],
    "kind": "licensed",
    "consent": "signed release",
    "licence": "CC-BY-4.0",
    "source": "the studio",
}


def write_subjects(folder: Path, *lines: dict[str, Any]) -> Path:
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        Image.fromarray(np.full((8, 8, 3), number * 40, np.uint8)).save(folder / name)
    path = folder / "subjects.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_subjects_of_a_split_are_read_in_order(tmp_path: Path) -> None:
    other = {**LINE, "id": "bo", "photos": ["b.png"], "split": "supplement"}
    path = write_subjects(tmp_path, LINE, {**LINE, "id": "cy", "photos": ["c.png"]}, other)
    assert [subject.id for subject in load_subjects(path, "main")] == ["ada", "cy"]
    assert [subject.id for subject in load_subjects(path, "supplement")] == ["bo"]
    assert load_subjects(path, "main")[0].reference == tmp_path / "a.png"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([{**LINE, "consent": "unknown"}], "consent: says nothing"),
        ([{key: value for key, value in LINE.items() if key != "consent"}], "consent is missing"),
        ([{key: value for key, value in LINE.items() if key != "licence"}], "licence is missing"),
        ([{**LINE, "source": ""}], "source"),
        ([{**LINE, "photo": "a.png"}], "unknown key photo; did you mean photos"),
        ([{**LINE, "id": "a/b"}], "id: "),
        ([{**LINE, "photos": []}], "photos"),
        ([{**LINE, "photos": ["nowhere.png"]}], "there is no photo"),
        ([LINE, {**LINE, "photos": ["b.png"]}], "two subjects have the id 'ada'"),
        ([LINE, {**LINE, "id": "bo"}], "a.png of subject 'bo' is the same file as subject 'ada'"),
        ([{**LINE, "photos": ["a.png", "a.png"]}], "the same file as another photo of them"),
        ([{**LINE, "split": "supplement"}], "nobody in the split 'main'; it has: supplement"),
    ],
)
def test_wrong_subjects_are_named(tmp_path: Path, lines: list[dict[str, Any]], reason: str) -> None:
    path = write_subjects(tmp_path, *lines)
    with pytest.raises(ConfigurationError, match=re.escape(reason)):
        load_subjects(path, "main")


def test_two_subjects_who_are_one_person_are_caught(tmp_path: Path) -> None:
    """By their faces, although the photos differ; unless the file says that they only look alike."""
    for number, (person, seed) in enumerate(((0, 1), (1, 2), (0, 3))):
        pixels = draw_shot(draw_identity(FIRST_SUBJECT + person), seed).draw_frame(0, 256)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    faces = Faces(**FACES)
    detector = open_detector(faces)
    recogniser = open_recogniser(RecogniserSettings(**{**RECOGNISERS[0], "same_person": 0.6}), faces)
    lines = [
        {**LINE, "id": name, "photos": [f"{number}.png"]} for number, name in enumerate(("ada", "bo", "eve"))
    ]
    path = tmp_path / "subjects.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(ConfigurationError, match=r"'ada' and 'eve' seem to be one person: cosine 0\.[6-9]"):
        Gallery(load_subjects(path, "main"), detector, [recogniser]).refuse_same_people()
    lines[2]["lookalikes"] = ["ada"]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    Gallery(load_subjects(path, "main"), detector, [recogniser]).refuse_same_people()


def test_prompts_that_say_the_same_are_caught(tmp_path: Path) -> None:
    path = tmp_path / "prompts.toml"
    path.write_text(
        '[[prompts]]\nid = "a"\ntext = "She walks."\n[[prompts]]\nid = "b"\ntext = "she  WALKS"\n'
    )
    with pytest.raises(ConfigurationError, match="the prompts 'a' and 'b' say the same"):
        load_prompts(path)
    path.write_text('[[prompts]]\nid = "a"\ntext = "She walks."\n[[prompts]]\nid = "a"\ntext = "He runs"\n')
    with pytest.raises(ConfigurationError, match="two prompts have the id 'a'"):
        load_prompts(path)
    path.write_text('[[prompts]]\nid = "a"\ntext = "She walks."\nlevle = "hard"\n')
    with pytest.raises(
        ConfigurationError, match=re.escape("unknown key prompts.0.levle; did you mean level?")
    ):
        load_prompts(path)


LOOKS = re.compile(
    r"\b(wom[ae]n|m[ae]n|girl|boy|lady|hair\w*|blond\w*|beard\w*|skin|eyes?|tall|slim|young|old|elderly|beautiful|handsome|"
    r"pretty|asian|black|white|he|she|his|her|glasses|makeup)\b",
    re.IGNORECASE,
)


def test_the_shipped_prompts_are_twenty_and_say_nothing_of_looks() -> None:
    prompts = load_prompts(REPO / "assets" / "benchmark" / "prompts.toml")
    assert len([prompt for prompt in prompts if prompt.level == "unbiased"]) == 20
    hard = {prompt.challenge for prompt in load_prompts(REPO / "assets" / "benchmark" / "prompts_hard.toml")}
    assert hard >= {"small face", "profile", "strong light", "occlusion", "two people"}
    for prompt in prompts:
        assert not LOOKS.search(prompt.text), (prompt.id, LOOKS.search(prompt.text))
        assert prompt.text.lower().count("person") >= 1 and 10 <= len(prompt.text.split()) <= 60


@pytest.mark.parametrize(
    "path", sorted((REPO / "configs").glob("benchmark_*.toml")), ids=lambda path: path.stem
)
def test_the_shipped_configurations_are_read(path: Path) -> None:
    config = read_benchmark(path)
    assert config.methods and config.recognisers
    for method in config.methods:
        assert method.workflow is None or (REPO / method.workflow).is_file()


def test_the_wrong_key_of_a_toml_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text(
        'subjects = "s"\nprompts = "p"\noutput = "o"\n[generation]\nserver = "x"\nattempts = 0\n[[methods]]\nname = "x"\n'
    )
    with pytest.raises(ConfigurationError) as refusal:
        read_benchmark(path)
    for part in (
        "unknown key generation.server; did you mean servers?",
        "generation.attempts",
        "methods.0.conditioned_by is missing",
    ):
        assert part in str(refusal.value)


def test_a_matrix_gives_each_cell_one_seed_for_all_methods(data: Path, tmp_path: Path) -> None:
    matrix = make_matrix(data, tmp_path, [{"name": "x", "videos": "v", "conditioned_by": []}])
    seeds = [matrix.seed_of(subject, prompt) for subject, prompt in matrix.list_cells()]
    assert len(set(seeds)) == 6
    again = make_matrix(data, tmp_path, [{"name": "y", "videos": "v", "conditioned_by": []}])
    assert seeds == [again.seed_of(subject, prompt) for subject, prompt in again.list_cells()]
