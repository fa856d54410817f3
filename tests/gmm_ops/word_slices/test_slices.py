"""Slices tile one dictionary, start as its parts, and say what is wrong on every actor alike."""

from __future__ import annotations

import pytest
import torch

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.fitting.collective import Lone, gathered, log_sum_exp
from gmm_ops.mixtures.gaussian import score_parameters
from gmm_ops.mixtures.memory import em_bytes, training_bytes
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.seeding import initial_mixture, initial_slice
from gmm_ops.mixtures.slices import WordSlice, joined, refuse_broken_slices, slice_bounds
from gmm_ops.mixtures.tiles import TILE_BYTES, rows_per_tile, slice_weights
from tests.gmm_ops.drawn_columns import clustered, warm_mixture
from tests.gmm_ops.word_slices.thread_slices import on_slices
from tests.references import word_slices as reference


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    return warm_mixture(clustered(700, 12, 9), 23)


def assert_same_bits(one: Mixture, two: Mixture) -> None:
    for name in ("log_pi", "mean", "variance", "center"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name


@pytest.mark.parametrize("world", [1, 2, 5, 23])
def test_slices_joined_are_the_dictionary(mixture, world):
    slices = [WordSlice.of(mixture, rank, world) for rank in range(world)]
    assert_same_bits(joined(slices[::-1]), mixture)
    sizes = [words.own.n_words for words in slices]
    assert max(sizes) - min(sizes) <= 1
    assert slices[-1].last == slices[0].n_words == 23


@pytest.mark.parametrize("world", [1, 2, 5])
def test_every_slice_starts_as_its_part_of_the_whole_start(world):
    columns = clustered(900, 7, 4).half()
    slices = [initial_slice(columns, 40, 11, rank, world, var_floor=1e-3) for rank in range(world)]
    assert_same_bits(joined(slices), initial_mixture(columns, 40, 11, var_floor=1e-3))


def test_weights_are_those_of_the_whole_dictionary():
    columns = clustered(2_500, 5, 4)
    mixture = initial_mixture(columns, 2_100, 0)
    whole = score_parameters(mixture.log_pi, mixture.mean - mixture.center, mixture.variance).weights
    for rank in range(2):
        words = WordSlice.of(mixture, rank, 2)
        assert words.own.n_words > 1_024  # more than are built at once
        assert torch.equal(slice_weights(words).weights, whole[words.first : words.last])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_log_sum_exp_over_slices_equals_the_loop(world):
    source = torch.Generator().manual_seed(0)
    score = 300.0 * torch.randn(20, 12, generator=source, dtype=torch.float64) - 1e4
    score[:, :4] = -torch.inf  # a first slice of nothing but empty words
    score[3, 4:] = -1e4
    parts = score.tensor_split(world, dim=1)
    got = on_slices(world, lambda reduce: log_sum_exp(torch.logsumexp(parts[reduce.rank], dim=1), reduce))
    expected = [reference.log_sum_exp([part[i].tolist() for part in parts]) for i in range(20)]
    for found in got:
        assert torch.equal(found, got[0])
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=0)


def test_gathering_keeps_every_bit():
    own = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    own[1, 2] = torch.inf
    for found in on_slices(3, lambda reduce: gathered(own[reduce.rank], reduce)):
        assert torch.equal(found, own)


def test_a_tile_is_bounded_and_the_same_on_every_slice():
    cpu = torch.device("cpu")
    assert rows_per_tile(16_384, 2, cpu) * 4 * 8_192 <= TILE_BYTES
    assert rows_per_tile(16_385, 2, cpu) % 64 == 0
    assert rows_per_tile(100, 2, cpu) == 4_096
    assert rows_per_tile(10**9, 2, cpu) == 64


def test_projected_bytes_halve_with_the_slices():
    tiles = em_bytes(16_384, 10**9, 512)
    assert em_bytes(16_384, 4, 512) - tiles == pytest.approx((em_bytes(16_384, 2, 512) - tiles) / 2, rel=1e-3)
    assert em_bytes(16_384, 2, 512) < em_bytes(16_384, 2, 512, polyak=True) < 2**30
    assert em_bytes(16_384, 2, 512) < training_bytes(16_384, 2, 512, 10) < 1.25 * 2**30


# --- bad input ---


def test_a_dictionary_of_fewer_words_than_slices_is_refused():
    with pytest.raises(RefusedInput, match=r"world must not be larger.*got 5 slices for 3 words.*fewer actors"):
        slice_bounds(3, 0, 5)
    with pytest.raises(RefusedInput, match=r"rank must be from 0 to world - 1 = 1; got 2"):
        slice_bounds(30, 2, 2)


def test_a_missing_slice_is_refused(mixture):
    with pytest.raises(RefusedInput, match=r"every word of the dictionary once; got words \[\(0, 7\), \(15, 23\)\]"):
        joined([WordSlice.of(mixture, rank, 3) for rank in (0, 2)])
    with pytest.raises(RefusedInput, match="slices must cover every word"):
        joined([])


def test_slices_of_another_cut_are_refused_by_all(mixture):
    def work(reduce):
        with pytest.raises(RefusedInput, match=r"one dictionary once.*\(0, 11, 23\), \(7, 15, 23\).*same n_words"):
            refuse_broken_slices(WordSlice.of(mixture, reduce.rank, 2 + reduce.rank), reduce)

    on_slices(2, work)


def test_slices_about_two_centres_are_refused_by_all(mixture):
    def work(reduce):
        words = WordSlice.of(mixture, reduce.rank, 2)
        moved = Mixture(words.own.log_pi, words.own.mean, words.own.variance, words.own.center + 0.5 * reduce.rank)
        with pytest.raises(RefusedInput, match=r"one centre; they differ by up to 0\.5.*same sample"):
            refuse_broken_slices(words.with_words(moved), reduce)

    on_slices(2, work)


def test_slices_that_fit_together_pass(mixture):
    on_slices(3, lambda reduce: refuse_broken_slices(WordSlice.of(mixture, reduce.rank, 3), reduce))
    refuse_broken_slices(WordSlice.of(mixture, 0, 1), Lone())


def test_a_start_that_cannot_be_is_refused():
    columns = clustered(50, 4, 3)
    with pytest.raises(RefusedInput, match="got 51 words for 50 columns"):
        initial_slice(columns, 51, 0, 0, 2)
    with pytest.raises(RefusedInput, match=r"all 50 are the same"):
        initial_slice(torch.ones(50, 4), 5, 0, 0, 2)
    columns[7, 1] = torch.nan
    with pytest.raises(NonFiniteActivations, match="first: row 7"):
        initial_slice(columns, 5, 0, 0, 2)
