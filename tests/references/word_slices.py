"""Slow twin of words cut into slices: what sliced words must agree on, in plain float64 loops."""

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
