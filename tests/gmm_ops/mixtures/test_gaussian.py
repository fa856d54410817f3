"""Scores are one product, in the right place of float32, and never let a broken column through."""

from __future__ import annotations

import pytest
import torch

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.mixtures.gaussian import centred, refuse_non_finite, score_parameters, scores
from gmm_ops.mixtures.products import full_precision, row_products, weighted_sums
from tests.gmm_ops.drawn_columns import clustered
from tests.references import mixture as reference


@pytest.fixture
def parameters() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    log_pi = torch.log_softmax(torch.randn(5, generator=source, dtype=torch.float64), dim=0)
    mean = torch.randn(5, 7, generator=source, dtype=torch.float64)
    variance = 0.2 + torch.rand(5, 7, generator=source, dtype=torch.float64)
    return log_pi, mean, variance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_scores_are_the_log_joint_of_the_loop(parameters, dtype, tolerance):
    columns = clustered(40, 7, 3)
    expected = [reference.log_joints(x, *(p.tolist() for p in parameters)) for x in columns.double().tolist()]
    got = scores(columns.to(dtype), score_parameters(*parameters, dtype=dtype))
    assert got.dtype == dtype
    torch.testing.assert_close(
        got.double(), torch.tensor(expected, dtype=torch.float64), rtol=tolerance, atol=tolerance
    )


def test_constant_is_the_score_at_the_centre(parameters):
    built = score_parameters(*parameters)
    at_center = scores(torch.zeros(1, 7), built)[0]
    torch.testing.assert_close(at_center, built.constant)
    assert (built.n_words, built.n_units) == (5, 7)


def test_scores_refuse_columns_of_another_layer(parameters):
    with pytest.raises(RefusedInput, match=r"columns must have shape \(n, 7\).*got \(4, 8\).*layer"):
        scores(torch.zeros(4, 8), score_parameters(*parameters))


@pytest.mark.parametrize("rows", [64, 192, 1024, 2048])
def test_both_products_equal_float64(rows):
    source = torch.Generator().manual_seed(2)
    features = torch.randn(rows, 33, generator=source)
    weights = torch.randn(20, 33, generator=source)
    got = row_products(features, weights)
    torch.testing.assert_close(got.double(), features.double() @ weights.double().T, rtol=1e-5, atol=1e-5)
    sums = weighted_sums(got, features)
    torch.testing.assert_close(sums.double(), got.double().T @ features.double(), rtol=1e-4, atol=1e-2)


def test_a_row_scores_the_same_bits_whatever_its_neighbours():
    source = torch.Generator().manual_seed(3)
    features, weights = torch.randn(2048, 65, generator=source), torch.randn(100, 65, generator=source)
    whole = row_products(features, weights)
    for first, last in ((0, 64), (64, 256), (1024, 2048), (17, 17 + 640)):
        assert torch.equal(row_products(features[first:last].contiguous(), weights), whole[first:last])


def test_full_precision_restores_the_setting():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_double_columns_are_centred_before_the_cast():
    columns = torch.tensor([[1e6 + 0.015625]], dtype=torch.float64)
    assert centred(columns, torch.tensor([1e6], dtype=torch.float64)).item() == 0.015625


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_one_broken_value_is_found_and_named(bad, dtype):
    columns = torch.ones(50, 4, dtype=dtype)
    columns[17, 2] = bad
    with pytest.raises(NonFiniteActivations, match=r"1 of 50 columns hold NaN or infinity \(first: row 17\)"):
        refuse_non_finite(columns)


def test_large_finite_columns_pass():
    for columns in (torch.full((100, 4), 3e38), torch.empty(0, 4)):
        assert refuse_non_finite(columns) is None
