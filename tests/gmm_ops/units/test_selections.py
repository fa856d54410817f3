"""Selections: order, agreement beside chance, means with a bootstrap over images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gmm_ops.errors import RefusedInput
from gmm_ops.units.selections import bootstrap_means, chance_jaccard, jaccard, top_units
from tests.references import resampling as slow

NAN, INF = math.nan, math.inf


def test_best_first_lower_unit_of_equals_none_without_score() -> None:
    scores = torch.tensor([1.0, NAN, 3.0, 3.0, -INF, INF], dtype=torch.float64)
    assert top_units(scores, 3).tolist() == [5, 2, 3]
    assert top_units(scores, 9).tolist() == [5, 2, 3, 0, 4]
    assert top_units(torch.full((4,), NAN), 2).tolist() == []
    with pytest.raises(RefusedInput, match="top: must be a whole number of at least 1, got 0"):
        top_units(scores, 0)


def test_jaccard_of_sets() -> None:
    one, other, nothing = torch.tensor([1, 2, 3]), torch.tensor([3, 4]), torch.tensor([], dtype=torch.int64)
    assert jaccard(one, other) == jaccard(other, one) == 0.25
    assert jaccard(one, one) == 1
    assert jaccard(one, nothing) == 0
    assert math.isnan(jaccard(nothing, nothing))


@pytest.mark.parametrize(("units", "first", "second"), [(6, 2, 3), (5, 5, 2), (7, 1, 1), (4, 0, 2)])
def test_chance_is_the_mean_over_all_sets(units: int, first: int, second: int) -> None:
    assert chance_jaccard(units, first, second) == pytest.approx(slow.chance_jaccard(units, first, second))


def test_chance_of_large_layers_and_of_nothing() -> None:
    assert chance_jaccard(2048, 20, 20) == pytest.approx(20 * 20 / 2048 / 40, rel=0.05)
    assert math.isnan(chance_jaccard(3, 0, 0))
    with pytest.raises(RefusedInput, match="units: must be at least 5, got 4"):
        chance_jaccard(4, 5, 1)


def test_bootstrap_means_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    values = torch.tensor(rng.normal(size=(40, 300)))
    mean, low, high = bootstrap_means(values, seed=1)
    torch.testing.assert_close(mean, values.mean(dim=0))
    covered = ((low < 0) & (high > 0)).double().mean().item()
    assert 0.88 < covered < 0.98
    assert (bootstrap_means(values, seed=1) == torch.stack([mean, low, high])).all()


def test_bootstrap_means_know_what_is_missing() -> None:
    values = torch.tensor([[1.0, NAN, NAN], [3.0, 2.0, NAN], [5.0, NAN, NAN]])
    mean, low, high = bootstrap_means(values, seed=0)
    assert mean[:2].tolist() == [3, 2]
    assert low[0] < 3 < high[0]
    assert low[1:].isnan().all()
    assert mean[2].isnan()
    assert bootstrap_means(torch.zeros(0, 2), seed=0).isnan().all()
