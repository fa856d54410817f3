"""Loops over the rows of a tile that stay in the processor's first cache: features, maxima, exponentials.

At few units an E-step is bound by exponentials and by passes over memory, not by its two products. Here a row is
read once for each step while it lies in the cache, and the exponential is a polynomial that the compiler turns into
vector instructions. Other devices and dtypes take torch's own operations.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.axes import Columns

DENORMAL_GUARD = -60.0
"""Posteriors under e^-60 (1e-26) of the best are lifted to it. Smaller ones turn into denormals, which slow the
exponential and the next product by up to 2.5 times. `torch.set_flush_denormal` would not do: it sets the
calling thread only, the products' other threads keep the slow path."""

_LEAST = np.float32(DENORMAL_GUARD)
_LOG2_E = np.float32(1.0 / math.log(2.0))
_LN2_HIGH = np.float32(0.693359375)
"""ln 2 to 9 bits, so that its products with small integers are exact; the rest follows."""
_LN2_LOW = np.float32(math.log(2.0) - 0.693359375)
_TO_INTEGER = np.float32(1.5 * 2.0**23)
"""Added to a small float32 it leaves the nearest integer in the lowest bits (the sum has no fraction bits)."""
_BIAS = np.int32(127)
_MANTISSA = np.int32(23)
_SIGN = np.int32(31)
_LOWER_BITS = np.int32(0x7FFFFFFF)
_LOWEST = np.int32(-0x80000000)
_INVERSE_FACTORIALS = tuple(np.float32(1.0 / math.factorial(n)) for n in range(8))


def exponentiate(score: Float[Tensor, "n K"], best: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """In place: exp(max(score - best, -60)). Returns the sum of every row, float64.

    score: log joints, natural, contiguous. best: (n,) at least the largest of the row, in the dtype of ``score``.
    A float32 exponential on a CPU is within 1.5e-7 of its size of the exact one.
    """
    if not _on_rows(score):
        score.sub_(best[:, None]).clamp_(min=DENORMAL_GUARD).exp_()
        return score.sum(dim=1).double()
    total = np.empty(score.shape[0], np.float64)
    _exponentiate(score.numpy(), best.numpy(), total)
    return torch.from_numpy(total)


def row_maxima(score: Float[Tensor, "n K"]) -> Float[Tensor, " n"]:
    """The largest score of every row, in the dtype of ``score``."""
    if not _on_rows(score):
        return score.amax(dim=1)
    best = np.empty(score.shape[0], np.float32)
    _maxima(score.numpy(), best)
    return torch.from_numpy(best)


def expand_columns(columns_centred: Columns) -> Float[Tensor, "n two_D_plus_1"]:
    """[x*x, x, 1] per column."""
    n, units = columns_centred.shape
    features = columns_centred.new_empty(n, 2 * units + 1)
    if _on_rows(columns_centred):
        _expand(columns_centred.numpy(), features.numpy())
        return features
    torch.mul(columns_centred, columns_centred, out=features[:, :units])
    features[:, units : 2 * units] = columns_centred
    features[:, -1] = 1.0
    return features


def _on_rows(rows: Tensor) -> bool:
    return rows.device.type == "cpu" and rows.dtype == torch.float32 and rows.is_contiguous()


@numba.njit(cache=True, nogil=True)
def largest(values):  # type: ignore[no-untyped-def]
    """Maximum of a float32 row, compared as integers of the same order, which the compiler makes vectors of."""
    found = _LOWEST
    for k in range(values.shape[0]):
        found = max(found, _ordered(np.float32(values[k]).view(np.int32)))
    return _ordered(found).view(np.float32)


@numba.njit(cache=True, nogil=True, inline="always")
def _ordered(bits):  # type: ignore[no-untyped-def]
    """The bits of a float32 as an integer of the same order, and back: the lower 31 are flipped below zero."""
    return np.int32(bits ^ np.int32(np.int32(bits >> _SIGN) & _LOWER_BITS))


@numba.njit(cache=True, nogil=True)
def _maxima(score, best):  # type: ignore[no-untyped-def]
    for i in range(score.shape[0]):
        best[i] = largest(score[i])


# No reassociation: it would take the shift that rounds to an integer for nothing.
@numba.njit(cache=True, nogil=True, fastmath={"contract", "nnan", "nsz"})
def _exponentiate_row(row, best):  # type: ignore[no-untyped-def]
    a0, a1, a2, a3, a4, a5, a6, a7 = _INVERSE_FACTORIALS
    for k in range(row.shape[0]):
        x = row[k] - best
        x = x if x > _LEAST else _LEAST
        shifted = x * _LOG2_E + _TO_INTEGER
        whole = shifted - _TO_INTEGER
        r = (x - whole * _LN2_HIGH) - whole * _LN2_LOW
        power = a0 + r * (a1 + r * (a2 + r * (a3 + r * (a4 + r * (a5 + r * (a6 + r * a7))))))
        exponent = np.int32(np.float32(shifted).view(np.int32) + _BIAS)
        row[k] = power * np.int32(exponent << _MANTISSA).view(np.float32)


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz", "nnan"})
def _sum(row):  # type: ignore[no-untyped-def]
    total = 0.0
    for k in range(row.shape[0]):
        total += np.float64(row[k])
    return total


@numba.njit(cache=True, nogil=True)
def _exponentiate(score, best, total):  # type: ignore[no-untyped-def]
    for i in range(score.shape[0]):
        _exponentiate_row(score[i], best[i])
        total[i] = _sum(score[i])


@numba.njit(cache=True, nogil=True)
def _expand(columns, features):  # type: ignore[no-untyped-def]
    units = columns.shape[1]
    for i in range(columns.shape[0]):
        for d in range(units):
            value = columns[i, d]
            features[i, d] = value * value
            features[i, units + d] = value
        features[i, 2 * units] = np.float32(1.0)
