"""From the editor's format to an API prompt, on small graphs; and edits of prompts."""

from __future__ import annotations

from typing import Any

import prompt_edits
import pytest
from workflow import BYPASSED, MUTED, WorkflowError, workflow_to_prompt

OBJECT_INFO: dict[str, Any] = {
    "Load": {"input": {"required": {"name": [["a.png", "b.png"], {}]}}},
    "Blur": {"input": {"required": {"image": ["IMAGE"], "radius": ["INT", {"default": 3}]}}},
    "Sample": {
        "input": {
            "required": {
                "image": ["IMAGE", {}],
                "seed": ["INT", {"default": 0}],
                "steps": ["INT", {"default": 20}],
                "sampler": ["COMBO", {"options": ["euler", "uni_pc"]}],
            },
            "optional": {"extra": ["FLOAT", {"default": 0.5}], "text": ["STRING", {"forceInput": True}]},
        }
    },
    "Save": {
        "input": {
            "required": {
                "image": ["IMAGE", {}],
                "codec": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {"key": "auto", "inputs": {}},
                            {"key": "h264", "inputs": {"required": {"crf": ["FLOAT", {"default": 23.0}]}}},
                        ]
                    },
                ],
                "prefix": ["STRING", {"default": "out"}],
            }
        }
    },
    "NoDefault": {"input": {"required": {"text": ["STRING", {}]}}},
}


def make_node(
    node_id: int, kind: str, values: list[Any] | None = None, **links: int | None
) -> dict[str, Any]:
    slots = [{"name": name, "type": "IMAGE", "link": link} for name, link in links.items()]
    outputs = [{"name": "IMAGE", "type": "IMAGE"}]
    return {
        "id": node_id,
        "type": kind,
        "widgets_values": values,
        "inputs": slots,
        "outputs": outputs,
        "mode": 0,
    }


def make_workflow(*nodes: dict[str, Any], links: dict[int, tuple[int, int]]) -> dict[str, Any]:
    """`links`: link id -> (from node, to node)."""
    rows = [[link_id, origin, 0, target, 0, "IMAGE"] for link_id, (origin, target) in links.items()]
    return {"version": 0.4, "nodes": list(nodes), "links": rows}


def test_widgets_get_their_names_and_links_their_sources() -> None:
    workflow = make_workflow(
        make_node(1, "Load", ["b.png", "image"]),
        make_node(2, "Sample", [7, "randomize", 30, "uni_pc", 0.25], image=1),
        make_node(3, "MarkdownNote", ["read me"]),
        links={1: (1, 2)},
    )
    prompt = workflow_to_prompt(workflow, OBJECT_INFO)
    assert set(prompt) == {"1", "2"}
    assert prompt["1"]["inputs"] == {"name": "b.png"}
    expected = {"image": ["1", 0], "seed": 7, "steps": 30, "sampler": "uni_pc", "extra": 0.25}
    assert prompt["2"]["inputs"] == expected


def test_values_that_an_older_file_lacks_are_defaults() -> None:
    workflow = make_workflow(make_node(2, "Sample", [7, "fixed"]), links={})
    inputs = workflow_to_prompt(workflow, OBJECT_INFO)["2"]["inputs"]
    assert inputs == {"seed": 7, "steps": 20, "sampler": "euler", "extra": 0.5}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["auto", "clip"], {"codec": "auto", "prefix": "clip"}),
        (["h264", 18.0, "clip"], {"codec": "h264", "codec.crf": 18.0, "prefix": "clip"}),
    ],
)
def test_a_choice_that_brings_inputs_of_its_own(values: list[Any], expected: dict[str, Any]) -> None:
    assert (
        workflow_to_prompt(make_workflow(make_node(1, "Save", values), links={}), OBJECT_INFO)["1"]["inputs"]
        == expected
    )


@pytest.mark.parametrize("between", ["Reroute", "Blur"])
def test_links_go_through_reroutes_and_bypassed_nodes(between: str) -> None:
    middle = make_node(2, between, [5] if between == "Blur" else None, image=1)
    middle["mode"] = BYPASSED if between == "Blur" else 0
    workflow = make_workflow(
        make_node(1, "Load", ["a.png"]),
        middle,
        make_node(3, "Save", ["auto", "x"], image=2),
        links={1: (1, 2), 2: (2, 3)},
    )
    prompt = workflow_to_prompt(workflow, OBJECT_INFO)
    assert set(prompt) == {"1", "3"}
    assert prompt["3"]["inputs"]["image"] == ["1", 0]


def test_a_muted_node_and_its_links_are_left_out() -> None:
    muted = make_node(1, "Load", ["a.png"]) | {"mode": MUTED}
    workflow = make_workflow(muted, make_node(2, "Blur", [5], image=1), links={1: (1, 2)})
    assert workflow_to_prompt(workflow, OBJECT_INFO) == {
        "2": {"class_type": "Blur", "inputs": {"radius": 5}, "_meta": {"title": "Blur"}}
    }


def test_unknown_nodes_and_missing_values_are_refused_by_name() -> None:
    with pytest.raises(WorkflowError, match="node 4: the server has no node 'Nowhere'"):
        workflow_to_prompt(make_workflow(make_node(4, "Nowhere"), links={}), OBJECT_INFO)
    with pytest.raises(WorkflowError, match=r"node 5 \(NoDefault\).*'text'"):
        workflow_to_prompt(make_workflow(make_node(5, "NoDefault", []), links={}), OBJECT_INFO)


def test_parts_of_the_steps_stay_the_same_part() -> None:
    prompt = {
        "a": {
            "class_type": "KSamplerAdvanced",
            "inputs": {"steps": 20, "start_at_step": 10, "end_at_step": 10000},
        },
        "b": {"class_type": "SplitSigmas", "inputs": {"step": 10}},
    }
    prompt_edits.set_steps(prompt, 4)
    assert prompt["a"]["inputs"] == {"steps": 4, "start_at_step": 2, "end_at_step": 10000}
    assert prompt["b"]["inputs"] == {"step": 2}


def test_the_text_is_found_behind_other_nodes() -> None:
    prompt = {
        "text": {"class_type": "CLIPTextEncode", "inputs": {"text": "old"}},
        "other": {"class_type": "CLIPTextEncode", "inputs": {"text": "bad hands"}},
        "apply": {"class_type": "LynxApply", "inputs": {"positive": ["text", 0], "negative": ["other", 0]}},
        "sample": {"class_type": "LynxSampler", "inputs": {"positive": ["apply", 1]}},
    }
    prompt_edits.set_text(prompt, "new")
    assert prompt["text"]["inputs"]["text"] == "new"
    assert prompt["other"]["inputs"]["text"] == "bad hands"
    with pytest.raises(ValueError, match="no text"):
        prompt_edits.set_text(prompt, "new", socket="middle")
