"""The workflows that ship for augmenting: their structure, and the configuration that the page shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import make_config

from lynx_core.curate.augment.comfyui import (
    INPUT,
    OUTPUT,
    ComfyUIAugmenter,
    fill_workflow,
    find_node,
    read_ranges,
)
from lynx_core.curate.errors import CurationError

try:
    import tomllib
except ImportError:
    import tomli as tomllib

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / "configs" / "augmenters"
KNOWN: dict[str, set[str]] = {
    "LoadImage": {"image"},
    "PreviewImage": {"images"},
    "ImageScaleToTotalPixels": {"image", "upscale_method", "megapixels", "resolution_steps"},
    "ExpressionEditor": {
        "rotate_pitch", "rotate_yaw", "rotate_roll", "blink", "eyebrow", "wink", "pupil_x", "pupil_y", "aaa", "eee",
        "woo", "smile", "src_ratio", "sample_ratio", "sample_parts", "crop_factor", "src_image",
    },
    "LBM_Relighting": {"model", "image", "steps", "precision", "bridge_noise_sigma", "max_samples"},
}  # fmt: skip
"""Inputs of each node, as the packs' sources have them."""


def read_options() -> list[dict[str, Any]]:
    """The augmenters of the page."""
    page = (REPO / "docs" / "augmenters.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    return tomllib.loads(block)["augmenters"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_workflow_leads_from_input_to_output(path: Path) -> None:
    graph = json.loads(path.read_text(encoding="utf-8"))
    for node in graph.values():
        assert set(node["inputs"]) == KNOWN[node["class_type"]]
        for value in node["inputs"].values():
            assert not isinstance(value, list) or (value[0] in graph and value[1] == 0)
    seen, ahead = set(), [find_node(graph, OUTPUT)]
    while ahead:
        number = ahead.pop()
        seen.add(number)
        ahead += [value[0] for value in graph[number]["inputs"].values() if isinstance(value, list)]
    assert find_node(graph, INPUT) in seen and seen == set(graph)


def test_the_pages_configuration_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    backgrounds = tmp_path / "backgrounds"
    backgrounds.mkdir()
    (backgrounds / "a.png").write_bytes(b"x")
    given = read_options()
    make_config(tmp_path / "none", tmp_path / "set", augmenters=given)
    for options in (augmenter["options"] for augmenter in given):
        if "backgrounds" in options:
            options["backgrounds"] = str(backgrounds)
        made = ComfyUIAugmenter.from_options(options)
        assert made.licence and len(made.servers) >= 1
    assert {augmenter["options"]["workflow"] for augmenter in given} == {
        path.relative_to(REPO).as_posix() for path in FOLDER.glob("*.json")
    }


def test_numbers_are_drawn_between_their_ends() -> None:
    graph = json.loads((FOLDER / "liveportrait_expression.json").read_text(encoding="utf-8"))
    filled = fill_workflow(graph, "face.png", 1, {"smile": -0.2, "aaa": 40.0})
    assert filled["2"]["inputs"]["smile"] == -0.2 and filled["2"]["inputs"]["blink"] == 0.0
    assert filled["1"]["inputs"]["image"] == "face.png" and graph["2"]["inputs"]["smile"] == 0.6
    assert read_ranges("smile -0.3 1.2, aaa 0 60") == {"smile": (-0.3, 1.2), "aaa": (0.0, 60.0)}
    assert np.isfinite(list(read_ranges("a 0 1").values())).all()


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ("smile", "is written as"),
        ("smile 1 0", "lower end"),
        ("grin 0 1", "no number called 'grin'; it has: rotate_pitch"),
    ],
)
def test_a_wrong_range_is_named(vary: str, said: str) -> None:
    options = {
        "workflow": str(FOLDER / "liveportrait_expression.json"),
        "servers": "http://x",
        "kind": "expression",
    }
    with pytest.raises(CurationError, match=said):
        ComfyUIAugmenter.from_options(options | {"licence": "MIT", "vary": vary})
