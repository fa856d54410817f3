"""Selections, chance, overlap and rank correlation of units."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gmm_ops.errors import RefusedInput
from gmm_ops.units.rankings import (
    agreement,
    best_first,
    random_units,
    rank_correlation,
    select_units,
    units_taken,
)
from tests.references import relevance as slow


@pytest.mark.parametrize(("share", "units", "count"), [(0.01, 16, 1), (0.03, 64, 2), (0.1, 64, 6), (1, 7, 7)])
def test_a_share_is_at_least_one_unit(share: float, units: int, count: int) -> None:
    assert units_taken(share, units) == count


def test_top_and_bottom_are_the_ends_of_one_order() -> None:
    scores = np.array([0.2, 0.9, 0.2, -1.0, 0.9])
    assert best_first(scores).tolist() == [1, 4, 0, 2, 3]
    assert select_units(scores, 0.4, "top").tolist() == [1, 4]
    assert select_units(scores, 0.4, "bottom").tolist() == [2, 3]


def test_chance_is_the_same_for_all_and_nested() -> None:
    few, more = random_units("a", 64, 0.03, 1, 0), random_units("a", 64, 0.1, 1, 0)
    assert set(few) < set(more)
    assert random_units("a", 64, 0.1, 1, 0).tolist() == more.tolist()
    others = [random_units(*how) for how in (("b", 64, 0.1, 1, 0), ("a", 64, 0.1, 2, 0), ("a", 64, 0.1, 1, 5))]
    assert all(other.tolist() != more.tolist() for other in others)
    drawn = np.bincount(np.concatenate([random_units("a", 10, 0.2, draw, 0) for draw in range(500)]), minlength=10)
    assert stats.chisquare(drawn).pvalue > 1e-4


def test_rank_correlation_is_spearmans() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        left, right = random.integers(0, 6, (2, 12)).astype(float)
        found = rank_correlation(left, right)
        assert found == pytest.approx(slow.spearman(left, right), abs=1e-12)
        assert found == pytest.approx(stats.spearmanr(left, right).statistic, abs=1e-12)
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4.0)))


def test_agreement_with_detectors_and_chance() -> None:
    iou = np.array([0.3, 0.0, 0.1, 0.0, 0.01])
    found = agreement(np.array([5.0, 4.0, 3.0, 2.0, 1.0]), iou, iou > 0.04)
    assert (found.detectors, found.overlap, found.chance) == (2, 0.5, 0.4)
    assert agreement(iou, iou, iou > 0.04).overlap == 1.0
    assert np.isnan(agreement(iou, iou, iou > 1).overlap)


def test_bad_input_is_refused_by_its_words() -> None:
    with pytest.raises(RefusedInput, match="share: must be above 0 and at most 1, got 0"):
        units_taken(0, 5)
    with pytest.raises(RefusedInput, match="scores: must not hold NaN"):
        best_first(np.array([1.0, np.nan]))
    with pytest.raises(RefusedInput, match="iou: must have a value for each of the 2 units, got 3 and 2"):
        agreement(np.ones(2), np.ones(3), np.ones(2, bool))
