"""Any ComfyUI workflow as an augmenter, over HTTP: LivePortrait, X-NeMo, LBM or IC-Light nodes plug in so.

The workflow is saved in API format. The node titled "lynx input" is a Load Image; the one titled "lynx output" gives
images (Save Image or Preview Image); one titled "lynx seed", where there is one, has an input `seed` or `noise_seed`.
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
from .interface import AugmentKind, FaceImage, check_options

INPUT, OUTPUT, SEED = "lynx input", "lynx output", "lynx seed"
_POLL_S = 0.25


class ComfyUIAugmenter:
    """Queues a workflow for each face on one of the servers, in turn."""

    def __init__(
        self, workflow: Path, servers: Sequence[str], kind: AugmentKind, licence: str, timeout_s: float
    ) -> None:
        self.servers = [server.rstrip("/") for server in servers]
        self.kind, self.licence, self.timeout_s = kind, licence, timeout_s
        self.graph = read_workflow(workflow)
        self.fingerprint = hash_values([1, self.graph])
        self._turn = 0

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> ComfyUIAugmenter:
        known = {"workflow": None, "servers": None, "kind": None, "licence": None, "timeout_s": "600"}
        values = check_options("comfyui", options, known)
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
        )

    def load(self) -> None:
        for server in self.servers:
            try:
                self._get(f"{server}/system_stats")
            except (OSError, ValueError) as error:
                raise CurationError(f"no ComfyUI answers at {server} ({error})") from error

    def __call__(self, faces: Sequence[FaceImage], rng: np.random.Generator) -> list[FaceImage | Rejected]:
        return [self._edit(face, int(rng.integers(2**31))) for face in faces]

    def _edit(self, face: FaceImage, seed: int) -> FaceImage | Rejected:
        server = self.servers[self._turn % len(self.servers)]
        self._turn += 1
        try:
            name = self._upload(server, face.pixels)
            prompt = self._queue(server, fill_workflow(self.graph, name, seed))
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


def fill_workflow(graph: Mapping[str, Any], image: str, seed: int) -> dict[str, Any]:
    """The graph with an image's name and a seed put in."""
    filled = json.loads(json.dumps(graph))
    filled[find_node(graph, INPUT)]["inputs"]["image"] = image
    for node in filled.values():
        if str(node.get("_meta", {}).get("title", "")).lower() == SEED:
            name = "noise_seed" if "noise_seed" in node["inputs"] else "seed"
            node["inputs"][name] = seed
    return filled
