"""Short texts that a node shows on its face while it runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from comfy_api.latest import io

WARNING_EVENT = "lynx.warning"
"""web/lynx_warnings.js shows it in a corner of the editor."""


def show_note(node: type[io.ComfyNode], *lines: str, warnings: Sequence[str] = ()) -> None:
    """Show text on the node that is running, and write it to the host's log.

    Args:
        lines: what the node does; nothing is shown where there is neither a line nor a warning.
        warnings: what is not as the artist may believe; from inside a subgraph it is shown in the editor's corner, too.
    """
    shown = [*lines, *warnings]
    if not shown:
        return
    # The host keeps the schema it asked for at the start; a new one would scan the model folders again.
    name = node.SCHEMA.display_name if node.SCHEMA else node.__name__
    logging.log(logging.WARNING if warnings else logging.INFO, "%s: %s", name, "\n".join(shown))
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None or node.hidden is None or node.hidden.unique_id is None:
        return
    # Nodes 2.0 reads Markdown, where two spaces keep a line break; the classic canvas shows the text as it is.
    server.send_progress_text("  \n".join(shown), node.hidden.unique_id)
    # "<subgraph's node>:<node>": the editor shows no text of a node while the subgraph around it is closed.
    if warnings and ":" in node.hidden.unique_id:
        server.send_sync(WARNING_EVENT, {"node": name, "text": "\n".join(warnings)}, server.client_id)
