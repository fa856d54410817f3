"""Seeds depend on what is fitted; first words are real columns, each at most once."""

from __future__ import annotations

import pytest
import torch

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.mixtures.seeding import (
    distinct_rows,
    first_variance,
    fit_seed,
    generator,
    initial_mixture,
    kmeans_plus_plus,
    lowest_variance,
)
from tests.gmm_ops.drawn_columns import clustered


def test_a_fit_seed_is_a_fixed_hash_of_what_is_fitted():
    assert fit_seed(0, "joint", "layer1.2.add") == fit_seed(0, "joint", "layer1.2.add")
    seeds = {fit_seed(run, scope, layer) for run in (0, 1) for scope in ("joint", "class-3") for layer in ("a", "b")}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert fit_seed(1, "2", "a") != fit_seed(12, "", "a")
    # Written down: a run that is resumed by a later version must find the same seed.
    assert fit_seed(0, "joint", "add2") == 6826206324201734790


@pytest.mark.parametrize("draw", [distinct_rows, kmeans_plus_plus])
def test_words_are_different_columns(draw):
    columns = clustered(300, 5, 4)
    words = columns[draw(columns, 60, generator(1))]
    rows = {tuple(row) for row in columns.tolist()}
    taken = [tuple(row) for row in words.tolist()]
    assert len(set(taken)) == 60
    assert set(taken) <= rows
    assert torch.equal(words, columns[draw(columns, 60, generator(1))])
    assert not torch.equal(words, columns[draw(columns, 60, generator(2))])


@pytest.mark.parametrize("draw", [distinct_rows, kmeans_plus_plus])
def test_as_many_words_as_columns_takes_each_once(draw):
    columns = clustered(20, 3, 2)
    assert sorted(draw(columns, 20, generator(0)).tolist()) == list(range(20))


def test_random_columns_are_uniform():
    columns = torch.arange(10.0)[:, None]
    counts = torch.zeros(10)
    for seed in range(2000):
        counts[distinct_rows(columns, 3, generator(seed))] += 1
    assert float((counts - 600).abs().max()) < 5 * (2000 * 0.3 * 0.7) ** 0.5


def test_kmeans_plus_plus_finds_far_clusters_that_chance_misses():
    centres = 100.0 * torch.eye(8)
    columns = torch.cat(
        [c + 0.1 * torch.randn(1000 if k == 0 else 20, 8, generator=generator(k)) for k, c in enumerate(centres)]
    )
    words = columns[kmeans_plus_plus(columns, 8, generator(3))]
    assert len(set(words.argmax(dim=1).tolist())) == 8


def test_greedy_kmeans_plus_plus_leaves_outliers_alone():
    """Two outliers among 4,000 columns: a single draw takes them, the best of several candidates does not."""
    columns = clustered(4_000, 4, 12, seed=3)
    columns[:2] *= 40.0
    taken = sum(int((kmeans_plus_plus(columns, 12, generator(seed)) < 2).sum()) for seed in range(10))
    assert taken <= 20
    distances = [
        float(torch.cdist(columns, columns[kmeans_plus_plus(columns, 12, generator(seed))]).amin(dim=1).square().mean())
        for seed in range(10)
    ]
    random = [
        float(torch.cdist(columns, columns[distinct_rows(columns, 12, generator(seed))]).amin(dim=1).square().mean())
        for seed in range(10)
    ]
    assert sum(distances) < sum(random)


@pytest.mark.parametrize("draw", [distinct_rows, kmeans_plus_plus])
def test_words_start_at_columns_that_differ(draw):
    """A layer that is nearly all zeros: two words of the same column would stay the same for ever."""
    columns = torch.zeros(9_000, 3)
    columns[::900] = torch.arange(30.0).view(10, 3) + 1
    columns[1] = -0.0
    words = columns[draw(columns, 11, generator(0))]
    assert len(words.unique(dim=0)) == 11
    with pytest.raises(RefusedInput, match="number of different columns; got 12 words for 11"):
        draw(columns, 12, generator(0))


def test_the_first_variance_is_of_all_where_a_thousand_are_equal():
    columns = torch.zeros(50_000, 2)
    columns[7] = 5.0
    expected = columns.double().var(dim=0, unbiased=False)
    torch.testing.assert_close(first_variance(columns, generator(0), 0.0), expected)


def test_a_floor_is_a_share_of_the_layer_or_of_the_unit():
    variance = torch.tensor([4.0, 1e-6, 0.0], dtype=torch.float64)
    mean = float(variance.mean())
    assert lowest_variance(variance, 1e-3, "layer").tolist() == pytest.approx([1e-3 * mean] * 3)
    assert lowest_variance(variance, 1e-3, "unit").tolist() == pytest.approx([4e-3, 1e-6 * mean, 1e-6 * mean])


@pytest.mark.parametrize("method", ["random", "kmeans++"])
def test_initial_mixture_is_as_the_paper_starts(method):
    columns = clustered(5000, 6, 4)
    mixture = initial_mixture(columns, 10, seed=2, method=method)
    rows = {tuple(row) for row in columns.double().tolist()}
    assert all(tuple(mean) in rows for mean in mixture.mean.tolist())
    assert mixture.log_pi.exp().tolist() == pytest.approx([0.1] * 10)
    assert bool((mixture.variance == mixture.variance[0]).all())
    torch.testing.assert_close(mixture.variance[0], columns.double().var(dim=0), rtol=0.2, atol=0)
    torch.testing.assert_close(mixture.center, columns.double().mean(dim=0), rtol=1e-6, atol=1e-6)


def test_centre_is_exact_in_float32_so_that_all_dtypes_agree():
    mixture = initial_mixture(clustered(500, 6, 4).double() + 1 / 3, 3, seed=2)
    assert torch.equal(mixture.center, mixture.center.float().double())


def test_a_constant_unit_gets_the_floor():
    columns = clustered(500, 4, 3)
    columns[:, 1] = 7.0
    mixture = initial_mixture(columns, 3, seed=0, var_floor=1e-3)
    others = mixture.variance[0, [0, 2, 3]].sum() / 4
    torch.testing.assert_close(mixture.variance[0, 1], 1e-3 * others)


def test_refusals_name_the_rule():
    columns = clustered(30, 4, 3)
    message = r"n_words must not be larger than the number of columns; got 31 words for 30 columns. Take fewer words"
    for attempt in (
        lambda: initial_mixture(columns, 31, 0),
        lambda: distinct_rows(columns, 31, generator(0)),
        lambda: kmeans_plus_plus(columns, 31, generator(0)),
    ):
        with pytest.raises(RefusedInput, match=message):
            attempt()
    with pytest.raises(RefusedInput, match="n_words must be at least 1; got 0"):
        initial_mixture(columns, 0, 0)
    with pytest.raises(RefusedInput, match="init must be 'random' or 'kmeans\\+\\+'; got 'kmeans'"):
        initial_mixture(columns, 3, 0, "kmeans")
    with pytest.raises(RefusedInput, match="columns must differ from each other; all 30 are the same"):
        initial_mixture(torch.ones(30, 4), 1, 0)
    columns[3, 3] = float("nan")
    with pytest.raises(NonFiniteActivations, match="row 3"):
        initial_mixture(columns, 3, 0)
