"""How much of a face something of another colour covers: a mask, a scarf, a microphone."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..faces.errors import import_package

_AROUND_EYES = ((56, 58), (38, 64), (74, 64))
"""Spots of the ID crop, x and y: the bridge of the nose, and under the eyes."""
_BELOW = ((56, 74), (34, 76), (78, 76), (56, 83), (36, 90), (76, 90), (56, 104))
"""Tip of the nose, cheeks, upper lip, beside the mouth, chin."""
_HALF_SIDE_PX = 4
_MAX_DIFFERENCE = 20.0
"""Of CIELAB, lightness at 0.4. Shade, stubble and open mouths of real photos give up to 30 on a side."""
_LIGHTNESS_WEIGHT = 0.4


def measure_occlusion(crop: np.ndarray) -> float:
    """Share of seven spots below the eyes, 0 to 1, that have another colour than the skin around the eyes.

    Of the three spots around the eyes that one counts which gives least, since the rim of glasses may lie on the
    others. Uncovered faces of real photos reach 0.43, half in shadow or turned; masks and scarves 0.7 to 1. What has
    the colour of skin, such as a hand, is not seen, and dark glasses are seen only where they cover the nose's bridge.

    Args:
        crop: the aligned ID crop, [112, 112, 3] uint8 RGB.
    """
    cv2: Any = import_package("cv2", "curating")
    lab = cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) * [_LIGHTNESS_WEIGHT, 1, 1]
    skin = np.array([_read_spot(lab, *spot) for spot in _AROUND_EYES])
    below = np.array([_read_spot(lab, *spot) for spot in _BELOW])
    is_off = np.linalg.norm(below[None] - skin[:, None], axis=-1) > _MAX_DIFFERENCE
    return float(is_off.mean(1).min())


def _read_spot(lab: np.ndarray, x: int, y: int) -> np.ndarray:
    spot = lab[y - _HALF_SIDE_PX : y + _HALF_SIDE_PX + 1, x - _HALF_SIDE_PX : x + _HALF_SIDE_PX + 1]
    return np.median(spot.reshape(-1, 3), axis=0)
