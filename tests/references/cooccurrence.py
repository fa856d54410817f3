"""Slow twins of gmm_ops.graphs.cooccurrence: the double loop over upper columns and the columns of their windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch

from gmm_ops.graphs.windows import Window

Maps = list[list[list[int]]]


def window_positions(window: Window, y: int, x: int, height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """(i, j, row, column) of every window offset inside the map, from stride, offset and size alone."""
    rows = range(height) if window.rows.size is None else range(window.rows.size)
    columns = range(width) if window.columns.size is None else range(window.columns.size)
    for i in rows:
        for j in columns:
            row = window.rows.stride * y + window.rows.offset + i
            column = window.columns.stride * x + window.columns.offset + j
            if 0 <= row < height and 0 <= column < width:
                yield i, j, row, column


def all_pairs(upper: torch.Tensor, lower: torch.Tensor, window: Window) -> Iterator[tuple[int, int, int, int, int]]:
    """(image, upper word, lower word, i, j) of every pair that counts."""
    height, width = lower.shape[1:]
    upper_maps: Maps = upper.tolist()
    lower_maps: Maps = lower.tolist()
    for image, (upper_map, lower_map) in enumerate(zip(upper_maps, lower_maps, strict=True)):
        for y, line in enumerate(upper_map):
            for x, word in enumerate(line):
                for i, j, row, column in window_positions(window, y, x, height, width):
                    if word >= 0 and lower_map[row][column] >= 0:
                        yield image, word, lower_map[row][column], i, j


def pair_counts(upper: torch.Tensor, lower: torch.Tensor, window: Window, n_upper: int, n_lower: int) -> torch.Tensor:
    """N[k, k'] (IG Eq. 5, 6)."""
    counts = torch.zeros(n_upper, n_lower, dtype=torch.int64)
    for _, word, lower_word, _, _ in all_pairs(upper, lower, window):
        counts[word, lower_word] += 1
    return counts


def group_rows(
    upper: torch.Tensor, lower: torch.Tensor, window: Window, groups: torch.Tensor
) -> list[tuple[int, int, int, int]]:
    """Sorted (group, upper word, lower word, count)."""
    group_list = groups.tolist()
    counts: Counter[tuple[int, int, int]] = Counter()
    for image, word, lower_word, _, _ in all_pairs(upper, lower, window):
        if group_list[image] >= 0:
            counts[group_list[image], word, lower_word] += 1
    return [(*key, count) for key, count in sorted(counts.items())]


def word_rows(words: torch.Tensor, groups: torch.Tensor) -> list[tuple[int, int, int]]:
    """Sorted (group, word, columns)."""
    counts: Counter[tuple[int, int]] = Counter()
    for group, word_map in zip(groups.tolist(), words.tolist(), strict=True):
        for line in word_map:
            counts.update((group, word) for word in line if word >= 0 and group >= 0)
    return [(*key, count) for key, count in sorted(counts.items())]


def offset_histogram(
    upper: torch.Tensor, lower: torch.Tensor, window: Window, edges: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(counts, inside) of every edge and window offset."""
    shape = (len(edges), *window.shape(lower.shape[1], lower.shape[2]))
    counts, inside = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    pairs = list(all_pairs(upper, lower, window))
    for edge, (upper_word, lower_word) in enumerate(edges.tolist()):
        for _, word, found, i, j in pairs:
            if word == upper_word:
                inside[edge, i, j] += 1
                counts[edge, i, j] += found == lower_word
    return counts, inside
