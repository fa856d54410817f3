"""The M-step equals the loop; batch EM climbs, and equals scikit-learn from the same start."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from gmm_ops.errors import RefusedInput
from gmm_ops.mixtures.assignment import log_likelihood
from gmm_ops.mixtures.em import em_step, fit_batch_em, layer_totals, maximise
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.seeding import initial_mixture
from gmm_ops.mixtures.statistics import MixtureStatistics
from tests.gmm_ops.drawn_columns import cifar_columns, clustered, digit_patches
from tests.references import em as reference

KINDS = ("word", "unit", "layer")


@pytest.fixture(scope="module")
def columns() -> torch.Tensor:
    return clustered(800, 6, 5)


@pytest.mark.parametrize("variance_of", KINDS)
def test_three_iterations_equal_the_loop(columns, variance_of):
    few = columns[:120]
    mixture = initial_mixture(few, 4, seed=0)
    center = mixture.center.tolist()
    slow = (mixture.log_pi.tolist(), mixture.mean.tolist(), mixture.variance.tolist())
    for _ in range(3):
        sums = reference.e_step(few.double().tolist(), *slow, center)
        slow = reference.m_step(sums, center, 0.01, variance_of)
        mixture, _ = em_step(mixture, few, 0.01, variance_of=variance_of)
    for got, expected in zip((mixture.log_pi, mixture.mean, mixture.variance), slow, strict=True):
        torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-4)


def sklearn_history(columns: torch.Tensor, start: Mixture, iterations: int) -> list[float]:
    """Mean log-likelihood before each M-step of scikit-learn's diagonal mixture, in float64."""
    model = GaussianMixture(start.n_words, covariance_type="diag", reg_covar=0.0)
    model.weights_, model.means_ = start.log_pi.exp().numpy(), start.mean.numpy()
    model.covariances_ = start.variance.numpy()
    model.precisions_cholesky_ = 1.0 / np.sqrt(model.covariances_)
    data = columns.double().numpy()
    history = []
    for _ in range(iterations):
        mean_log_likelihood, log_posterior = model._e_step(data)
        model._m_step(data, log_posterior)
        history.append(float(mean_log_likelihood))
    return history


@pytest.mark.parametrize("engine", ["dense", "sparse"])
def test_equals_scikit_learn_on_digits(engine):
    columns = digit_patches()[:12_000]
    start = initial_mixture(columns, 20, seed=3)
    _, history = fit_batch_em(start, columns, 21, engine=engine)
    assert history == pytest.approx(sklearn_history(columns, start, 21), rel=1e-5)


@pytest.mark.parametrize(("stage", "words"), [(1, 40), (2, 40), (3, 30)])
def test_equals_scikit_learn_on_real_network_columns(shared_data, stage, words):
    columns = cifar_columns(shared_data, {1: 12, 2: 40, 3: 150}[stage], stage)
    start = initial_mixture(columns, words, seed=1)
    _, history = fit_batch_em(start, columns, 21)
    assert history == pytest.approx(sklearn_history(columns, start, 21), rel=1e-5)


@pytest.mark.parametrize(("seed", "variance_of"), [(0, "word"), (1, "word"), (2, "word"), (0, "unit"), (0, "layer")])
def test_the_log_likelihood_never_falls(seed, variance_of):
    columns = digit_patches()[:8_000]
    _, history = fit_batch_em(initial_mixture(columns, 25, seed), columns, 25, variance_of=variance_of)
    assert min(b - a for a, b in pairwise(history)) > -1e-6 * abs(history[-1])
    assert history[-1] > history[0] + 1.0


@pytest.mark.parametrize("variance_of", ["unit", "layer"])
def test_shared_variances_are_what_is_left_about_the_means(columns, variance_of):
    """Of the layer's variance, units together: what the means do not explain; the same for every word."""
    found, _ = fit_batch_em(initial_mixture(columns, 5, 0), columns, 30, variance_of=variance_of)
    posterior = found.posteriors(columns).double()
    left = sum(
        (posterior[:, [k]] * (columns.double() - found.mean[k]) ** 2).sum(dim=0) for k in range(found.n_words)
    ) / len(columns)
    expected = left if variance_of == "unit" else left.mean().expand(6)
    assert torch.equal(found.variance, found.variance[:1].expand_as(found.variance))
    torch.testing.assert_close(found.variance[0], expected, rtol=1e-3, atol=1e-5)


