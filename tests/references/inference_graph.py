"""Slow twins of gmm_ops.graphs.inference_graph: probabilities as exact fractions, and the search over all subsets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations

Matrix = Sequence[Sequence[int]]


def probability_ratios(
    total: Matrix, pseudo_count: Fraction = Fraction(1), lower_frequency: Sequence[int] | None = None
) -> dict[tuple[int, int], Fraction]:
    """P(t|s) / P(t) of every pair of words that were seen (IG Eq. 5, 6), exact."""
    marginal = [sum(row[t] for row in total) for t in range(len(total[0]))]
    weight = marginal if lower_frequency is None else list(lower_frequency)
    ratios = {}
    for s, row in enumerate(total):
        for t, pairs in enumerate(row):
            if sum(row) == 0 or weight[t] == 0:
                continue
            prior = Fraction(weight[t], sum(weight))
            ratios[s, t] = (pairs + pseudo_count * prior) / (sum(row) + pseudo_count) / prior
    return ratios


def log_ratio(ratio: Fraction) -> float:
    """In bits."""
    return math.log2(ratio) if ratio else -math.inf


def log_likelihood_ratio(
    upper_words: Sequence[int], lower_words: Sequence[int], counts: Matrix, bits: dict[tuple[int, int], float]
) -> float:
    """What a set of lower words explains of a set of upper words in Omega (IG Eq. 14)."""
    return sum(
        counts[s][t] * bits[s, t] for t in lower_words for s in upper_words if (s, t) in bits and counts[s][t] > 0
    )


def present_words(upper_words: Sequence[int], counts: Matrix, bits: dict[tuple[int, int], float]) -> list[int]:
    """Lower words that occur in Omega with some word of the set, and have a log ratio with it (METHOD section 5)."""
    return [t for t in range(len(counts[0])) if any((s, t) in bits and counts[s][t] > 0 for s in upper_words)]


def best_subset(
    upper_words: Sequence[int], counts: Matrix, bits: dict[tuple[int, int], float], top: int
) -> tuple[float, tuple[int, ...]]:
    """The best value over all sets of ``top`` lower words that occur in Omega, and the first set that reaches it."""
    candidates = present_words(upper_words, counts, bits)
    subsets = combinations(candidates, min(top, len(candidates)))
    return max(
        ((log_likelihood_ratio(upper_words, subset, counts, bits), subset) for subset in subsets),
        key=lambda scored: scored[0],
    )
