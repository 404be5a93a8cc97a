"""Short texts that a node shows on its face while it runs."""

from __future__ import annotations

import logging

from comfy_api.latest import io
from comfy_execution.utils import get_executing_context

_shown: dict[tuple[str, str], tuple[str, ...]] = {}
"""Lines that the node that is running shows, by prompt and node."""


def show_note(node: type[io.ComfyNode], *lines: str) -> None:
    """Show lines of text on the node that is running, and write them to the host's log; no line, no note."""
    if not lines:
        return
    # The host keeps the schema it asked for at the start; a new one would scan the model folders again.
    name = node.SCHEMA.display_name if node.SCHEMA else node.__name__
    logging.info("%s: %s", name, "\n".join(lines))
    if node.hidden is not None and node.hidden.unique_id is not None:
        _send_lines(lines, node.hidden.unique_id)


def warn_at_running_node(text: str) -> None:
    """Log a warning and show it on whatever node is running, above what that shows already: a core sampler, too."""
    logging.warning("Lynx: %s", text)
    context = get_executing_context()
    if context is not None:
        before = _shown.get((context.prompt_id, context.node_id), ())
        _send_lines((text, *before), context.node_id)


def _send_lines(lines: tuple[str, ...], node_id: str) -> None:
    from server import PromptServer

    context = get_executing_context()
    _shown.clear()
    if context is not None:
        _shown[context.prompt_id, node_id] = lines
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        # Nodes 2.0 reads Markdown, where two spaces keep a line break; the classic canvas shows the text as it is.
        server.send_progress_text("  \n".join(lines), node_id)
