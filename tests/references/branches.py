"""Slow twin of gmm_ops.hmm.branches: branches as dictionaries, and every path above a junction one after the other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from tests.references.hmm import Matrix, Vector, logarithm

START = -1
"""The lower word of level 1."""

Branch = tuple[int, int, int, int]
"""Class, level from 1, lower word, upper word."""


@dataclass(frozen=True)
class Left:
    """Level (0: never), junction, taken and expected word; None where there is none."""

    level: int
    lower: int | None = None
    taken: int | None = None
    expected: int | None = None
    log_odds: float | None = None


def branches_of(path: Sequence[int], label: int) -> list[Branch]:
    """The branches of one path, lowest first."""
    below = [START, *path[:-1]]
    return [(label, level, low, up) for level, (low, up) in enumerate(zip(below, path, strict=True), start=1)]


def count_branches(paths: Sequence[Sequence[int]], labels: Sequence[int]) -> Counter[Branch]:
    """How many paths of each class take each branch."""
    return Counter(branch for path, label in zip(paths, labels, strict=True) for branch in branches_of(path, label))


def best_above(
    initial: Vector, transitions: Sequence[Matrix], log_likelihoods: Matrix, path: Sequence[int], level: int, word: int
) -> float:
    """log joint of the best path with ``path`` below ``level`` and ``word`` there, by all words above.

    log_likelihoods: per layer of words. A last variable without likelihoods is not observed.
    """
    states = [len(initial), *(len(table) for table in transitions)]
    best = -math.inf
    for above in product(*(range(k) for k in states[level:])):
        whole = [*path[: level - 1], word, *above]
        total = logarithm(initial[whole[0]])
        for index, table in enumerate(transitions):
            total += logarithm(table[whole[index + 1]][whole[index]])
        for values, chosen in zip(log_likelihoods, whole, strict=False):
            total += values[chosen]
        best = max(best, total)
    return best


def departure(
    initial: Vector,
    transitions: Sequence[Matrix],
    log_likelihoods: Matrix,
    path: Sequence[int],
    label: int,
    counts: Counter[Branch],
    min_images: int = 1,
    counted: bool = False,
) -> Left:
    """Where one path leaves the branches of its class."""
    others = counts - Counter(branches_of(path, label)) if counted else counts
    variables = 1 + len(transitions)
    for branch in branches_of(path, label):
        _, level, lower, taken = branch
        if others[branch] >= min_images:
            continue
        below = None if lower == START else lower
        own = sorted(up for (c, at, low, up), n in others.items() if (c, at, low) == branch[:3] and n >= min_images)
        if not own:
            return Left(level, below, taken)
        if level > variables:
            return Left(level, below, taken, own[0])
        score = {k: best_above(initial, transitions, log_likelihoods, path, level, k) for k in [taken, *own]}
        expected = max(own, key=lambda k: (score[k], -k))
        return Left(level, below, taken, expected, score[taken] - score[expected])
    return Left(0)
