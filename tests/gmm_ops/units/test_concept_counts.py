"""Overlaps of units and words with concepts: NetDissect-Lite's integers, laws, caps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.nn import functional

from gmm_ops.errors import RefusedInput
from gmm_ops.units.code_histograms import CodeHistograms
from gmm_ops.units.concept_counts import (
    ConceptTally,
    LabelCounts,
    OverlapCounts,
    iou_cap,
    mask_patterns,
    word_mask,
)
from tests.references.dissection import lite_tally, nearest, upsampled

SHARES = (0.05, 0.1, 0.2, 0.4)
CATEGORIES = [0, 0, 1, 1, 1, 2]


def drawn_maps(images: int, units: int, low: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth and rectified, with a unit that is nowhere positive."""
    noise = torch.randn(images, units, *low, generator=torch.Generator().manual_seed(seed))
    smooth = functional.avg_pool2d(functional.pad(noise, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    maps = smooth.relu().half().numpy()
    maps[:, 0] = 0
    return maps


def drawn_labels(images: int, high: tuple[int, int], layers: int, seed: int = 0) -> list[np.ndarray]:
    """Boxes; the last image has none, the one before none of category 2."""
    random = np.random.default_rng(seed)
    found = []
    for image in range(images):
        labels = np.zeros((layers, *high), np.uint16)
        for layer in labels if image < images - 1 else ():
            for _ in range(3):
                y, x = random.integers(0, high[0] - 2), random.integers(0, high[1] - 2)
                top = len(CATEGORIES) - (image == images - 2)
                layer[y : y + 9, x : x + 7] = random.integers(1, top + 1)
        found.append(labels)
    return found


def tallied(
    maps: np.ndarray, labels: Sequence[np.ndarray], thresholds: np.ndarray, images: Sequence[int]
) -> tuple[OverlapCounts, LabelCounts]:
    into = OverlapCounts.zero(len(thresholds), thresholds.shape[1], len(CATEGORIES), 3)
    total = LabelCounts.zero(len(CATEGORIES), 3)
    for image in images:
        tally = ConceptTally(CATEGORIES, labels[image])
        tally.labels(total)
        tally.units(into, maps[image], thresholds)
    return into, total


def limits(maps: np.ndarray) -> np.ndarray:
    columns = torch.from_numpy(maps).permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
    return CodeHistograms.from_batch(columns).thresholds(SHARES).values


@pytest.mark.parametrize(("low", "high"), [((4, 4), (32, 32)), ((5, 3), (17, 22)), ((8, 8), (8, 8)), ((1, 2), (9, 9))])
@pytest.mark.parametrize("layers", [1, 3])
def test_units_equal_netdissect_lite_to_the_last_integer(
    low: tuple[int, int], high: tuple[int, int], layers: int
) -> None:
    maps, labels = drawn_maps(5, 6, low), drawn_labels(5, high, layers)
    thresholds = limits(maps)
    found, total = tallied(maps, labels, thresholds, range(5))
    for place in range(len(SHARES)):
        twin = lite_tally(maps, labels, thresholds[:, place].astype(np.float64), CATEGORIES)
        np.testing.assert_array_equal(found.intersections[:, place], twin.both)
        np.testing.assert_array_equal(found.areas[:, place], twin.paper_areas)
        np.testing.assert_array_equal(found.lite_areas[:, place], twin.units_by_category)
        np.testing.assert_array_equal(total.areas, twin.labels)
        np.testing.assert_array_equal(total.images, twin.images)
        for denominator in ("paper", "lite"):
            iou = found.iou(total, np.array(CATEGORIES), denominator)[:, place]
            np.testing.assert_allclose(iou, twin.iou(CATEGORIES, denominator == "paper"), rtol=1e-14)
    assert found.intersections[1:].any()
    assert not found.intersections[0].any(), "a unit that is nowhere positive detects nothing"


@pytest.mark.parametrize(("low", "high"), [((4, 4), (32, 32)), ((5, 3), (17, 22)), ((8, 8), (8, 8))])
def test_words_equal_the_slow_twin(low: tuple[int, int], high: tuple[int, int]) -> None:
    words = np.random.default_rng(3).integers(-1, 7, (5, *low))
    labels = drawn_labels(5, high, 2)
    into = OverlapCounts.zero(7, 1, len(CATEGORIES), 3)
    for image in range(5):
        ConceptTally(CATEGORIES, labels[image]).words(into, words[image])
    twin = lite_tally(words, labels, np.zeros(7), CATEGORIES, word=True)
    np.testing.assert_array_equal(into.intersections[:, 0], twin.both)
    np.testing.assert_array_equal(into.areas[:, 0], twin.paper_areas)
    np.testing.assert_array_equal(into.lite_areas[:, 0], twin.units_by_category)
    np.testing.assert_array_equal(word_mask(words[0], 3, high), nearest(words[0], high) == 3)


def test_any_sharding_gives_the_same_bits() -> None:
    maps, labels = drawn_maps(9, 5, (4, 4)), drawn_labels(9, (20, 20), 2)
    thresholds = limits(maps)
    whole = tallied(maps, labels, thresholds, range(9))
    for cuts in ([3, 6], [1, 2, 8], [8]):
        parts = [tallied(maps, labels, thresholds, part) for part in np.split(np.arange(9), cuts)]
        merged = [sum(rest, start=first) for first, *rest in zip(*parts[::-1], strict=True)]
        assert tuple(merged) == whole


def test_words_share_every_pixel_out() -> None:
    words = np.random.default_rng(4).integers(0, 5, (7, 7))
    masks = np.stack([word_mask(words, word, (31, 40)) for word in range(5)])
    assert (masks.sum(axis=0) == 1).all()


def test_masks_of_thresholds_nest_and_no_iou_exceeds_its_cap() -> None:
    maps, labels = drawn_maps(6, 8, (4, 4)), drawn_labels(6, (24, 24), 1)
    found, total = tallied(maps, labels, limits(maps), range(6))
    assert (np.diff(found.areas, axis=1) >= 0).all()
    assert (np.diff(found.intersections, axis=1) >= 0).all()
    category = np.array(CATEGORIES)
    pixels = total.pixels[category]
    masked = found.areas[:, :, category] / pixels
    cap = iou_cap(masked, np.broadcast_to(total.areas / pixels, masked.shape))
    assert (found.iou(total, category) <= cap + 1e-12).all()
    assert (found.iou(total, category, "lite") >= found.iou(total, category)).all()


def test_relabelled_concepts_relabel_the_counts() -> None:
    maps, labels = drawn_maps(4, 5, (4, 4)), drawn_labels(4, (20, 20), 2)
    order = np.array([3, 0, 5, 1, 4, 2])
    turned = np.concatenate([[0], order + 1]).astype(np.uint16)
    thresholds = limits(maps)
    found, total = tallied(maps, labels, thresholds, range(4))
    other, sums = OverlapCounts.zero(5, 4, 6, 3), LabelCounts.zero(6, 3)
    categories = np.empty(6, np.int64)
    categories[order] = CATEGORIES
    for image in range(4):
        tally = ConceptTally(categories, turned[labels[image]])
        tally.labels(sums)
        tally.units(other, maps[image], thresholds)
    np.testing.assert_array_equal(other.intersections[:, :, order], found.intersections)
    np.testing.assert_array_equal(sums.areas[order], total.areas)


def test_upsampling_is_torchs_bilinear() -> None:
    image_map = drawn_maps(1, 2, (5, 7))[0, 1].astype(np.float64)
    expected = functional.interpolate(
        torch.from_numpy(image_map)[None, None], size=(23, 30), mode="bilinear", align_corners=False
    )[0, 0].numpy()
    np.testing.assert_allclose(upsampled(image_map, (23, 30)), expected, atol=1e-12)
    for limit in np.quantile(expected, [0.5, 0.9]) + 1e-6:
        bits = mask_patterns(image_map[None], np.array([0]), np.array([limit]), (23, 30))
        np.testing.assert_array_equal(bits > 0, expected > limit)


def test_patterns_hold_one_bit_a_unit() -> None:
    maps = drawn_maps(1, 40, (4, 4))[0]
    units, thresholds = np.array([5, 1, 39]), np.array([0.1, 0.3, 0.2])
    bits = mask_patterns(maps, units, thresholds, (16, 16))
    for place, (unit, limit) in enumerate(zip(units, thresholds, strict=True)):
        np.testing.assert_array_equal((bits >> place) & 1 > 0, upsampled(maps[unit], (16, 16)) > limit)
    with pytest.raises(RefusedInput, match="units: must be at most 32, got 33"):
        mask_patterns(maps, np.arange(33), np.zeros(33), (16, 16))


def test_an_image_without_labels_adds_nothing() -> None:
    empty = ConceptTally(CATEGORIES, np.zeros((0, 8, 8), np.uint16))
    into, total = OverlapCounts.zero(2, 1, 6, 3), LabelCounts.zero(6, 3)
    empty.labels(total)
    empty.units(into, np.ones((2, 4, 4)), np.zeros((2, 1)))
    empty.words(into, np.zeros((4, 4), np.int64))
    assert into == OverlapCounts.zero(2, 1, 6, 3)
    assert total == LabelCounts.zero(6, 3)


def test_a_label_beyond_the_concepts_is_refused() -> None:
    with pytest.raises(
        RefusedInput, match=r"labels: must have the axes .* and hold 0 to 2, got shape \(1, 2, 2\) and 3"
    ):
        ConceptTally([0, 0], np.full((1, 2, 2), 3, np.uint16))
