"""Shortcuts in float64 loops: counts image by image, entropy term by term, the rule word by word."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np


def counted(
    groups: np.ndarray, words: np.ndarray, n_groups: int, n_words: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (G,), images that have a word (G, K), columns by position (G, K, P)."""
    _, height, width = words.shape
    images, holding = np.zeros(n_groups, int), np.zeros((n_groups, n_words), int)
    places = np.zeros((n_groups, n_words, height * width), int)
    for group, own in zip(groups, words, strict=True):
        images[group] += 1
        for word in range(n_words):
            holding[group, word] += bool((own == word).any())
        for y, x in np.ndindex(height, width):
            if own[y, x] >= 0:
                places[group, own[y, x], y * width + x] += 1
    return images, holding, places


def log_ratio(holding: int, images: int, others_holding: int, others: int) -> float:
    """Bits."""
    return math.log2(((holding + 0.5) / (images + 1)) / ((others_holding + 0.5) / (others + 1)))


def entropy(places: np.ndarray) -> float:
    """Of one word, in [0, 1]."""
    positions = [place for place, count in enumerate(places) for _ in range(int(count))]
    largest = math.log(max(1, min(len(positions), len(places))))
    if largest == 0:
        return 1.0
    counts = Counter(positions).values()
    plain = -sum(count / len(positions) * math.log(count / len(positions)) for count in counts)
    return min(1.0, (plain + (len(counts) - 1) / (2 * len(positions))) / largest)


def ranked(rows: list[dict[str, float | None]]) -> list[tuple[float, bool, float]]:
    """(looks, used, weight) of every word: ratio, entropy, drop, control (None: nothing is usual) and on_object."""
    found = []
    for row in rows:
        ratio, place, drop, control = row["ratio"], row["entropy"], row["drop"], row["control"]
        assert ratio is not None
        assert place is not None
        assert drop is not None
        looks = max(0.0, ratio) * (2 - place)
        if row["on_object"] is not None:
            looks *= 2 - row["on_object"]
        used = control is not None and drop > control and drop > 0
        weight = 1.0 if used else max(drop, 0.0) / control if control is not None and control > 0 else 0.0
        found.append((looks, used, weight))
    return found


def ranks(found: list[tuple[float, bool, float]]) -> list[int]:
    """How many words come before each."""
    keys = [(looks * weight, looks, -place) for place, (looks, _, weight) in enumerate(found)]
    return [sum(other > own for other in keys) for own in keys]
