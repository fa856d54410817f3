"""Labels beside a strip: as near as possible to what they name, and never on top of each other."""

from __future__ import annotations

from collections.abc import Sequence


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least ``gap`` apart in [low, high], in the same order, with the least squared distance moved.

    Args:
        wanted: ascending.
        gap: between two neighbouring places.
        low, high: bounds of every place; where they leave too little room, places run beyond ``high``.
    """
    runs: list[tuple[float, int]] = []  # sum of wished-for places of a run's first label, labels in the run
    for place in wanted:
        total, count = place, 1
        while runs and _first(runs[-1], gap, low, high) + runs[-1][1] * gap > _first((total, count), gap, low, high):
            before, members = runs.pop()
            # The first label of the joint run would like to stand `members * gap` before that of the later one.
            total, count = before + total - members * gap * count, members + count
        runs.append((total, count))
    places: list[float] = []
    for run in runs:
        first = _first(run, gap, low, high)
        places += [first + index * gap for index in range(run[1])]
    return places


def _first(run: tuple[float, int], gap: float, low: float, high: float) -> float:
    total, count = run
    return max(low, min(total / count, high - (count - 1) * gap))
