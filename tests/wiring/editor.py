"""The real editor as an artist uses it: build a graph, change it, press Run, look at what happened.

Nodes have names, the keys of an API prompt (see tests/host/prompts.py); the editor's own numbers
stay the same from graph to graph, so that the server runs again only what has changed.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from comfy_host import ComfyHost, OutputFile, PromptError, list_files
from PIL import Image
from safetensors.numpy import load

Prompt = dict[str, Any]

NORMAL, MUTED, BYPASSED = 0, 2, 4
SCRIPT = Path(__file__).with_name("editor.js")
RUN_TIMEOUT_S = 60
PAINT_MS = 150
"""The editor draws an error some frames after it has heard of it."""


@dataclass(frozen=True)
class Run:
    """What an artist sees after pressing Run."""

    message: str
    """Every error as the editor's error panel tells it; empty when all went well."""

    red: frozenset[str]
    """Names of the nodes that are marked as faulty."""

    notes: dict[str, str]
    """The text shown on each node that has one."""

    log: str
    """What the server wrote meanwhile."""

    was_run: bool
    """False when the server refused the whole graph before the first node."""

    latents: dict[str, np.ndarray] = field(repr=False)
    """SaveLatent's name -> latent [batch, 16, frames, height, width]."""

    pictures: dict[str, np.ndarray] = field(repr=False)
    """Name of a node that shows pictures -> [n, height, width, 3] uint8."""

    @property
    def latent(self) -> np.ndarray:
        """The only video of this run.

        Raises:
            AssertionError: with the editor's error, when there is none.
        """
        assert not self.message, self.message
        (latent,) = self.latents.values()
        return latent

    @property
    def said(self) -> str:
        """Everything that this run says anywhere: errors, notes and log."""
        return "\n".join([self.message, *self.notes.values(), self.log])


