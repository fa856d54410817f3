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

from gmm_ops.axes import LowerWordMaps, PairCounts, WordMaps
from gmm_ops.graphs.device_counts import count_groups_on, count_pairs_on
from gmm_ops.graphs.offset_histogram import OffsetHistogram
from gmm_ops.graphs.sliding_histogram import Kernel, PairCounter
from gmm_ops.graphs.sparse_table import SparseTable, dense_counts
from gmm_ops.graphs.windows import Window
from gmm_ops.graphs.word_maps import group_array, on_device, positive_count, word_array, word_arrays, word_tensors

__all__ = ["OffsetHistogram", "SparseCounts", "WordCounts", "count_pairs", "count_words"]

Part = TypeVar("Part")


def count_pairs(
    upper: WordMaps,
    lower: LowerWordMaps,
    window: Window,
    n_upper: int,
    n_lower: int,
    n_threads: int = 1,
    kernel: Kernel | None = None,
) -> PairCounts:
    """N[k, k'] = number of (image, p, q in R(p)) with upper word k at p and lower word k' at q.

    ``upper`` (N, H, W) and ``lower`` (N, h, w) are the word maps of the same images; ``window`` is R(p).
    Returns (n_upper, n_lower) int64 in host memory. ``n_threads`` and ``kernel`` change the time, never the counts;
    maps that lie on one GPU are counted there, see ``device_counts``.
    Raises ``RefusedInput`` for a word beyond its dictionary, other axes or types, or different numbers of images.
    Source: IG Eq. 5 and 6, the joint count; windows are cropped to the map.
    """
    n_upper, n_lower = positive_count("n_upper", n_upper), positive_count("n_lower", n_lower)
    if on_device(upper, lower):
        return count_pairs_on(*word_tensors(upper, lower, n_upper, n_lower), window, n_upper, n_lower).cpu()
    upper_words, lower_words = word_arrays(upper, lower, n_upper, n_lower)

    def count_part(images: slice) -> np.ndarray:
        counter = PairCounter(window, *_map_shapes(upper_words, lower_words), n_upper, n_lower, kernel)
        counter.add(upper_words[images], lower_words[images])
        return counter.counts

    counts = _for_each_part(count_part, len(upper_words), n_threads)
    for other in counts[1:]:
        counts[0] += other
    return torch.from_numpy(counts[0])


@dataclass(frozen=True)
class SparseCounts(SparseTable):
    """Co-occurrence counts for each group of images (a predicted class, or one image): the non-zero cells.

    Rows are sorted by (group, upper, lower), as ``SparseTable`` says: 32 bytes a row.
    """

    group: Int[Tensor, " P"]
    upper: Int[Tensor, " P"]
    lower: Int[Tensor, " P"]
    count: Int[Tensor, " P"]

    @classmethod
    def from_batch(
        cls,
        upper: WordMaps,
        lower: LowerWordMaps,
        window: Window,
        n_upper: int,
        n_lower: int,
        groups: Int[Tensor, " N"],
        n_threads: int = 1,
    ) -> SparseCounts:
        """Count some images, image i into group ``groups[i]``; images of a negative group take no part.

        One dense (n_upper, n_lower) scratch for each thread, whatever the number of groups. Maps that lie on one GPU
        are counted there, into a table in host memory.
        Raises ``RefusedInput`` as ``count_pairs`` does, and unless there is one group for each image.
        """
        n_upper, n_lower = positive_count("n_upper", n_upper), positive_count("n_lower", n_lower)
        if on_device(upper, lower):
            maps = word_tensors(upper, lower, n_upper, n_lower)
            own = torch.from_numpy(group_array(groups, len(maps[0]))).to(maps[0].device)
            return cls.from_rows(*(column.cpu() for column in count_groups_on(*maps, window, n_upper, n_lower, own)))
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

    def total(self, n_upper: int, n_lower: int) -> PairCounts:
        """All groups together, dense (n_upper, n_lower) int64."""
        return dense_counts([self.upper, self.lower], self.count, (n_upper, n_lower))

    def dense(self, group: int, n_upper: int, n_lower: int) -> PairCounts:
        """One group, dense (n_upper, n_lower) int64; all zero for a group without images."""
        rows = self.group_rows(group)
        return dense_counts([self.upper[rows], self.lower[rows]], self.count[rows], (n_upper, n_lower))


@dataclass(frozen=True)
class WordCounts(SparseTable):
    """How many columns carry each word, for each group of images: the non-zero cells, sorted by (group, word)."""

    group: Int[Tensor, " P"]
    word: Int[Tensor, " P"]
    count: Int[Tensor, " P"]

    def total(self, n_words: int) -> Int[Tensor, " K"]:
        """Columns of each word over all groups, (n_words,) int64."""
        return dense_counts([self.word], self.count, (n_words,))

    def dense(self, group: int, n_words: int) -> Int[Tensor, " K"]:
        """Columns of each word in one group, (n_words,) int64."""
        rows = self.group_rows(group)
        return dense_counts([self.word[rows]], self.count[rows], (n_words,))


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
