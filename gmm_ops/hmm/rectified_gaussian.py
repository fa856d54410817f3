"""Rectified Gaussians, x = max(y, 0) with y ~ N(mu, sd^2): density, censored moments, M-step (IG Sec. 3.1).

Everything is float64: positive units and zeros are sums of 1,000 terms that reach 450 each at mu / sd = 30.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.axes import Columns, WordStatistics
from gmm_ops.errors import RefusedInput
from gmm_ops.mixtures.em import VarianceFloor
from gmm_ops.mixtures.gaussian import LOG_2PI


@dataclass(frozen=True)
class Censored:
    """What is known of y where only x = 0 was seen, per word and unit, float64.

    log_probability: log P(y <= 0), natural. first: E[y - mu | y <= 0], layer units. second:
    E[(y - mu)^2 | y <= 0], squared units. About mu neither cancels, however far in the tail.
    """

    log_probability: WordStatistics
    first: WordStatistics
    second: WordStatistics


def censored(mean: WordStatistics, variance: WordStatistics) -> Censored:
    """Moments of the censored part.

    With a = -mu / sd and lam = phi(a) / Phi(a), first = -sd lam and second = sd^2 (1 - a lam);
    E[y | x = 0] = mu - sd lam, E[y^2 | x = 0] = mu^2 + sd^2 - sd mu lam.

    mean, variance: (K, D), any float type; variance positive. Source: IG Sec. 3.1 (moments of a normal
    truncated from above).
    """
    deviation = variance.double().sqrt()
    bound = -mean.double() / deviation
    mills = inverse_mills(bound)
    first = -deviation * mills
    return Censored(torch.special.log_ndtr(bound), first, variance.double() + bound * deviation * first)


def inverse_mills(bound: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """phi(a) / Phi(a), float64, for every a.

    The scaled complementary error function holds the quotient, so neither its numerator nor its denominator can
    underflow.
    """
    scaled: Tensor = torch.special.erfcx(-bound.double() / math.sqrt(2.0))
    return math.sqrt(2.0 / math.pi) / scaled


def rectified_weights(mean: WordStatistics, variance: WordStatistics) -> tuple[Float[Tensor, "K three_D"], Tensor]:
    """(weights, constant) of the log density as one product, [x*x, x, x > 0] @ weights.T + constant.

    The constant (K,) is the log density of a column of zeros, sum_d log Phi(-mu / sd): each positive unit then takes
    its own log Phi back, so zeros need no product of their own.
    """
    mean, variance = mean.double(), variance.double()
    zero = torch.special.log_ndtr(-mean / variance.sqrt())
    positive = -0.5 * (mean * mean / variance + variance.log() + LOG_2PI)
    return torch.cat([-0.5 / variance, mean / variance, positive - zero], dim=1), zero.sum(dim=1)


def expand_rectified(columns: Columns) -> Float[Tensor, "n three_D"]:
    """[x*x, x, x > 0] per column, float64."""
    n, units = columns.shape
    features = torch.empty(n, 3 * units, dtype=torch.float64, device=columns.device)
    middle = features[:, units : 2 * units]
    middle.copy_(columns)
    torch.mul(middle, middle, out=features[:, :units])
    features[:, 2 * units :] = columns > 0
    return features


def rectified_log_densities(columns: Columns, mean: WordStatistics, variance: WordStatistics) -> Float[Tensor, "n K"]:
    """log b_k(x) = sum over x_d > 0 of log N(x_d | mu, sd^2) + sum over x_d = 0 of log Phi(-mu / sd) (IG Sec. 3.1).

    Natural logarithm, float64. columns: (n, D), 0 or positive. Raises RefusedInput for a negative unit.
    """
    refuse_negative(columns)
    weights, constant = rectified_weights(mean, variance)
    return torch.addmm(constant, expand_rectified(columns), weights.T)


def rectified_sums(
    columns: Columns, posterior: Float[Tensor, "n K"], mean: WordStatistics, variance: WordStatistics
) -> tuple[WordStatistics, WordStatistics]:
    """(S1, S2): sums over columns of posterior * E[y - mu | x] and posterior * E[(y - mu)^2 | x], float64.

    Three products with the features; zeros add (posteriors of the zeros) * (censored moments). About mu, because
    S2 / S0 - mu^2 cancels far in the tail.
    """
    units = columns.shape[1]
    squares, values, positive = (posterior.double().T @ expand_rectified(columns)).split(units, dim=1)
    moments = censored(mean, variance)
    zeros = (posterior.sum(dim=0, dtype=torch.float64)[:, None] - positive).clamp(min=0.0)
    mean = mean.double()
    first = values - mean * positive + zeros * moments.first
    second = squares - 2.0 * mean * values + mean * mean * positive + zeros * moments.second
    return first, second


def constrained_maximum(
    first: WordStatistics, spread: WordStatistics, clamp: float, var_floor: VarianceFloor
) -> tuple[WordStatistics, WordStatistics]:
    """(mean, variance) that maximise E log N(y | mu, sd^2) under mu >= -clamp sd and sd^2 >= var_floor.

    first: E[y]. spread: E[y^2] - E[y]^2. Without an active bound the answer is (first, spread). In (1 / sd, mu / sd)
    the objective is concave and both bounds are linear, so the maximum on the bound mu = -clamp sd, a root of
    sd^2 - clamp first sd - E[y^2] = 0, is the true one and EM keeps its law: the likelihood never falls. A unit that
    is always zero would otherwise drive mu to minus infinity. clamp = inf: no bound on the mean.
    """
    spread = spread.clamp(min=0.0)
    if math.isinf(clamp):
        return first, spread.clamp(min=var_floor)
    square = spread + first * first
    root = torch.sqrt(clamp * clamp * first * first + 4.0 * square)
    on_bound = 2.0 * square / (root - clamp * first)
    outside = first < -clamp * spread.sqrt()
    variance = torch.where(outside, on_bound * on_bound, spread).clamp(min=var_floor)
    return torch.maximum(first, -clamp * variance.sqrt()), variance


def refuse_negative(columns: Columns) -> None:
    """Raise RefusedInput if a rectified unit is below 0."""
    if columns.numel() == 0 or not bool(columns.amin() < 0):
        return
    rows, units = (columns < 0).nonzero(as_tuple=True)
    raise RefusedInput(
        f"columns of a rectified layer must be 0 or more; unit {int(units[0])} of row {int(rows[0])} is "
        f"{float(columns[rows[0], units[0]]):g}. Tap the layer after its ReLU, or model it as a plain Gaussian."
    )
