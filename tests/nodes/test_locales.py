"""What the editor shows of the nodes in English and in Chinese."""

from __future__ import annotations

import sys

import pytest
from comfy_host import REPO_DIR
from wan_bench import WanBench

sys.path.insert(0, str(REPO_DIR / "scripts"))

import build_locales


def test_the_files_are_what_the_script_writes(bench: WanBench) -> None:
    for path, text in build_locales.build_files(bench.comfy.node_classes).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run scripts/build_locales.py"


def test_every_text_has_a_translation_and_none_is_stale(bench: WanBench) -> None:
    missing, unused = build_locales.find_missing(bench.comfy.node_classes)
    assert missing == [], "put them into locales/zh.json"
    assert unused == [], "no node has these texts any more: take them out of locales/zh.json"


def test_every_node_and_input_has_an_entry_in_each_language(bench: WanBench) -> None:
    import json

    for language in ("en", "zh"):
        path = REPO_DIR / "locales" / language / "nodeDefs.json"
        entries = json.loads(path.read_text(encoding="utf-8"))
        nodes = {name for name in bench.comfy.node_classes if name.startswith("Lynx")}
        assert set(entries) == nodes
        for name in nodes:
            types = bench.comfy.node_classes[name].INPUT_TYPES()
            inputs = {key for group in ("required", "optional") for key in types.get(group, {})}
            assert set(entries[name]["inputs"]) == inputs, name
            assert entries[name]["display_name"] and entries[name]["description"]


@pytest.mark.parametrize(
    ("strengths", "words"), [("", "numbers of 0 to 2"), ("0, x", "'x'"), ("3", "0 to 2")]
)
def test_strengths_that_are_none_are_refused(bench: WanBench, strengths: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        bench.comfy.run("LynxSweep", id_strengths=strengths, ref_strengths="1")


def test_a_sweep_gives_every_pair_row_by_row(bench: WanBench) -> None:
    ids, refs, labels, columns = bench.comfy.run("LynxSweep", id_strengths="0, 1", ref_strengths="0.5, 2")
    assert list(zip(ids, refs, strict=True)) == [(0, 0.5), (1, 0.5), (0, 2), (1, 2)]
    assert columns == 2 and labels[1] == "ID 1   reference 0.5"
