"""Agreement of runs in loops over columns: columns that words share, that graphs cover, nodes found again."""

from __future__ import annotations

from itertools import permutations

import numpy as np


def overlap(one: np.ndarray, other: np.ndarray, word: int, match: int) -> float:
    """(N, H, W) each: intersection over union of two words, over columns that both runs know."""
    both = either = 0
    for place in np.ndindex(*one.shape):
        if one[place] < 0 or other[place] < 0:
            continue
        both += int(one[place] == word and other[place] == match)
        either += int(one[place] == word or other[place] == match)
    return both / either if either else 0.0


def best_sum(overlaps: np.ndarray) -> float:
    """The largest sum of overlaps of any one-to-one matching, by trying all; (K, K') with K <= K'."""
    size, others = overlaps.shape
    return max(sum(overlaps[k, order[k]] for k in range(size)) for order in permutations(range(others), size))


def covered_overlap(one: np.ndarray, other: np.ndarray, own: list[int], others: list[int]) -> tuple[float, float]:
    """IoU of the columns that two graphs cover, over all images; and of as many columns anywhere in each image."""
    both = either = 0
    chance_both = chance_either = 0.0
    for left, right in zip(one, other, strict=True):
        first, second = 0, 0
        for place in np.ndindex(*left.shape):
            here, there = left[place] in own, right[place] in others
            both, either = both + (here and there), either + (here or there)
            first, second = first + here, second + there
        expected = first * second / left.size
        chance_both, chance_either = chance_both + expected, chance_either + first + second - expected
    return both / either, chance_both / chance_either


def node_covered(one: np.ndarray, other: np.ndarray, word: int, others: list[int]) -> tuple[float, float]:
    """Share of a word's columns that are words of another run's graph; and the share expected by chance."""
    columns = found = 0
    expected = 0.0
    for left, right in zip(one, other, strict=True):
        own = covered = 0
        for place in np.ndindex(*left.shape):
            if left[place] == word:
                own += 1
                found += int(right[place] in others)
            covered += int(right[place] in others)
        columns += own
        expected += own * covered / left.size
    return found / columns, expected / columns
