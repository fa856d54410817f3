from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflows.data.image_index import balanced_rows, validation_mask

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=200).map(np.array)


@given(LABELS, st.floats(0.01, 0.99), st.integers(-(2**63), 2**63 - 1))
@settings(deadline=None)
def test_the_draw_is_stratified(labels: np.ndarray, fraction: float, seed: int) -> None:
    mask = validation_mask(labels, fraction, seed)
    for label in np.unique(labels):
        size, drawn = int((labels == label).sum()), int(mask[labels == label].sum())
        if size == 1:
            assert drawn == 0
        else:
            assert 1 <= drawn <= size - 1
            assert abs(drawn - fraction * size) <= 1
    assert np.array_equal(mask, validation_mask(labels, fraction, seed))


def test_a_class_is_drawn_alike_whatever_the_other_classes() -> None:
    alone = np.full(40, 3)
    mixed = np.concatenate([np.zeros(17, int), alone, np.full(5, 9)])
    assert np.array_equal(validation_mask(alone, 0.25, 1), validation_mask(mixed, 0.25, 1)[17:57])


def test_another_seed_draws_other_images() -> None:
    labels = np.repeat([0, 1], 50)
    assert not np.array_equal(validation_mask(labels, 0.25, 0), validation_mask(labels, 0.25, 1))


def test_draws_of_two_classes_are_independent() -> None:
    mask = validation_mask(np.repeat([0, 1], 60), 0.5, 0)
    assert not np.array_equal(mask[:60], mask[60:])


@given(LABELS, st.integers(1, 220), st.integers(0, 2**32))
@settings(deadline=None)
def test_a_limit_is_met_and_as_equal_as_the_classes_allow(labels: np.ndarray, limit: int, seed: int) -> None:
    rows = balanced_rows(labels, limit, seed)
    assert len(rows) == min(limit, len(labels))
    assert np.array_equal(rows, np.unique(rows))
    sizes = np.bincount(labels, minlength=7)
    taken = np.bincount(labels[rows], minlength=7)
    # Equal shares: only a class that is used up may have two images fewer than another.
    assert all(taken[c] >= taken.max() - 1 or taken[c] == sizes[c] for c in range(7))
    assert np.array_equal(rows, balanced_rows(labels, limit, seed))


def test_a_smaller_limit_takes_a_subset() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 2000)
    assert set(balanced_rows(labels, 500, 7)) < set(balanced_rows(labels, 1000, 7))


def test_no_limit_takes_all() -> None:
    assert list(balanced_rows(np.array([1, 0, 1]), None, 0)) == [0, 1, 2]


def test_the_remainder_goes_to_no_fixed_class() -> None:
    labels = np.arange(10)
    chosen = {tuple(balanced_rows(labels, 3, seed)) for seed in range(20)}
    assert len(chosen) > 5


@pytest.mark.parametrize("limit", [1, 9, 10, 11, 99])
def test_balance_by_hand(limit: int) -> None:
    labels = np.repeat([0, 1, 2], [2, 50, 48])
    taken = np.bincount(labels[balanced_rows(labels, limit, 0)], minlength=3)
    assert taken.sum() == limit
    assert taken[0] == 2 or limit < 8
