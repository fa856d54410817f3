"""Slow twin of gmm_ops.mixtures.online_em: Cappe and Moulines' recursion in plain float64 loops, without re-seeding."""

from __future__ import annotations

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
) -> tuple[Vector, Matrix, Matrix]:
    """(log pi, mean, variance) after all minibatches: S <- (1 - g) S + g * mean, then the M-step."""
    running: Sums | None = None
    for n, batch in enumerate(minibatches):
        g = (n + offset) ** -exponent
        sums = e_step(batch, log_pi, mean, variance, center)
        running = _blend(running, sums, g, len(batch))
        if n >= warmup:
            log_pi, mean, variance = m_step(running, center, floor)
    return log_pi, mean, variance


def _blend(running: Sums | None, sums: Sums, g: float, count: int) -> Sums:
    s0, s1, s2 = sums
    words, units = len(s0), len(s1[0])
    old = running or ([0.0] * words, [[0.0] * units] * words, [[0.0] * units] * words)
    new0 = [(1 - g) * old[0][k] + g * s0[k] / count for k in range(words)]
    new1 = [[(1 - g) * old[1][k][d] + g * s1[k][d] / count for d in range(units)] for k in range(words)]
    new2 = [[(1 - g) * old[2][k][d] + g * s2[k][d] / count for d in range(units)] for k in range(words)]
    return new0, new1, new2
