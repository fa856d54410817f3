"""Slow twin of gmm_ops.graphs.word_distances: float64 loops over every pair of words."""

from __future__ import annotations

import math


def centre_distances(means):
    """Nested lists (K, D) in, (K, K) out."""
    return [[math.sqrt(sum((a - b) ** 2 for a, b in zip(one, other, strict=True))) for other in means] for one in means]


def class_distances(means, dominant, columns=None):
    """(within, between) over unordered pairs of words, or of columns; None for no pair. A class below 0 is left out."""
    columns = columns or [1] * len(means)
    within, between = [], []
    table = centre_distances(means)
    for i in range(len(means)):
        for j in range(i):
            if dominant[i] < 0 or dominant[j] < 0:
                continue
            pairs = [table[i][j]] * (columns[i] * columns[j])
            (within if dominant[i] == dominant[j] else between).extend(pairs)
    return tuple(math.fsum(values) / len(values) if values else None for values in (within, between))
