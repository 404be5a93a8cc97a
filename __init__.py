"""ComfyUI-Lynx: personalised video on the core Wan nodes."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """Give ComfyUI the extension; nothing of the host is imported before it asks."""
    from .nodes.extension import LynxExtension

    return LynxExtension()
