"""What the pack relies on in the host is listed, looked at when it is loaded, and named when it has changed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from in_process import InProcessComfy

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def attributes(comfy: InProcessComfy) -> Any:
    return comfy.pack_module("host_attributes")


def test_this_host_has_all_of_it(attributes: Any) -> None:
    assert list(map(str, attributes.find_changes())) == []


def test_everything_that_the_nodes_name_is_listed(attributes: Any) -> None:
    """A use that is added without its line here is one that a new host breaks without a word."""
    listed = [relied.path for relied in attributes.RELIED_ON]
    used: dict[str, str] = {}
    for file in (REPO / "nodes").rglob("*.py"):
        text = re.sub(r'^\s*""".*?"""', "", file.read_text(encoding="utf-8"), flags=re.M | re.S)
        for path in re.findall(
            r"\b(?:comfy\.\w+(?:\.[A-Za-z]\w+)+|folder_paths\.\w+|node_helpers\.\w+)", text
        ):
            used.setdefault(path, file.name)
    assert len(used) > 25
    modules = ("comfy.ldm.wan",)
    missing = {
        path: file
        for path, file in used.items()
        if not path.startswith(modules)
        and not any(name.startswith(path) or path.startswith(name) for name in listed)
    }
    assert missing == {}


@pytest.mark.parametrize(
    ("path", "name", "said", "works"),
    [
        (
            "comfy.samplers",
            "calc_cond_batch",
            "comfy.samplers.calc_cond_batch is not there (Lynx Guider",
            "Lynx Apply",
        ),
        ("comfy.sd", "load_clip", "comfy.sd.load_clip is not there (Lynx Load Mini)", "Lynx Guider"),
        (
            "comfy.patcher_extension",
            "WrappersMP",
            "WrappersMP.APPLY_MODEL is not there (Lynx Apply",
            "Lynx Load Mini",
        ),
    ],
)
def test_what_is_gone_is_named_with_what_still_works(
    attributes: Any, monkeypatch: pytest.MonkeyPatch, path: str, name: str, said: str, works: str
) -> None:
    monkeypatch.delattr(attributes.find_attribute(path), name)
    message = attributes.describe_changes(attributes.find_changes(), "9.9.9")
    assert said in message
    broken, _, rest = message.partition("These still work: ")
    assert works in rest
    assert "(9.9.9)" in broken and "go back to ComfyUI 0.30.0" in rest


def test_a_parameter_or_attribute_of_another_name_is_named(
    attributes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samplers, wan = (attributes.find_attribute(name) for name in ("comfy.samplers", "comfy.ldm.wan.model"))

    def renamed(model: Any, x: Any, timestep: Any, negative: Any, positive: Any, scale: float) -> None: ...

    class Renamed:
        def __init__(self) -> None:
            self.q = self.k = self.v = self.o = self.query_norm = 0

    monkeypatch.setattr(samplers, "sampling_function", renamed)
    monkeypatch.setattr(wan, "WanSelfAttention", Renamed)
    message = attributes.describe_changes(attributes.find_changes(), "9.9.9")
    assert (
        "comfy.samplers.sampling_function takes no uncond, cond, cond_scale, model_options, seed" in message
    )
    assert "comfy.ldm.wan.model.WanSelfAttention has no norm_q, norm_k (Lynx Apply, Lynx Person)" in message


def test_without_the_node_api_no_node_works(attributes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(attributes.find_attribute("comfy_api.latest"), "ComfyExtension")
    message = attributes.describe_changes(attributes.find_changes(), "9.9.9")
    assert "No node of it works." in message


def test_the_newest_host_is_the_one_that_the_suite_runs_on(attributes: Any) -> None:
    assert (
        f'MAIN_VERSION, OLD_VERSION = "{attributes.NEWEST_HOST}", "0.16.3"'
        in (REPO / "tests/conftest.py").read_text()
    )
