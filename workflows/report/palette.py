"""The colours of figures: of arrows, of marks, and one a class, the same in every figure of a run."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping

ARROWS: Mapping[str, str] = {"weak": "#2b2b2b", "strong": "#0a8f3c"}
"""Of edges, by how strongly they speak (`drawn` in edges.parquet); IG Fig. 5 has strong ones green."""

GREY = "#5a5f66"
"""Of words that stand beside others."""

LEAVES = "#d1261f"
"""Where an image leaves the paths of its true class."""

NO_CLASS = "#c8ccd2"
"""Of words without a class."""

# No pure red and no grey: those say "taken by errors" and "taken".
_FEW = (
    "#3b6fb6", "#e98a1d", "#2f8f57", "#8f4bab", "#caa41a",
    "#35b0c4", "#8a5a3b", "#e07bb5", "#7a9a2b", "#4b3f8f",
)  # fmt: skip
_LIGHT = 0.45  # how much white the second ten have
_GOLDEN = 0.61803398875  # of the circle of hues between two classes: neighbours differ most
_VALUES = (0.85, 0.6, 0.95, 0.72)


def class_colour(class_id: int | None, n_classes: int) -> str:
    """The colour of a class as ``#rrggbb``; beyond 20 classes colours repeat in all but name."""
    if class_id is None or class_id < 0:
        return NO_CLASS
    if n_classes <= 2 * len(_FEW):
        colour = _FEW[class_id % len(_FEW)]
        return colour if class_id < len(_FEW) else _lightened(colour)
    hue, value = class_id * _GOLDEN % 1.0, _VALUES[class_id % len(_VALUES)]
    return _hex(*colorsys.hsv_to_rgb(hue, 0.65, value))


def rgb(colour: str) -> tuple[int, int, int]:
    """``#rrggbb`` as three bytes."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _lightened(colour: str) -> str:
    return _hex(*(channel / 255 * (1 - _LIGHT) + _LIGHT for channel in rgb(colour)))


def _hex(*channels: float) -> str:
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)
