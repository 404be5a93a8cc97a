"""What the artist reads: notes on a node, warnings, and errors without paths of this machine."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from comfy_api.latest import io
from comfy_execution.utils import get_executing_context

from ...lynx_core.spec import LynxError
from .model_files import shorten_paths

WARNING_EVENT = "lynx.warning"
"""web/lynx_warnings.js shows it in a corner of the editor."""

WHERE_TO_RUN = " (Run python -m lynx_core.cli.main in this pack's folder, with ComfyUI's Python.)"

_shown: dict[tuple[str, str], tuple[str, ...]] = {}
"""Lines that the node that is running shows, by prompt and node."""


def show_note(node: type[io.ComfyNode], *lines: str, warnings: Sequence[str] = ()) -> None:
    """Show text on the node that is running, and write it to the host's log; nothing where there is no text.

    Args:
        lines: what the node does.
        warnings: what is not as the artist may believe. They come first: two lines of a note are seen without
            scrolling.
    """
    shown = (*warnings, *lines)
    if not shown:
        return
    # The host keeps the schema it asked for at the start; a new one would scan the model folders again.
    name = node.SCHEMA.display_name if node.SCHEMA else node.__name__
    logging.log(logging.WARNING if warnings else logging.INFO, "%s: %s", name, "\n".join(shown))
    if node.hidden is not None and node.hidden.unique_id is not None:
        _send_lines(shown, node.hidden.unique_id)
        _send_warnings(name, warnings, node.hidden.unique_id)


def warn_at_running_node(text: str) -> None:
    """Log a warning and show it on whatever node is running, a core sampler too, above what that shows already."""
    context = get_executing_context()
    before = _shown.get((context.prompt_id, context.node_id), ()) if context is not None else ()
    if text in before:
        return
    logging.warning("Lynx: %s", text)
    if context is not None:
        _send_lines((text, *before), context.node_id)
        _send_warnings("Lynx", [text], context.node_id)


def _send_lines(lines: tuple[str, ...], node_id: str) -> None:
    context = get_executing_context()
    _shown.clear()
    if context is not None:
        _shown[context.prompt_id, node_id] = lines
    server = _find_server()
    if server is not None:
        # Nodes 2.0 reads Markdown, where two spaces keep a line break; the classic canvas shows the text as it is.
        server.send_progress_text("  \n".join(lines), node_id, server.client_id)


def _send_warnings(name: str, warnings: Sequence[str], node_id: str) -> None:
    """Let the editor show warnings of a node that lies in a subgraph: a closed one hides what its nodes say."""
    server = _find_server()
    # The id of such a node is "<subgraph's node>:<node>".
    if server is not None and warnings and ":" in node_id:
        server.send_sync(WARNING_EVENT, {"node": name, "text": "\n".join(warnings)}, server.client_id)


def _find_server() -> Any:
    """Give the host's server while it runs a browser's prompt, or None.

    Without a `client_id` it sends to every browser, where nodes of other graphs have the same ids.
    """
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    return server if server is not None and server.client_id is not None else None


def raise_plainly(execute: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the library's own errors into ValueErrors that name files as the loaders' lists do.

    The host shows an error's class with its module, which for a node pack is a path on this machine.
    """

    @functools.wraps(execute)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return execute(*args, **kwargs)
        except LynxError as error:
            text = shorten_paths(str(error))
            raise ValueError(text + WHERE_TO_RUN if "lynx_core.cli.main" in text else text) from error

    return run
