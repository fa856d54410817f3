"""Slow twin of words at patterns: plain float64 loops over places, positions and pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gmm_ops.explanatory.responses import PositionGrid


def centres(grid: PositionGrid, axis: int) -> list[float]:
    """Middles of the receptive fields along an axis."""
    count = (grid.height, grid.width)[axis]
    return [grid.first[axis] + grid.stride[axis] * place for place in range(count)]


def word_at(words: np.ndarray, grid: PositionGrid, place: Sequence[float]) -> int:
    """The word of the position with the nearest middle; -1 outside the image."""
    if not all(0 <= one <= 1 for one in place):
        return -1
    best, found = math.inf, -1
    for h, y in enumerate(centres(grid, 0)):
        for w, x in enumerate(centres(grid, 1)):
            away = (place[0] - y) ** 2 + (place[1] - x) ** 2
            if away < best:
                best, found = away, int(words[h, w])
    return found


def area_share(words: np.ndarray, grid: PositionGrid, box: Sequence[float], n_words: int, steps: int) -> np.ndarray:
    """Shares of the words at the middles of a fine raster of the box."""
    counts = np.zeros(n_words)
    for i in range(steps):
        for j in range(steps):
            y, x = (box[a] + (box[a + 2] - box[a]) * (n + 0.5) / steps for a, n in ((0, i), (1, j)))
            word = word_at(words, grid, (y, x))
            if word >= 0:
                counts[word] += 1
    return counts / max(counts.sum(), 1)


def tally(words: np.ndarray, shares: np.ndarray, groups: Sequence[int], n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts and chances (G, V, K) of words (n, V) and shares (n, K)."""
    counts = np.zeros((n_groups, words.shape[1], shares.shape[1]))
    chance = np.zeros_like(counts)
    for row, group in enumerate(groups):
        for pattern in range(words.shape[1]):
            word = int(words[row, pattern])
            if word >= 0 and shares[row].sum() > 0:
                counts[group, pattern, word] += 1
                for other in range(shares.shape[1]):
                    chance[group, pattern, other] += float(shares[row, other])
    return counts, chance


def log_ratio(count: float, total: float, prior: float, pseudo_count: float) -> float:
    """Of a word, in bits; NaN where it is nowhere."""
    if prior <= 0:
        return math.nan
    return math.log2((count + pseudo_count * prior) / (total + pseudo_count) / prior)


def top_word(counts: np.ndarray, chance: np.ndarray, pseudo_count: float) -> tuple[int, int, float, float]:
    """Word, objects, share and log ratio of one pattern, from (K,) counts and chances."""
    total = int(counts.sum())
    if not total:
        return -1, 0, math.nan, math.nan
    best = 0
    for word in range(len(counts)):
        if counts[word] > counts[best]:
            best = word
    ratio = log_ratio(counts[best], total, chance[best] / total, pseudo_count)
    return best, total, counts[best] / total, ratio


def pair_mean(lower: Sequence[int], upper: Sequence[int], pairs: Sequence[Sequence[int]], values: np.ndarray) -> float:
    """Mean value of the words of pairs of patterns; values (K_upper, K_lower)."""
    found = []
    for low, high in pairs:
        if lower[low] >= 0 and upper[high] >= 0:
            value = float(values[upper[high], lower[low]])
            if not math.isnan(value):
                found.append(value)
    return sum(found) / len(found) if found else math.nan


def jackknife(middle: float, without: Sequence[float]) -> tuple[float, float]:
    """95 % interval."""
    mean = sum(without) / len(without)
    variance = (len(without) - 1) / len(without) * sum((one - mean) ** 2 for one in without)
    return middle - 1.959964 * math.sqrt(variance), middle + 1.959964 * math.sqrt(variance)
