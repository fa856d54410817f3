"""Slow twin of gmm_ops.hmm: every path of a chain, one after the other (IG Eq. 2, 3 and 17)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

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
