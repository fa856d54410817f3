"""Slow twin of gmm_ops.hmm.rectified_gaussian: 250 digits, for moments of 1e-198, unit by unit (IG Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

from mpmath import erfc, exp, log, mp, mpf, pi, sqrt

mp.dps = 250


def phi(a: mpf) -> mpf:
    """Density of the standard normal."""
    return exp(-a * a / 2) / sqrt(2 * pi)


def capital_phi(a: mpf) -> mpf:
    """Distribution function of the standard normal."""
    return erfc(-a / sqrt(mpf(2))) / 2


def censored(mean: float, deviation: float) -> tuple[mpf, mpf, mpf]:
    """(log P(y <= 0), E[y | y <= 0], E[y^2 | y <= 0])."""
    mu, sd = mpf(mean), mpf(deviation)
    a = -mu / sd
    lam = phi(a) / capital_phi(a)
    return log(capital_phi(a)), mu - sd * lam, mu * mu + sd * sd - sd * mu * lam


def log_density(x: Sequence[float], mean: Sequence[float], deviation: Sequence[float]) -> mpf:
    """log b_k(x) of one column and one word."""
    total = mpf(0)
    for value, mu, sd in zip(x, mean, deviation, strict=True):
        if value > 0:
            z = (mpf(value) - mpf(mu)) / mpf(sd)
            total += -z * z / 2 - log(mpf(sd)) - log(2 * pi) / 2
        else:
            total += log(capital_phi(-mpf(mu) / mpf(sd)))
    return total


def sums(
    columns: Sequence[Sequence[float]], posterior: Sequence[float], mean: Sequence[float], deviation: Sequence[float]
) -> tuple[list[mpf], list[mpf]]:
    """(S1, S2) of one word about its mean, per unit."""
    first, second = [], []
    for d, (mu, sd) in enumerate(zip(mean, deviation, strict=True)):
        one = two = mpf(0)
        _, e1, e2 = censored(mu, sd)
        for x, r in zip(columns, posterior, strict=True):
            y, y2 = (mpf(x[d]), mpf(x[d]) ** 2) if x[d] > 0 else (e1, e2)
            one += mpf(r) * (y - mu)
            two += mpf(r) * (y2 - 2 * mpf(mu) * y + mpf(mu) ** 2)
        first.append(one)
        second.append(two)
    return first, second
