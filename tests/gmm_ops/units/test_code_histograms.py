"""Histograms of float16 codes: exact thresholds, any split the same, coarse bins that know what they lose."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmm_ops.errors import RefusedInput
from gmm_ops.units.code_histograms import CodeHistograms, ordered_codes, values_of
from tests.references.dissection import threshold

SHARES = (0.005, 0.01, 0.02, 0.04)


def drawn(n: int, units: int, seed: int = 0) -> torch.Tensor:
    """Columns with ties, zeros of both signs, denormals and the largest float16."""
    columns = torch.randn(n, units, generator=torch.Generator().manual_seed(seed)).half()
    columns[:, 0] = columns[:, 0].relu()
    columns[::3, 1] = -0.0
    columns[0, 2], columns[1, 2] = 65504.0, 6e-8
    return columns


def test_codes_are_in_the_order_of_the_values() -> None:
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    codes = ordered_codes(finite)
    np.testing.assert_array_equal(values_of(codes), finite + np.float16(0))
    order = np.argsort(finite.astype(np.float64), kind="stable")
    assert (np.diff(codes[order].astype(np.int64)) >= 0).all()
    assert ordered_codes(np.array([-0.0], np.float16)) == ordered_codes(np.array([0.0], np.float16))


@pytest.mark.parametrize("n", [7, 200, 1000])
def test_thresholds_equal_the_slow_twin(n: int) -> None:
    columns = drawn(n, 4)
    found = CodeHistograms.from_batch(columns).thresholds(SHARES)
    for unit in range(4):
        values = columns[:, unit].numpy()
        for place, share in enumerate(SHARES):
            limit = threshold(values, share)
            assert float(found.values[unit, place]) == limit
            assert found.above[unit, place] == (values.astype(np.float64) > limit).sum() <= share * n
    assert found.total == n


def test_a_share_counts_as_it_is_written() -> None:
    columns = torch.arange(1000.0)[:, None]
    found = CodeHistograms.from_batch(columns).thresholds([0.005, 0.29])
    assert found.above.tolist() == [[5, 290]], "0.29 * 1000 is 289.99999999999994"


@pytest.mark.parametrize("shift", [0, 3])
def test_any_split_merges_to_the_same_bits(shift: int) -> None:
    columns = drawn(500, 6)
    whole = CodeHistograms.from_batch(columns, shift)
    parts = [CodeHistograms.from_batch(part, shift) for part in columns.split([1, 99, 0, 250, 150])]
    forwards = backwards = CodeHistograms.zero(6, shift)
    for part in parts:
        forwards = forwards.merge(part)
    for part in reversed(parts):
        backwards = part + backwards
    assert forwards == backwards == whole
    assert CodeHistograms.from_arrays(whole.to_arrays("3_"), "3_") == whole


def test_coarse_bins_say_how_much_lies_above() -> None:
    columns = drawn(4000, 5)
    exact = CodeHistograms.from_batch(columns).thresholds(SHARES)
    coarse = CodeHistograms.from_batch(columns, 3)
    found = coarse.thresholds(SHARES)
    for place, share in enumerate(SHARES):
        above = (columns.double().numpy() > found.values[:, place].astype(np.float64)).sum(axis=0)
        np.testing.assert_array_equal(found.above[:, place], above)
        assert (above <= share * 4000).all()
    assert (found.values >= exact.values).all()
    assert len(coarse.bins) < len(CodeHistograms.from_batch(columns).bins)


def test_moments_are_those_of_the_columns() -> None:
    columns = drawn(300, 4)
    mean, spread = CodeHistograms.from_batch(columns).moments()
    np.testing.assert_allclose(mean, columns.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(spread, columns.double().std(0, correction=0), rtol=1e-12)


def test_a_unit_that_never_varies_has_its_value_as_threshold() -> None:
    found = CodeHistograms.from_batch(torch.full((50, 2), 1.5)).thresholds(SHARES)
    assert (found.values == 1.5).all()
    assert (found.above == 0).all()


def test_what_is_refused() -> None:
    one = CodeHistograms.from_batch(drawn(10, 3))
    with pytest.raises(RefusedInput, match=r"columns: must be numbers, got NaN"):
        CodeHistograms.from_batch(torch.tensor([[float("nan")]]))
    with pytest.raises(RefusedInput, match=r"must have the same units and shift, got 3, 0 and 4, 0"):
        one.merge(CodeHistograms.zero(4))
    with pytest.raises(RefusedInput, match=r"must have the same units and shift, got 3, 0 and 3, 3"):
        one.merge(CodeHistograms.zero(3, 3))
    with pytest.raises(RefusedInput, match=r"shares: must lie between 0 and 1, got \[0\.0\]"):
        one.thresholds([0.0])
    with pytest.raises(RefusedInput, match=r"thresholds: must have columns, got none"):
        CodeHistograms.zero(3).thresholds(SHARES)
    with pytest.raises(RefusedInput, match=r"shift: must lie from 0 to 8, got 9"):
        CodeHistograms.from_batch(drawn(10, 3), 9)
