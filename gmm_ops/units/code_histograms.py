"""Activations as a histogram of float16 codes: exact, in integers, the same for any split of the columns.

Source: quantiles of ICQ section 3.1 and of network dissection (Bau et al. 2017), there by sampling. A float16 is one of
65,536 codes, so counting them loses nothing; only codes that occur are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated, Self

import numba
import numpy as np
from jaxtyping import Float, Int, UInt16
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.inputs import as_columns
from gmm_ops.records import Sums, same

CODES = 65_536
_SIGN = 0x8000


@dataclass(frozen=True)
class Thresholds:
    """Of every unit and share q: the smallest float16 T with P(a > T) <= q.

    Attributes:
        shares: q, ascending.
        values: (D, Q) float16, descending in Q.
        above: (D, Q) how many values are above, exactly.
        total: how many values a unit has.
    """

    shares: tuple[float, ...]
    values: Float[np.ndarray, "D Q"]
    above: Int[np.ndarray, "D Q"]
    total: int


@dataclass(frozen=True)
class CodeHistograms(Sums):
    """How often each float16 occurs, by unit.

    Attributes:
        offsets: (D + 1,) the bins of unit d are ``offsets[d]`` up to ``offsets[d + 1]``.
        bins: (n,) ascending within a unit: codes in the order of their values, shifted right by ``shift``.
        counts: (n,) above 0.
        shift: 0: every float16 by itself; s: 2^s neighbours together, for 2^s times less memory at most.
    """

    offsets: Int[np.ndarray, " D1"]
    bins: UInt16[np.ndarray, " n"]
    counts: Int[np.ndarray, " n"]
    shift: Annotated[int, same] = 0

    @classmethod
    def zero(cls, units: int, shift: int = 0) -> Self:
        """The neutral element."""
        return cls(np.zeros(units + 1, np.int64), np.zeros(0, np.uint16), np.zeros(0, np.int64), shift)

    @classmethod
    def from_batch(cls, columns: Float[Tensor, "n D"], shift: int = 0) -> Self:
        """Of activation columns, cast to float16.

        Raises:
            RefusedInput: no columns (n, D), a NaN, or a shift outside 0 to 8.
        """
        if not 0 <= shift <= 8:
            raise RefusedInput(f"shift: must lie from 0 to 8, got {shift}; 0 counts every float16 by itself")
        codes = ordered_codes(as_columns("columns", columns).cpu().numpy())
        offsets, bins, counts = _count(np.ascontiguousarray(codes.T), shift)
        return cls(offsets, bins, counts, shift)

    @property
    def units(self) -> int:
        """D."""
        return len(self.offsets) - 1

    @property
    def total(self) -> int:
        """Values of a unit."""
        return int(self.counts[: self.offsets[1]].sum()) if self.units else 0

    def merge(self, other: Self) -> Self:
        """Both sets of columns together. Raises RefusedInput for other units or another shift."""
        if (self.units, self.shift) != (other.units, other.shift):
            raise RefusedInput(
                f"merge: both histograms must have the same units and shift, got {self.units}, {self.shift} and "
                f"{other.units}, {other.shift}; merge those of one layer"
            )
        offsets, bins, counts = _merge(self.offsets, self.bins, self.counts, other.offsets, other.bins, other.counts)
        return replace(self, offsets=offsets, bins=bins, counts=counts)

    def thresholds(self, shares: Sequence[float]) -> Thresholds:
        """The smallest T with P(a > T) <= q for each q; with a shift, the smallest upper end of a bin.

        Raises:
            RefusedInput: a share outside 0 to 1, or no columns.
        """
        ascending = tuple(sorted(shares))
        if not ascending or not 0 < ascending[0] <= ascending[-1] < 1:
            raise RefusedInput(f"shares: must lie between 0 and 1, got {list(shares)}; 0.005 is the paper's")
        if not self.total:
            raise RefusedInput("thresholds: must have columns, got none; add from_batch of some")
        # Of the share as it is written: 0.005 * 1000 is not 5 in binary numbers.
        most = np.array([int(Fraction(str(share)) * self.total) for share in ascending], np.int64)
        bins, above = _quantiles(self.offsets, self.bins, self.counts, most)
        upper = (bins.astype(np.int64) << self.shift) | ((1 << self.shift) - 1)
        return Thresholds(ascending, values_of(upper.astype(np.uint16)), above, self.total)

    def moments(self) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, " D"]]:
        """Mean and standard deviation of every unit, float64; with a shift, of the upper ends of bins."""
        upper = (self.bins.astype(np.int64) << self.shift) | ((1 << self.shift) - 1)
        values = values_of(upper.astype(np.uint16)).astype(np.float64)
        owner = np.repeat(np.arange(self.units), np.diff(self.offsets))
        total = max(self.total, 1)
        mean = np.bincount(owner, self.counts * values, self.units) / total
        squares = np.bincount(owner, self.counts * (values - mean[owner]) ** 2, self.units)
        return mean, np.sqrt(squares / total)


def ordered_codes(values: Float[np.ndarray, "*shape"]) -> UInt16[np.ndarray, "*shape"]:
    """Codes of float16 values in the order of the values; -0 is 0. Raises RefusedInput for a NaN."""
    half = values.astype(np.float16) + np.float16(0)  # -0 + 0 = 0
    if np.isnan(half).any():
        raise RefusedInput("columns: must be numbers, got NaN; look for the image that the network fails on")
    bits = half.view(np.uint16)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN).astype(np.uint16)


def values_of(codes: UInt16[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Inverse of ``ordered_codes``: float16."""
    bits = np.where(codes & _SIGN, codes & np.uint16(_SIGN - 1), ~codes).astype(np.uint16)
    return bits.view(np.float16)


