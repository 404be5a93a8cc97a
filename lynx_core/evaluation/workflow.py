"""A ComfyUI workflow in API format, with named places for photo, prompt, seed and output."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..foreign_text import parse_json
from ..hashing import hash_values
from .configuration import Method, RecogniserSettings
from .errors import ConfigurationError

Nodes = dict[str, dict[str, Any]]
SILENT_LOADERS: dict[str, dict[int, tuple[str, ...]]] = {
    "LynxLoadMini": {
        0: ("lynx_mini_wan_t2v.safetensors",),
        1: ("lynx_mini_umt5.safetensors",),
        2: ("lynx_mini_vae.safetensors",),
        3: ("lynx_mini.safetensors",),
        4: ("lynx_mini", "lynx_mini_arcface.safetensors"),
    }
}
"""Nodes that load models without naming them: what each of their outputs is."""
MODEL_SUFFIXES = (".safetensors", ".sft", ".pth", ".pt", ".ckpt", ".bin", ".onnx", ".gguf")


@dataclass(frozen=True)
class WorkflowTemplate:
    """The workflow of a method."""

    method: Method
    nodes: Nodes

    @property
    def sha256(self) -> str:
        """Of the workflow as it is in the file, spelling aside."""
        return hash_values(self.nodes)

    @property
    def takes_photo(self) -> bool:
        return self.method.inputs is not None and self.method.inputs.photo is not None

    @property
    def output_node(self) -> str:
        assert self.method.inputs is not None
        return self.method.inputs.output

    def fill(self, photo: str, prompt: str, seed: int) -> Nodes:
        """The workflow for one video; `photo` is its name in the server's input folder."""
        assert self.method.inputs is not None
        nodes = copy.deepcopy(self.nodes)
        values = {"photo": photo, "prompt": prompt, "seed": seed}
        for name, place in self._places():
            node, _, key = place.partition(".")
            nodes[node]["inputs"][key] = values[name]
        return nodes

    def list_texts(self) -> list[str]:
        """Every text that is set in a node, but for prompt and photo: among them the names of all models."""
        filled = {place for _, place in self._places()}
        return self._list_silent() + [
            value
            for node_id, node in self.nodes.items()
            for key, value in node["inputs"].items()
            if isinstance(value, str) and f"{node_id}.{key}" not in filled
        ]

    def _list_silent(self) -> list[str]:
        """Models that the nodes load without naming them, as far as something is connected to them."""
        links = {
            (str(value[0]), str(value[1]))
            for node in self.nodes.values()
            for value in node["inputs"].values()
            if isinstance(value, list) and len(value) == 2
        }
        return [
            name
            for node_id, node in self.nodes.items()
            for output, names in SILENT_LOADERS.get(node["class_type"], {}).items()
            if (node_id, str(output)) in links
            for name in names
        ]

    def _places(self) -> Iterator[tuple[str, str]]:
        assert self.method.inputs is not None
        for name in ("photo", "prompt", "seed"):
            place = getattr(self.method.inputs, name)
            if place is not None:
                yield name, place


def load_workflow(method: Method) -> WorkflowTemplate:
    """Read the workflow of a method.

    Raises:
        ConfigurationError: when it cannot be read, was saved for the editor, or lacks a named place.
    """
    path = method.workflow
    assert path is not None and method.inputs is not None
    try:
        nodes = parse_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"method {method.name!r}: the workflow {path} cannot be read: {error}"
        ) from error
    if isinstance(nodes, dict) and isinstance(nodes.get("nodes"), list):
        raise ConfigurationError(
            f"method {method.name!r}: {path} was saved for the editor; in ComfyUI use Workflow > Export (API)"
        )
    if not isinstance(nodes, dict) or not all(
        isinstance(node, dict)
        and isinstance(node.get("class_type"), str)
        and isinstance(node.get("inputs"), dict)
        for node in nodes.values()
    ):
        raise ConfigurationError(
            f"method {method.name!r}: {path} is no workflow in API format (id to class_type and inputs)"
        )
    template = WorkflowTemplate(method, nodes)
    for name, place in template._places():
        _check_place(template, name, place)
    if template.output_node not in nodes:
        raise ConfigurationError(
            f"method {method.name!r}: inputs.output names node {template.output_node!r}, which {path} lacks; it has: "
            f"{_list_nodes(nodes)}"
        )
    return template


def _check_place(template: WorkflowTemplate, name: str, place: str) -> None:
    path = template.method.workflow
    where = f"method {template.method.name!r}, workflow {path}: inputs.{name} = {place!r}"
    node_id, dot, key = place.partition(".")
    if not dot or node_id not in template.nodes:
        raise ConfigurationError(f'{where} is "node.input"; the nodes are: {_list_nodes(template.nodes)}')
    inputs = template.nodes[node_id]["inputs"]
    if key not in inputs:
        raise ConfigurationError(
            f"{where}: node {node_id!r} has no input {key!r}; it has: {', '.join(inputs)}"
        )
    if isinstance(inputs[key], list):
        raise ConfigurationError(
            f"{where} is linked to another node; name the place where the value is typed"
        )


def _list_nodes(nodes: Nodes) -> str:
    return ", ".join(f"{node_id} ({node['class_type']})" for node_id, node in nodes.items())


def find_unmarked_recognisers(
    template: WorkflowTemplate, recognisers: tuple[RecogniserSettings, ...], detector_pack: str | None
) -> list[str]:
    """Recognisers that the workflow itself loads and `conditioned_by` does not name.

    Such a recogniser would judge what it has helped to make, and the report would call it independent.

    Args:
        detector_pack: the model pack of the recognisers of kind "insightface".
    """
    loaded = {text.replace("\\", "/").rsplit("/", 1)[-1] for text in template.list_texts()}
    packs = {  # of which an analyzer takes the recogniser that comes with them
        node["inputs"].get("detector_pack")
        for node in template.nodes.values()
        if node["class_type"] == "LynxLoadFaceAnalyzer"
        and not str(node["inputs"].get("encoder")).endswith(MODEL_SUFFIXES)
    }
    return [
        each.name
        for each in recognisers
        if (each.file.name in loaded if each.file else each.kind == "insightface" and detector_pack in packs)
        and each.name not in template.method.conditioned_by
    ]
