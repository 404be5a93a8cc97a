"""Augmenters by name: those built in, and those that installed packages bring.

A package brings its own by an entry point of the group `comfyui_lynx.augmenters`, which names a function that
takes the options of the configuration, a table of texts, and gives an `Augmenter`:

    [project.entry-points."comfyui_lynx.augmenters"]
    liveportrait = "my_package:make_liveportrait"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

from ..errors import CurationError
from .background import BackgroundReplacement
from .comfyui import ComfyUIAugmenter
from .command import CommandAugmenter
from .interface import Augmenter
from .relight import Relight
from .warp import LandmarkWarp

_GROUP = "comfyui_lynx.augmenters"
MakeAugmenter = Callable[[Mapping[str, str]], Augmenter]


def make_augmenter(name: str, options: Mapping[str, str]) -> Augmenter:
    """A built-in augmenter, or an installed one.

    Raises:
        CurationError: when there is none of this name, or its options are wrong.
    """

    built_in: dict[str, MakeAugmenter] = {
        "background": BackgroundReplacement.from_options,
        "relight": Relight.from_options,
        "warp": LandmarkWarp.from_options,
        "command": CommandAugmenter.from_options,
        "comfyui": ComfyUIAugmenter.from_options,
    }
    if name in built_in:
        return built_in[name](options)
    installed = {point.name: point for point in entry_points(group=_GROUP)}
    if name not in installed:
        known = ", ".join([*built_in, *sorted(installed)])
        raise CurationError(f"there is no augmenter '{name}'; there is: {known}")
    return installed[name].load()(options)
