"""Slow twins of dissection in plain loops, written from METHOD section 9 and its description of NetDissect-Lite."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


def threshold(values: np.ndarray, share: float) -> float:
    """The smallest float16 T with P(a > T) <= share, from all values sorted."""
    ascending = sorted(float(value) for value in values.astype(np.float16))
    allowed = Fraction(str(share)) * len(ascending)
    return next(value for value in ascending if len(ascending) - bisect_right(ascending, value) <= allowed)


def upsampled(image_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, half-pixel centres, a + t (b - a), rows first, float64, pixel by pixel."""
    (h, w), (height, width) = image_map.shape, size
    low, found = image_map.astype(np.float64).tolist(), np.zeros(size)
    places = [between(x, w, width) for x in range(width)]
    for y in range(height):
        y0, y1, t = between(y, h, height)
        for x, (x0, x1, s) in enumerate(places):
            a = low[y0][x0] + t * (low[y1][x0] - low[y0][x0])
            b = low[y0][x1] + t * (low[y1][x1] - low[y0][x1])
            found[y, x] = a + s * (b - a)
    return found


def between(pixel: int, low: int, high: int) -> tuple[int, int, float]:
    place = (pixel + 0.5) * low / high - 0.5
    place = max(place, 0.0)
    first = min(math.floor(place), low - 1)
    return first, min(first + 1, low - 1), place - first


@dataclass
class Lite:
    """Tallies as NetDissect-Lite keeps them."""

    labels: np.ndarray
    units_by_category: np.ndarray
    paper_areas: np.ndarray
    both: np.ndarray
    images: np.ndarray

    def iou(self, categories: Sequence[int], paper: bool) -> np.ndarray:
        found = np.zeros(self.both.shape)
        areas = self.paper_areas if paper else self.units_by_category
        for unit in range(len(found)):
            for concept, category in enumerate(categories):
                union = areas[unit, category] + self.labels[concept] - self.both[unit, concept]
                found[unit, concept] = self.both[unit, concept] / union if union else 0.0
        return found


def lite_tally(
    maps: np.ndarray,
    labels: Sequence[np.ndarray],
    thresholds: np.ndarray,
    categories: Sequence[int],
    word: bool = False,
) -> Lite:
    """NetDissect-Lite's rule: a unit whose maximum exceeds its threshold is upsampled, its pixels above it counted.

    Args:
        maps: (N, D, h, w); with ``word`` word maps (N, h, w), whose words are the units.
        labels: (L, H, W) of every image, 0 or concept + 1.
        thresholds: (D,); of words how many there are.
        categories: of every concept.
    """
    units = len(thresholds)
    concepts, groups = len(categories), max(categories) + 1
    found = Lite(
        *(
            np.zeros(shape, np.int64)
            for shape in (concepts, (units, groups), (units, groups), (units, concepts), groups)
        )
    )
    for image, layers in enumerate(labels):
        for value in marked(layers):
            found.labels[value - 1] += 1
        carried = {categories[value - 1] for value in marked(layers)}
        for category in carried:
            found.images[category] += 1
        words = nearest(maps[image], layers.shape[1:]) if word else None
        for unit in range(units):
            mask = words == unit if word else mask_of(maps[image][unit], thresholds[unit], layers.shape[1:])
            if mask is None:
                continue
            under = marked(layers, mask)
            for value in under:
                found.both[unit, value - 1] += 1
            for category in {categories[value - 1] for value in under}:
                found.units_by_category[unit, category] += int(mask.sum())
            for category in carried:
                found.paper_areas[unit, category] += int(mask.sum())
    return found


def marked(layers: np.ndarray, mask: np.ndarray | None = None) -> list[int]:
    """Labels of every pixel of every layer that has one."""
    return [value for layer in layers for value in (layer if mask is None else layer[mask]).ravel().tolist() if value]


def mask_of(image_map: np.ndarray, limit: float, size: tuple[int, ...]) -> np.ndarray | None:
    return upsampled(image_map, size) > limit if image_map.max() > limit else None


def nearest(words: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    found = np.zeros(size, np.int64)
    columns = [math.floor(Fraction(2 * x + 1, 2 * size[1]) * words.shape[1]) for x in range(size[1])]
    for y in range(size[0]):
        row = math.floor(Fraction(2 * y + 1, 2 * size[0]) * words.shape[0])
        for x, column in enumerate(columns):
            found[y, x] = words[row, column]
    return found
