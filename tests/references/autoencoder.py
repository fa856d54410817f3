"""Losses of an autoencoder of pictures, written out in float64 loops (Kingma and Welling 2014; Rybkin et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence

Rows = Sequence[Sequence[float]]


def slow_divergence(means: Rows, log_variances: Rows) -> float:
    """Mean over pictures of KL(N(mean, variance) || N(0, 1)), summed over the numbers of a code."""
    total = 0.0
    for mean, log_variance in zip(means, log_variances, strict=True):
        for m, v in zip(mean, log_variance, strict=True):
            total += 0.5 * (math.exp(v) + m * m - 1.0 - v)
    return total / len(means)


def slow_half_log_error(shown: Rows, wanted: Rows) -> float:
    """-log N(shown; wanted, s^2) a number at the s that makes it least, without its constant (1 + log 2 pi) / 2."""
    squares = [(a - b) ** 2 for one, other in zip(shown, wanted, strict=True) for a, b in zip(one, other, strict=True)]
    variance = sum(squares) / len(squares)
    nats = sum(square / (2 * variance) + math.log(variance) / 2 for square in squares) / len(squares)
    return nats - 0.5
