"""Shares of positions with their intervals: Wilson's, over photos."""

from __future__ import annotations

import numpy as np
import pytest

from gmm_ops.units.ablation import wilson
from workflows.studies.boxes.shares import Sighting, pooled, share_row


@pytest.mark.parametrize(
    ("share", "trials", "low", "high"),
    [(0.8, 10, 0.4902, 0.9433), (0.0, 20, 0.0, 0.1611), (1.0, 6, 0.6097, 1.0), (0.5, 100, 0.4038, 0.5962)],
)
def test_wilson_intervals_of_the_textbooks(share: float, trials: int, low: float, high: float) -> None:
    assert wilson(share, trials) == pytest.approx((low, high), abs=2e-4)


def test_one_position_a_photo_is_a_binomial_share() -> None:
    row = share_row([Sighting(image, 1, int(image < 5), 0.1 * image) for image in range(6)])
    assert (row["images"], row["images_without"], row["positions"], row["inside"]) == (6, 0, 6, 5)
    assert row["share"] == 5 / 6
    assert (row["share_low"], row["share_high"]) == wilson(5 / 6, 6)
    assert row["area"] == pytest.approx(0.25)


def test_photos_weigh_by_positions_those_without_boxes_nothing() -> None:
    row = share_row([Sighting(1, 30, 30, 0.5), Sighting(2, 10, 0, 0.1), Sighting(3, 99, None)])
    assert (row["images"], row["images_without"], row["positions"], row["inside"]) == (2, 1, 40, 30)
    assert row["share"] == 0.75
    assert row["area"] == pytest.approx(0.4)
    assert (row["share_low"], row["share_high"]) == wilson(0.75, 40**2 / (30**2 + 10**2))


def test_words_of_one_photo_are_one_photo_together() -> None:
    words = [[Sighting(1, 5, 5, 0.5), Sighting(2, 5, 4, 0.3)], [Sighting(1, 5, 3, 0.5), Sighting(4, 1, None)]]
    together = share_row(pooled(words))
    assert together == share_row([Sighting(1, 10, 8, 0.5), Sighting(2, 5, 4, 0.3), Sighting(4, 1, None)])
    assert together["images"] == 2


def test_without_a_photo_there_is_no_share() -> None:
    row = share_row([Sighting(7, 3, None), Sighting(8, 1, None)])
    assert row == {"images": 0, "images_without": 2, "positions": 0, "inside": 0}


def test_the_interval_holds_the_truth_though_positions_agree() -> None:
    chance = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        counts = chance.integers(1, 40, 25)
        rates = chance.beta(1.0, 0.5, 25)  # photos differ widely: 2/3 on average
        found = chance.binomial(counts, rates)
        row = share_row(
            Sighting(image, int(n), int(k), 0.5) for image, (n, k) in enumerate(zip(counts, found, strict=True))
        )
        held += row["share_low"] <= 2 / 3 <= row["share_high"]
    assert held / 400 >= 0.95
