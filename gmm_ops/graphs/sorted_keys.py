"""Sparse integer tables as sorted 63-bit keys: packing several small columns into one, and merging two tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from gmm_ops.errors import RefusedInput

KEY_BITS = 63


@njit(cache=True, nogil=True)
def _merge(left, left_counts, right, right_counts, keys, counts):  # type: ignore[no-untyped-def]
    """Merge two strictly ascending key lists, adding the counts of equal keys; returns the number of keys."""
    i, j, filled = 0, 0, 0
    while i < left.shape[0] or j < right.shape[0]:
        take_left = j == right.shape[0] or (i < left.shape[0] and left[i] <= right[j])
        take_right = i == left.shape[0] or (j < right.shape[0] and right[j] <= left[i])
        keys[filled] = left[i] if take_left else right[j]
        counts[filled] = 0
        if take_left:
            counts[filled] += left_counts[i]
            i += 1
        if take_right:
            counts[filled] += right_counts[j]
            j += 1
        filled += 1
    return filled


def merge_sorted(
    left: np.ndarray, left_counts: np.ndarray, right: np.ndarray, right_counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(keys, counts) of the union of two tables with strictly ascending keys; linear in time and memory."""
    keys, counts = (np.empty(len(left) + len(right), np.int64) for _ in range(2))
    filled = _merge(left, left_counts, right, right_counts, keys, counts)
    return keys[:filled], counts[:filled]


def sum_equal(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(keys, counts) sorted by key, with the counts of equal keys added."""
    if len(keys) == 0:
        return keys.astype(np.int64), counts.astype(np.int64)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1))
    return ordered[starts], np.add.reduceat(counts[order], starts)


def key_widths(*tables: Sequence[np.ndarray]) -> tuple[int, ...]:
    """Bits for each column, enough for the highest value in any of the tables (all with the same columns).

    Raises ``RefusedInput`` when the columns together do not fit into one key.
    """
    widths = tuple(
        max(int(column.max(initial=0)).bit_length() for column in columns) for columns in zip(*tables, strict=True)
    )
    if sum(widths) > KEY_BITS:
        raise RefusedInput(
            f"group, words: the numbers must fit together into {KEY_BITS} bits, got columns of {widths} bits; "
            "number the groups from 0"
        )
    return widths


def pack(columns: Sequence[np.ndarray], widths: Sequence[int]) -> np.ndarray:
    """One int64 key a row, ordered as the rows are ordered lexicographically; columns int64, not negative."""
    key = np.zeros(len(columns[0]), np.int64)
    for column, width in zip(columns, widths, strict=True):
        key <<= width
        key |= column
    return key


def unpack(keys: np.ndarray, widths: Sequence[int]) -> list[np.ndarray]:
    """The columns that ``pack`` put into the keys."""
    columns, rest = [], keys
    for width in reversed(widths):
        columns.append(rest & ((1 << width) - 1))
        rest = rest >> width
    return columns[::-1]
