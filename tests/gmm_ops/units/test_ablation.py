"""Tallies of interventions, their intervals, and means of units."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmm_ops.errors import RefusedInput
from gmm_ops.units.ablation import AblationTally, UnitMeans, wilson
from tests.references import relevance as slow


def drawn(count: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (count,), generator=random)
    right = torch.rand(count, generator=random) < 0.8
    return labels, right, torch.rand((3, count), generator=random) < 0.5


def test_tallies_are_counts_of_images_in_any_cut() -> None:
    labels, right, under = drawn()
    whole = AblationTally.from_batch(labels, right, under, 5)
    lost, gained = slow.tally(labels.tolist(), right.tolist(), under.tolist(), 5)
    assert (whole.lost.tolist(), whole.gained.tolist()) == (lost, gained)
    parts = AblationTally.zero(3, 5)
    for cut in (slice(0, 7), slice(7, 8), slice(8, 60)):
        parts += AblationTally.from_batch(labels[cut], right[cut], under[:, cut], 5)
    assert parts == whole
    assert AblationTally.from_arrays(whole.to_arrays()) == whole


def test_outcomes_are_accuracies_with_intervals() -> None:
    labels, right, under = drawn()
    tally = AblationTally.from_batch(labels, right, under, 5)
    outcome = tally.outcome(1, [0, 2])
    own = (labels == 0) | (labels == 2)
    assert outcome.before == pytest.approx(float(right[own].double().mean()))
    assert outcome.accuracy == pytest.approx(float(under[1][own].double().mean()))
    low, high = outcome.interval()
    assert 0 < low < outcome.accuracy < high < 1
    fall = outcome.fall()
    assert fall.difference == pytest.approx(outcome.before - outcome.accuracy)
    assert fall.low < fall.difference < fall.high


def test_wilsons_interval_is_the_known_one() -> None:
    assert wilson(0.1, 100) == pytest.approx((0.0552, 0.1744), abs=5e-5)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=5e-5)
    inside = 0
    random = np.random.default_rng(0)
    for _ in range(2000):
        low, high = wilson(random.binomial(50, 0.3) / 50, 50)
        inside += low <= 0.3 <= high
    assert 0.93 < inside / 2000 < 0.97


def test_unit_means_add_up() -> None:
    maps = torch.randn((6, 3, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = UnitMeans.from_batch([maps[:2], maps[:2, :1]]) + UnitMeans.from_batch([maps[2:], maps[2:, :1]])
    assert parts.mean[:3].tolist() == pytest.approx(maps.mean(dim=(0, 2, 3)).tolist())
    assert parts.mean[3] == pytest.approx(float(maps[:, 0].mean()))


def test_bad_input_is_refused_by_its_words() -> None:
    labels, right, under = drawn()
    tally = AblationTally.from_batch(labels, right, under, 5)
    with pytest.raises(RefusedInput, match=r"classes: must have an image, got none of \[4\]"):
        tally.outcome(0, [4])
    with pytest.raises(RefusedInput, match="right, under: must speak of the 60 images"):
        AblationTally.from_batch(labels, right[:-1], under, 5)
    with pytest.raises(RefusedInput, match="images: must be at least 1 for a mean"):
        UnitMeans.zero(3).mean  # noqa: B018
    with pytest.raises(RefusedInput, match="must be in \\[0, 1\\] of more than no trial"):
        wilson(0.5, 0)
