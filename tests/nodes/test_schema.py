"""The nodes as the host shows them: ids, tooltips, ranges, search words, help pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from wan_bench import WanBench

WEB_DOCS = Path(__file__).resolve().parents[2] / "web" / "docs"

FEW_CHOICES = 8
"""A help page names all choices of a shorter list, unless it lists files."""

FILE_LISTS = ("adapter", "resampler", "id_layers", "ref_layers", "detector_pack", "encoder", "identity")

NODE_IDS = {
    "LynxLoadAdapter": ["LYNX_ADAPTER"],
    "LynxLoadFaceAnalyzer": ["LYNX_FACE_ANALYZER"],
    "LynxLoadMini": ["MODEL", "CLIP", "VAE", "LYNX_ADAPTER", "LYNX_FACE_ANALYZER", "IMAGE"],
    "LynxCropFace": ["LYNX_FACE", "IMAGE", "IMAGE", "IMAGE"],
    "LynxEncodeID": ["LYNX_ID"],
    "LynxEncodeReference": ["LYNX_REFERENCE"],
    "LynxSaveIdentity": [],
    "LynxLoadIdentity": ["LYNX_ID", "LYNX_FACE", "LYNX_REFERENCE", "IMAGE"],
    "LynxCombineIdentities": ["LYNX_ID"],
    "LynxApply": ["MODEL", "CONDITIONING", "CONDITIONING", "CONDITIONING"],
    "LynxFade": ["MASK", "MASK"],
    "LynxGuider": ["GUIDER"],
    "LynxSampler": ["LATENT"],
    "LynxPerson": ["MODEL", "CONDITIONING", "CONDITIONING", "CONDITIONING"],
    "LynxFaceSimilarity": ["FLOAT", "FLOAT", "FLOAT", "IMAGE", "IMAGE"],
    "LynxLikenessGate": ["IMAGE", "FLOAT", "INT"],
    "LynxTrackFace": ["IMAGE", "LYNX_FACE_TRACK"],
    "LynxPasteFace": ["IMAGE"],
    "LynxSweep": ["FLOAT", "FLOAT", "STRING", "INT"],
    "LynxSweepGrid": ["IMAGE"],
}
"""Frozen: workflows that people have saved hold these ids and the order of these sockets."""


def list_inputs(node_class: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Input name -> (type, options) as the host sends them to the browser."""
    groups = node_class.INPUT_TYPES()
    specs = {**groups.get("required", {}), **groups.get("optional", {})}
    return {name: (spec[0], spec[1] if len(spec) > 1 else {}) for name, spec in specs.items()}


def test_the_ids_are_the_frozen_ones(bench: WanBench) -> None:
    found = {name: node for name, node in bench.comfy.node_classes.items() if name.startswith("Lynx")}
    assert set(found) == set(NODE_IDS)
    for name, outputs in NODE_IDS.items():
        assert list(found[name].RETURN_TYPES) == outputs
        assert found[name].CATEGORY == "Lynx"


@pytest.mark.parametrize("name", NODE_IDS)
def test_every_input_is_explained_with_its_range(bench: WanBench, name: str) -> None:
    for input_name, (kind, options) in list_inputs(bench.comfy.node_classes[name]).items():
        tooltip = options.get("tooltip") or ""
        assert len(tooltip) > 8, f"{input_name} has no tooltip"
        if kind in ("INT", "FLOAT"):
            low, high = options["min"], options["max"]
            shown = "2^64 - 1" if high == 2**64 - 1 else f"{high:g}"
            assert f"{low:g} to {shown}" in tooltip, (
                f"{input_name}: no range {low:g} to {shown} in {tooltip!r}"
            )
            assert low <= options["default"] <= high


@pytest.mark.parametrize("name", NODE_IDS)
def test_every_node_is_described_and_found_by_search(bench: WanBench, name: str) -> None:
    schema = bench.comfy.node_classes[name].GET_SCHEMA()
    assert schema.display_name.startswith("Lynx ")
    assert len(schema.description) > 40
    assert len(schema.search_aliases) >= 3


