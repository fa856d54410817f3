"""Histograms equal the loops, whatever the tiling, and sum to one."""

from __future__ import annotations

import pytest
import torch

from gmm_ops.discriminative.histogram import (
    counted,
    groups,
    hard_histograms,
    image_columns,
    soft_histograms,
)
from gmm_ops.errors import NonFiniteActivations, RefusedInput
from tests.gmm_ops.discriminative.drawn_images import as_model, drawn_images, drawn_parameters
from tests.references import discriminative as reference


@pytest.fixture(scope="module")
def columns():
    return drawn_images(6, 20, 4, 3)[0]


@pytest.fixture(scope="module")
def parameters(columns):
    return drawn_parameters(columns, 7, 3)


def test_both_equal_the_loop(columns, parameters):
    model, mixture = as_model(parameters), parameters.to_mixture()
    images = columns.double().tolist()
    soft = torch.tensor([reference.soft_histogram(model, x) for x in images], dtype=torch.float64)
    torch.testing.assert_close(soft_histograms(mixture, columns, torch.float64), soft, rtol=1e-11, atol=1e-15)
    torch.testing.assert_close(soft_histograms(mixture, columns), soft, rtol=1e-4, atol=1e-6)
    hard = torch.tensor([reference.hard_histogram(model, x) for x in images], dtype=torch.float64)
    assert torch.equal(hard_histograms(mixture, columns), hard)


@pytest.mark.parametrize("tile_rows", [1, 7, 20, 50, 64, 1000])
def test_the_tile_changes_nothing(columns, parameters, tile_rows):
    mixture = parameters.to_mixture()
    whole = soft_histograms(mixture, columns, torch.float64)
    torch.testing.assert_close(soft_histograms(mixture, columns, torch.float64, tile_rows), whole, rtol=1e-12, atol=0)


def test_every_column_is_in_one_tile():
    for n_images, n_positions, rows in ((5, 10, 25), (5, 10, 10), (3, 10, 4), (0, 10, 4), (2, 1, 1)):
        seen = torch.zeros(n_images, n_positions, dtype=torch.int64)
        for group in groups(n_images, n_positions, rows):
            for positions in group.positions:
                seen[group.images, positions] += 1
                assert 0 < seen[group.images, positions].numel() <= rows
        assert bool((seen == 1).all())


def test_rows_sum_to_one(columns, parameters):
    ones = torch.ones(6, dtype=torch.float64)
    torch.testing.assert_close(soft_histograms(parameters.to_mixture(), columns).sum(dim=1), ones, rtol=1e-5, atol=0)
    torch.testing.assert_close(hard_histograms(parameters.to_mixture(), columns).sum(dim=1), ones)


def test_the_order_of_positions_does_not_matter(columns, parameters):
    shuffled = columns[:, torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    mixture = parameters.to_mixture()
    expected = soft_histograms(mixture, columns, torch.float64)
    torch.testing.assert_close(soft_histograms(mixture, shuffled, torch.float64), expected, rtol=1e-12, atol=0)
    assert torch.equal(hard_histograms(mixture, shuffled), hard_histograms(mixture, columns))


@pytest.mark.parametrize("channels_last", [False, True])
def test_maps_are_columns_row_by_row(parameters, channels_last):
    maps = drawn_images(3, 30, 4, 3)[0].permute(0, 2, 1).reshape(3, 4, 5, 6)
    maps = maps.contiguous(memory_format=torch.channels_last) if channels_last else maps
    found = image_columns(maps)
    assert found.shape == (3, 30, 4)
    assert torch.equal(found[1, 7], maps[1, :, 1, 1])
    word = parameters.to_mixture().assign(maps).word
    assert torch.equal(counted(word.flatten(1), 7), hard_histograms(parameters.to_mixture(), found))


def test_half_precision_columns_are_read_as_they_are(columns, parameters):
    half, mixture = columns.half(), parameters.to_mixture()
    assert torch.equal(soft_histograms(mixture, half), soft_histograms(mixture, half.float()))


def test_bad_input_is_refused_by_name(columns, parameters):
    mixture = parameters.to_mixture()
    with pytest.raises(RefusedInput, match=r"columns must have shape \(N, positions, 4\).*got \(6, 20, 3\)"):
        soft_histograms(mixture, columns[..., :3])
    with pytest.raises(RefusedInput, match=r"positions.*got \(6, 0, 4\)"):
        hard_histograms(mixture, columns[:, :0])
    with pytest.raises(RefusedInput, match=r"activations must have shape \(N, D, H, W\); got \(6, 20, 4\)"):
        image_columns(columns)
    broken = columns.clone()
    broken[0, 3, 1] = torch.inf
    with pytest.raises(NonFiniteActivations, match="row 3"):
        soft_histograms(mixture, broken)
