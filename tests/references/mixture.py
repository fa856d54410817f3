"""Slow twin of gmm_ops.mixtures.mixture: a diagonal Gaussian mixture in plain float64 loops (IG Eq. 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

Vector = Sequence[float]
Matrix = Sequence[Vector]


def log_joint(x: Vector, log_pi: float, mean: Vector, variance: Vector) -> float:
    """log pi + sum_d log N(x_d | mu_d, var_d)."""
    total = log_pi
    for value, mu, var in zip(x, mean, variance, strict=True):
        total += -0.5 * ((value - mu) ** 2 / var + math.log(2 * math.pi * var))
    return total


def log_joints(x: Vector, log_pi: Vector, mean: Matrix, variance: Matrix) -> list[float]:
    """One log joint per word."""
    return [log_joint(x, p, mu, var) for p, mu, var in zip(log_pi, mean, variance, strict=True)]


def log_likelihood(x: Vector, log_pi: Vector, mean: Matrix, variance: Matrix) -> float:
    """log p(x)."""
    joint = log_joints(x, log_pi, mean, variance)
    best = max(joint)
    return best + math.log(sum(math.exp(value - best) for value in joint))


def posterior(x: Vector, log_pi: Vector, mean: Matrix, variance: Matrix) -> list[float]:
    """P(word | x)."""
    total = log_likelihood(x, log_pi, mean, variance)
    return [math.exp(value - total) for value in log_joints(x, log_pi, mean, variance)]


def hard_word(x: Vector, log_pi: Vector, mean: Matrix, variance: Matrix) -> int:
    """The word with the highest log joint; the lowest index of equals."""
    joint = log_joints(x, log_pi, mean, variance)
    best = 0
    for word in range(1, len(joint)):
        if joint[word] > joint[best]:
            best = word
    return best
