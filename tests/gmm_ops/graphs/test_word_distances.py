"""Distances between words equal the loops, hold the laws of a metric, and do not cancel far from 0."""

from __future__ import annotations

import pytest
import torch

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.graphs.word_distances import centre_distances, class_distances
from tests.references import word_distances as reference


def centres(words: int, units: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(words, units, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(words: int, seed: int, lowest: int = -1) -> torch.Tensor:
    return torch.randint(lowest, 4, (words,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("words", "units"), [(1, 1), (2, 3), (30, 17), (41, 1)])
def test_distances_equal_the_loops(words: int, units: int) -> None:
    mean = centres(words, units)
    expected = torch.tensor(reference.centre_distances(mean.tolist()), dtype=torch.float64)
    torch.testing.assert_close(centre_distances(mean), expected, rtol=1e-13, atol=0)


def test_distances_are_a_metric() -> None:
    found = centre_distances(centres(25, 8))
    assert torch.equal(found, found.T)
    assert torch.equal(found.diagonal(), torch.zeros(25, dtype=torch.float64))
    detour = (found[:, :, None] + found[None]).amin(dim=1)
    assert bool((found <= detour + 1e-12).all())


def test_close_centres_far_from_zero_do_not_cancel() -> None:
    mean = torch.tensor([[1e6, -1e6], [1e6 + 3e-4, -1e6 + 4e-4]], dtype=torch.float64)
    assert float(centre_distances(mean)[0, 1]) == pytest.approx(5e-4, rel=1e-6)


def test_float32_centres_are_measured_in_float64() -> None:
    mean = centres(9, 200).float()
    found = centre_distances(mean)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, centre_distances(mean.double()), rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(6))
def test_within_and_between_equal_the_loops(seed: int) -> None:
    mean, dominant = centres(19, 5, seed), classes(19, seed)
    found = class_distances(centre_distances(mean), dominant)
    within, between = reference.class_distances(mean.tolist(), dominant.tolist())
    assert found.within == pytest.approx(within, rel=1e-12)
    assert found.between == pytest.approx(between, rel=1e-12)
    assert found.ratio == pytest.approx(within / between, rel=1e-12)
    used = int((dominant >= 0).sum())
    assert found.within_pairs + found.between_pairs == used * (used - 1) // 2


@pytest.mark.parametrize("seed", range(3))
def test_weighted_by_columns_it_is_the_mean_over_column_pairs(seed: int) -> None:
    mean, dominant = centres(11, 5, seed), classes(11, seed)
    columns = torch.randint(0, 6, (11,), generator=torch.Generator().manual_seed(seed))
    found = class_distances(centre_distances(mean), dominant, columns)
    within, between = reference.class_distances(mean.tolist(), dominant.tolist(), columns.tolist())
    assert found.within == pytest.approx(within, rel=1e-12)
    assert found.between == pytest.approx(between, rel=1e-12)
    equal = class_distances(centre_distances(mean), dominant, torch.full((11,), 7))
    assert equal.ratio == pytest.approx(class_distances(centre_distances(mean), dominant).ratio, rel=1e-12)


def test_order_of_words_and_shift_of_the_layer_change_nothing() -> None:
    mean, dominant = centres(22, 6), classes(22, 3)
    order = torch.randperm(22, generator=torch.Generator().manual_seed(8))
    before = class_distances(centre_distances(mean), dominant)
    after = class_distances(centre_distances(mean[order] + 3.0), dominant[order])
    assert after.within == pytest.approx(before.within, rel=1e-12)
    assert after.between == pytest.approx(before.between, rel=1e-12)
    doubled = class_distances(centre_distances(2 * mean), dominant)
    assert doubled.within == pytest.approx(2 * before.within, rel=1e-12)
    assert doubled.ratio == pytest.approx(before.ratio, rel=1e-12)


def test_clustered_classes_have_a_small_ratio_shuffled_near_1() -> None:
    dominant = torch.arange(60) % 6
    mean = 10 * centres(6, 40, 1)[dominant] + centres(60, 40, 2)
    planted = class_distances(centre_distances(mean), dominant)
    assert planted.ratio is not None
    assert planted.ratio < 0.2
    shuffled = dominant[torch.randperm(60, generator=torch.Generator().manual_seed(4))]
    apart = class_distances(centre_distances(mean), shuffled)
    assert apart.ratio == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("dominant", "within", "between"), [
    ([0, 1, 2], None, 1),
    ([4, 4, 4], 1, None),
    ([2, -1, -1], None, None),
    ([2, 2, -1], 1, None),
])  # fmt: skip
def test_without_such_a_pair_there_is_no_mean(dominant: list[int], within: int | None, between: int | None) -> None:
    distances = torch.ones(3, 3, dtype=torch.float64) - torch.eye(3, dtype=torch.float64)
    found = class_distances(distances, torch.tensor(dominant))
    assert (found.within, found.between, found.ratio) == (within, between, None)


def test_centres_in_one_place_have_no_ratio() -> None:
    found = class_distances(torch.zeros(4, 4, dtype=torch.float64), torch.tensor([0, 0, 1, 1]))
    assert (found.within, found.between, found.ratio) == (0.0, 0.0, None)


def test_refuses_what_is_no_layer_of_words() -> None:
    with pytest.raises(RefusedInput, match=r"mean must have shape \(K, D\).*got \(3,\)"):
        centre_distances(torch.zeros(3))
    with pytest.raises(NonFiniteActivations):
        centre_distances(torch.tensor([[0.0], [float("nan")]]))
    with pytest.raises(RefusedInput, match=r"distances must have shape \(K, K\).*got \(3, 3\) and \(2,\).*-1"):
        class_distances(torch.zeros(3, 3), torch.tensor([0, 1]))
