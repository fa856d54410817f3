"""A rough product leaves out no word that matters, however badly 8 bits of mantissa know its score."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmm_ops.mixtures.kept_words import KeptWords, neglected_below
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.screening import Screen
from gmm_ops.mixtures.slices import WordSlice
from gmm_ops.mixtures.statistics import em_pass
from gmm_ops.mixtures.tiles import slice_weights, tiles
from tests.gmm_ops.drawn_columns import log_joints

ENGINES = ("dense", "sparse", "screened")


def words_of(n_words: int, units: int, spread: float, seed: int) -> Mixture:
    """Words whose deviations differ by ``spread`` orders of magnitude, some far from the centre, one empty."""
    source = torch.Generator().manual_seed(seed)
    mean = torch.randn(n_words, units, generator=source, dtype=torch.float64)
    mean[::7] *= 30.0
    deviation = 10.0 ** (-spread * torch.rand(n_words, units, generator=source, dtype=torch.float64))
    share = torch.rand(n_words, generator=source, dtype=torch.float64)
    share[3] = 0.0
    return Mixture((share / share.sum()).log(), mean, deviation**2, torch.zeros(units, dtype=torch.float64))


def near(mixture: Mixture, n: int, seed: int) -> torch.Tensor:
    """Columns of the words, and columns between two of them."""
    columns, word = mixture.sample(n, seed)
    other = mixture.mean[word.roll(1)]
    blend = torch.rand(n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * (word % 2)[:, None]
    return (columns + blend * (other - columns)).float()


@pytest.mark.parametrize("spread", [0.5, 2.0, 3.5])
@pytest.mark.parametrize(("n_words", "units"), [(40, 16), (150, 130), (65, 512)])
def test_every_word_that_matters_is_kept(n_words, units, spread):
    mixture = words_of(n_words, units, spread, seed=n_words)
    columns = near(mixture, 200, seed=1)
    tile = next(tiles(columns, mixture.center, 256))
    kept, best = Screen.of(WordSlice.whole(mixture)).kept(tile.features[:200])
    exact = log_joints(mixture, columns).numpy()
    cut = neglected_below(n_words)
    for i in range(200):
        found = kept.word[kept.first[i] : kept.first[i + 1]]
        top = exact[i].max()
        room = 1e-4 * (1.0 + abs(top))  # distances are float32 sums
        surely, perhaps = ((exact[i] >= top - cut + side).nonzero()[0] for side in (room, -room))
        assert set(surely) <= set(found) <= set(perhaps)
        assert float(best[i]) == pytest.approx(top, abs=room)
        assert list(found) == sorted(found)


def test_lists_equal_those_of_all_scores():
    mixture = words_of(90, 256, 0.5, seed=4)
    tile = next(tiles(near(mixture, 256, seed=2), mixture.center, 256))
    place = WordSlice.whole(mixture)
    rough, _ = Screen.of(place).kept(tile.features)
    full, _ = KeptWords.of(tile.scored(slice_weights(place)).score, 90)
    assert rough.first.tolist() == full.first.tolist()
    assert rough.word.tolist() == full.word.tolist()


def test_lists_grow_where_every_word_matters():
    mixture = Mixture(torch.zeros(50).double() - np.log(50), torch.zeros(50, 140), torch.ones(50, 140))
    columns = torch.randn(64, 140, generator=torch.Generator().manual_seed(0))
    tile, place = next(tiles(columns, mixture.center, 64)), WordSlice.whole(mixture)
    for kept, _ in (
        Screen.of(place).kept(tile.features),
        KeptWords.of(tile.scored(slice_weights(place)).score, 50),
    ):
        assert kept.first.tolist() == [50 * i for i in range(65)]


@pytest.mark.parametrize("engine", ["sparse", "screened"])
def test_engines_give_the_sums_of_the_dense_product(engine):
    mixture = words_of(120, 160, 0.5, seed=5)
    columns = near(mixture, 3_000, seed=3)
    dense, other = (em_pass(mixture, columns, engine=chosen) for chosen in ("dense", engine))
    assert other.log_likelihood == pytest.approx(dense.log_likelihood, rel=1e-6)
    torch.testing.assert_close(other.s0, dense.s0, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(other.s1, dense.s1, rtol=1e-4, atol=1e-2)


def test_survivors_are_scored_better_than_by_a_float32_product():
    mixture = words_of(90, 256, 0.5, seed=7)
    columns = near(mixture, 1_000, seed=5)
    exact = np.logaddexp.reduce(log_joints(mixture, columns).numpy(), axis=1).sum()
    wrong = {engine: abs(em_pass(mixture, columns, engine=engine).log_likelihood - exact) for engine in ENGINES}
    assert wrong["screened"] < 1e-7 * abs(exact)
    assert wrong["screened"] < 0.2 * min(wrong["dense"], wrong["sparse"])


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_change_no_bit(engine):
    mixture = words_of(60, 150, 0.5, seed=6)
    columns = near(mixture, 5_000, seed=4)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(em_pass(mixture, columns, engine=engine, tile_rows=256))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert other == found[0]
