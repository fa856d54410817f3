"""Pairs counted a second, over one numpy bincount per window offset; one thread each.

The bincount is the best plain numpy offers: for every offset of the window, one histogram of k * K' + k' over all
images and upper positions for which the offset is inside the map.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from gmm_ops.graphs.cooccurrence import count_pairs
from gmm_ops.graphs.windows import AxisWindow, Window

Result = TypeVar("Result")

TARGET = 3.0


@dataclass(frozen=True)
class CountingCase:
    """One pair of layers: (height = width, words) of the upper and of the lower map, and R(p)."""

    name: str
    upper: tuple[int, int]
    lower: tuple[int, int]
    window: Window
    images: int


@dataclass(frozen=True)
class CountingRow:
    """Medians of one case; ``ratio`` is the counting over the bincount."""

    case: str
    maps: str
    pairs: int
    pairs_per_second: float
    bincount_pairs_per_second: float
    ratio: float
    target: float = TARGET


CASES = (
    CountingCase("ResNet-20 add2 -> add4, window 11", (16, 100), (32, 100), Window.square(2, -5, 11), 1000),
    CountingCase("ResNet-20 add4 -> add6, window 9", (16, 100), (16, 100), Window.square(1, -4, 9), 1000),
    CountingCase("ResNet-20 add6 -> add8, window 15", (8, 100), (16, 100), Window.square(2, -7, 15), 1000),
    CountingCase("28x28 K 450 -> 14x14 K 1500, window 10", (14, 1500), (28, 450), Window.square(2, -4, 10), 1000),
)


def measure(
    real_maps: Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None = None, repeats: int = 7, tiny: bool = False
) -> list[CountingRow]:
    """One row for each case. ``real_maps``: (upper, lower) word maps by case name, instead of the drawn ones.

    tiny: ten images, each side once.
    """
    rows, repeats = [], 1 if tiny else repeats
    for case in (replace(case, images=10) for case in CASES) if tiny else CASES:
        real = real_maps is not None and case.name in real_maps
        upper, lower = real_maps[case.name] if real_maps is not None and real else drawn_maps(case, seed=0)
        rows.append(_measure_case(case, "real" if real else "drawn", upper, lower, repeats))
    return rows


def _measure_case(case: CountingCase, maps: str, upper: torch.Tensor, lower: torch.Tensor, repeats: int) -> CountingRow:
    sizes = (case.upper[1], case.lower[1])
    upper, lower = upper.to(torch.int32), lower.to(torch.int32)
    upper_wide, lower_wide = (words.numpy().astype(np.int64) for words in (upper, lower))
    seconds: dict[str, list[float]] = {"counting": [], "bincount": []}
    # In turns, so that a busy machine slows both; the first turn compiles and is not counted.
    for _ in range(1 + repeats):
        counts = _timed(seconds["counting"], lambda: count_pairs(upper, lower, case.window, *sizes))
        expected = _timed(seconds["bincount"], lambda: bincount_per_offset(upper_wide, lower_wide, case.window, *sizes))
    if not np.array_equal(counts.numpy(), expected):
        raise AssertionError(f"{case.name}: the counts differ from those of the bincount")
    pairs = int(counts.sum())
    ours, theirs = (statistics.median(seconds[name][1:]) for name in ("counting", "bincount"))
    return CountingRow(case.name, maps, pairs, pairs / ours, pairs / theirs, ratio=theirs / ours)


def _timed(seconds: list[float], run: Callable[[], Result]) -> Result:
    start = time.perf_counter()
    result = run()
    seconds.append(time.perf_counter() - start)
    return result


def bincount_per_offset(upper: np.ndarray, lower: np.ndarray, window: Window, n_upper: int, n_lower: int) -> np.ndarray:
    """The counts from one bincount for each offset; words int64 and not negative, so that nothing is converted."""
    height, width = window.shape(*lower.shape[1:])
    counts = np.zeros(n_upper * n_lower, np.int64)
    row_keys = upper * n_lower
    for i in range(height):
        rows, lower_rows = _inside(window.rows, i, upper.shape[1], lower.shape[1])
        for j in range(width):
            columns, lower_columns = _inside(window.columns, j, upper.shape[2], lower.shape[2])
            keys = row_keys[:, rows, columns] + lower[:, lower_rows, lower_columns]
            counts += np.bincount(keys.ravel(), minlength=len(counts))
    return counts.reshape(n_upper, n_lower)


def _inside(axis: AxisWindow, place: int, n_positions: int, extent: int) -> tuple[slice, slice]:
    """Upper positions for which window offset ``place`` is inside the map, and the lower positions they see."""
    shift = axis.offset + place
    first = max(0, -(shift // axis.stride))
    last = min(n_positions - 1, (extent - 1 - shift) // axis.stride)
    if last < first:
        return slice(0), slice(0)
    low = axis.stride * first + shift
    return slice(first, last + 1), slice(low, axis.stride * last + shift + 1, axis.stride)


def drawn_maps(case: CountingCase, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Word maps of both layers with patches of equal words, about as large as those of real maps.

    Every column is a smooth random field of 6 units; its word is the nearest of K columns of that field.
    In the real word maps of ResNet-20 about a quarter of the columns share the word of their right neighbour.
    """
    random = np.random.default_rng(seed)
    return _drawn(random, case.images, *case.upper), _drawn(random, case.images, *case.lower)


def _drawn(random: np.random.Generator, images: int, size: int, n_words: int) -> torch.Tensor:
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    smoothing = np.exp(-2.0 * (np.pi * frequency * 1.2) ** 2)
    field = np.fft.irfft2(np.fft.rfft2(random.standard_normal((images, 6, size, size))) * smoothing, s=(size, size))
    columns = field.transpose(0, 2, 3, 1).reshape(-1, 6)
    words = columns[random.choice(len(columns), n_words, replace=False)]
    norms = (words**2).sum(1)
    nearest = [(norms - 2.0 * part @ words.T).argmin(1) for part in np.array_split(columns, len(columns) // 10_000 + 1)]
    return torch.from_numpy(np.concatenate(nearest).reshape(images, size, size))


if __name__ == "__main__":
    for row in measure():
        print(row)
