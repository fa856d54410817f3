"""BIC: scikit-learn's number on its own fit, the plain formula, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from gmm_ops.errors import RefusedInput
from gmm_ops.mixtures.assignment import log_likelihood
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.model_selection import VarianceOf, bayesian_criterion, free_parameters
from tests.references.model_selection import bayesian_criterion as slow_criterion


def drawn(n: int = 400, units: int = 3) -> np.ndarray:
    source = np.random.default_rng(0)
    return source.normal(size=(n, units)) + 3.0 * source.integers(0, 2, size=(n, 1))


def test_it_is_scikit_learns_number() -> None:
    columns = drawn()
    theirs = GaussianMixture(4, covariance_type="diag", random_state=0).fit(columns)
    ours = Mixture(
        torch.from_numpy(theirs.weights_).log(),
        torch.from_numpy(theirs.means_),
        torch.from_numpy(theirs.covariances_),
        torch.from_numpy(columns.mean(axis=0)),
    )
    total = float(log_likelihood(ours, torch.from_numpy(columns)).double().sum())
    # Products are float32.
    assert bayesian_criterion(total, 400, 4, 3) == pytest.approx(theirs.bic(columns), rel=1e-6)


@pytest.mark.parametrize("variance_of", ["word", "unit", "layer"])
def test_it_is_the_loop_over_columns_and_words(variance_of: VarianceOf) -> None:
    columns = drawn(50)
    share, mean = np.array([0.3, 0.7]), np.array([[0.0, 0.0, 0.0], [3.0, 3.0, 3.0]])
    variance = np.array([[1.0, 2.0, 0.5], [1.5, 1.0, 1.0]])
    parts = [*map(torch.from_numpy, (np.log(share), mean, variance)), torch.zeros(3, dtype=torch.float64)]
    total = float(log_likelihood(Mixture(*parts), torch.from_numpy(columns)).double().sum())
    expected = slow_criterion(columns, share, mean, variance, variance_of)
    assert bayesian_criterion(total, 50, 2, 3, variance_of) == pytest.approx(expected, rel=1e-6)
    assert Mixture(*parts).bic(torch.from_numpy(columns), variance_of) == pytest.approx(expected, rel=1e-6)


def test_a_word_more_costs_its_parameters() -> None:
    more = free_parameters(6, 16) - free_parameters(5, 16)
    assert more == 1 + 2 * 16
    gained = bayesian_criterion(-1000.0, 500, 6, 16) - bayesian_criterion(-1000.0, 500, 5, 16)
    assert gained == pytest.approx(more * math.log(500))


def test_true_number_of_words_wins() -> None:
    """Two clear clusters: two words are better than one and than five."""
    columns = drawn(2_000)
    fits = [GaussianMixture(k, covariance_type="diag", random_state=0).fit(columns) for k in (1, 2, 5)]
    found = [bayesian_criterion(2_000 * fit.score(columns), 2_000, fit.n_components, 3) for fit in fits]
    assert min(found) == found[1]


@pytest.mark.parametrize(("total", "columns"), [(float("nan"), 10), (float("-inf"), 10), (-1.0, 0)])
def test_what_is_refused(total: float, columns: int) -> None:
    with pytest.raises(RefusedInput, match="log_likelihood must be finite and n_columns at least 1"):
        bayesian_criterion(total, columns, 2, 2)


def test_no_words_are_refused() -> None:
    with pytest.raises(RefusedInput, match="n_words and n_units must be at least 1; got 0 and 4"):
        free_parameters(0, 4)