class Editor:
    """One open page of a server's editor."""

    def __init__(self, page: Any, host: ComfyHost) -> None:
        self.page = page
        self.host = host
        self._ids: dict[str, int] = {}
        self._rendered: dict[str, np.ndarray] = {}

    def start(self) -> None:
        """Open the page and wait for the editor."""
        self.host.post_settings({"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False})
        self.page.add_init_script(path=str(SCRIPT))
        self.page.goto(self.host.url)
        self.page.wait_for_function("() => window.app?.graph && window.app.extensionManager", timeout=90_000)
        self.page.wait_for_timeout(1000)
        self._call("listen")

    # --- what an artist does ------------------------------------------------------------------

    def build(self, prompt: Prompt) -> None:
        """Clear the canvas and wire this graph."""
        self._close_errors()
        self._call("build", self._number(prompt))

    def edit(self, node: str, **widgets: Any) -> None:
        """Type values into widgets."""
        for name, value in widgets.items():
            self._call("edit", self._id(node), name, value)

    def link(self, node: str, **sources: tuple[str, int]) -> None:
        """Draw links from outputs (node, slot) to inputs, widgets' ones too."""
        for name, (source, slot) in sources.items():
            self._call("link", self._id(source), slot, self._id(node), name)

    def unlink(self, node: str, *inputs: str) -> None:
        """Take links away from inputs."""
        for name in inputs:
            self._call("unlink", self._id(node), name)

    def bypass(self, *nodes: str) -> None:
        """Ctrl-B."""
        self._set_mode(nodes, BYPASSED)

    def mute(self, *nodes: str) -> None:
        """Ctrl-M."""
        self._set_mode(nodes, MUTED)

    def activate(self, *nodes: str) -> None:
        """Take bypass or mute away."""
        self._set_mode(nodes, NORMAL)

    def enclose(self, nodes: Iterable[str], promote: Mapping[str, Iterable[str]], name: str) -> None:
        """Convert nodes to a subgraph called `name`, with widgets (node -> names) promoted to its face."""
        promoted = [[self._id(node), widget] for node, widgets in promote.items() for widget in widgets]
        self._ids[name] = self._call("enclose", [self._id(node) for node in nodes], promoted)

    def save_and_reopen(self) -> None:
        """Save the workflow and open the saved file, which is what closing and coming back does."""
        self.page.evaluate("text => window.wiring.open(text)", self._call("save"))

    def export_api(self) -> Prompt:
        """Export the graph in the API format, nodes under their names; `host.queue` takes it."""
        names = {str(number): name for name, number in self._ids.items()}
        exported = self._call("exportApi")
        return _rename(exported, {key: names.get(key.split(":")[-1], key) for key in exported})

    def run(self, cancel: bool = False) -> Run:
        """Press Run, wait for the end, and look.

        Args:
            cancel: press the cross beside it as soon as the server works on it.
        """
        log_before = len(self.host.read_log())
        self._call("startRun")
        with self.page.expect_response(
            lambda response: response.url.endswith("/prompt") and response.request.method == "POST"
        ) as queued:
            self.page.get_by_test_id("queue-button").click()
        answer = queued.value.json()
        outputs: dict[str, Any] = {}
        has_failed = bool(answer.get("error") or answer.get("node_errors"))
        if "prompt_id" in answer:
            if cancel:
                self.host.wait_until_running(answer["prompt_id"])
                self.host.interrupt()
            self.page.wait_for_function(
                "id => window.wiring.hasEnded(id)", arg=answer["prompt_id"], timeout=1000 * RUN_TIMEOUT_S
            )
            try:
                outputs = self.host.wait(answer["prompt_id"], timeout_s=5)
            except PromptError:
                has_failed = not cancel
        self.page.wait_for_timeout(PAINT_MS)
        return Run(
            message=self._read_errors() if has_failed else "",
            red=frozenset(self._name(number) for number in self._call("red")),
            notes={self._name(number): text for number, text in self._call("notes").items()},
            log=self.host.read_log()[log_before:],
            was_run="prompt_id" in answer,
            latents=self._fetch(outputs, ".latent", _read_latent),
            pictures=self._fetch(outputs, ".png", _read_picture),
        )

    def render(self, prompt: Prompt) -> np.ndarray:
        """The video of a graph that is known to be right, without the editor: a latent.

        Raises:
            PromptError: when it fails after all.
        """
        key = json.dumps(prompt, sort_keys=True)
        if key not in self._rendered:
            outputs = self.host.queue(self._number(prompt))
            (self._rendered[key],) = self._fetch(outputs, ".latent", _read_latent).values()
        return self._rendered[key]

    # --- what an artist sees ------------------------------------------------------------------

    def widgets(self, node: str) -> dict[str, Any]:
        """The values that a node's widgets show."""
        return self._call("read", self._id(node))

    def shows_an_error(self) -> bool:
        """Tell whether the error overlay, or a dialog, stands over the canvas."""
        return self._overlay.count() > 0 or self.page.locator("[role=dialog]").count() > 0

    def screenshot(self, path: Path) -> None:
        """Keep a picture of the whole page."""
        self.page.screenshot(path=str(path))

    # --- how ----------------------------------------------------------------------------------

    @property
    def _overlay(self) -> Any:
        return self.page.get_by_test_id("error-overlay")

    def _call(self, function: str, *args: Any) -> Any:
        return self.page.evaluate(f"args => window.wiring.{function}(...args)", list(args))

    def _set_mode(self, nodes: Iterable[str], mode: int) -> None:
        for node in nodes:
            self._call("setMode", self._id(node), mode)

    def _id(self, name: str) -> int:
        return self._ids.setdefault(name, len(self._ids) + 1)

    def _name(self, number: int | str) -> str:
        return next((name for name, known in self._ids.items() if known == int(number)), str(number))

    def _number(self, prompt: Prompt) -> Prompt:
        return _rename(prompt, {name: str(self._id(name)) for name in prompt})

    def _read_errors(self) -> str:
        """Open the error panel, as the overlay offers, and read it without stack traces and reports."""
        overlay = self._overlay.inner_text().removesuffix("View details")
        self.page.get_by_test_id("error-overlay-see-errors").click()
        panel = self.page.get_by_test_id("properties-panel")
        panel.get_by_test_id("errors-summary-hero").wait_for()
        for report in panel.get_by_test_id("runtime-error-panel").all():
            report.get_by_text("Exception Message").first.wait_for()  # till then there is a stack trace alone
        for info in panel.get_by_label("Info for").all():
            info.click()
        text = panel.inner_text().split("Resolve before running the workflow")[-1].split("For more help")[0]
        text = re.sub(r"## Stack Trace.*?Find on GitHub", "", text, flags=re.DOTALL)
        return re.sub(r"\n\s*", "\n", f"{overlay}\n{text}").strip()

    def _close_errors(self) -> None:
        dismiss = self.page.get_by_test_id("error-overlay-dismiss")
        if dismiss.count():
            dismiss.click()

    def _fetch(self, outputs: Mapping[str, Any], suffix: str, read: Any) -> dict[str, np.ndarray]:
        found: dict[str, list[np.ndarray]] = {}
        for file in list_files(outputs, suffix):
            found.setdefault(self._name(file.node_id.split(":")[-1]), []).append(read(self._download(file)))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _download(self, file: OutputFile) -> bytes:
        return self.host.get(
            "/view", filename=file.filename, subfolder=file.subfolder, type=file.type
        ).content


def _rename(prompt: Prompt, names: Mapping[str, str]) -> Prompt:
    """An API prompt with its nodes under other keys, links too."""

    def follow(value: Any) -> Any:
        return [names[value[0]], value[1]] if isinstance(value, list) else value

    return {
        names[key]: {**node, "inputs": {name: follow(value) for name, value in node["inputs"].items()}}
        for key, node in prompt.items()
    }


def _read_picture(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))[None]


def _read_latent(content: bytes) -> np.ndarray:
    return load(content)["latent_tensor"]


def assert_same(run: Run, expected: np.ndarray) -> None:
    """The run gave this video, to the bit.

    Raises:
        AssertionError: with how far it is off, or with what the run said instead of giving a video.
    """
    assert run.latents, f"no video: {run.said}"
    error = np.abs(run.latent - expected).max()
    assert error == 0, f"another video, up to {error:.3g} off; the run said:\n{run.said}"


def assert_other(video: np.ndarray, other: np.ndarray) -> None:
    """Two videos differ by more than rounding."""
    difference = np.abs(video - other).mean()
    assert difference > 0.003, f"the same video: mean difference {difference:.2g}"
