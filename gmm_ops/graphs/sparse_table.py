"""Sparse tables of counts: the cells that are not zero, as rows sorted by their keys of 63 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from jaxtyping import Int
from numba import njit
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.graphs.word_maps import integer_array
from gmm_ops.records import Sums

KEY_BITS = 63


@dataclass(frozen=True)
class SparseTable(Sums):
    """Counts by a few whole numbers, the fields before ``count``: rows sorted and unique, counts positive.

    All int64 tensors of shape (P,). ``merge`` adds two tables, associative and commutative, exactly.
    Raises ``RefusedInput`` when the rows are not so.
    """

    def __post_init__(self) -> None:
        _require_table(type(self).__name__, self.columns())

    @classmethod
    def zero(cls) -> Self:
        """No images: what ``merge`` leaves unchanged."""
        return cls(*(torch.zeros(0, dtype=torch.int64) for _ in fields(cls)))

    @classmethod
    def from_rows(cls, *columns: Int[Tensor, " P"]) -> Self:
        """The table of rows in any order, the counts last; counts of equal rows are added."""
        arrays = [integer_array("column", tensor, 1, "(rows,)").astype(np.int64) for tensor in columns]
        if any((array < 0).any() for array in arrays):
            raise RefusedInput(
                f"rows: groups, words and counts must not be negative, got the minima "
                f"{[int(array.min()) for array in arrays]}; leave such rows out"
            )
        arrays = [array[arrays[-1] > 0] for array in arrays]
        widths = key_widths(arrays[:-1])
        keys, counts = sum_equal(pack_keys(arrays[:-1], widths), arrays[-1])
        return cls(*map(torch.from_numpy, [*unpack_keys(keys, widths), counts]))

    def merge(self, other: Self) -> Self:
        """The counts of both sets of images together."""
        (*left, left_count), (*right, right_count) = self.columns(), other.columns()
        widths = key_widths(left, right)
        keys, counts = merge_sorted(pack_keys(left, widths), left_count, pack_keys(right, widths), right_count)
        return type(self)(*map(torch.from_numpy, [*unpack_keys(keys, widths), counts]))

    def count_of(self, *keys: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The count of every wanted row, 0 where there is none; int64."""
        *columns, counts = self.columns()
        if not len(counts):
            return np.zeros(len(keys[0]), np.int64)
        widths = key_widths(columns, keys)
        have, wanted = pack_keys(columns, widths), pack_keys(keys, widths)
        place = np.minimum(np.searchsorted(have, wanted), len(have) - 1)
        return np.where(have[place] == wanted, counts[place], 0)

    def columns(self) -> list[np.ndarray]:
        """All columns as arrays, the counts last."""
        return [getattr(self, f.name).numpy() for f in fields(self)]

    def group_rows(self, group: int) -> slice:
        """The rows of one value of the first column."""
        first, last = np.searchsorted(self.columns()[0], [group, group + 1])
        return slice(int(first), int(last))


def dense_counts(words: Sequence[Tensor], count: Int[Tensor, " P"], shape: tuple[int, ...]) -> Tensor:
    """The counts as an int64 tensor of ``shape``. Raises ``RefusedInput`` for a word beyond it."""
    highest = [int(column.max()) if len(column) else -1 for column in words]
    if any(word >= size for word, size in zip(highest, shape, strict=True)):
        raise RefusedInput(
            f"n_words: must exceed every word of the table, got {shape} for words up to {tuple(highest)}; "
            "pass the sizes of the dictionaries that were counted"
        )
    dense = torch.zeros(shape, dtype=torch.int64)
    return dense.index_put_(tuple(words), count, accumulate=True)


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


def pack_keys(columns: Sequence[np.ndarray], widths: Sequence[int]) -> np.ndarray:
    """One int64 key a row, ordered as the rows are ordered lexicographically; columns int64, not negative."""
    key = np.zeros(len(columns[0]), np.int64)
    for column, width in zip(columns, widths, strict=True):
        key <<= width
        key |= column
    return key


def unpack_keys(keys: np.ndarray, widths: Sequence[int]) -> list[np.ndarray]:
    """The columns that ``pack_keys`` put into the keys."""
    columns, rest = [], keys
    for width in reversed(widths):
        columns.append(rest & ((1 << width) - 1))
        rest = rest >> width
    return columns[::-1]


def _require_table(name: str, columns: list[np.ndarray]) -> None:
    described = f"got {[array.dtype.name for array in columns]} of lengths {[len(array) for array in columns]}"
    if any(array.dtype != np.int64 or array.ndim != 1 or len(array) != len(columns[0]) for array in columns):
        raise RefusedInput(f"{name}: columns must be int64 and of one length, {described}; use from_rows()")
    if any((array < lowest).any() for array, lowest in zip(columns, [0] * (len(columns) - 1) + [1], strict=True)):
        raise RefusedInput(
            f"{name}: groups and words must not be negative and counts at least 1, got the minima "
            f"{[int(array.min()) for array in columns]}; leave such rows out"
        )
    keys = pack_keys(columns[:-1], key_widths(columns[:-1]))
    if bool((keys[1:] <= keys[:-1]).any()):
        raise RefusedInput(f"{name}: rows must be sorted and unique; use from_rows() for rows in any order")
