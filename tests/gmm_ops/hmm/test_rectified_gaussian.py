"""Density, censored moments and M-step of rectified Gaussians against exact arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from gmm_ops.errors import RefusedInput
from gmm_ops.hmm.rectified_gaussian import (
    censored,
    constrained_maximum,
    inverse_mills,
    rectified_log_densities,
    rectified_sums,
)
from tests.references import rectified_gaussian as reference

RATIOS = (-30.0, -17.3, -8.0, -5.0, -1.0, -0.1, 0.0, 0.1, 1.0, 5.0, 8.0, 17.3, 30.0)
"""mu / sd, far into both tails."""


def float32_words() -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, variance) float32, one word per scale and one unit per ratio."""
    deviation = torch.tensor([0.01, 0.7, 100.0], dtype=torch.float32)[:, None].expand(3, len(RATIOS))
    return deviation * torch.tensor(RATIOS, dtype=torch.float32), deviation * deviation


def exact_words() -> tuple[list[list[float]], list[list[float]]]:
    """The same as (mean, deviation) Python floats."""
    mean, variance = float32_words()
    return mean.double().tolist(), variance.double().sqrt().tolist()


def test_censored_moments_hold_far_in_both_tails():
    mean, variance = float32_words()
    found = censored(mean, variance)
    for k, (means, deviations) in enumerate(zip(*exact_words(), strict=True)):
        for d, (mu, sd) in enumerate(zip(means, deviations, strict=True)):
            log_probability, first, second = reference.censored(mu, sd)
            case = f"mu {mu:g}, sd {sd:g}"
            assert float(found.log_probability[k, d]) == pytest.approx(float(log_probability), rel=1e-12), case
            assert float(found.first[k, d]) == pytest.approx(float(first - mu), rel=1e-11, abs=1e-300), case
            about = second - 2 * reference.mpf(mu) * first + reference.mpf(mu) ** 2
            assert float(found.second[k, d]) == pytest.approx(float(about), rel=1e-11), case
            raw = mu + float(found.first[k, d])
            assert raw == pytest.approx(float(first), rel=1e-11), case


def test_moments_belong_to_a_distribution_below_zero():
    """E[y | y <= 0] < 0, and the variance lies between 0 and that of the whole Gaussian."""
    mean, variance = (t.double() for t in float32_words())
    found = censored(mean, variance)
    assert bool((mean + found.first < 0).all())
    spread = found.second - found.first**2
    assert bool((spread > 0).all())
    assert bool((spread <= variance * (1 + 1e-12)).all())


def test_inverse_mills_everywhere():
    bound = torch.tensor([-1e6, -300.0, -30.0, 0.0, 30.0, 300.0])
    assert inverse_mills(bound)[:2].tolist() == pytest.approx([1e6, 300.0 + 1 / 300.0], rel=1e-6)
    assert inverse_mills(bound)[3].item() == pytest.approx(math.sqrt(2 / math.pi), rel=1e-15)
    assert inverse_mills(bound)[4].item() == pytest.approx(1.4736461e-196, rel=1e-7)
    assert inverse_mills(bound)[5].item() == 0.0


def columns_near(mean: torch.Tensor, n: int) -> torch.Tensor:
    """(n, D) float32, half of each unit zero, the rest within 3 deviations of some word."""
    source = torch.Generator().manual_seed(0)
    value = mean.double().abs().amax(dim=0) * torch.rand(n, mean.shape[1], dtype=torch.float64, generator=source)
    return torch.where(torch.rand(value.shape, generator=source) < 0.5, 0.0, value).float()


def test_log_densities_equal_the_loop():
    mean, variance = float32_words()
    columns = columns_near(mean, 6)
    columns[0], columns[1] = 0.0, columns[1] + 0.5
    got = rectified_log_densities(columns, mean, variance)
    assert got.dtype == torch.float64
    for i, x in enumerate(columns.double().tolist()):
        for k, (means, deviations) in enumerate(zip(*exact_words(), strict=True)):
            expected = float(reference.log_density(x, means, deviations))
            assert float(got[i, k]) == pytest.approx(expected, rel=1e-12, abs=1e-9), (i, k)


