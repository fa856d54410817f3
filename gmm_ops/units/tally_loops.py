"""The loops of the tally: most pixels are left out before they are looked at.

A unit is strong on a few percent of the pixels. So units whose largest activation is below their lowest threshold are
skipped, then cells between four positions of which none exceeds it, then rows of pixels in a cell of which neither end
does. Thresholds nest, so a pixel is counted once, by the highest
that it exceeds; the counts of lower ones are running sums.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def tally_units(maps, thresholds, labels, rows, columns, present, category, carried, both, areas, lite):  # type: ignore[no-untyped-def]
    """Add one image to ``both``, ``areas`` and ``lite``.

    Labels are 0 or 1 + a place in ``present``; rows and columns are (before, behind, weight, edges of cells).
    """
    units, shares = thresholds.shape
    pixels, counts = np.zeros(shares, np.int64), np.zeros((shares, len(present) + 1), np.int64)
    for unit in range(units):
        if not _exceeds(maps[unit], thresholds[unit, shares - 1]):
            continue
        pixels[:], counts[:] = 0, 0
        _count_unit(maps[unit], thresholds[unit], labels, rows, columns, pixels, counts)
        _add(pixels, counts, present, category, carried, both[unit], areas[unit], lite[unit])


@numba.njit(cache=True, nogil=True)
def _exceeds(unit_map, low):  # type: ignore[no-untyped-def]
    some = False
    for y in range(unit_map.shape[0]):
        for x in range(unit_map.shape[1]):
            some |= unit_map[y, x] > low
    return some


@numba.njit(cache=True, nogil=True)
def _count_unit(unit_map, thresholds, labels, rows, columns, areas, counts):  # type: ignore[no-untyped-def]
    """Pixels of one unit by the highest threshold that they exceed, and of these by label; what has none is in 0."""
    top, bottom, down, row_edges = rows
    left, right, across, column_edges = columns
    low = thresholds[len(thresholds) - 1]
    for band in range(len(row_edges) - 1):
        upper, lower = unit_map[top[row_edges[band]]], unit_map[bottom[row_edges[band]]]
        for cell in range(len(column_edges) - 1):
            first, stop = column_edges[cell], column_edges[cell + 1]
            west, east = left[first], right[first]
            # What is interpolated lies between the corners.
            if max(upper[west], upper[east], lower[west], lower[east]) <= low:
                continue
            for y in range(row_edges[band], row_edges[band + 1]):
                a = upper[west] + down[y] * (lower[west] - upper[west])
                b = upper[east] + down[y] * (lower[east] - upper[east])
                if max(a, b) <= low:
                    continue
                for x in range(first, stop):
                    value = a + across[x] * (b - a)
                    if value > low:
                        # Sums of comparisons: a branch for each level would be guessed wrongly half of the time.
                        level = 0
                        for q in range(len(thresholds) - 1):
                            level += value <= thresholds[q]
                        areas[level] += 1
                        counts[level, labels[0, y, x]] += 1
                        for layer in range(1, len(labels)):
                            counts[level, labels[layer, y, x]] += 1


@numba.njit(cache=True, nogil=True)
def _add(pixels, counts, present, category, carried, both, areas, lite):  # type: ignore[no-untyped-def]
    """Counts by the highest threshold, ascending share -> sums over all that a pixel exceeds."""
    for q in range(len(counts)):
        if q:
            pixels[q] += pixels[q - 1]
            counts[q] += counts[q - 1]
        for place in range(len(present)):
            both[q, present[place]] += counts[q, place + 1]
        for group in carried:
            areas[q, group] += pixels[q]
            touched = False
            for place in range(len(present)):
                touched |= category[place] == group and counts[q, place + 1] > 0
            if touched:
                lite[q, group] += pixels[q]


@numba.njit(cache=True, nogil=True)
def tally_words(words, labels, rows, columns, present, category, carried, both, areas, lite):  # type: ignore[no-untyped-def]
    """The same for a word map: every pixel has the word of the position that its centre lies in, or none."""
    pixels = np.zeros((len(both), 1), np.int64)
    counts = np.zeros((len(both), 1, len(present) + 1), np.int64)
    for y in range(len(rows)):
        for x in range(len(columns)):
            word = words[rows[y], columns[x]]
            if word >= 0:
                pixels[word, 0] += 1
                for layer in range(len(labels)):
                    counts[word, 0, labels[layer, y, x]] += 1
    for word in range(len(both)):
        if pixels[word, 0]:
            _add(pixels[word], counts[word], present, category, carried, both[word], areas[word], lite[word])


@numba.njit(cache=True, nogil=True)
def mark_masks(maps, units, thresholds, rows, columns, patterns):  # type: ignore[no-untyped-def]
    """Set bit i of ``patterns`` (H, W) uint32 where ``maps[units[i]]`` exceeds ``thresholds[i]``."""
    top, bottom, down, row_edges = rows
    left, right, across, column_edges = columns
    for place in range(len(units)):
        unit_map, low, bit = maps[units[place]], thresholds[place], np.uint32(1) << np.uint32(place)
        for band in range(len(row_edges) - 1):
            upper, lower = unit_map[top[row_edges[band]]], unit_map[bottom[row_edges[band]]]
            for cell in range(len(column_edges) - 1):
                first, stop = column_edges[cell], column_edges[cell + 1]
                west, east = left[first], right[first]
                if max(upper[west], upper[east], lower[west], lower[east]) <= low:
                    continue
                for y in range(row_edges[band], row_edges[band + 1]):
                    a = upper[west] + down[y] * (lower[west] - upper[west])
                    b = upper[east] + down[y] * (lower[east] - upper[east])
                    for x in range(first, stop):
                        if a + across[x] * (b - a) > low:
                            patterns[y, x] |= bit
