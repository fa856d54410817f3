"""Labels keep their order and their distance, and stand as near as that allows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.report.palette import NO_CLASS, class_colour, rgb
from workflows.report.similarity_figure import spread

PLACES = st.lists(st.floats(0, 100, allow_subnormal=False), max_size=12).map(sorted)


@given(wanted=PLACES, gap=st.floats(0.5, 8, allow_subnormal=False))
def test_labels_keep_order_distance_and_bounds(wanted: list[float], gap: float) -> None:
    found = spread(wanted, gap, 0, 100)
    assert len(found) == len(wanted)
    assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(found))
    assert all(-1e-9 <= place <= 100 + 1e-9 for place in found)


@given(wanted=PLACES)
def test_labels_with_room_stay_where_they_are(wanted: list[float]) -> None:
    apart = [place + 10 * index for index, place in enumerate(wanted)]
    assert spread(apart, 10, 0, 1000) == pytest.approx(apart)


@given(wanted=st.lists(st.integers(0, 9), min_size=1, max_size=4).map(sorted))
def test_no_other_places_are_nearer(wanted: list[int]) -> None:
    def moved(places: tuple[float, ...] | list[float]) -> float:
        return sum((a - b) ** 2 for a, b in zip(places, wanted, strict=True))

    grid = np.arange(0, 9.01, 0.5).tolist()
    possible = [p for p in itertools.combinations(grid, len(wanted)) if all(np.diff(p) >= 2)]
    assert moved(spread(wanted, 2, 0, 9)) <= min(map(moved, possible)) + 1e-9


@pytest.mark.parametrize("n_classes", [2, 10, 20])
def test_few_classes_have_colours_of_their_own(n_classes: int) -> None:
    colours = {class_colour(label, n_classes) for label in range(n_classes)}
    assert len(colours) == n_classes
    assert NO_CLASS not in colours


def test_many_classes_differ_from_their_neighbours() -> None:
    colours = [np.array(rgb(class_colour(label, 1000)), float) for label in range(1000)]
    assert min(np.abs(a - b).max() for a, b in itertools.pairwise(colours)) > 40
    assert class_colour(None, 10) == class_colour(-1, 1000) == NO_CLASS
