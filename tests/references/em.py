"""Slow twin of gmm_ops.mixtures.statistics and gmm_ops.mixtures.em: one EM iteration in plain float64 loops."""

from __future__ import annotations

import math

from tests.references.mixture import Matrix, Vector, posterior

Sums = tuple[list[float], list[list[float]], list[list[float]]]


def e_step(columns: Matrix, log_pi: Vector, mean: Matrix, variance: Matrix, center: Vector) -> Sums:
    """S0 = sum r, S1 = sum r (x - c), S2 = sum r (x - c)^2 per word."""
    words, units = len(mean), len(center)
    s0 = [0.0] * words
    s1 = [[0.0] * units for _ in range(words)]
    s2 = [[0.0] * units for _ in range(words)]
    for x in columns:
        for k, share in enumerate(posterior(x, log_pi, mean, variance)):
            s0[k] += share
            for d in range(units):
                s1[k][d] += share * (x[d] - center[d])
                s2[k][d] += share * (x[d] - center[d]) ** 2
    return s0, s1, s2


def m_step(
    sums: Sums, center: Vector, floor: float, variance_of: str = "word"
) -> tuple[list[float], list[list[float]], list[list[float]]]:
    """(log pi, mean, variance): pi = S0 / sum S0, mu = S1 / S0, var = max(S2 / S0 - mu^2, floor).

    Variances of a unit, or of the layer, are those that all columns have about the means of their words.
    """
    s0, s1, s2 = sums
    total = sum(s0)
    log_pi = [math.log(share / total) for share in s0]
    mean, variance = [], []
    for k, share in enumerate(s0):
        about = [value / share for value in s1[k]]
        mean.append([value + c for value, c in zip(about, center, strict=True)])
        variance.append([square / share - mu * mu for square, mu in zip(s2[k], about, strict=True)])
    if variance_of != "word":
        shared = [sum(s0[k] * variance[k][d] for k in range(len(s0))) / total for d in range(len(center))]
        if variance_of == "layer":
            shared = [sum(shared) / len(shared)] * len(shared)
        variance = [list(shared) for _ in s0]
    variance = [[max(value, floor) for value in row] for row in variance]
    return log_pi, mean, variance
