"""A threshold at a stated rate of false accepts, from labelled photos."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from drawn import draw, make_config, write_photo

from lynx_core.cli.main import main
from lynx_core.curate.calibration import keep_calibration, measure
from lynx_core.curate.configuration import IdentityConfig
from lynx_core.curate.errors import CurationError
from lynx_core.curate.thresholds import resolve_threshold


def make_vectors(num_people: int, photos: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    people = rng.normal(size=(num_people, 16))
    vectors = np.repeat(people, photos, 0) + noise * rng.normal(size=(num_people * photos, 16))
    names = np.repeat([f"p{number}" for number in range(num_people)], photos)
    return names, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("rate", [0.1, 0.01, 0.001])
def test_the_threshold_lets_no_more_strangers_pass_than_stated(rate: float) -> None:
    names, vectors = make_vectors(60, 3, 0.5)
    found = measure("net", names, vectors, rate)
    cosines = vectors @ vectors.T
    strangers = cosines[names[:, None] != names[None]]
    assert (strangers >= found.threshold).mean() <= rate
    assert found.seen_false_accept_rate == pytest.approx((strangers >= found.threshold).mean())
    # And not much stricter than it need be.
    assert (strangers >= found.threshold - 0.02).mean() > 0.5 * rate
    assert found.num_same == 60 * 3 and found.num_different == 180 * 179 // 2 - 180
    # Other photos of the same people bear it out.
    other_names, other = make_vectors(60, 3, 0.5, seed=1)
    fresh = (other @ other.T)[other_names[:, None] != other_names[None]]
    assert (fresh >= found.threshold).mean() < 3 * rate


def test_what_few_photos_cannot_tell_is_said() -> None:
    names, vectors = make_vectors(3, 2, 0.1)
    found = measure("net", names, vectors, 1e-4)
    assert (
        found.seen_false_accept_rate == 0
        and "12 pairs of strangers cannot show a rate of 0.0001" in found.warnings[0]
    )
    assert "0.25" in found.warnings[0]
    muddled, _ = make_vectors(10, 3, 0.1)
    np.random.default_rng(0).shuffle(muddled)
    assert any(
        "wrong labels" in warning
        for warning in measure("net", muddled, make_vectors(10, 3, 0.1)[1], 0.01).warnings
    )


@pytest.mark.parametrize("names", [["a", "a"], ["a", "b"]])
def test_photos_that_tell_nothing_are_refused(names: list[str]) -> None:
    with pytest.raises(CurationError, match="takes two people or more, and two photos"):
        measure("net", np.array(names), np.eye(2), 0.01)


def test_thresholds_of_another_recogniser_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    keep_calibration(path, measure("net", *make_vectors(10, 3, 0.3), 0.01))
    keep_calibration(path, measure("other", *make_vectors(10, 3, 0.3), 0.1))
    config = IdentityConfig(calibration=path)
    assert resolve_threshold(config, "net").value == json.loads(path.read_text())["net"]["threshold"]
    assert "0.01" in resolve_threshold(config, "net").origin
    with pytest.raises(CurationError, match=r"no threshold of the recogniser third .it holds: net, other"):
        resolve_threshold(config, "third")
    path.write_text("{")
    with pytest.raises(CurationError, match="is no calibration"):
        resolve_threshold(config, "net")


def test_the_command_calibrates_drawn_people_and_curate_uses_it(tmp_path: Path, capsys) -> None:
    photos = tmp_path / "photos"
    for person, name in enumerate(("Zoë", "Иван", "王芳")):
        for number in range(2):
            write_photo(photos / name / f"{number}.png", draw(person, number, number), caption="a person")
    config = make_config(photos, tmp_path / "set")
    toml = tmp_path / "curate.toml"
    toml.write_text(
        f'output = "{tmp_path / "set"}"\n[[sources]]\npath = "{photos}"\nnames = "folder"\n[faces]\n'
        f'detector_models = "{config.faces.detector_models}"\npack = "lynx_mini"\nrecogniser = "{config.faces.recogniser}"\n'
        f'[identity]\ncalibration = "{tmp_path / "calibration.json"}"\n[quality]\nmin_face_px = 60\n'
    )
    assert main(["curate", str(toml)]) == 1
    assert "comfy-lynx calibrate" in capsys.readouterr().err
    assert main(["calibrate", str(toml), "--photos", str(photos), "--false-accept-rate", "0.05"]) == 0
    shown = capsys.readouterr().out
    assert (
        "6 photos of 3 people" in shown
        and "lynx_mini_arcface: threshold 0." in shown
        and "cannot show" in shown
    )
    assert "<svg" in (tmp_path / "calibration.html").read_text()
    assert main(["curate", str(toml)]) == 0
    shown = capsys.readouterr()
    assert "3 people, 6 pairs" in shown.out and "scan: 6 of 6" in shown.err
    assert main(["forget", "王芳", "--set", str(tmp_path / "set")]) == 0
    assert "removed 2 pairs" in capsys.readouterr().out
