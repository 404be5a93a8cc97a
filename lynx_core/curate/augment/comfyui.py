"""Any ComfyUI workflow as an augmenter, over HTTP: LivePortrait, X-NeMo, LBM or IC-Light nodes plug in so.

The workflow is saved in API format. The node titled "lynx input" is a Load Image; the one titled "lynx output" gives
images (Save Image or Preview Image); one titled "lynx seed", where there is one, has an input `seed` or `noise_seed`.
Numbers of the node titled "lynx vary" are drawn for each face, in the ranges of the option `vary`. With `backgrounds`
the picture gets another background before it is sent, as relighting by LBM wants.
"""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from ...engine.stage import Rejected
from ...foreign_text import parse_json
from ...hashing import hash_values
from ..errors import CurationError
from .background import BackgroundReplacement
from .interface import AugmentKind, FaceImage, check_options

INPUT, OUTPUT, SEED, VARY = "lynx input", "lynx output", "lynx seed", "lynx vary"
Ranges = Mapping[str, tuple[float, float]]
"""Of the inputs that are drawn."""
_POLL_S = 0.25


class ComfyUIAugmenter:
    """Queues a workflow for each face on one of the servers, in turn."""

    def __init__(
        self,
        workflow: Path,
        servers: Sequence[str],
        kind: AugmentKind,
        licence: str,
        timeout_s: float,
        vary: Ranges | None = None,
        background: BackgroundReplacement | None = None,
    ) -> None:
        self.servers = [server.rstrip("/") for server in servers]
        self.kind, self.licence, self.timeout_s = kind, licence, timeout_s
        self.graph = read_workflow(workflow)
        self.vary, self.background = dict(vary or {}), background
        check_varied(self.graph, self.vary, workflow)
        behind = background.fingerprint if background else None
        self.fingerprint = hash_values([2, self.graph, sorted(self.vary.items()), behind])
        self._turn = 0

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> ComfyUIAugmenter:
        known = {
            "workflow": None, "servers": None, "kind": None, "licence": None, "timeout_s": "600", "vary": "",
            "backgrounds": "", "segmentation": "",
        }  # fmt: skip
        values = check_options("comfyui", options, known)
        places = {"folder": values["backgrounds"], "segmentation": values["segmentation"]}
        if values["kind"] not in ("expression", "relight", "background"):
            raise CurationError(
                f"the augmenter comfyui: kind is expression, relight or background, got {values['kind']!r}"
            )
        kind = cast(Literal["expression", "relight", "background"], values["kind"])
        servers = [server for server in values["servers"].replace(",", " ").split() if server]
        return cls(
            Path(values["workflow"]).expanduser(),
            servers,
            kind,
            values["licence"],
            float(values["timeout_s"]),
            read_ranges(values["vary"]),
            BackgroundReplacement.from_options(places) if values["backgrounds"] else None,
        )

    def load(self) -> None:
        if self.background is not None:
            self.background.load()
        for server in self.servers:
            try:
                self._get(f"{server}/system_stats")
            except (OSError, ValueError) as error:
                raise CurationError(f"no ComfyUI answers at {server} ({error})") from error

    def __call__(self, faces: Sequence[FaceImage], rng: np.random.Generator) -> list[FaceImage | Rejected]:
        return [self._edit(face, rng) for face in faces]

    def _edit(self, face: FaceImage, rng: np.random.Generator) -> FaceImage | Rejected:
        if self.background is not None:
            (placed,) = self.background([face], rng)
            if isinstance(placed, Rejected):
                return placed
            face = placed
        seed = int(rng.integers(2**31))
        drawn = {name: round(float(rng.uniform(*ends)), 3) for name, ends in sorted(self.vary.items())}
        server = self.servers[self._turn % len(self.servers)]
        self._turn += 1
        try:
            name = self._upload(server, face.pixels)
            prompt = self._queue(server, fill_workflow(self.graph, name, seed, drawn))
            pixels = self._fetch(server, prompt)
        except (OSError, ValueError) as error:
            return Rejected("ComfyUI did not answer", f"{server}: {error}"[:300], retry=True)
        if isinstance(pixels, Rejected):
            return pixels
        scale = np.array(pixels.shape[1::-1]) / np.array(face.pixels.shape[1::-1])
        return FaceImage(pixels, np.float32(face.landmarks * scale))

    def _upload(self, server: str, pixels: np.ndarray) -> str:
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        boundary, name = uuid.uuid4().hex, f"lynx-{uuid.uuid4().hex}.png"
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            f"Content-Type: image/png\r\n\r\n"
        )
        body = head.encode() + buffer.getvalue() + f"\r\n--{boundary}--\r\n".encode()
        content = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return str(self._get(f"{server}/upload/image", body, content)["name"])

    def _queue(self, server: str, graph: Mapping[str, Any]) -> str:
        body = json.dumps({"prompt": graph, "client_id": "lynx-curate"}).encode()
        try:
            return str(self._get(f"{server}/prompt", body, {"Content-Type": "application/json"})["prompt_id"])
        except urllib.error.HTTPError as error:
            raise ValueError(
                f"it refuses the workflow: {error.read()[:200].decode(errors='replace')}"
            ) from error

    def _fetch(self, server: str, prompt: str) -> np.ndarray | Rejected:
        deadline = time.monotonic() + self.timeout_s
        while time.monotonic() < deadline:
            history = self._get(f"{server}/history/{prompt}").get(prompt)
            if history and history.get("status", {}).get("status_str") == "error":
                return Rejected(
                    "the workflow failed", json.dumps(history["status"].get("messages", []))[-300:]
                )
            if history and history.get("status", {}).get("completed", bool(history.get("outputs"))):
                node = find_node(self.graph, OUTPUT)
                images = history["outputs"].get(node, {}).get("images", [])
                if not images:
                    return Rejected("the augmenter made nothing", f"'{OUTPUT}' gave no image")
                return self._view(server, images[0])
            time.sleep(_POLL_S)
        return Rejected("the workflow did not end", f"within {self.timeout_s:.0f} s", retry=True)

    def _view(self, server: str, image: Mapping[str, str]) -> np.ndarray:
        from PIL import Image

        query = urllib.parse.urlencode({key: image.get(key, "") for key in ("filename", "subfolder", "type")})
        with urllib.request.urlopen(f"{server}/view?{query}", timeout=60) as response:
            return np.array(Image.open(io.BytesIO(response.read())).convert("RGB"))

    def _get(self, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Any:
        request = urllib.request.Request(url, body, dict(headers or {}))
        with urllib.request.urlopen(request, timeout=60) as response:
            return parse_json(response.read())


def read_workflow(path: Path) -> dict[str, Any]:
    """A workflow in API format that has the two named nodes.

    Raises:
        CurationError: when it is none.
    """
    try:
        graph = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CurationError(f"the workflow {path} cannot be read ({error})") from error
    nodes = graph.values() if isinstance(graph, dict) else []
    if not nodes or not all(
        isinstance(node, dict)
        and isinstance(node.get("class_type"), str)
        and isinstance(node.get("inputs"), dict)
        and isinstance(node.get("_meta", {}), dict)
        for node in nodes
    ):
        raise CurationError(f"{path} is no workflow in API format; in ComfyUI: Workflow > Export (API)")
    for title in (INPUT, OUTPUT):
        find_node(graph, title, path)
    return graph


def find_node(graph: Mapping[str, Any], title: str, path: Path | str = "the workflow") -> str:
    """Number of the node with a title.

    Raises:
        CurationError: when there is not exactly one.
    """
    found = [
        number
        for number, node in graph.items()
        if str(node.get("_meta", {}).get("title", "")).lower() == title
    ]
    if len(found) != 1:
        raise CurationError(f"{path} has {len(found)} nodes titled '{title}'; give one node this title")
    return found[0]


def read_ranges(text: str) -> dict[str, tuple[float, float]]:
    """The option `vary`, as "smile -0.3 1.2, rotate_yaw -15 15".

    Raises:
        CurationError: when it is written otherwise.
    """
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            name, low, high = part.split()
            ends = float(low), float(high)
        except ValueError as error:
            raise CurationError(
                f"the augmenter comfyui: vary is written as 'smile -0.3 1.2, rotate_yaw -15 15', got {part!r}"
            ) from error
        if not ends[0] <= ends[1]:
            raise CurationError(
                f"the augmenter comfyui: vary goes from the lower end to the upper, got {part!r}"
            )
        found[name] = ends
    return found


def check_varied(graph: Mapping[str, Any], vary: Ranges, path: Path) -> None:
    """Whether the node of `vary` has the inputs that are drawn.

    Raises:
        CurationError: when it has not.
    """
    if not vary:
        return
    inputs = graph[find_node(graph, VARY, path)]["inputs"]
    numbers = [name for name, value in inputs.items() if isinstance(value, int | float)]
    for name in vary:
        if name not in numbers:
            raise CurationError(
                f"{path}: the node '{VARY}' has no number called {name!r}; it has: {', '.join(numbers)}"
            )


def fill_workflow(
    graph: Mapping[str, Any], image: str, seed: int, drawn: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The graph with an image's name, a seed, and the numbers that were drawn put in."""
    filled = json.loads(json.dumps(graph))
    filled[find_node(graph, INPUT)]["inputs"]["image"] = image
    if drawn:
        filled[find_node(graph, VARY)]["inputs"].update(drawn)
    for node in filled.values():
        if str(node.get("_meta", {}).get("title", "")).lower() == SEED:
            name = "noise_seed" if "noise_seed" in node["inputs"] else "seed"
            node["inputs"][name] = seed
    return filled
