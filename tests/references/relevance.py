"""Conductance, masked relevance and rank statistics as the papers write them, in float64 loops."""

from __future__ import annotations

import numpy as np


def conductance(activations: np.ndarray, gradients: np.ndarray, rule: str) -> np.ndarray:
    """(points, N, D, H, W) both -> (N, D, H, W): sum over steps of a gradient times the activation's increment."""
    total = np.zeros(activations.shape[1:])
    for place in np.ndindex(*total.shape):
        for step in range(len(activations) - 1):
            here, there = gradients[(step, *place)], gradients[(step + 1, *place)]
            slope = here if rule == "left" else (here + there) / 2
            total[place] += slope * (activations[(step + 1, *place)] - activations[(step, *place)])
    return total


def upsampled(small: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear with half-pixel centres, pixel by pixel; positions beyond the outermost centres take the nearest."""
    found = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            places = []
            for place, size, large in ((y, small.shape[0], height), (x, small.shape[1], width)):
                centre = min(max((place + 0.5) * size / large - 0.5, 0.0), size - 1.0)
                low = min(int(centre), size - 1)
                places.append((low, min(low + 1, size - 1), centre - low))
            (y0, y1, v), (x0, x1, u) = places
            top = (1 - u) * small[y0, x0] + u * small[y0, x1]
            low_row = (1 - u) * small[y1, x0] + u * small[y1, x1]
            found[y, x] = (1 - v) * top + v * low_row
    return found


def masked_relevance(maps: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(D,): every unit's |G| carried up to the mask's size, times the mask, summed over pixels (ICQ Eq. 3)."""
    return np.array([float((mask * upsampled(np.abs(unit), *mask.shape)).sum()) for unit in maps])


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Pearson's r of mean ranks."""

    def ranks(values: np.ndarray) -> list[float]:
        return [1 + sum(other < one for other in values) + (sum(other == one for other in values) - 1) / 2
                for one in values]  # fmt: skip

    return float(np.corrcoef(ranks(left), ranks(right))[0, 1])


def tally(labels: list[int], right: list[bool], under: list[list[bool]], classes: int) -> tuple[list[list[int]], ...]:
    """Lost and gained by intervention and class, image by image."""
    lost = [[0] * classes for _ in under]
    gained = [[0] * classes for _ in under]
    for row, outcome in enumerate(under):
        for label, before, after in zip(labels, right, outcome, strict=True):
            lost[row][label] += before and not after
            gained[row][label] += after and not before
    return lost, gained
