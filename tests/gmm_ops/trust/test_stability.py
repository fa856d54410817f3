"""Folds, resamplings, and Algorithm 1 on resampled counts against loops and against ``mine`` itself."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from gmm_ops.errors import RefusedInput
from gmm_ops.graphs.cooccurrence import SparseCounts, count_pairs
from gmm_ops.graphs.inference_graph import log_ratios, rank_words
from gmm_ops.graphs.windows import Window
from gmm_ops.trust.stability import ResampledPairs, Resamplings, deal_folds, times_chosen
from tests.references import intervals as slow_counts
from tests.references import stability as slow

FOLDS = 4


class Case(NamedTuple):
    """Word maps of two layers and the predictions, and the pairs of layers from the output's downwards."""

    predicted: np.ndarray
    groups: np.ndarray
    pairs: list[tuple[torch.Tensor, torch.Tensor, Window, int, int]]

    def counts(self, groups: np.ndarray) -> list[SparseCounts]:
        return [SparseCounts.from_batch(*pair, torch.from_numpy(groups)) for pair in self.pairs]


def made_case(seed: int, images: int = 40, classes: int = 3) -> Case:
    random = np.random.default_rng(seed)
    predicted = random.integers(0, classes, images)
    maps = []
    for n_words, side in ((5, 3), (6, 5)):
        chances = random.dirichlet(np.full(n_words, 0.5), classes)[predicted] * 0.5
        chances += 0.5 * random.dirichlet(np.full(n_words, 0.5), images)
        maps.append(torch.from_numpy(np.stack([random.choice(n_words, (side, side), p=one) for one in chances])))
    output = torch.from_numpy(predicted)[:, None, None]
    pairs = [(output, maps[0], Window.whole(), classes, 5), (maps[0], maps[1], Window.square(1, 0, 3), 5, 6)]
    folds = deal_folds(np.arange(images) + 1000, predicted, FOLDS, seed)
    return Case(predicted, predicted * FOLDS + folds, pairs)


FREQUENCIES = (torch.tensor([9, 1, 3, 2, 5]), torch.tensor([1, 2, 3, 4, 5, 6]))


def resampled(
    case: Case, drawn: Resamplings, pseudo_count: float = 1.0, frequency: bool = False
) -> list[ResampledPairs]:
    sizes = [pair[3:] for pair in case.pairs]
    priors = [one / one.sum().double() if frequency else None for one in FREQUENCIES]
    parts = zip(case.counts(case.groups), sizes, priors, strict=True)
    return [ResampledPairs(one, drawn, *size, prior, pseudo_count) for one, size, prior in parts]


@pytest.mark.parametrize(("top", "pseudo_count"), [(1, 1.0), (2, 0.0), (3, 1.0)])
def test_times_chosen_equal_the_loop_over_resamplings(top: int, pseudo_count: float) -> None:
    case = made_case(top)
    drawn = Resamplings.draw(case.groups, FOLDS, 12, seed=5)
    images = [slow_counts.counts_of_images(*pair) for pair in case.pairs]
    weights = drawn.drawn[np.searchsorted(drawn.groups, case.groups)].T.tolist()
    for root in range(3):
        times = times_chosen(root, resampled(case, drawn, pseudo_count), top=top)
        expected = slow.times_chosen(root, images, case.predicted.tolist(), weights, top, pseudo_count)
        assert [{word: n for word, n in enumerate(one.tolist()) if n} for one in times] == expected


