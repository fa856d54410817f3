"""Slow twin of gmm_ops.word_slices: what sliced words must agree on, in plain float64 loops."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.references.mixture import Matrix, Vector, log_joints

Slice = tuple[Vector, Matrix, Matrix]
"""(log pi, mean, variance) of the own words."""


def log_sum_exp(parts: Sequence[Vector]) -> float:
    """Log-sum-exp of numbers that lie in parts: each gives its maximum, then its sum of exponentials."""
    best = max(max(part) for part in parts)
    return best + math.log(sum(sum(math.exp(value - best) for value in part) for part in parts))


def log_likelihood(x: Vector, slices: Sequence[Slice]) -> float:
    """log p(x) over all slices."""
    return log_sum_exp([log_joints(x, *own) for own in slices])


def posteriors(x: Vector, slices: Sequence[Slice]) -> list[list[float]]:
    """P(word | x) of the own words, slice by slice."""
    total = log_likelihood(x, slices)
    return [[math.exp(value - total) for value in log_joints(x, *own)] for own in slices]


def hard_word(x: Vector, slices: Sequence[Slice]) -> int:
    """Number, in the whole dictionary, of the word with the highest log joint; the lowest of equals."""
    best, found, first = -math.inf, 0, 0
    for own in slices:
        joints = log_joints(x, *own)
        for word, joint in enumerate(joints):
            if joint > best:
                best, found = joint, first + word
        first += len(joints)
    return found


def reseed(
    s0: list[float], s1: list[list[float]], s2: list[list[float]], worst: Matrix, min_share: float, floor: float
) -> tuple[list[float], list[list[float]], list[list[float]], list[int]]:
    """The emptiest words take the worst columns (about the centre): (s0, s1, s2, words moved).

    Share 1/K, the column as mean, the layer's variance; the others keep their means and give up share.
    """
    words, units, total = len(s0), len(s1[0]), sum(s0)
    low = sum(s / total < min_share / words for s in s0)
    moved = sorted(range(words), key=lambda k: (s0[k], k))[: min(low, len(worst), words - 1)]
    if not moved:
        return s0, s1, s2, []
    mean = [sum(s1[k][d] for k in range(words)) / total for d in range(units)]
    spread = [max(sum(s2[k][d] for k in range(words)) / total - mean[d] ** 2, floor) for d in range(units)]
    left = 1.0 - sum(s0[k] / total for k in moved)
    shrink = (1.0 - len(moved) / words) / left
    s0 = [s * shrink for s in s0]
    s1 = [[s * shrink for s in row] for row in s1]
    s2 = [[s * shrink for s in row] for row in s2]
    for word, column in zip(moved, worst, strict=False):
        weight = total / words
        s0[word] = weight
        s1[word] = [weight * x for x in column]
        s2[word] = [weight * (x * x + spread[d]) for d, x in enumerate(column)]
    return s0, s1, s2, moved
