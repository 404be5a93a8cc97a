"""ComfyUI-Lynx: personalised video on the core Wan nodes."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

WEB_DIRECTORY = "./web"

OLDEST_HOST = "0.16.3"
"""The oldest ComfyUI that the pack is tested with."""


def warn_of_old_host() -> None:
    """Say in the log when ComfyUI is too old: what it says itself, if anything fails, names no cause."""
    version = getattr(sys.modules.get("comfyui_version"), "__version__", OLDEST_HOST)
    numbers, oldest = ([int(n) for n in re.findall(r"\d+", text)[:3]] for text in (version, OLDEST_HOST))
    if numbers < oldest:
        logging.warning(
            "ComfyUI-Lynx is made for ComfyUI %s and newer, and this is %s: if its nodes are missing or fail, update "
            "ComfyUI.",
            OLDEST_HOST,
            version,
        )


warn_of_old_host()


def warn_of_changed_host() -> None:
    """Say in the log what of ComfyUI is not as the pack expects it."""
    from .host_attributes import describe_changes, find_changes

    changes = find_changes()
    if changes:
        version = getattr(sys.modules.get("comfyui_version"), "__version__", "of unknown version")
        logging.warning("%s", describe_changes(changes, version))


async def comfy_entrypoint() -> Any:
    """Give ComfyUI the extension; nothing of the host is imported before it asks."""
    # Before the nodes, whose import a changed host may stop.
    warn_of_changed_host()
    from .nodes import LynxExtension

    return LynxExtension()
