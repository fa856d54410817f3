"""Unions of masks, means of words, strongest images: against what plain loops over pixels give."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gmm_ops.errors import RefusedInput
from gmm_ops.units.unions import (
    bootstrap_weights,
    greedy_union,
    interval,
    pattern_sets,
    pooled_iou,
    strongest,
)
from gmm_ops.units.unit_sums import StrongestImages, WordSums


def drawn_pixels(seed: int, masks: int = 5, pixels: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Masks (M, n) and a concept (n,) that some of them cover in part."""
    random = np.random.default_rng(seed)
    concept = np.arange(pixels) < pixels // 3
    shown = random.random((masks, pixels)) < np.where(concept, 0.35, 0.04)
    return shown, concept


def patterns_of(shown: np.ndarray, concept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    bits = (shown * (1 << np.arange(len(shown)))[:, None]).sum(axis=0)
    kinds, place = np.unique(bits, return_inverse=True)
    inside = np.bincount(place, concept, len(kinds)).astype(np.int64)
    return pattern_sets(kinds, len(shown)), inside, np.bincount(place, minlength=len(kinds))


def pixel_iou(shown: np.ndarray, members: tuple[int, ...], concept: np.ndarray) -> float:
    union = shown[list(members)].any(axis=0)
    return float((union & concept).sum() / (union | concept).sum())


@pytest.mark.parametrize("seed", range(6))
def test_a_greedy_union_is_that_of_the_pixels(seed: int) -> None:
    shown, concept = drawn_pixels(seed)
    found = greedy_union(*patterns_of(shown, concept), int(concept.sum()), 5)
    chosen: list[int] = []
    while True:
        rest = [mask for mask in range(5) if mask not in chosen]
        scores = {mask: pixel_iou(shown, (*chosen, mask), concept) for mask in rest}
        best = max(scores, key=lambda mask: scores[mask], default=None)
        if best is None or scores[best] <= (pixel_iou(shown, tuple(chosen), concept) if chosen else 0):
            break
        chosen.append(best)
    assert found.members == tuple(chosen)
    for size, iou in enumerate(found.iou, start=1):
        assert iou == pytest.approx(pixel_iou(shown, found.members[:size], concept), abs=1e-12)
    assert all(one < other for one, other in itertools.pairwise(found.iou))


def test_disjoint_masks_are_patterns_of_one_mask() -> None:
    random = np.random.default_rng(0)
    word, concept = random.integers(0, 6, 500), random.random(500) < 0.3
    shown = word == np.arange(6)[:, None]
    inside, area = np.bincount(word, concept, 6).astype(np.int64), np.bincount(word, minlength=6)
    label = int(concept.sum())
    assert greedy_union(np.eye(6, dtype=bool), inside, area, label, 6) == greedy_union(
        *patterns_of(shown, concept), label, 6
    )


def test_nothing_to_take() -> None:
    none = greedy_union(np.eye(3, dtype=bool), np.zeros(3, np.int64), np.ones(3, np.int64), 7, 3)
    assert none.members == ()
    assert greedy_union(np.zeros((0, 4), bool), np.zeros(0, np.int64), np.zeros(0, np.int64), 7, 3).members == ()
    with pytest.raises(RefusedInput, match="shown: must have a row for each of 2 patterns and 2 areas, got 3"):
        greedy_union(np.eye(3, dtype=bool), np.zeros(2, np.int64), np.zeros(2, np.int64), 1, 1)


def test_the_interval_is_the_bootstraps() -> None:
    random = np.random.default_rng(5)
    union = random.integers(50, 90, (60, 1))
    both = random.binomial(union, 0.4)
    weights = bootstrap_weights(60, seed=1)
    assert (weights.sum(axis=1) == 60).all()
    np.testing.assert_array_equal(weights, bootstrap_weights(60, seed=1))
    by_hand = [(row @ both)[0] / (row @ union)[0] for row in weights[:50]]
    np.testing.assert_allclose(pooled_iou(both, union, weights)[:50, 0], by_hand, rtol=1e-14)
    found = interval(float(pooled_iou(both, union)[0, 0]), pooled_iou(both, union, weights)[:, 0])
    assert found.low < both.sum() / union.sum() == found.value < found.high
    # A ratio of 60 sums of about 70 pixels, each right with probability .4.
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(0.24 / (60 * 70)), rel=0.3)


def test_the_strongest_masks_are_cut_where_they_are_best() -> None:
    iou = np.array([[0.1, 0.3], [0.0, 0.0], [0.5, 0.2], [0.2, 0.2]])
    places, shares = strongest(iou, 2)
    assert (places.tolist(), shares.tolist()) == ([2, 0], [0, 1])
    assert strongest(iou, 9)[0].tolist() == [2, 0, 3]


def test_means_of_words_are_exact_in_any_split() -> None:
    random = np.random.default_rng(2)
    columns = random.normal(0, 3, (900, 4)).astype(np.float16)
    words = random.integers(-1, 6, 900)
    words[words == 4] = 5
    whole, parts = WordSums.zero(6, 4), []
    whole.add(columns, words)
    for part in np.split(np.arange(900), [1, 500, 777]):
        parts.append(WordSums.zero(6, 4))
        parts[-1].add(columns[part], words[part])
    assert sum(parts[1:], start=parts[0]) == whole
    mean, spread = columns.astype(np.float64).mean(0), columns.astype(np.float64).std(0)
    spread[3] = 0
    scores = whole.z_scores(mean, spread)
    by_hand = (columns[words == 2].astype(np.float64).mean(0) - mean)[:3] / spread[:3]
    np.testing.assert_allclose(scores[2, :3], by_hand, rtol=1e-12)
    assert np.isnan(scores[4]).all(), "a word without a column"
    assert (scores[[0, 1, 2, 3, 5], 3] == 0).all(), "a unit that does not vary"


def test_the_strongest_images_merge_in_any_order() -> None:
    random = np.random.default_rng(3)
    values = random.integers(0, 5, (30, 4)).astype(np.float64)
    values[:, 3] = -np.inf
    whole = StrongestImages.from_batch(values, range(30), 3)
    parts = [StrongestImages.from_batch(values[part], part.tolist(), 3) for part in np.split(np.arange(30), [1, 2, 20])]
    merged = StrongestImages.zero(4, 3)
    for part in reversed(parts):
        merged = merged.merge(part)
    assert merged == whole
    for unit in range(3):
        expected = sorted(range(30), key=lambda image: (-values[image, unit], image))[:3]
        assert whole.images[unit].tolist() == expected
