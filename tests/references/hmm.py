"""Slow twin of gmm_ops.hmm: every path of a chain, one after the other (IG Eq. 2, 3 and 17)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

Vector = Sequence[float]
Matrix = Sequence[Vector]


@dataclass(frozen=True)
class Enumerated:
    """Everything about one sequence: likelihood, gamma[l][k], xi[l][k][k'], the MAP path, max-marginals."""

    log_likelihood: float
    gamma: list[list[float]]
    xi: list[list[list[float]]]
    path: tuple[int, ...]
    log_joint: float
    marginals: list[list[float]]


def logarithm(value: float) -> float:
    """log, with log 0 = -inf."""
    return math.log(value) if value > 0 else -math.inf


def paths(
    initial: Vector, transitions: Sequence[Matrix], log_likelihoods: Matrix
) -> Iterator[tuple[tuple[int, ...], float]]:
    """(path, log joint) of every path; the last layer's word changes slowest, the first layer's fastest."""
    states = [len(initial), *(len(table) for table in transitions)]
    for backward in product(*(range(k) for k in reversed(states))):
        path = tuple(reversed(backward))
        total = logarithm(initial[path[0]]) + log_likelihoods[0][path[0]]
        for index, table in enumerate(transitions):
            total += logarithm(table[path[index + 1]][path[index]]) + log_likelihoods[index + 1][path[index + 1]]
        yield path, total


def enumerate_paths(initial: Vector, transitions: Sequence[Matrix], log_likelihoods: Matrix) -> Enumerated:
    """One sequence. log_likelihoods: per layer, per word."""
    every = list(paths(initial, transitions, log_likelihoods))
    best_path, best = every[0]
    for path, value in every:
        if value > best:
            best_path, best = path, value
    total = math.fsum(math.exp(value - best) for _, value in every)
    gamma = [[0.0] * len(layer) for layer in log_likelihoods]
    marginals = [[-math.inf] * len(layer) for layer in log_likelihoods]
    xi = [[[0.0] * len(table[0]) for _ in table] for table in transitions]
    for path, value in every:
        share = math.exp(value - best) / total
        for layer, word in enumerate(path):
            gamma[layer][word] += share
            marginals[layer][word] = max(marginals[layer][word], value)
        for pair in range(len(transitions)):
            xi[pair][path[pair + 1]][path[pair]] += share
    return Enumerated(best + math.log(total), gamma, xi, best_path, best, marginals)


def split(statistics: Any, model: Any, min_share: float, floor: float) -> tuple[list[Any], ...]:
    """(s0, s1, s2, s3) after every word below ``min_share`` / K took half of the heaviest word of its layer.

    s1 and s2 are about the model's means. Columns of the table above are halved with their words, rows below too.
    """
    s0, s1, s2, s3 = ([part.tolist() for part in getattr(statistics, name)] for name in ("s0", "s1", "s2", "s3"))
    for layer, words in enumerate(model.layers):
        mu, units = words.mean.tolist(), words.n_units
        weight = s0[layer]
        for dead in [k for k in range(len(weight)) if weight[k] / sum(weight) < min_share / len(weight)]:
            heaviest = max(range(len(weight)), key=lambda k: (weight[k], -k))
            half = weight[heaviest] / 2
            mean = [mu[heaviest][d] + s1[layer][heaviest][d] / weight[heaviest] for d in range(units)]
            about = [s1[layer][heaviest][d] / weight[heaviest] for d in range(units)]
            spread = [max(s2[layer][heaviest][d] / weight[heaviest] - about[d] ** 2, floor) for d in range(units)]
            for word, side in ((dead, 0.5), (heaviest, -0.5)):
                weight[word] = half
                for d in range(units):
                    away = mean[d] + side * math.sqrt(spread[d]) - mu[word][d]
                    s1[layer][word][d] = half * away
                    s2[layer][word][d] = half * (away**2 + 0.75 * spread[d])
            if layer > 0:
                for lower in range(len(s3[layer - 1][heaviest])):
                    shared = s3[layer - 1][heaviest][lower] / 2
                    s3[layer - 1][dead][lower] = s3[layer - 1][heaviest][lower] = shared
            if layer < len(s3):
                for row in s3[layer]:
                    row[dead] = row[heaviest] = row[heaviest] / 2
    return s0, s1, s2, s3