def test_sums_equal_the_loop():
    mean, variance = float32_words()
    columns = columns_near(mean, 7)
    columns[:, 3], columns[:, 9] = 0.0, columns[:, 9] + 1.0
    posterior = torch.rand(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first, second = rectified_sums(columns, posterior, mean, variance)
    for k, (means, deviations) in enumerate(zip(*exact_words(), strict=True)):
        one, two = reference.sums(columns.double().tolist(), posterior[:, k].tolist(), means, deviations)
        largest = max(abs(mu) for mu in means)
        # Raw products are of the size of x^2: at sd 0.01, values of up to 3,000 leave 1e-9 of it.
        scale = max(largest, float(columns.max()))
        np.testing.assert_allclose(first[k].numpy(), [float(v) for v in one], rtol=1e-10, atol=1e-12 * scale)
        np.testing.assert_allclose(second[k].numpy(), [float(v) for v in two], rtol=1e-10, atol=1e-12 * scale**2)


def test_units_that_are_always_zero_add_no_rounding_of_the_mean():
    """A word 30 deviations above zero and nothing but zeros: only the censored moments remain."""
    mean, variance = torch.full((1, 1), 30.0), torch.ones(1, 1)
    first, second = rectified_sums(torch.zeros(4, 1), torch.ones(4, 1), mean, variance)
    _, e1, e2 = reference.censored(30.0, 1.0)
    spread = float(second / 4 - (first / 4) ** 2)
    assert spread == pytest.approx(float(e2 - e1 * e1), rel=1e-8)


def objective(first: float, square: float, mean: float, deviation: float) -> float:
    """-E log N(y | mean, deviation^2) without constants."""
    return math.log(deviation) + (square - 2 * first * mean + mean * mean) / (2 * deviation * deviation)


@pytest.mark.parametrize(
    ("first", "spread", "floor"),
    [(1.0, 0.5, 0.0), (-3.0, 0.04, 0.0), (-3.0, 0.04, 1.0), (-0.4, 0.01, 0.2), (2.0, 0.01, 0.3), (-9.0, 1e-6, 1e-4)],
)
def test_the_bounded_maximum_is_the_maximum(first, spread, floor):
    """No numerical optimiser, from several starts inside the bounds, finds anything better."""
    clamp = 5.0
    given = (torch.tensor([[value]], dtype=torch.float64) for value in (first, spread))
    mean, variance = (float(t) for t in constrained_maximum(*given, clamp, floor))
    square = spread + first * first
    assert mean >= -clamp * math.sqrt(variance) * (1 + 1e-12)
    assert variance >= floor
    found = objective(first, square, mean, math.sqrt(variance))
    lowest = math.log(max(math.sqrt(floor), 1e-6))
    for start in (-3.0, 0.0, 1.0):
        # In (log sd, t) with mu = sd (exp(t) - clamp): inside the bound of the mean by construction.
        other = minimize(
            lambda p: objective(first, square, math.exp(p[0]) * (math.exp(p[1]) - clamp), math.exp(p[0])),
            [max(lowest, start), 1.0],
            bounds=[(lowest, 6.0), (-40.0, 8.0)],
            method="L-BFGS-B",
        )
        assert found <= other.fun + 1e-7, (start, other.x)
    assert found == pytest.approx(min(found, other.fun), abs=1e-4)


def test_no_bound_is_mean_and_variance():
    first, spread = torch.tensor([[-50.0]], dtype=torch.float64), torch.tensor([[0.1]], dtype=torch.float64)
    assert constrained_maximum(first, spread, math.inf, 0.0) == (first, spread)
    mean, variance = constrained_maximum(first + 100.0, spread, 5.0, 0.0)
    assert (float(mean), float(variance)) == (50.0, 0.1)


def test_negative_units_are_refused():
    columns = torch.zeros(5, 4)
    columns[3, 2] = -0.25
    with pytest.raises(RefusedInput, match=r"rectified layer must be 0 or more; unit 2 of row 3 is -0\.25"):
        rectified_log_densities(columns, torch.zeros(2, 4), torch.ones(2, 4))
