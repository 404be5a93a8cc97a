"""Test-only pack: lets ComfyUI's own CLIPLoader take the small UMT5 of the stand-in models.

The host knows UMT5 in one size only, but its text encoder class takes other widths by a model
option that the loader node has no input for. This pack makes that option the default.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from comfy.text_encoders.wan import UMT5XXlModel

NODE_CLASS_MAPPINGS: dict[str, type] = {}

SMALL_CONFIG = json.loads((Path(__file__).parent / "umt5_small.json").read_text())


def _shrink_by_default() -> None:
    full_size_init = UMT5XXlModel.__init__

    def small_init(self: Any, *args: Any, model_options: dict[str, Any] | None = None, **kwargs: Any) -> None:
        options = {"umt5xxl_model_config": SMALL_CONFIG, **(model_options or {})}
        full_size_init(self, *args, model_options=options, **kwargs)

    UMT5XXlModel.__init__ = small_init


_shrink_by_default()
