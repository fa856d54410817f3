"""Co-occurrence of upper and lower words, N[k, k'] of IG Eq. 5 and 6, in exact integers.

Everything is a count over images, so any split of the images, merged in any order, gives the same integers.
Words below 0 take no part: neither as an upper column nor inside a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from gmm_ops.axes import PairCounts, WordMaps
from gmm_ops.errors import RefusedInput
from gmm_ops.graphs.offset_histogram import OffsetHistogram
from gmm_ops.graphs.sliding_histogram import Kernel, PairCounter
from gmm_ops.graphs.sorted_keys import key_widths, merge_sorted, pack, sum_equal, unpack
from gmm_ops.graphs.windows import Window
from gmm_ops.graphs.word_maps import group_array, integer_array, positive_count, word_array, word_arrays

__all__ = ["OffsetHistogram", "SparseCounts", "WordCounts", "count_pairs", "count_words"]

Part = TypeVar("Part")


def count_pairs(
    upper: WordMaps,
    lower: WordMaps,
    window: Window,
    n_upper: int,
    n_lower: int,
    n_threads: int = 1,
    kernel: Kernel | None = None,
) -> PairCounts:
    """N[k, k'] = number of (image, p, q in R(p)) with upper word k at p and lower word k' at q.

    ``upper`` (N, H, W) and ``lower`` (N, h, w) are the word maps of the same images; ``window`` is R(p).
    Returns (n_upper, n_lower) int64. ``n_threads`` and ``kernel`` change the time, never the counts.
    Raises ``RefusedInput`` for a word beyond its dictionary, other axes or types, or different numbers of images.
    Source: IG Eq. 5 and 6, the joint count; windows are cropped to the map.
    """
    n_upper, n_lower = positive_count("n_upper", n_upper), positive_count("n_lower", n_lower)
    upper_words, lower_words = word_arrays(upper, lower, n_upper, n_lower)

    def count_part(images: slice) -> np.ndarray:
        counter = PairCounter(window, *_map_shapes(upper_words, lower_words), n_upper, n_lower, kernel)
        counter.add(upper_words[images], lower_words[images])
        return counter.counts

    counts = _for_each_part(count_part, len(upper_words), n_threads)
    for other in counts[1:]:
        counts[0] += other
    return torch.from_numpy(counts[0])


@dataclass(frozen=True, eq=False)
class SparseCounts:
    """Co-occurrence counts for each group of images (a predicted class, or one image): the non-zero cells.

    Rows are sorted by (group, upper, lower) and every row is unique; groups and words are not negative, counts
    are positive. Four int64 tensors of shape (P,), 32 bytes a row. ``merge`` adds two tables.
    Raises ``RefusedInput`` when the rows are not so.
    """

    group: Int[Tensor, " P"]
    upper: Int[Tensor, " P"]
    lower: Int[Tensor, " P"]
    count: Int[Tensor, " P"]

    def __post_init__(self) -> None:
        _require_table("SparseCounts", [self.group, self.upper, self.lower], self.count)

    @classmethod
    def zero(cls) -> SparseCounts:
        """No images: what ``merge`` leaves unchanged."""
        return cls(*(torch.zeros(0, dtype=torch.int64) for _ in range(4)))

    @classmethod
    def from_rows(
        cls, group: Int[Tensor, " P"], upper: Int[Tensor, " P"], lower: Int[Tensor, " P"], count: Int[Tensor, " P"]
    ) -> SparseCounts:
        """The table of rows in any order; counts of equal rows are added."""
        return cls(*_table_of_rows([group, upper, lower], count))

    @classmethod
    def from_batch(
        cls,
        upper: WordMaps,
        lower: WordMaps,
        window: Window,
        n_upper: int,
        n_lower: int,
        groups: Int[Tensor, " N"],
        n_threads: int = 1,
    ) -> SparseCounts:
        """Count some images, image i into group ``groups[i]``; images of a negative group take no part.

        One dense (n_upper, n_lower) scratch for each thread, whatever the number of groups.
        Raises ``RefusedInput`` as ``count_pairs`` does, and unless there is one group for each image.
        """
        n_upper, n_lower = positive_count("n_upper", n_upper), positive_count("n_lower", n_lower)
        upper_words, lower_words = word_arrays(upper, lower, n_upper, n_lower)
        members = list(_members(group_array(groups, len(upper_words))))

        def count_part(part: slice) -> list[tuple[np.ndarray, ...]]:
            counter = PairCounter(window, *_map_shapes(upper_words, lower_words), n_upper, n_lower)
            pieces: list[tuple[np.ndarray, ...]] = []
            for group, images in members[part]:
                counter.add(upper_words[images], lower_words[images])
                words, lowers, counts = counter.drain()
                pieces.append((np.full(len(words), group, np.int64), words, lowers, counts))
            return pieces

        pieces = [piece for done in _for_each_part(count_part, len(members), n_threads) for piece in done]
        if not pieces:
            return cls.zero()
        return cls(*(torch.from_numpy(np.concatenate(columns)) for columns in zip(*pieces, strict=True)))

    def merge(self, other: SparseCounts) -> SparseCounts:
        """The counts of both sets of images together. Associative and commutative, exactly."""
        left, right = (_columns(t.group, t.upper, t.lower) for t in (self, other))
        return SparseCounts(*_merge_tables(left, self.count, right, other.count))

    def __add__(self, other: SparseCounts) -> SparseCounts:
        return self.merge(other)

    def equals(self, other: SparseCounts) -> bool:
        """True when both tables hold the same rows, bit for bit."""
        names = ("group", "upper", "lower", "count")
        return all(torch.equal(getattr(self, name), getattr(other, name)) for name in names)

    def total(self, n_upper: int, n_lower: int) -> PairCounts:
        """All groups together, dense (n_upper, n_lower) int64."""
        return _dense([self.upper, self.lower], self.count, (n_upper, n_lower))

    def dense(self, group: int, n_upper: int, n_lower: int) -> PairCounts:
        """One group, dense (n_upper, n_lower) int64; all zero for a group without images."""
        rows = _rows_of(self.group, group)
        return _dense([self.upper[rows], self.lower[rows]], self.count[rows], (n_upper, n_lower))


@dataclass(frozen=True, eq=False)
class WordCounts:
    """How many columns carry each word, for each group of images: the non-zero cells, sorted by (group, word).

    Three int64 tensors of shape (P,); the same algebra and the same rules as ``SparseCounts``.
    """

    group: Int[Tensor, " P"]
    word: Int[Tensor, " P"]
    count: Int[Tensor, " P"]

    def __post_init__(self) -> None:
        _require_table("WordCounts", [self.group, self.word], self.count)

    @classmethod
    def zero(cls) -> WordCounts:
        """No images."""
        return cls(*(torch.zeros(0, dtype=torch.int64) for _ in range(3)))

    @classmethod
    def from_rows(cls, group: Int[Tensor, " P"], word: Int[Tensor, " P"], count: Int[Tensor, " P"]) -> WordCounts:
        """The table of rows in any order; counts of equal rows are added."""
        return cls(*_table_of_rows([group, word], count))

    def merge(self, other: WordCounts) -> WordCounts:
        """The counts of both sets of images together. Associative and commutative, exactly."""
        left, right = _columns(self.group, self.word), _columns(other.group, other.word)
        return WordCounts(*_merge_tables(left, self.count, right, other.count))

    def __add__(self, other: WordCounts) -> WordCounts:
        return self.merge(other)

    def equals(self, other: WordCounts) -> bool:
        """True when both tables hold the same rows, bit for bit."""
        return all(torch.equal(getattr(self, name), getattr(other, name)) for name in ("group", "word", "count"))

    def total(self, n_words: int) -> Int[Tensor, " K"]:
        """Columns of each word over all groups, (n_words,) int64."""
        return _dense([self.word], self.count, (n_words,))

    def dense(self, group: int, n_words: int) -> Int[Tensor, " K"]:
        """Columns of each word in one group, (n_words,) int64."""
        rows = _rows_of(self.group, group)
        return _dense([self.word[rows]], self.count[rows], (n_words,))


def count_words(words: WordMaps, groups: Int[Tensor, " N"], n_words: int) -> WordCounts:
    """Columns of each word (N, H, W) in each group of images; negative words and negative groups take no part.

    Raises ``RefusedInput`` as ``count_pairs`` does, and unless there is one group for each image.
    """
    array = word_array("words", words, positive_count("n_words", n_words))
    pieces: list[tuple[np.ndarray, ...]] = []
    for group, images in _members(group_array(groups, len(array))):
        taken = array[images]
        counts = np.bincount(taken[taken >= 0], minlength=n_words)
        present = np.flatnonzero(counts)
        pieces.append((np.full(len(present), group, np.int64), present, counts[present]))
    if not pieces:
        return WordCounts.zero()
    return WordCounts(*(torch.from_numpy(np.concatenate(columns)) for columns in zip(*pieces, strict=True)))


def _map_shapes(upper: np.ndarray, lower: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    return (upper.shape[1], upper.shape[2]), (lower.shape[1], lower.shape[2])


def _for_each_part(count_part: Callable[[slice], Part], n_items: int, n_threads: int) -> list[Part]:
    """The results for consecutive parts of the items, in order, one thread each; at least one part."""
    n_parts = max(1, min(n_threads, n_items))
    edges = [n_items * part // n_parts for part in range(n_parts + 1)]
    parts = [slice(start, stop) for start, stop in pairwise(edges)]
    if n_parts == 1:
        return [count_part(parts[0])]
    with ThreadPoolExecutor(n_parts) as pool:
        return list(pool.map(count_part, parts))


def _members(groups: np.ndarray) -> Iterator[tuple[int, np.ndarray | slice]]:
    """(group, its images) in ascending order; a run of images is a slice, so that class-ordered maps are not copied."""
    order = np.argsort(groups, kind="stable")
    names, starts = np.unique(groups[order], return_index=True)
    for name, (start, stop) in zip(names, pairwise([*starts, len(order)]), strict=True):
        if name < 0:
            continue
        images = order[start:stop]
        consecutive = images[-1] - images[0] == len(images) - 1
        yield int(name), slice(int(images[0]), int(images[-1]) + 1) if consecutive else images


def _columns(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in tensors]


def _require_table(name: str, columns: list[Tensor], count: Tensor) -> None:
    arrays = [integer_array(f"{name} column", tensor, n_axes=1, axes="(rows,)") for tensor in [*columns, count]]
    described = f"got {[array.dtype.name for array in arrays]} of lengths {[len(array) for array in arrays]}"
    if any(array.dtype != np.int64 or len(array) != len(arrays[0]) for array in arrays):
        raise RefusedInput(f"{name}: columns must be int64 and of one length, {described}; use from_rows()")
    if any((array < lowest).any() for array, lowest in zip(arrays, [0] * len(columns) + [1], strict=True)):
        raise RefusedInput(
            f"{name}: groups and words must not be negative and counts at least 1, got the minima "
            f"{[int(array.min()) for array in arrays]}; leave such rows out"
        )
    keys = pack(arrays[:-1], key_widths(arrays[:-1]))
    if bool((keys[1:] <= keys[:-1]).any()):
        raise RefusedInput(f"{name}: rows must be sorted and unique; use from_rows() for rows in any order")


def _table_of_rows(columns: list[Tensor], count: Tensor) -> list[Tensor]:
    arrays = [integer_array("column", tensor, 1, "(rows,)").astype(np.int64) for tensor in [*columns, count]]
    if any((array < 0).any() for array in arrays):
        raise RefusedInput(
            f"rows: groups, words and counts must not be negative, got the minima "
            f"{[int(array.min()) for array in arrays]}; leave such rows out"
        )
    arrays = [array[arrays[-1] > 0] for array in arrays]
    widths = key_widths(arrays[:-1])
    keys, counts = sum_equal(pack(arrays[:-1], widths), arrays[-1])
    return [torch.from_numpy(array) for array in [*unpack(keys, widths), counts]]


def _merge_tables(
    left: list[np.ndarray], left_count: Tensor, right: list[np.ndarray], right_count: Tensor
) -> list[Tensor]:
    widths = key_widths(left, right)
    keys, counts = merge_sorted(pack(left, widths), left_count.numpy(), pack(right, widths), right_count.numpy())
    return [torch.from_numpy(array) for array in [*unpack(keys, widths), counts]]


def _rows_of(groups: Tensor, group: int) -> slice:
    first, last = torch.searchsorted(groups, torch.tensor([group, group + 1])).tolist()
    return slice(first, last)


def _dense(words: list[Tensor], count: Tensor, shape: tuple[int, ...]) -> Tensor:
    highest = [int(column.max()) if len(column) else -1 for column in words]
    if any(word >= size for word, size in zip(highest, shape, strict=True)):
        raise RefusedInput(
            f"n_words: must exceed every word of the table, got {shape} for words up to {tuple(highest)}; "
            "pass the sizes of the dictionaries that were counted"
        )
    dense = torch.zeros(shape, dtype=torch.int64)
    return dense.index_put_(tuple(words), count, accumulate=True)
