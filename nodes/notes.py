"""Short texts that a node shows on its face while it runs."""

from __future__ import annotations

import logging

from comfy_api.latest import io


def show_note(node: type[io.ComfyNode], *lines: str) -> None:
    """Show lines of text on the node that is running, and write them to the host's log; no line, no note."""
    if not lines:
        return
    # The host keeps the schema it asked for at the start; a new one would scan the model folders again.
    name = node.SCHEMA.display_name if node.SCHEMA else node.__name__
    logging.info("%s: %s", name, "\n".join(lines))
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None and node.hidden is not None and node.hidden.unique_id is not None:
        # Nodes 2.0 reads Markdown, where two spaces keep a line break; the classic canvas shows the text as it is.
        server.send_progress_text("  \n".join(lines), node.hidden.unique_id)
