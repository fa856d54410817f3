"""Schwarz 1978 in plain loops, float64."""

from __future__ import annotations

import math

import numpy as np


def bayesian_criterion(
    columns: np.ndarray, share: np.ndarray, mean: np.ndarray, variance: np.ndarray, variance_of: str = "word"
) -> float:
    """p ln n - 2 log L of a diagonal mixture; p counted one number at a time."""
    total = 0.0
    for column in columns:
        density = 0.0
        for k in range(len(share)):
            product = share[k]
            for d in range(len(column)):
                z = (column[d] - mean[k, d]) ** 2 / variance[k, d]
                product *= math.exp(-z / 2) / math.sqrt(2 * math.pi * variance[k, d])
            density += product
        total += math.log(density)
    numbers = 0
    for k in range(len(share)):
        numbers += 1 if k else 0  # the shares sum to 1, so the first is no number of its own
        for d in range(mean.shape[1]):
            numbers += 1  # the mean
            # A variance that words share is counted where it is met first.
            numbers += {"word": True, "unit": k == 0, "layer": k == 0 and d == 0}[variance_of]
    return numbers * math.log(len(columns)) - 2 * total