@pytest.mark.parametrize(("positive_only", "frequency"), [(False, False), (True, False), (False, True)])
def test_every_resampling_chooses_what_mine_does(positive_only: bool, frequency: bool) -> None:
    case = made_case(7)
    drawn = Resamplings.draw(case.groups, FOLDS, 9, seed=1)
    counts = case.counts(case.groups)
    fixed = [count_pairs(*(part[:1] for part in pair[:2]), *pair[2:]) for pair in case.pairs]
    expected = [[np.zeros(size, np.int64) for size in (5, 6)] for _ in range(2)]
    for weights in drawn.drawn.T:
        of_row = dict(zip(drawn.groups.tolist(), weights.tolist(), strict=True))
        totals, own = [], []
        for one, pair, prior in zip(counts, case.pairs, FREQUENCIES, strict=True):
            total, of_class = torch.zeros(pair[3:], dtype=torch.int64), torch.zeros(pair[3:], dtype=torch.int64)
            for group in drawn.groups.tolist():
                total += of_row[group] * one.dense(group, *pair[3:])
                of_class += of_row[group] * one.dense(group, *pair[3:]) * (group // FOLDS == 2)
            totals.append(log_ratios(total, "frequency", prior) if frequency else log_ratios(total))
            own.append(of_class)
        for found, (root, q) in zip(expected, ((2, own), (int(case.predicted[0]), fixed)), strict=True):
            (layers,) = rank_words(root, q, totals, (3,), positive_only=positive_only)
            for tally, words in zip(found, layers, strict=False):
                tally[[word for word, _ in words]] += 1
    pairs = resampled(case, drawn, frequency=frequency)
    for found, root, q in zip(expected, (2, int(case.predicted[0])), (None, fixed), strict=True):
        times = times_chosen(root, pairs, q, 3, positive_only)
        assert [one.tolist() for one in times] == [one.tolist() for one in found]


def test_without_resampling_it_is_mine() -> None:
    """Every group drawn once: the words that ``mine`` chooses, always."""
    case = made_case(8)
    drawn = replace(Resamplings.draw(case.groups, FOLDS, 2), drawn=np.ones((len(np.unique(case.groups)), 2), np.int64))
    of_class = case.counts(case.predicted)
    totals = [log_ratios(one.total(*pair[3:])) for one, pair in zip(of_class, case.pairs, strict=True)]
    for root in range(3):
        own = [one.dense(root, *pair[3:]) for one, pair in zip(of_class, case.pairs, strict=True)]
        (layers,) = rank_words(root, own, totals, (3,))
        times = times_chosen(root, resampled(case, drawn))
        assert [sorted(word for word, _ in words) for words in layers] == [np.flatnonzero(n).tolist() for n in times]
        assert all(set(n.tolist()) <= {0, 2} for n in times)


def test_folds_together_are_the_counts_as_before() -> None:
    case = made_case(9)
    for folded, plain in zip(case.counts(case.groups), case.counts(case.predicted), strict=True):
        assert SparseCounts.from_rows(folded.group // FOLDS, folded.upper, folded.lower, folded.count) == plain


def test_folds_are_dealt_evenly_whatever_the_order() -> None:
    random = np.random.default_rng(0)
    images, classes = random.permutation(10_000)[:3_000], random.integers(0, 7, 3_000)
    folds = deal_folds(images, classes, 20, seed=3)
    for label in range(7):
        sizes = np.bincount(folds[classes == label], minlength=20)
        assert sizes.max() - sizes.min() <= 1
    order = random.permutation(len(images))
    assert np.array_equal(deal_folds(images[order], classes[order], 20, seed=3), folds[order])
    assert not np.array_equal(deal_folds(images, classes, 20, seed=4), folds)
    # No run of images, as a shard is, lies in one fold.
    assert len(np.unique(deal_folds(np.arange(200), np.zeros(200, np.int64), 20, 0)[:30])) > 12
    assert len(deal_folds(images[:0], classes[:0])) == 0


def test_resamplings_draw_every_class_by_itself() -> None:
    groups = np.array([0, 1, 2, 3, 5, 6, 20])  # four folds of class 0, two images of class 1, one of class 5
    drawn = Resamplings.draw(groups, FOLDS, 500, seed=2)
    assert drawn.drawn[:4].sum(0).tolist() == [4] * 500
    assert drawn.drawn[4:6].sum(0).tolist() == [2] * 500
    assert drawn.drawn[6].tolist() == [1] * 500
    assert drawn.drawn[0].mean() == pytest.approx(1, abs=0.15)
    assert [drawn.folds_of(label) for label in (0, 1, 2, 5)] == [4, 2, 0, 1]
    fewer = Resamplings.draw(groups[:4], FOLDS, 500, seed=2)
    assert np.array_equal(fewer.drawn, drawn.drawn[:4])  # other classes change nothing


def test_what_cannot_be_resampled_is_refused() -> None:
    with pytest.raises(RefusedInput, match="folds: must be at least 2, got 1; with one fold every resampling"):
        deal_folds(np.arange(3), np.zeros(3, np.int64), 1)
    case = made_case(10)
    drawn = Resamplings.draw(case.groups[case.predicted > 0], FOLDS, 3)
    with pytest.raises(RefusedInput, match="must be of groups that are drawn"):
        resampled(case, drawn)
