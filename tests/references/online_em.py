"""Slow twin of the online EM step: Cappe and Moulines' recursion in plain float64 loops, and the split of words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.references.em import Sums, e_step, m_step
from tests.references.mixture import Matrix, Vector


def fit(
    minibatches: Sequence[Matrix],
    log_pi: Vector,
    mean: Matrix,
    variance: Matrix,
    center: Vector,
    exponent: float,
    offset: float,
    warmup: int,
    floor: float,
    variance_of: str = "word",
) -> tuple[Vector, Matrix, Matrix]:
    """(log pi, mean, variance) after all minibatches: S <- (1 - g) S + g * mean, then the M-step."""
    running: Sums | None = None
    for n, batch in enumerate(minibatches):
        g = (n + offset) ** -exponent
        sums = e_step(batch, log_pi, mean, variance, center)
        running = _blend(running, sums, g, len(batch))
        if n >= warmup:
            log_pi, mean, variance = m_step(running, center, floor, variance_of)
    return log_pi, mean, variance


def _blend(running: Sums | None, sums: Sums, g: float, count: int) -> Sums:
    s0, s1, s2 = sums
    words, units = len(s0), len(s1[0])
    old = running or ([0.0] * words, [[0.0] * units] * words, [[0.0] * units] * words)
    new0 = [(1 - g) * old[0][k] + g * s0[k] / count for k in range(words)]
    new1 = [[(1 - g) * old[1][k][d] + g * s1[k][d] / count for d in range(units)] for k in range(words)]
    new2 = [[(1 - g) * old[2][k][d] + g * s2[k][d] / count for d in range(units)] for k in range(words)]
    return new0, new1, new2


def split(
    s0: Vector, s1: Matrix, s2: Matrix, min_share: float, floor: Vector
) -> tuple[list[float], list[list[float]], list[list[float]], list[int]]:
    """Every word below ``min_share`` / K takes half of the word that is heaviest then: (s0, s1, s2, words re-seeded).

    The halves lie half a standard deviation above and below the heaviest word; their mixture has its variance.
    """
    words, units = len(s0), len(s1[0])
    s0, s1, s2 = list(s0), [list(row) for row in s1], [list(row) for row in s2]
    dead = [k for k in range(words) if s0[k] / sum(s0) < min_share / words]
    for k in dead:
        h = max(range(words), key=lambda word: (s0[word], -word))
        half = s0[h] / 2
        mean = [s1[h][d] / s0[h] for d in range(units)]
        spread = [max(s2[h][d] / s0[h] - mean[d] ** 2, floor[d]) for d in range(units)]
        for word, side in ((k, 1), (h, -1)):
            place = [mean[d] + side * math.sqrt(spread[d]) / 2 for d in range(units)]
            s0[word] = half
            s1[word] = [half * place[d] for d in range(units)]
            s2[word] = [half * (place[d] ** 2 + spread[d] - spread[d] / 4) for d in range(units)]
    return s0, s1, s2, dead