@numba.njit(cache=True, nogil=True)
def _count(codes, shift):  # type: ignore[no-untyped-def]
    """Codes (D, n) -> offsets, bins, counts."""
    units, n = codes.shape
    table = np.zeros(CODES >> shift, np.int64)
    offsets = np.zeros(units + 1, np.int64)
    bins = np.empty(min(units * n, 1 << 16), np.uint16)
    counts = np.empty(len(bins), np.int64)
    end = 0
    for unit in range(units):
        low, high = len(table), -1
        for place in range(n):
            code = codes[unit, place] >> shift
            table[code] += 1
            low, high = min(low, code), max(high, code)
        if end + min(n, high - low + 1) > len(bins):
            room = max(2 * len(bins), end + n)
            bins, counts = _grown(bins, counts, end, room)
        for code in range(low, high + 1):
            if table[code]:
                bins[end], counts[end] = code, table[code]
                table[code] = 0
                end += 1
        offsets[unit + 1] = end
    return offsets, bins[:end].copy(), counts[:end].copy()


@numba.njit(cache=True, nogil=True)
def _grown(bins, counts, end, room):  # type: ignore[no-untyped-def]
    wide_bins, wide_counts = np.empty(room, np.uint16), np.empty(room, np.int64)
    wide_bins[:end], wide_counts[:end] = bins[:end], counts[:end]
    return wide_bins, wide_counts


@numba.njit(cache=True, nogil=True)
def _merge(offsets, bins, counts, other_offsets, other_bins, other_counts):  # type: ignore[no-untyped-def]
    """Two ascending lists a unit into one."""
    units = len(offsets) - 1
    merged_bins = np.empty(len(bins) + len(other_bins), np.uint16)
    merged_counts = np.empty(len(merged_bins), np.int64)
    merged_offsets = np.zeros(units + 1, np.int64)
    end = 0
    for unit in range(units):
        i, j = offsets[unit], other_offsets[unit]
        last_i, last_j = offsets[unit + 1], other_offsets[unit + 1]
        while i < last_i or j < last_j:
            left = j >= last_j or (i < last_i and bins[i] <= other_bins[j])
            right = i >= last_i or (j < last_j and other_bins[j] <= bins[i])
            merged_bins[end] = bins[i] if left else other_bins[j]
            merged_counts[end] = (counts[i] if left else 0) + (other_counts[j] if right else 0)
            i, j = i + left, j + right
            end += 1
        merged_offsets[unit + 1] = end
    return merged_offsets, merged_bins[:end].copy(), merged_counts[:end].copy()


@numba.njit(cache=True, nogil=True)
def _quantiles(offsets, bins, counts, most):  # type: ignore[no-untyped-def]
    """Of every unit and limit: the lowest bin above which at most so many values lie, and how many do."""
    units = len(offsets) - 1
    found = np.empty((units, len(most)), np.uint16)
    above = np.empty((units, len(most)), np.int64)
    for unit in range(units):
        for q in range(len(most)):
            place, higher = offsets[unit + 1] - 1, 0
            while place > offsets[unit] and higher + counts[place] <= most[q]:
                higher += counts[place]
                place -= 1
            found[unit, q], above[unit, q] = bins[place], higher
    return found, above