def read_table(page: str, heading: str) -> dict[str, str]:
    """Read a help page's table below a heading that begins so: each name in the first column -> its row."""
    rows = {}
    sections = [section for section in page.split("\n## ")[1:] if section.startswith(heading)]
    for row in "".join(sections).splitlines():
        cells = row.strip("|").split(" | ")
        if row.startswith("| `"):
            rows.update(dict.fromkeys(re.findall(r"`([^`]+)`", cells[0]), row))
    return rows


@pytest.mark.parametrize("name", NODE_IDS)
def test_every_help_page_names_each_input_with_its_limits(bench: WanBench, name: str) -> None:
    page = (WEB_DOCS / f"{name}.md").read_text(encoding="utf-8")
    node_class = bench.comfy.node_classes[name]
    assert page.startswith(f"# {node_class.GET_SCHEMA().display_name}\n")
    rows, inputs = read_table(page, "Input"), list_inputs(node_class)
    assert rows.keys() == inputs.keys()
    for input_name, (kind, options) in inputs.items():
        row, choices = rows[input_name], kind if isinstance(kind, list) else options.get("options", [])
        if kind in ("INT", "FLOAT"):
            shown = "2^64 - 1" if options["max"] == 2**64 - 1 else f"{options['max']:g}"
            assert f"*{options['min']:g} to {shown}" in row, input_name
        elif kind == "BOOLEAN":
            assert "on or off" in row, input_name
        elif 0 < len(choices) < FEW_CHOICES and input_name not in FILE_LISTS:
            assert [choice for choice in choices if choice not in page] == [], input_name


@pytest.mark.parametrize("name", NODE_IDS)
def test_every_help_page_names_each_output(bench: WanBench, name: str) -> None:
    page = (WEB_DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert list(read_table(page, "Output")) == list(bench.comfy.node_classes[name].RETURN_NAMES)


def test_the_release_can_be_chosen_before_it_is_there(bench: WanBench) -> None:
    """A shipped workflow names these files; the widget must hold them, so that the message tells how to get them."""
    choices = {
        ("LynxLoadAdapter", "adapter"): {"lynx_full", "lynx_lite", "none"},
        ("LynxLoadFaceAnalyzer", "detector_pack"): {"buffalo_l", "antelopev2"},
        ("LynxLoadFaceAnalyzer", "encoder"): {"recognition_arcface_ir_se50.pth"},
        ("LynxLoadFaceAnalyzer", "provider"): {"CPU", "CUDA", "CoreML", "DirectML"},
    }
    for (node, name), expected in choices.items():
        kind, options = list_inputs(bench.comfy.node_classes[node])[name]
        assert expected <= set(kind if isinstance(kind, list) else options["options"])


def test_adapter_files_are_listed_without_face_models(bench: WanBench) -> None:
    faces = bench.comfy.base_dir / "models" / "lynx" / "faces"
    faces.mkdir(exist_ok=True)
    (faces / "my_arcface.safetensors").touch()
    try:
        inputs = list_inputs(bench.comfy.node_classes["LynxLoadAdapter"])
        parts = inputs["id_layers"][1].get("options") or inputs["id_layers"][0]
        assert "lynx_full/ip_layers.safetensors" in parts
        assert not [name for name in parts if "arcface" in name]
        encoders = list_inputs(bench.comfy.node_classes["LynxLoadFaceAnalyzer"])["encoder"]
        assert "my_arcface.safetensors" in (encoders[1].get("options") or encoders[0])
    finally:
        (faces / "my_arcface.safetensors").unlink()


@pytest.mark.parametrize(
    ("chosen", "parts"),
    [
        ({"adapter": "lynx_full"}, ["resampler", "id", "ref"]),
        ({"adapter": "lynx_lite", "ref_layers": "lynx_full/ref_layers.safetensors"}, ["resampler", "id", "ref"]),
        ({"adapter": "none", "ref_layers": "lynx_full/ref_layers.safetensors"}, ["ref"]),
        (
            {"adapter": "none", "resampler": "lynx_lite/resampler.safetensors", "id_layers": "lynx_lite/ip_layers.safetensors"},
            ["resampler", "id"],
        ),
    ],
)  # fmt: skip
def test_load_adapter_takes_any_mix(bench: WanBench, chosen: dict[str, str], parts: list[str]) -> None:
    (adapter,) = bench.comfy.run("LynxLoadAdapter", **chosen)
    assert [part for part in ("resampler", "id", "ref") if getattr(adapter, part) is not None] == parts
