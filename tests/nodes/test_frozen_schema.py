"""Nothing that saved graphs hold has changed: ids, sockets, inputs and the order of widgets, against a stored schema.

`LYNX_FREEZE_SCHEMA=1` writes what is new into the stored schema; it never changes or drops what is there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from wan_bench import WanBench

STORED = Path(__file__).with_name("frozen_schema.json")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
LISTS_FILES = (
    "LynxLoadAdapter", "LynxLoadFaceAnalyzer.detector_pack", "LynxLoadFaceAnalyzer.encoder", "LynxLoadIdentity.identity",
    "LynxPerson.adapter", "LynxSampler.sampler_name", "LynxSampler.scheduler",
)  # fmt: skip
"""Nodes and inputs whose choices are of the installation."""

Schema = dict[str, dict[str, Any]]


def read_schema(bench: WanBench) -> Schema:
    """Every node of the pack: its inputs in the order of the saved values, and its outputs."""
    schema = {}
    for name, node in bench.comfy.node_classes.items():
        if not name.startswith("Lynx"):
            continue
        groups = node.INPUT_TYPES()
        inputs = {}
        for group in ("required", "optional"):
            for input_name, spec in groups.get(group, {}).items():
                options = spec[1] if len(spec) > 1 else {}
                kind = "COMBO" if isinstance(spec[0], list) else spec[0]
                choices = spec[0] if isinstance(spec[0], list) else options.get("options", [])
                inputs[input_name] = {"type": kind, "required": group == "required"}
                if kind == "COMBO" and not {name, f"{name}.{input_name}"} & set(LISTS_FILES):
                    inputs[input_name]["choices"] = list(choices)
        schema[name] = {
            "inputs": inputs,
            "outputs": [list(pair) for pair in zip(node.RETURN_NAMES, node.RETURN_TYPES, strict=True)],
        }
    return schema


def list_changes(stored: Schema, found: Schema, former: dict[str, str]) -> list[str]:
    """Say what a saved graph would not find as it left it."""
    changes = []
    for node, was in stored.items():
        if node not in found:
            changes.append(f"{node} is gone")
            continue
        now = found[node]
        if now["outputs"][: len(was["outputs"])] != was["outputs"]:
            changes.append(f"{node}: outputs {was['outputs']} became {now['outputs']}")
        for name, spec in was["inputs"].items():
            other = now["inputs"].get(name)
            if other is None or other["type"] != spec["type"]:
                changes.append(f"{node}.{name}: {spec['type']} became {other and other['type']}")
                continue
            lost = [
                c
                for c in spec.get("choices", [])
                if former.get(c, c) not in other.get("choices", [c, former.get(c, c)])
            ]
            if lost:
                changes.append(f"{node}.{name}: the choices {lost} are gone")
        for name, spec in now["inputs"].items():
            if spec["required"] and not was["inputs"].get(name, {}).get("required"):
                changes.append(f"{node}.{name} is required, and was not")
        widgets_were, widgets = (
            [name for name, spec in each["inputs"].items() if spec["type"] in WIDGETS] for each in (was, now)
        )
        if widgets[: len(widgets_were)] != widgets_were:
            changes.append(f"{node}: the widgets {widgets_were} became {widgets}; new ones go behind them")
    return changes


def merge(stored: Schema, found: Schema) -> Schema:
    """Add what is new; choices that go by another name now stay."""
    for node, was in stored.items():
        for name, spec in was["inputs"].items():
            now = found[node]["inputs"][name]
            if "choices" in spec:
                now["choices"] = [*spec["choices"], *(c for c in now["choices"] if c not in spec["choices"])]
    return found


@pytest.fixture(scope="module")
def stored() -> Schema:
    return json.loads(STORED.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def former(bench: WanBench) -> dict[str, str]:
    return bench.comfy.pack_module("nodes.presets").FORMER_PRESETS


def test_nothing_frozen_has_changed(bench: WanBench, stored: Schema, former: dict[str, str]) -> None:
    found = read_schema(bench)
    assert list_changes(stored, found, former) == []
    if os.environ.get("LYNX_FREEZE_SCHEMA") == "1":
        STORED.write_text(json.dumps(merge(stored, found), indent=1) + "\n", encoding="utf-8")
        return
    new = [node for node in found if node not in stored]
    new += [
        f"{node}.{name}"
        for node in stored
        for name in found[node]["inputs"]
        if name not in stored[node]["inputs"]
    ]
    assert new == [], "run this test with LYNX_FREEZE_SCHEMA=1 to freeze what is new"


def rename_input(schema: Schema) -> None:
    schema["LynxApply"]["inputs"]["id_power"] = schema["LynxApply"]["inputs"].pop("id_strength")


def add_widget_in_front(schema: Schema) -> None:
    inputs = schema["LynxSampler"]["inputs"]
    schema["LynxSampler"]["inputs"] = {"mode": {"type": "COMBO", "required": False}} | inputs


def swap_outputs(schema: Schema) -> None:
    schema["LynxApply"]["outputs"].reverse()


def drop_choice(schema: Schema) -> None:
    schema["LynxApply"]["inputs"]["preset"]["choices"].remove("more motion")


def require_more(schema: Schema) -> None:
    schema["LynxApply"]["inputs"]["mask"]["required"] = True


def drop_node(schema: Schema) -> None:
    del schema["LynxCombineIdentities"]


@pytest.mark.parametrize(
    "change", [rename_input, add_widget_in_front, swap_outputs, drop_choice, require_more, drop_node]
)
def test_each_change_is_seen(bench: WanBench, stored: Schema, former: dict[str, str], change: Any) -> None:
    found = read_schema(bench)
    change(found)
    assert list_changes(stored, found, former) != []
