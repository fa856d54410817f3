"""Loops in the cache: within a stated error of float64, and the same as torch's operations elsewhere."""

from __future__ import annotations

import pytest
import torch

from gmm_ops.mixtures.row_loops import DENORMAL_GUARD, expand_columns, exponentiate, row_maxima


def test_exponentials_are_within_the_stated_error():
    score = torch.linspace(DENORMAL_GUARD, 0.0, 1_000_001)[None]
    expected = score.double().exp()
    total = exponentiate(score, torch.zeros(1))
    assert float(((score.double() - expected) / expected).abs().max()) < 1.5e-7
    assert float(total) == pytest.approx(float(expected.sum()), rel=1e-5)


def test_what_lies_far_below_the_best_is_lifted():
    score = torch.tensor([[-1e30, -200.0, 3.0, -torch.inf]])
    total = exponentiate(score, torch.tensor([3.0]))
    least = torch.tensor(DENORMAL_GUARD, dtype=torch.float64).exp()
    torch.testing.assert_close(score[0].double(), torch.stack([least, least, least**0, least]), rtol=2e-7, atol=0.0)
    assert float(total) == 1.0


@pytest.mark.parametrize("words", [1, 31, 32, 100, 257])
def test_maxima_equal_those_of_torch(words):
    source = torch.Generator().manual_seed(words)
    score = torch.randn(70, words, generator=source) * 10.0 ** torch.randint(-30, 30, (70, 1), generator=source)
    score[0, 0] = -torch.inf
    score[1] = -0.0
    assert torch.equal(row_maxima(score), score.amax(dim=1))
    assert torch.equal(row_maxima(score.double()), score.double().amax(dim=1))


def test_features_are_squares_columns_and_a_one():
    columns = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    for given in (columns, columns.double(), columns.T.contiguous().T):
        expected = torch.cat([given * given, given, torch.ones_like(given[:, :1])], dim=1)
        assert torch.equal(expand_columns(given), expected)
