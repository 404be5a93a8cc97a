"""What this pack's own single file stores beside its tensors: format version, configuration,
and the recogniser that the resampler was trained on, all as safetensors metadata.

The configuration repeats what the shapes tell, as a check, and adds what they cannot: the
norm of the keys and the name of the recogniser.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ..foreign_text import parse_json
from ..models.adapters import KeyNorm
from . import layouts
from .tensor_file import AdapterError, TensorFile

_FORMAT = "comfy-lynx adapter"
_FORMAT_VERSION = 1

_FORMAT_KEY, _VERSION_KEY = "comfy_lynx.format", "comfy_lynx.format_version"
_CONFIG_KEY, _RECOGNISER_KEY = "comfy_lynx.config", "comfy_lynx.embedder"


@dataclass(frozen=True)
class SavedConfig:
    """The metadata of a single file."""

    parts: Mapping[str, Mapping[str, Any]]
    recogniser: str

    @property
    def key_norm(self) -> KeyNorm | None:
        """How the ID keys are normed, when the file has ID layers."""
        return self.parts.get("id", {}).get("key_norm")


def make_metadata(configs: Mapping[str, Any], recogniser: str) -> dict[str, str]:
    """Make the metadata of a single file from the configurations of its parts."""
    return {
        _FORMAT_KEY: _FORMAT,
        _VERSION_KEY: str(_FORMAT_VERSION),
        _CONFIG_KEY: json.dumps(_plain(configs), sort_keys=True),
        _RECOGNISER_KEY: recogniser,
    }


def read_saved(file: TensorFile) -> SavedConfig | None:
    """Read the metadata of a single file; None for every other layout.

    Raises:
        AdapterError: when it is missing, damaged, or of a newer version.
    """
    forms = (layouts.match_key(key) for key in file.tensors)
    if not any(match and match.form.layout == layouts.OWN_LAYOUT for match in forms):
        return None
    if file.metadata.get(_FORMAT_KEY) != _FORMAT:
        raise AdapterError(
            f"{file.path} has the keys of a {layouts.OWN_LAYOUT} file, but no configuration: a tool that drops "
            "safetensors metadata saved it again. Use the original, or make it anew with comfy-lynx convert."
        )
    version = file.metadata.get(_VERSION_KEY, "")
    if version != str(_FORMAT_VERSION):
        raise AdapterError(
            f"{file.path} has format version {version!r}, this pack reads {_FORMAT_VERSION}; update the pack."
        )
    try:
        parts = parse_json(file.metadata[_CONFIG_KEY])
        saved = SavedConfig(parts, file.metadata[_RECOGNISER_KEY])
        known_norm = saved.key_norm is None or saved.key_norm in get_args(KeyNorm)
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise AdapterError(f"{file.path} has damaged metadata ({error}); make it anew.") from error
    if not known_norm or not saved.recogniser:
        raise AdapterError(
            f"{file.path} has wrong metadata: key_norm {saved.key_norm!r}, recogniser {saved.recogniser!r}; make it anew."
        )
    return saved


def check_saved(file: TensorFile, saved: SavedConfig | None, configs: Mapping[str, Any]) -> None:
    """Compare a single file's configuration with what its tensors tell.

    Raises:
        AdapterError: when they differ.
    """
    if saved is None:
        return
    seen = json.loads(json.dumps(_plain(configs)))
    for part in sorted(seen.keys() | saved.parts.keys()):
        if seen.get(part) != saved.parts.get(part):
            raise AdapterError(
                f"{file.path}: its metadata gives {part} as {saved.parts.get(part)}, but its tensors are "
                f"{seen.get(part)}; the file is incomplete or was edited. Make it anew."
            )


def _plain(configs: Mapping[str, Any]) -> dict[str, Any]:
    return {part: dataclasses.asdict(config) for part, config in configs.items()}