def test_with_one_word_a_shared_variance_is_its_own(columns):
    own, unit, layer = (
        fit_batch_em(initial_mixture(columns, 1, 0), columns, 1, variance_of=kind)[0].variance for kind in KINDS
    )
    torch.testing.assert_close(unit, own)
    torch.testing.assert_close(layer, own.mean().expand_as(own))


def test_words_of_a_narrow_shared_variance_are_those_of_k_means(columns):
    """Shares aside: of one variance the most probable word is the nearest mean."""
    found, _ = fit_batch_em(initial_mixture(columns, 5, 0), columns, 30, variance_of="layer")
    even = Mixture(torch.full((5,), 0.2).log(), found.mean, found.variance, found.center)
    nearest = torch.cdist(columns.double(), found.mean).argmin(dim=1)
    assert torch.equal(even.assign(columns).word, nearest)


def test_a_single_word_is_the_mean_and_variance(columns):
    mixture, _ = fit_batch_em(initial_mixture(columns, 1, 0), columns, 1)
    torch.testing.assert_close(mixture.mean[0], columns.double().mean(dim=0), rtol=0, atol=1e-6)
    torch.testing.assert_close(mixture.variance[0], columns.double().var(dim=0, unbiased=False), rtol=1e-5, atol=0)
    assert mixture.log_pi.item() == 0.0


def test_shares_sum_to_one_and_the_centre_does_not_matter(columns):
    start = initial_mixture(columns, 5, 0)
    moved = Mixture(start.log_pi, start.mean, start.variance, start.center + 0.5)
    one, _ = fit_batch_em(start, columns, 5)
    two, _ = fit_batch_em(moved, columns, 5)
    assert one.log_pi.exp().sum().item() == pytest.approx(1.0)
    torch.testing.assert_close(one.mean, two.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.variance, two.variance, rtol=1e-3, atol=1e-4)


def test_the_floor_holds_per_layer_or_per_unit(columns):
    statistics = MixtureStatistics.from_batch(initial_mixture(columns, 5, 0), columns)
    center = columns.double().mean(dim=0)
    assert float(maximise(statistics, center, 2.0).variance.min()) >= 2.0
    per_unit = torch.arange(1.0, 7.0, dtype=torch.float64)
    assert bool((maximise(statistics, center, per_unit).variance >= per_unit).all())


def test_an_empty_word_keeps_no_share_and_finite_parameters(columns):
    mixture = initial_mixture(columns, 5, 0)
    mean = mixture.mean.clone()
    mean[2] += 1e3
    far = Mixture(mixture.log_pi, mean, mixture.variance, mixture.center)
    for engine in ("dense", "sparse"):
        for kind in KINDS:
            shared, _ = em_step(far, columns, engine=engine, variance_of=kind)
            assert shared.log_pi[2] == -torch.inf
            assert torch.equal(shared.variance[0] == shared.variance[2], torch.full((6,), kind != "word"))
        after, _ = em_step(far, columns, engine=engine)
        assert torch.equal(after.mean[2], after.center)
        assert bool(torch.isfinite(after.variance).all())
        assert bool(torch.isfinite(log_likelihood(after, columns)).all())


def test_the_layers_variance_ignores_the_words(columns):
    statistics = MixtureStatistics.from_batch(initial_mixture(columns, 5, 0), columns)
    expected = columns.double().var(dim=0, unbiased=False)
    torch.testing.assert_close(layer_totals(statistics)[1], expected, rtol=1e-5, atol=1e-6)


def test_refusals_name_the_rule(columns):
    constant = columns.clone()
    constant[:, 4] = 1.0
    with pytest.raises(RefusedInput, match=r"var_floor must be positive.*word 0 is constant in unit 4"):
        fit_batch_em(initial_mixture(constant, 3, 0), constant, 2)
    fitted, _ = fit_batch_em(initial_mixture(constant, 3, 0), constant, 2, var_floor=1e-3)
    assert bool((fitted.variance[:, 4] == 1e-3).all())
    with pytest.raises(RefusedInput, match="statistics must hold at least one column"):
        maximise(MixtureStatistics.zero(3, 6), torch.zeros(6, dtype=torch.float64))
    with pytest.raises(RefusedInput, match="iterations must be at least 1; got 0"):
        fit_batch_em(initial_mixture(columns, 3, 0), columns, 0)
