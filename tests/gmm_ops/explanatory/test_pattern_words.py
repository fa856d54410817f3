"""Words at patterns against loops; laws of chance; words that are planted are found, and pairs that are planted too."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gmm_ops.errors import RefusedInput
from gmm_ops.explanatory.pattern_measures import jackknife_interval
from gmm_ops.explanatory.pattern_words import (
    TopWords,
    WordTally,
    area_shares,
    control_pairs,
    nearest_grid,
    pair_means,
    smoothed_ratios,
    words_at,
)
from gmm_ops.explanatory.responses import PositionGrid
from tests.references import pattern_words as twin

GRID = PositionGrid(5, 4, (0.12, 0.02), (0.2, 0.3))
"""Not centred: the middles of its first and last columns lie near the edges."""
GROUPS, WORDS = 3, 6


def word_maps(images: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(-1, WORDS, (images, 5, 4)).astype(np.int32))


def places(images: int = 7, patterns: int = 9, seed: int = 1) -> torch.Tensor:
    found = np.random.default_rng(seed).uniform(-0.1, 1.1, (images, patterns, 2))
    found[2, 3] = np.nan
    return torch.from_numpy(found)


def tallied(images: int = 30, patterns: int = 9, seed: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(seed)
    words = torch.from_numpy(generator.integers(-1, WORDS, (images, patterns)))
    words[:, 4] = -1
    shares = torch.from_numpy(generator.dirichlet(np.ones(WORDS), images))
    shares[5] = 0
    return words, shares, torch.from_numpy(generator.integers(0, GROUPS, images))


def test_words_at_places_are_those_of_the_loops() -> None:
    maps, where = word_maps(), places()
    wanted = [
        [twin.word_at(one.numpy(), GRID, place) for place in some.tolist()]
        for one, some in zip(maps, where, strict=True)
    ]
    found = words_at(maps, GRID, where)
    assert found.tolist() == wanted
    assert found[2, 3] == -1
    assert len(set(found.flatten().tolist())) == WORDS + 1


def test_area_shares_are_those_of_a_fine_raster() -> None:
    maps = word_maps(4)
    boxes = torch.tensor(
        [[0.0, 0.0, 1.0, 1.0], [0.21, 0.1, 0.6, 0.9], [-0.3, 0.5, 0.4, 1.4], [0.5, 0.5, 0.52, 0.51]]
    ).double()
    found = area_shares(maps, GRID, boxes, WORDS)
    for row in (0, 1, 3):
        wanted = twin.area_share(maps[row].numpy(), GRID, boxes[row].tolist(), WORDS, 60)
        assert found[row].numpy() == pytest.approx(wanted, abs=0.02)
    assert found[2] == pytest.approx(area_shares(maps[[2]], GRID, torch.tensor([[0, 0.5, 0.4, 1]]), WORDS)[0])
    assert found.sum(dim=1).tolist() == pytest.approx([1, 1, 1, 1])


def test_a_place_drawn_anywhere_has_the_words_of_the_area() -> None:
    maps, box = word_maps(1, seed=4), torch.tensor([[0.1, 0.2, 0.8, 0.95]]).double()
    drawn = torch.from_numpy(np.random.default_rng(0).uniform((0.1, 0.2), (0.8, 0.95), (1, 40_000, 2)))
    found = words_at(maps, GRID, drawn)[0]
    shares = torch.bincount(found[found >= 0], minlength=WORDS) / int((found >= 0).sum())
    assert shares.numpy() == pytest.approx(area_shares(maps, GRID, box, WORDS)[0].numpy(), abs=0.01)


def test_no_box_and_no_words_have_no_shares() -> None:
    maps = word_maps(3)
    maps[1] = -1
    boxes = torch.tensor([[math.nan] * 4, [0.0, 0, 1, 1], [1.2, 0, 1.5, 1]])
    assert area_shares(maps, GRID, boxes, WORDS).sum() == 0


def test_tallies_and_top_words_are_those_of_the_loops() -> None:
    words, shares, groups = tallied()
    found = WordTally.from_batch(words, shares, groups, GROUPS)
    counts, chance = twin.tally(words.numpy(), shares.numpy(), groups.tolist(), GROUPS)
    assert found.counts.tolist() == counts.tolist()
    assert found.chance.numpy() == pytest.approx(chance)
    top = TopWords.of(found.left_out(), 0.7)
    for row in range(GROUPS + 1):
        kept = [group for group in range(GROUPS) if group != row - 1]
        for pattern in range(words.shape[1]):
            wanted = twin.top_word(counts[kept, pattern].sum(0), chance[kept, pattern].sum(0), 0.7)
            own = [one[row, pattern].item() for one in (top.words, top.objects, top.shares, top.ratios)]
            assert own == pytest.approx(wanted, nan_ok=True)


def test_tallies_add_up_whatever_the_cut() -> None:
    words, shares, groups = tallied()
    whole = WordTally.from_batch(words, shares, groups, GROUPS)
    parts = [
        WordTally.from_batch(words[some], shares[some], groups[some], GROUPS) for some in (slice(0, 11), slice(11, 30))
    ]
    joined = parts[0] + parts[1] + WordTally.zero(GROUPS, words.shape[1], WORDS)
    assert joined.counts.equal(whole.counts)
    assert joined.chance.numpy() == pytest.approx(whole.chance.numpy())
    some = WordTally.from_batch(words[:, 3:7], shares, groups, GROUPS)
    assert some.counts.equal(whole.counts[:, 3:7])


def test_without_smoothing_the_ratio_is_plain() -> None:
    counts, prior = torch.tensor([3.0, 1.0, 0.0]), torch.tensor([0.25, 0.75, 0.0])
    assert smoothed_ratios(counts, prior, 0).tolist() == pytest.approx(
        [math.log2(3), math.log2(1 / 3), math.nan], nan_ok=True
    )
    assert smoothed_ratios(counts, counts / 4).tolist()[:2] == pytest.approx([0, 0])


def test_planted_words_are_found_and_random_places_have_none() -> None:
    """Word d lies in one quarter of every photo, wherever that is, and pattern d sits on it."""
    generator = np.random.default_rng(0)
    grid = PositionGrid(8, 8, (1 / 16, 1 / 16), (1 / 8, 1 / 8))
    quarter = np.kron(np.arange(4).reshape(2, 2), np.ones((4, 4), int))
    order = np.stack([generator.permutation(4) for _ in range(60)])
    maps = torch.from_numpy(order[:, quarter])
    corners = torch.tensor([[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]])
    own = corners[torch.from_numpy(order.argsort(axis=1))] + torch.from_numpy(generator.uniform(-0.2, 0.2, (60, 4, 2)))
    shares = area_shares(maps, grid, torch.tensor([[0.0, 0, 1, 1]] * 60), 4)
    groups = torch.arange(60) % GROUPS
    anywhere = torch.from_numpy(generator.random((60, 4, 2)))
    top, drawn = (
        TopWords.of(WordTally.from_batch(words_at(maps, grid, one), shares, groups, GROUPS).left_out())
        for one in (own, anywhere)
    )
    assert top.words.tolist() == [[0, 1, 2, 3]] * (GROUPS + 1)
    assert bool((top.shares == 1).all())
    assert top.ratios[0].tolist() == pytest.approx([math.log2((60 + 0.25) / 61 / 0.25)] * 4)
    assert float(drawn.ratios[0].abs().max()) < 1


def test_pair_means_are_those_of_the_loops() -> None:
    generator = np.random.default_rng(3)
    lower, upper = (torch.from_numpy(generator.integers(-1, count, (4, 12))) for count in (6, 5))
    values = torch.from_numpy(generator.normal(size=(5, 6)))
    values[2, 3] = torch.nan
    pairs = torch.from_numpy(generator.integers(0, 12, (40, 2)))
    found = pair_means(lower, upper, pairs, values)
    for row in range(4):
        wanted = twin.pair_mean(lower[row].tolist(), upper[row].tolist(), pairs.tolist(), values.numpy())
        assert float(found[row]) == pytest.approx(wanted)
    assert pair_means(lower, upper, pairs[:0], values).isnan().all()


def test_planted_edges_stand_out_and_controls_keep_what_they_say() -> None:
    """Pattern v has word v % 5 in either layer, and parents with the same word."""
    means = np.random.default_rng(0).random((50, 2)), np.random.default_rng(1).random((40, 2))
    pairs = np.array([(low, high) for low in range(50) for high in range(30) if low % 5 == high % 5])
    known = np.arange(50) < 45, np.arange(40) < 35
    words = torch.arange(50)[None] % 5, torch.arange(40)[None] % 5
    controls = control_pairs(pairs, means, known, [0])
    same = torch.eye(5).double()
    assert float(pair_means(*words, torch.from_numpy(pairs), same)) == 1
    for name, some in controls.items():
        assert some.shape == pairs.shape
        assert float(pair_means(*words, torch.from_numpy(some), same)) < 0.45, name
    assert (np.sort(controls["shuffled"], axis=0) == np.sort(pairs, axis=0)).all()
    assert (controls["near"][:, 0] == pairs[:, 0]).all()
    assert set(controls["near"][:, 1]) <= set(pairs[:, 1])
    assert (controls["near"][:, 1] != pairs[:, 1]).all()
    lengths = [
        np.linalg.norm(means[0][some[:, 0]] - means[1][some[:, 1]], axis=1) for some in (pairs, controls["near"])
    ]
    assert np.abs(lengths[0] - lengths[1]).mean() < 0.03
    assert controls["random"][:, 0].max() < 45
    assert controls["random"][:, 1].max() < 35
    empty = control_pairs(pairs[:0], means, known, [0])
    assert all(some.shape == (0, 2) for some in empty.values())


def test_layers_are_matched_by_stride() -> None:
    grids = [PositionGrid(one, one, (0.5 / one,) * 2, (1 / one,) * 2) for one in (56, 28, 28, 14)]
    assert [nearest_grid(one, grids) for one in (*grids, PositionGrid(7, 7, (0.1, 0.1), (1 / 7, 1 / 7)))] == [
        0,
        2,
        2,
        3,
        3,
    ]
    with pytest.raises(RefusedInput, match="others: must be at least 1"):
        nearest_grid(grids[0], [])


def test_intervals_are_those_of_the_loops() -> None:
    values = [0.3, 0.35, 0.28, 0.31]
    assert jackknife_interval(0.31, values) == pytest.approx(twin.jackknife(0.31, values))
    assert jackknife_interval(0.31, [*values, math.nan]) == jackknife_interval(0.31, values)
    assert all(math.isnan(one) for one in (*jackknife_interval(0.3, [0.3]), *jackknife_interval(math.nan, values)))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(RefusedInput, match="maps: must have shape"):
        words_at(word_maps()[:, :3], GRID, places())
    with pytest.raises(RefusedInput, match="places: must be of the 7 images"):
        words_at(word_maps(), GRID, places()[:3])
    with pytest.raises(RefusedInput, match="maps: must hold words below 3"):
        area_shares(word_maps(), GRID, torch.zeros(7, 4), 3)
