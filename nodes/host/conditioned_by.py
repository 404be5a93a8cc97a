"""Whether the recogniser that scores a video also conditioned it, read from the graph.

Such a score flatters: the adapter was trained to please just this network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...lynx_core.faces.analyzer import FaceAnalyzer
from ...lynx_core.formats.identity_file import AdapterError, open_identity
from ...lynx_core.spec import RELEASE_RECOGNISER
from .identity import FaceID
from .identity_files import locate_identity
from .mini_lynx import RECOGNISER
from .model_files import PACK_RECOGNISER, RELEASE_FILE, strip_mark

MINI_RECOGNISER = Path(RECOGNISER).stem

CONDITIONED = (
    "This recogniser also conditioned the video, which flatters the score. For a second opinion take the encoder "
    f"{PACK_RECOGNISER!r} in another Lynx Load Face Analyzer, and a photo as reference."
)
INDEPENDENT = "This recogniser did not condition the video."
UNKNOWN = "Where the video comes from does not show in this graph: if this recogniser conditioned it, the score flatters."
PLAIN = "The frames do not come through Lynx in this graph: no recogniser conditioned them here."


def explain_recogniser_use(analyzer: FaceAnalyzer, face_id: FaceID | None, hidden: Any) -> str:
    """Say whether the recogniser that scores conditioned the video.

    Args:
        face_id: an identity that the video is compared with.
        hidden: the running node's, with the prompt; without one nothing is known of the graph.
    """
    prompt = getattr(hidden, "prompt", None) if hidden is not None else None
    node_id = getattr(hidden, "unique_id", None) if hidden is not None else None
    name = analyzer.recogniser.name
    if not prompt or node_id not in prompt:
        return UNKNOWN
    upstream = list(list_upstream(prompt, prompt[node_id]["inputs"].get("images")))
    if not any(node["class_type"] in ("LynxApply", "LynxPerson") for node in upstream):
        loads = any("Load" in node["class_type"] and "Lynx" not in node["class_type"] for node in upstream)
        samples = any("Sampler" in node["class_type"] for node in upstream)
        return PLAIN if samples or not loads else UNKNOWN
    return CONDITIONED if any(conditions(node, analyzer, name, prompt) for node in upstream) else INDEPENDENT


def list_upstream(prompt: Mapping[str, Any], link: Any) -> Iterator[Mapping[str, Any]]:
    """List the nodes of a prompt that something linked depends on."""
    waiting, seen = [link], set()
    while waiting:
        link = waiting.pop()
        if not (isinstance(link, list) and len(link) == 2) or link[0] in seen or link[0] not in prompt:
            continue
        seen.add(link[0])
        yield prompt[link[0]]
        waiting.extend(prompt[link[0]].get("inputs", {}).values())


def conditions(node: Mapping[str, Any], analyzer: FaceAnalyzer, name: str, prompt: Mapping[str, Any]) -> bool:
    """Tell whether a node brings embeddings of this recogniser into a video."""
    inputs, kind = node.get("inputs", {}), node["class_type"]
    if kind == "LynxLoadFaceAnalyzer":
        encoder = strip_mark(str(inputs.get("encoder")))
        if encoder == PACK_RECOGNISER:
            return (
                analyzer.recogniser_path is None
                and strip_mark(str(inputs.get("detector_pack"))) == analyzer.pack
            )
        return (encoder == RELEASE_FILE and name == RELEASE_RECOGNISER) or (
            analyzer.recogniser_path is not None and analyzer.recogniser_path.name == Path(encoder).name
        )
    if kind == "LynxLoadMini":
        return name == MINI_RECOGNISER
    if kind == "LynxPerson":
        # Without an analyzer of its own it takes the one that the adapter was trained on.
        return "face_analyzer" not in inputs and name == RELEASE_RECOGNISER
    if kind == "LynxLoadIdentity":
        path = locate_identity(str(inputs.get("identity")))
        try:
            return path is not None and open_identity(path).recogniser == name
        except AdapterError:
            return False
    return False
