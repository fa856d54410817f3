"""Input resampling written from the paper (Eq. 2 and 3) in plain float64 loops over all copies at once."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np


def pearson(first: np.ndarray, second: np.ndarray, level: float = 0.0) -> float:
    """Two passes; NaN where one of them is constant, the first within rounding of a layer of this mean square."""
    n = len(first)
    one, other = sum(first) / n, sum(second) / n
    products = sum((a - one) * (b - other) for a, b in zip(first, second, strict=True))
    squares = sum((a - one) ** 2 for a in first), sum((b - other) ** 2 for b in second)
    return products / math.sqrt(squares[0] * squares[1]) if min(squares) > 1e-12 * n * level else math.nan


def correlation(responses: np.ndarray, outputs: np.ndarray, reduce: str, signed: bool = False) -> list[float]:
    """Of (n, D, H, W) responses with (n,) outputs, a number a unit."""
    found, level = [], float((responses**2).mean())
    for unit in range(responses.shape[1]):
        if reduce == "sum":
            r = pearson([float(copy[unit].sum()) for copy in responses], outputs)
            found.append(r if signed else abs(r))
            continue
        of_positions = []
        for y, x in np.ndindex(responses.shape[2:]):
            r = pearson(responses[:, unit, y, x], outputs, level)
            if not math.isnan(r):
                of_positions.append(r if signed else abs(r))
        found.append(sum(of_positions) / len(of_positions) if of_positions else math.nan)
    return found


def variances(responses: np.ndarray, unit: int) -> list[float]:
    """Unbiased, a number a position."""
    n = len(responses)
    found = []
    for y, x in np.ndindex(responses.shape[2:]):
        values = [float(copy[unit, y, x]) for copy in responses]
        mean = sum(values) / n
        found.append(sum((value - mean) ** 2 for value in values) / (n - 1))
    return found


def precision(responses: np.ndarray, rule: str, threshold: float, eps: float) -> list[float]:
    """1 / mean variance, or the mean of 1 / (variance + eps) where there is any; NaN for units that are left out."""
    magnitude = [float(np.abs(responses[:, unit]).sum()) for unit in range(responses.shape[1])]
    limit = threshold * sum(magnitude) / len(magnitude)
    found = []
    for unit in range(responses.shape[1]):
        every = variances(responses, unit)
        varying = [one for one in every if one > 1e-12 * float((responses**2).mean())]
        if not varying or magnitude[unit] < limit:
            found.append(math.nan)
        elif rule == "inverse_of_mean":
            found.append(len(every) / sum(every))
        else:
            found.append(sum(1 / (one + eps) for one in varying) / len(varying))
    return found


def chance_jaccard(units: int, first: int, second: int) -> float:
    """Mean over all pairs of sets."""
    fixed = set(range(first))
    values = []
    for other in combinations(range(units), second):
        values.append(len(fixed & set(other)) / len(fixed | set(other)))
    return sum(values) / len(values)
