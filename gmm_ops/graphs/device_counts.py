"""Co-occurrence counts and offset histograms as tensor operations, for word maps that lie on a GPU.

Every pair (upper column, lower column of its window) becomes one whole number, the key of the cell that it is counted
in, and equal keys are counted. A window is a product of two ranges, so the pairs of a map are those of its rows times
those of its columns: two short lists, whose product is gathered in slices of bounded size. The integers are those of
the compiled kernels of ``sliding_histogram`` and ``offset_histogram``, on any device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from gmm_ops.axes import LowerWordMaps, PairCounts, WordMaps
from gmm_ops.graphs.windows import AxisWindow, Window

KEYS_AT_ONCE = 2**26
"""Keys of a slice on a GPU: they and what they are gathered from take 24 bytes each at most, 1.5 GiB."""

KEYS_IN_CACHE = 2**18
"""The same on a CPU, where slices that stay in its caches are the fastest."""

CELLS_A_KEY = 4
"""Up to so many cells for every key are counted into one array of all cells; more are sorted instead."""


@dataclass(frozen=True)
class AxisPairs:
    """All pairs of one axis: ``lower`` is in the cropped window of ``upper``; (R,) int64 each, by ascending upper."""

    upper: Int[Tensor, " R"]
    lower: Int[Tensor, " R"]

    @classmethod
    def of(cls, axis: AxisWindow, n_positions: int, extent: int, device: torch.device) -> AxisPairs:
        """Of an upper axis of ``n_positions`` over a lower one of ``extent``."""
        spans = [axis.range(position, extent) for position in range(n_positions)]
        lengths = torch.tensor([stop - start for start, stop in spans], dtype=torch.int64)
        upper = torch.repeat_interleave(torch.arange(n_positions), lengths)
        lower = [torch.arange(start, stop) for start, stop in spans]
        return cls(upper.to(device), torch.cat([torch.zeros(0, dtype=torch.int64), *lower]).to(device))

    def offsets(self, axis: AxisWindow) -> Int[Tensor, " R"]:
        """Where in the window of its upper position each lower position is."""
        return self.lower - axis.stride * self.upper - axis.offset


@dataclass(frozen=True)
class KeySlices:
    """The sums of one number of the upper and one of the lower column over all pairs, a bounded number at a time."""

    rows: AxisPairs
    columns: AxisPairs
    keys_at_once: int

    @classmethod
    def of(cls, upper: WordMaps, lower: LowerWordMaps, window: Window, keys_at_once: int | None) -> KeySlices:
        """For maps of these shapes, on their device."""
        (height, width), (lower_height, lower_width) = upper.shape[1:], lower.shape[1:]
        usual = KEYS_IN_CACHE if upper.device.type == "cpu" else KEYS_AT_ONCE
        return cls(
            AxisPairs.of(window.rows, height, lower_height, upper.device),
            AxisPairs.of(window.columns, width, lower_width, upper.device),
            keys_at_once or usual,
        )

    def images(self, n_images: int) -> Iterator[slice]:
        """Slices of images whose pairs are few enough; one image at least."""
        pairs = len(self.rows.upper) * len(self.columns.upper)
        step = max(1, self.keys_at_once // max(pairs, 1))
        return (slice(first, min(first + step, n_images)) for first in range(0, n_images if pairs else 0, step))

    def keys(
        self, upper: Int[Tensor, "n H W"], lower: Int[Tensor, "n H_lower W_lower"]
    ) -> Iterator[tuple[slice, Int[Tensor, "n r C"]]]:
        """(row pairs, keys) of a slice of images: ``upper + lower`` of every pair; cut where one image is large."""
        upper, lower = upper.index_select(2, self.columns.upper), lower.index_select(2, self.columns.lower)
        step = max(1, self.keys_at_once // max(len(upper) * len(self.columns.upper), 1))
        for first in range(0, len(self.rows.upper), step):
            part = slice(first, first + step)
            keys = upper.index_select(1, self.rows.upper[part])
            yield part, keys.add_(lower.index_select(1, self.rows.lower[part]))


def count_pairs_on(
    upper: WordMaps,
    lower: LowerWordMaps,
    window: Window,
    n_upper: int,
    n_lower: int,
    keys_at_once: int | None = None,
) -> PairCounts:
    """``cooccurrence.count_pairs`` of checked word maps on one device; the counts (n_upper, n_lower) int64 on it too.

    Negative words are counted in a row and a column of their own, which are cut off: no pair is looked at twice.
    """
    shape = (n_upper + 1, n_lower + 1)
    dtype = key_type(shape[0] * shape[1])
    above, below = _marked(upper, n_upper, dtype).mul_(shape[1]), _marked(lower, n_lower, dtype)
    counts = torch.zeros(shape[0] * shape[1], dtype=torch.int64, device=upper.device)
    slices = KeySlices.of(upper, lower, window, keys_at_once)
    for images in slices.images(len(upper)):
        for _, keys in slices.keys(above[images], below[images]):
            counts += torch.bincount(keys.flatten(), minlength=len(counts))
    return counts.view(shape)[:n_upper, :n_lower].contiguous()


def count_groups_on(
    upper: WordMaps,
    lower: LowerWordMaps,
    window: Window,
    n_upper: int,
    n_lower: int,
    groups: Int[Tensor, " N"],
    keys_at_once: int | None = None,
) -> list[Int[Tensor, " P"]]:
    """Rows (group, upper, lower, count) of ``SparseCounts.from_batch``, int64 on the device.

    Sorted within each slice of images; a cell whose images lie in two slices has two rows.
    """
    order = torch.argsort(groups, stable=True)
    order = order[groups[order] >= 0]
    names, place = torch.unique_consecutive(groups[order], return_inverse=True)
    shape = (n_upper + 1, n_lower + 1)
    slices = KeySlices.of(upper, lower, window, keys_at_once)
    found = [torch.zeros(4, 0, dtype=torch.int64, device=upper.device)]
    for images in slices.images(len(order)):
        first, last = place[images][[0, -1]].tolist()
        n_cells = (last - first + 1) * shape[0] * shape[1]
        dtype = key_type(n_cells)
        above = (place[images] - first).to(dtype)[:, None, None] * shape[0] + _marked(
            upper[order[images]], n_upper, dtype
        )
        for _, keys in slices.keys(above * shape[1], _marked(lower[order[images]], n_lower, dtype)):
            cells, counts = count_keys(keys.flatten(), n_cells)
            word, other = cells // shape[1] % shape[0], cells % shape[1]
            kept = (word < n_upper) & (other < n_lower)
            group = names[first + cells // (shape[0] * shape[1])]
            found.append(torch.stack([group, word, other, counts])[:, kept])
    return list(torch.cat(found, dim=1))


def count_offsets_on(
    upper: WordMaps,
    lower: LowerWordMaps,
    window: Window,
    edges: Int[Tensor, "E 2"],
    keys_at_once: int | None = None,
) -> tuple[Int[Tensor, "E h w"], Int[Tensor, "E h w"]]:
    """(counts, inside) of ``OffsetHistogram.from_batch``; upper, lower and edges on one device, edges not negative."""
    height, width = window.shape(lower.shape[1], lower.shape[2])
    words, slot = torch.unique(edges[:, 0], return_inverse=True)
    targets, target = torch.unique(edges[:, 1], return_inverse=True)
    # A cell is (offset, upper word of an edge or none, lower word of an edge, another one or none).
    shape = (height * width, len(words) + 1, len(targets) + 2)
    above = _ranked(upper, words, len(words)).mul_(shape[2])
    below = torch.where(lower < 0, len(targets) + 1, _ranked(lower, targets, len(targets)))
    counts = torch.zeros(shape, dtype=torch.int64, device=upper.device)
    slices = KeySlices.of(upper, lower, window, keys_at_once)
    rows, columns = slices.rows.offsets(window.rows) * width, slices.columns.offsets(window.columns)
    for images in slices.images(len(upper)):
        for part, keys in slices.keys(above[images], below[images]):
            keys += (rows[part, None] + columns) * (shape[1] * shape[2])
            cells, found = count_keys(keys.flatten(), counts.numel())
            counts.view(-1).index_add_(0, cells, found)
    inside = counts[:, slot, :-1].sum(2)
    return counts[:, slot, target].T.reshape(-1, height, width), inside.T.reshape(-1, height, width)


def count_keys(keys: Int[Tensor, " n"], n_cells: int) -> tuple[Int[Tensor, " P"], Int[Tensor, " P"]]:
    """(cells, counts) int64: the keys that occur, ascending, all below ``n_cells``, and how often."""
    if n_cells <= CELLS_A_KEY * len(keys):
        dense = torch.bincount(keys, minlength=n_cells)
        cells = dense.nonzero().flatten()
        return cells, dense[cells]
    cells, counts = torch.unique(keys, return_counts=True)
    return cells.long(), counts


def key_type(n_cells: int) -> torch.dtype:
    """The narrowest type that holds every key: half the memory moved where 32 bits do."""
    return torch.int32 if n_cells <= torch.iinfo(torch.int32).max else torch.int64


def _marked(words: Int[Tensor, "..."], n_words: int, dtype: torch.dtype) -> Int[Tensor, "..."]:
    """A copy whose negative words are ``n_words``, one past the last."""
    return torch.where(words < 0, n_words, words.to(dtype))


def _ranked(words: Int[Tensor, "..."], chosen: Int[Tensor, " K"], other: int) -> Int[Tensor, "..."]:
    """The place of every word among the ascending ``chosen`` ones; ``other`` where it is none of them."""
    if not len(chosen):
        return torch.full_like(words, other, dtype=torch.int64)
    place = torch.searchsorted(chosen, words.long()).clamp_(max=len(chosen) - 1)
    return torch.where(chosen[place] == words, place, other)
