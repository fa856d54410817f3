"""The two counting kernels of words x words co-occurrence, and the accumulator that chooses between them.

``sliding`` keeps, for every column of the lower map, the histogram of the window's rows in that column. One row down,
only the entering and the leaving row change it. A running sum of these histograms along the columns then gives the
histogram of any window as one difference, which is added to the row of the upper word: the cost per upper column
grows with the number of lower words, hardly with the window.

``direct`` visits every pair; it wins for small windows against a large lower dictionary.

Both give the same integers. The bins are 16 bits wide (32 of them fit in one vector register): sums wrap round, yet a
difference of two sums is exact as long as the window has fewer than 2^16 positions, and a row of bins is emptied into
int64 before it could overflow.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numba import njit

from gmm_ops.graphs.windows import AxisWindow, Window

Kernel = Literal["direct", "sliding"]

BIN_TYPE = np.uint16
BIN_LIMIT = int(np.iinfo(BIN_TYPE).max)
# Whole vector registers: without it the tail of 100 bins costs as much as the other 96.
BINS_PER_REGISTER = 32
# What adding one row of bins to another costs beside one increment a register, in increments of the direct kernel.
ROW_OVERHEAD = 3.0


@njit(cache=True, nogil=True)
def _count_direct(upper, lower, rows, columns, wide, touched):  # type: ignore[no-untyped-def]
    """wide[k, k'] += 1 for every pair of the images; lower words past the last bin take no part."""
    n_lower = wide.shape[1]
    for n in range(upper.shape[0]):
        for y in range(upper.shape[1]):
            for x in range(upper.shape[2]):
                word = upper[n, y, x]
                if word < 0:
                    continue
                bins = wide[word]
                touched[word] = True
                for i in range(rows[y, 0], rows[y, 1]):
                    line = lower[n, i]
                    for j in range(columns[x, 0], columns[x, 1]):
                        if line[j] < n_lower:
                            bins[line[j]] += 1


@njit(cache=True, nogil=True)
def _empty(bins, total):  # type: ignore[no-untyped-def]
    """Move a row of narrow bins into int64; the bins past the end belong to columns that take no part."""
    for k in range(total.shape[0]):
        total[k] += bins[k]
    bins[:] = 0


@njit(cache=True, nogil=True)
def _roll_down(lines, inside, entering, histograms):  # type: ignore[no-untyped-def]
    """Move the column histograms from rows [inside) to rows [entering) of one lower map."""
    for i in range(max(inside[1], entering[0]), entering[1]):
        for j in range(lines.shape[1]):
            histograms[j, lines[i, j]] += 1
    for i in range(inside[0], min(inside[1], entering[0])):
        for j in range(lines.shape[1]):
            histograms[j, lines[i, j]] -= 1


@njit(cache=True, nogil=True)
def _run_along(histograms, running):  # type: ignore[no-untyped-def]
    """running[j] = the sum of the histograms of the columns before j; running[0] stays zero."""
    for j in range(histograms.shape[0]):
        # The bound is taken from the array written to: with another one the compiler leaves this loop scalar.
        for k in range(running.shape[1]):
            running[j + 1, k] = running[j, k] + histograms[j, k]


@njit(cache=True, nogil=True)
def _count_sliding(upper, lower, rows, columns, wide, touched, bins, pending, capacity):  # type: ignore[no-untyped-def]
    """The same sum; ``bins`` holds the windows of each upper word that are not yet in ``wide``, at most capacity."""
    histograms = np.zeros((lower.shape[2], bins.shape[1]), bins.dtype)
    running = np.zeros((lower.shape[2] + 1, bins.shape[1]), bins.dtype)
    for n in range(upper.shape[0]):
        histograms[:] = 0
        inside = np.zeros(2, rows.dtype)
        for y in range(upper.shape[1]):
            _roll_down(lower[n], inside, rows[y], histograms)
            inside = rows[y]
            _run_along(histograms, running)
            for x in range(upper.shape[2]):
                word = upper[n, y, x]
                if word < 0:
                    continue
                left, right, row = running[columns[x, 0]], running[columns[x, 1]], bins[word]
                for k in range(row.shape[0]):
                    row[k] += right[k] - left[k]
                touched[word] = True
                pending[word] += 1
                if pending[word] == capacity:
                    _empty(row, wide[word])
                    pending[word] = 0
    for word in range(pending.shape[0]):
        if pending[word] > 0:
            _empty(bins[word], wide[word])
            pending[word] = 0


@njit(cache=True, nogil=True)
def _count_cells(wide, words):  # type: ignore[no-untyped-def]
    """Non-zero counts in the rows ``words``."""
    cells = 0
    for word in words:
        for k in range(wide.shape[1]):
            cells += wide[word, k] != 0
    return cells


@njit(cache=True, nogil=True)
def _drain(wide, words, upper, lower, count):  # type: ignore[no-untyped-def]
    """Move the non-zero counts of the rows ``words`` out, in order; all three outputs are long enough."""
    filled = 0
    for word in words:
        row = wide[word]
        for k in range(row.shape[0]):
            if row[k] != 0:
                upper[filled] = word
                lower[filled] = k
                count[filled] = row[k]
                row[k] = 0
                filled += 1


class PairCounter:
    """Counts of one pair of layers, gathered image by image in reused scratch memory.

    ``add`` takes int32 arrays with upper words below ``n_upper`` and lower words below ``n_lower`` or negative.
    Holds 8 * n_upper * n_lower bytes, and a quarter of that again for the sliding kernel.
    ``kernel`` forces one; the counts do not depend on it.
    """

    def __init__(
        self,
        window: Window,
        upper_map: tuple[int, int],
        lower_map: tuple[int, int],
        n_upper: int,
        n_lower: int,
        kernel: Kernel | None = None,
    ) -> None:
        self._rows = axis_spans(window.rows, upper_map[0], lower_map[0])
        self._columns = axis_spans(window.columns, upper_map[1], lower_map[1])
        self._n_lower = n_lower
        self.kernel: Kernel = kernel or cheaper_kernel(self._rows, self._columns, lower_map[1], n_lower)
        self._counts = np.zeros((n_upper, n_lower), np.int64)
        self._touched = np.zeros(n_upper, np.bool_)
        if self.kernel == "sliding":
            self._bins = np.zeros((n_upper, padded_bins(n_lower)), BIN_TYPE)
            self._pending = np.zeros(n_upper, np.int64)
            self._capacity = BIN_LIMIT // max(largest_window(self._rows, self._columns), 1)
            assert self._capacity >= 1, "a window this large needs the direct kernel"

    def add(self, upper: np.ndarray, lower: np.ndarray) -> None:
        """Add the pairs of some images: upper (n, H, W) and lower (n, h, w)."""
        if upper.size == 0 or lower.size == 0:
            return
        # One bin past the last word takes the columns that take no part, so that the kernels need no branch.
        lower = lower if lower.min() >= 0 else np.where(lower < 0, lower.dtype.type(self._n_lower), lower)
        arrays = (upper, lower, self._rows, self._columns, self._counts, self._touched)
        if self.kernel == "sliding":
            _count_sliding(*arrays, self._bins, self._pending, self._capacity)
        else:
            _count_direct(*arrays)

    @property
    def counts(self) -> np.ndarray:
        """The dense counts so far, (n_upper, n_lower) int64; the counter's own memory."""
        return self._counts

    def drain(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(upper, lower, count) of the non-zero counts, sorted by (upper, lower); the counter starts from zero."""
        words = np.flatnonzero(self._touched)
        n_cells = _count_cells(self._counts, words)
        upper, lower, count = (np.empty(n_cells, np.int64) for _ in range(3))
        _drain(self._counts, words, upper, lower, count)
        self._touched[:] = False
        return upper, lower, count


def axis_spans(axis: AxisWindow, n_positions: int, extent: int) -> np.ndarray:
    """(n_positions, 2) int64: the cropped window of every upper position of one axis."""
    return np.array([axis.range(p, extent) for p in range(n_positions)], np.int64).reshape(n_positions, 2)


def padded_bins(n_lower: int) -> int:
    """Bins of a narrow row: one for every lower word, one for no word, rounded up to whole registers."""
    return -(-(n_lower + 1) // BINS_PER_REGISTER) * BINS_PER_REGISTER


def largest_window(rows: np.ndarray, columns: np.ndarray) -> int:
    """Positions of the largest cropped window."""
    heights, widths = rows[:, 1] - rows[:, 0], columns[:, 1] - columns[:, 0]
    return int(heights.max(initial=0) * widths.max(initial=0))


def cheaper_kernel(rows: np.ndarray, columns: np.ndarray, lower_width: int, n_lower: int) -> Kernel:
    """The kernel with the fewer increments an image; adding a register of bins takes as long as one increment."""
    if largest_window(rows, columns) > BIN_LIMIT:
        return "direct"
    pairs = float((rows[:, 1] - rows[:, 0]).sum()) * float((columns[:, 1] - columns[:, 0]).sum())
    rows_moved = float(np.abs(np.diff(rows, axis=0, prepend=0)).sum())
    rows_of_bins = len(rows) * (lower_width + len(columns)) + lower_width
    row_cost = ROW_OVERHEAD + padded_bins(n_lower) / BINS_PER_REGISTER
    return "sliding" if rows_moved * lower_width + row_cost * rows_of_bins < pairs else "direct"
