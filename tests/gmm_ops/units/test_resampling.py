"""Moments over copies against loops over all copies at once; laws of merging; what has no score; what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.units.resampling import (
    ResponseSums,
    correlations,
    directional_slopes,
    precisions,
    squares_over_variances,
)
from tests.references import resampling as slow

COPIES, UNITS = 9, 6


@pytest.fixture(scope="module")
def copies() -> tuple[Tensor, Tensor, Tensor, float]:
    """Post-ReLU responses far from 0 with little noise; unit 1 is faint, unit 3 constant, unit 4 zero."""
    rng = np.random.default_rng(0)
    own = torch.tensor(rng.normal(3, 2, (UNITS, 3, 4)).clip(min=0), dtype=torch.float32)
    own[1] *= 1e-2
    noise = 1 + 1e-3 * torch.tensor(rng.normal(size=(COPIES, UNITS, 3, 4)), dtype=torch.float32)
    responses = own * noise
    responses[:, 3], own[3] = 1.5, 1.5
    responses[:, 4], own[4] = 0.0, 0.0
    responses[:, 5, 0, 0] = 0.7  # constant, but not what the image itself gives
    outputs = 20 + torch.tensor(rng.normal(size=COPIES)) + 100 * (responses[:, 0].double().mean((1, 2)) - 1)
    return own, responses, outputs.float(), 20.0


def gathered(copies: tuple[Tensor, Tensor, Tensor, float], *cuts: int) -> ResponseSums:
    own, responses, outputs, output = copies
    sums = ResponseSums.zero(own, output)
    sizes = list(np.diff([0, *cuts, COPIES]))
    for some, values in zip(responses.split(sizes), outputs.split(sizes), strict=True):
        sums = sums.with_copies(some, values)
    return sums


def assert_equal(found: Tensor, expected: list[float]) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, equal_nan=True)


@pytest.mark.parametrize("reduce", ["position", "sum"])
@pytest.mark.parametrize("signed", [False, True])
def test_correlation_is_that_of_the_loops(copies: tuple, reduce: str, signed: bool) -> None:
    _, responses, outputs, _ = copies
    exact = responses.double().numpy(), outputs.double().numpy()
    found = correlations(gathered(copies, 4), reduce, signed=signed)  # type: ignore[arg-type]
    assert_equal(found, slow.correlation(*exact, reduce, signed))
    assert found[[3, 4]].isnan().all(), "units that do not vary have none"


def test_permuted_outputs_move_on_by_one_in_each_batch(copies: tuple) -> None:
    _, responses, outputs, _ = copies
    moved = torch.cat([outputs[:4].roll(1), outputs[4:].roll(1)])
    found = correlations(gathered(copies, 4), permuted=True)
    assert_equal(found, slow.correlation(responses.double().numpy(), moved.double().numpy(), "position"))


@pytest.mark.parametrize("rule", ["inverse_of_mean", "mean_of_inverse"])
def test_precision_is_that_of_the_loops(copies: tuple, rule: str) -> None:
    found = precisions(gathered(copies, 3, 6), rule, 0.1, 1e-8)  # type: ignore[arg-type]
    assert_equal(found, slow.precision(copies[1].double().numpy(), rule, 0.1, 1e-8))
    assert found[[1, 3, 4]].isnan().all(), "faint and constant units are left out"
    assert not precisions(gathered(copies), rule, 0.0)[1].isnan()  # type: ignore[arg-type]


def test_square_over_variance(copies: tuple) -> None:
    responses = copies[1].double().numpy()
    found = squares_over_variances(gathered(copies))
    n = COPIES
    for unit in (0, 2, 5):
        mean_square = (responses[:, unit].mean(0) ** 2).mean()
        expected = mean_square / (np.mean(slow.variances(responses, unit)) * (n - 1) / n)
        assert found[unit].item() == pytest.approx(expected, rel=1e-9)
    assert found[[3, 4]].isnan().all()


def test_a_linear_unit_has_slope_over_deviation(copies: tuple) -> None:
    """The directional score of a linear network is its correlation, up to the noise of the copies."""
    rng = np.random.default_rng(1)
    weights, gradient = torch.tensor(rng.normal(size=(3, 50))), torch.tensor(rng.normal(size=50))
    x, sigma = torch.tensor(rng.uniform(1, 2, 50)), 0.01
    noisy = x * (1 + sigma * torch.tensor(rng.normal(size=(20_000, 50))))
    sums = ResponseSums.zero((weights @ x)[:, None, None], float(gradient @ x))
    sums = sums.with_copies((noisy @ weights.T)[:, :, None, None], noisy @ gradient)
    step = sigma**2 * x**2 * gradient / (sigma * x * gradient).norm()
    up, down = ((weights @ (x + sign * step))[:, None, None] for sign in (1, -1))
    slopes = directional_slopes(up, down, sums)
    torch.testing.assert_close(slopes, correlations(sums), atol=0.02, rtol=0)
    torch.testing.assert_close(directional_slopes(up, down, sums, "sum"), slopes)


def test_sums_do_not_depend_on_how_copies_are_cut(copies: tuple) -> None:
    whole, cut = gathered(copies), gathered(copies, 2, 7)
    for name, values in whole.to_arrays().items():
        if "permuted" not in name:
            np.testing.assert_allclose(cut.to_arrays()[name], values, rtol=1e-12, atol=1e-12)
    assert ResponseSums.from_arrays(cut.to_arrays()) == cut
    with pytest.raises(RefusedInput, match="origin: must be the same in what is merged"):
        whole.merge(ResponseSums.zero(copies[0] + 1, 20.0))


def test_an_output_that_does_not_vary_correlates_with_nothing(copies: tuple) -> None:
    own, responses, outputs, output = copies
    sums = ResponseSums.zero(own, output).with_copies(responses, torch.full_like(outputs, 7.0))
    assert correlations(sums).isnan().all()
    assert not precisions(sums)[0].isnan()


def test_zero_variance_everywhere_has_no_score() -> None:
    black = torch.zeros(2, 3, 3)
    sums = ResponseSums.zero(black, 1.0).with_copies(torch.zeros(5, 2, 3, 3), torch.arange(5.0))
    for scores in (correlations(sums), correlations(sums, "sum"), precisions(sums), squares_over_variances(sums)):
        assert scores.isnan().all()


def test_one_copy_is_refused() -> None:
    sums = ResponseSums.zero(torch.zeros(2, 1, 1), 0.0)
    for metric in (correlations, precisions, squares_over_variances):
        with pytest.raises(RefusedInput, match="copies: must be at least 2, got 0; one copy has neither variance nor"):
            metric(sums)
    with pytest.raises(RefusedInput, match="copies: must be at least 2 in a batch, got 1; draw more copies at a time"):
        sums.with_copies(torch.zeros(1, 2, 1, 1), torch.zeros(1))
    with pytest.raises(RefusedInput, match=r"responses: must be \(n, 2, 1, 1\) with n outputs, got \(3, 2, 1, 2\)"):
        sums.with_copies(torch.zeros(3, 2, 1, 2), torch.zeros(3))
    with pytest.raises(RefusedInput, match=r"origin: must have shape \(D, H, W\), got \(2, 1\)"):
        ResponseSums.zero(torch.zeros(2, 1), 0.0)


def test_responses_of_many_units_go_in_blocks(copies: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gathered(copies)
    monkeypatch.setattr("gmm_ops.units.resampling._BLOCK", 1)
    blocks = gathered(copies)
    for name, values in whole.to_arrays().items():
        np.testing.assert_allclose(blocks.to_arrays()[name], values, rtol=1e-12, atol=1e-12)
    assert math.isfinite(blocks.output)
