"""Drawn scenes: objects whose parts are rigid and move by themselves, so that where every part lies is known.

A kind of object is a pair of a head and of legs; either occurs in two kinds, so a network that tells the kinds apart
has to see both. Nothing here depends on the machine: the pictures are drawn from a fixed seed, pixel by pixel.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from workflows.data.boxes import COLUMNS
from workflows.data.packaged import PackagedImages
from workflows.storage.atomic import write_bytes

SCENES_OF_A_KIND = 150
SCENE_SIDE = 64

KINDS = (("ring", "stripes"), ("ring", "checks"), ("cross", "stripes"), ("cross", "checks"))
"""Head and legs of each kind of object, in label order."""

PARTS = {"head": (0.32, 0.3), "legs": (0.68, 0.62)}
"""Mean place of each part on its object, row and column over the side."""

JITTER = 0.07
"""Standard deviation of a part's place, over the object's side."""

_RADIUS = 0.15
"""Half the side of a part, over the object's."""

_SEED = 20_181
_LEAST, _MOST = 48, 60
"""Pixels of an object's side."""

_COLOUR, _DARK = np.array((0.9, 0.8, 0.4)), 0.05
"""Of all parts: units that see it answer to both, and mix them."""

_BLOTS = 6
"""Of the ground, along a side."""

Square = Float[np.ndarray, "S S"]


@dataclass(frozen=True)
class DrawnScenes:
    """All scenes.

    Attributes:
        images: pictures and kinds.
        objects: (N, 4) x0, y0, x1, y1 of the object, pixels, x1 and y1 exclusive.
        parts: (N, P, 4) the same of its parts, in the order of ``PARTS``; fractions of pixels.
    """

    images: PackagedImages
    objects: Int[np.ndarray, "N 4"]
    parts: Float[np.ndarray, "N P 4"]

    def write_boxes(self, path: Path) -> None:
        """The file of boxes that ``patterns``, ``locate`` and ``boxes`` take: a line a scene and part."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(COLUMNS)
        for scene, (box, parts) in enumerate(zip(self.objects.tolist(), self.parts, strict=True)):
            for name, part in zip(PARTS, parts, strict=True):
                lines.writerow([f"scenes#{scene}", name, *box, *(f"{edge:.2f}" for edge in part)])
        write_bytes(path, text.getvalue().encode())


@lru_cache(maxsize=1)
def load_scenes() -> DrawnScenes:
    """600 scenes of 64 x 64 pixels: four kinds of object on a mottled ground, each scene with one."""
    noise = np.random.default_rng(_SEED)
    labels = np.repeat(np.arange(len(KINDS)), SCENES_OF_A_KIND)
    drawn = [_scene(KINDS[label], noise) for label in labels.tolist()]
    pixels, objects, parts = (np.stack(some) for some in zip(*drawn, strict=True))
    names = tuple(f"{head} {legs}" for head, legs in KINDS)
    return DrawnScenes(PackagedImages(pixels, labels.astype(np.int64), names), objects, parts)


def _scene(
    kind: tuple[str, str], noise: np.random.Generator
) -> tuple[UInt8[np.ndarray, "S S 3"], Int[np.ndarray, " 4"], Float[np.ndarray, "P 4"]]:
    side = int(noise.integers(_LEAST, _MOST + 1))
    x0, y0 = noise.integers(0, SCENE_SIDE - side + 1, 2)
    picture = _ground(noise)
    boxes = []
    for part, (row, column) in zip(kind, PARTS.values(), strict=True):
        away = noise.normal(0, JITTER, 2).clip(-2 * JITTER, 2 * JITTER)
        middle = np.array([y0, x0]) + side * (np.array([row, column]) + away)
        radius = _RADIUS * side
        _put(picture, part, middle, radius, noise)
        boxes.append([middle[1] - radius, middle[0] - radius, middle[1] + radius, middle[0] + radius])
    picture = picture + noise.normal(0, 0.02, picture.shape)
    return (
        (255 * picture.clip(0, 1)).round().astype(np.uint8),
        np.array([x0, y0, x0 + side, y0 + side]),
        np.array(boxes),
    )


def _ground(noise: np.random.Generator) -> Float[np.ndarray, "S S 3"]:
    """Soft blots of colour: a coarse grid, interpolated."""
    coarse = noise.uniform(0.25, 0.6, (_BLOTS, _BLOTS, 3))
    at = np.linspace(0, _BLOTS - 1, SCENE_SIDE)
    share = np.maximum(1 - np.abs(at[:, None] - np.arange(_BLOTS)), 0)  # (S, blots)
    found: np.ndarray = np.moveaxis(share @ np.moveaxis(coarse, -1, 0) @ share.T, 0, -1)
    return found


def _put(
    picture: Float[np.ndarray, "S S 3"],
    part: str,
    middle: Float[np.ndarray, " 2"],
    radius: float,
    noise: np.random.Generator,
) -> None:
    """Draw a part, a little brighter or darker each time."""
    low = np.maximum(np.floor(middle - radius - 1).astype(int), 0)
    high = np.minimum(np.ceil(middle + radius + 1).astype(int), SCENE_SIDE)
    rows, columns = (np.arange(*ends) + 0.5 for ends in zip(low, high, strict=True))
    cover, light = _SHAPES[part]((rows - middle[0])[:, None] / radius, (columns - middle[1])[None] / radius)
    colour = _COLOUR * noise.uniform(0.85, 1.15)
    own = light[..., None] * colour + (1 - light[..., None]) * _DARK
    window = picture[low[0] : high[0], low[1] : high[1]]
    window[:] = window * (1 - cover[..., None]) + own * cover[..., None]


def _soft(inside: np.ndarray) -> np.ndarray:
    """0 outside, 1 inside, over about a pixel at the edge."""
    return (0.5 + 5 * inside).clip(0, 1)


def _ring(y: Square, x: Square) -> tuple[Square, Square]:
    away = np.hypot(y, x)
    return _soft(1 - away), _soft(np.abs(away - 0.35) - 0.2)


def _cross(y: Square, x: Square) -> tuple[Square, Square]:
    return _soft(1 - np.abs(y) - np.abs(x)), _soft(np.minimum(np.abs(y), np.abs(x)) - 0.16)


def _stripes(y: Square, x: Square) -> tuple[Square, Square]:
    return _soft(1 - np.maximum(np.abs(y), np.abs(x))), _soft(0.4 * np.cos(2.6 * np.pi * x) + 0 * y)


def _checks(y: Square, x: Square) -> tuple[Square, Square]:
    return _soft(1 - np.maximum(np.abs(y), np.abs(x))), _soft(0.4 * np.sin(1.6 * np.pi * x) * np.sin(1.6 * np.pi * y))


_SHAPES: dict[str, Callable[[Square, Square], tuple[Square, Square]]] = {
    "ring": _ring,
    "cross": _cross,
    "stripes": _stripes,
    "checks": _checks,
}
