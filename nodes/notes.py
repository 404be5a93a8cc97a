"""Short texts that a node shows on its face while it runs."""

from __future__ import annotations

import logging

from comfy_api.latest import io


def show_note(node: type[io.ComfyNode], text: str) -> None:
    """Show `text` on the node that is running, and write it to the host's log."""
    logging.info("%s: %s", node.define_schema().display_name, text)
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None and node.hidden is not None and node.hidden.unique_id is not None:
        server.send_progress_text(text, node.hidden.unique_id)
