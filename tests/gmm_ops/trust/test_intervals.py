"""Moments of pairs against loops over images, their laws, and deviations against the jackknife."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gmm_ops.errors import RefusedInput
from gmm_ops.graphs.cooccurrence import count_pairs
from gmm_ops.graphs.windows import Window
from gmm_ops.trust.intervals import PairMoments, log_ratio_deviations
from tests.gmm_ops.graphs.test_cooccurrence import Layers, layers, unhurried
from tests.references import intervals as slow


def sums_of(moments: PairMoments) -> dict[str, dict[tuple[int, ...], int]]:
    """As the slow twin writes them."""
    rows = list(zip(moments.upper.tolist(), moments.lower.tolist(), strict=True))
    found: dict[str, dict[tuple[int, ...], int]] = {"nn": {(): moments.nn} if moments.nn else {}}
    for name in ("images", "cc", "cr", "ck", "cn", "rk"):
        found[name] = {key: value for key, value in zip(rows, getattr(moments, name).tolist(), strict=True) if value}
    for name in ("rr", "rn", "kk", "kn"):
        found[name] = {(word,): value for word, value in enumerate(getattr(moments, name).tolist()) if value}
    return found


@unhurried
@given(case=layers())
def test_moments_equal_the_loop_over_images(case: Layers) -> None:
    moments = PairMoments.from_batch(*case)
    assert sums_of(moments) == slow.product_sums(slow.counts_of_images(*case))
    keys = list(zip(moments.upper.tolist(), moments.lower.tolist(), strict=True))
    assert keys == sorted(set(keys))


@unhurried
@given(case=layers(), cut=st.integers(0, 4), seed=st.integers(0, 9))
def test_moments_do_not_depend_on_split_or_order(case: Layers, cut: int, seed: int) -> None:
    whole = PairMoments.from_batch(*case)
    first, other = (PairMoments.from_batch(*case.part(part)) for part in (slice(cut), slice(cut, None)))
    assert first.merge(other) == other.merge(first) == whole
    assert whole.merge(PairMoments.zero(case.n_upper, case.n_lower)) == whole
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(case.upper)))
    shuffled = case._replace(upper=case.upper[order], lower=case.lower[order])
    assert PairMoments.from_batch(*shuffled) == whole
    assert PairMoments.from_arrays(whole.to_arrays()) == whole


def drawn_case(seed: int, images: int = 30, n_upper: int = 3, n_lower: int = 4) -> Layers:
    """Images that favour some words each, so that pairs of one image go together."""
    random = np.random.default_rng(seed)
    maps = []
    for n_words, side in ((n_upper, 3), (n_lower, 5)):
        chances = random.dirichlet(np.full(n_words, 0.7), images)
        maps.append(np.stack([random.choice(n_words, (side, side), p=one) for one in chances]))
    upper, lower = map(torch.from_numpy, maps)
    return Layers(upper, lower, Window.square(1, 0, 3), n_upper, n_lower)


@pytest.mark.parametrize("pseudo_count", [0.0, 1.0, 25.0])
@pytest.mark.parametrize("prior", ["marginal", "frequency"])
def test_deviations_equal_the_jackknife(pseudo_count: float, prior: Any) -> None:
    """With whatever smoothing, in bits; without any also the formula of METHOD."""
    case = drawn_case(1)
    images, total = slow.counts_of_images(*case), count_pairs(*case)
    frequency = torch.tensor([4, 3, 2, 1]) if prior == "frequency" else None
    moments = PairMoments.from_batch(*case)
    deviations = log_ratio_deviations(moments, total, prior, frequency, pseudo_count)
    for s, row in enumerate(total.tolist()):
        for t, count in enumerate(row):
            known = None if frequency is None else float(frequency[t]) / 10
            if count:
                expected = slow.jackknife_deviation(images, s, t, pseudo_count, known)
                assert deviations[s, t].item() == pytest.approx(expected, rel=1e-5)
                if pseudo_count == 0 and frequency is None:
                    assert deviations[s, t].item() == pytest.approx(slow.influence_deviation(images, s, t), rel=1e-9)
            else:
                assert deviations[s, t].isnan()
    nats = log_ratio_deviations(moments, total, prior, frequency, pseudo_count, np.e)
    assert torch.allclose(nats, deviations * np.log(2), rtol=1e-12, equal_nan=True)
    kept = moments.of_pairs()
    assert torch.equal(
        deviations.nan_to_num(-1.0), log_ratio_deviations(kept, total, prior, frequency, pseudo_count).nan_to_num(-1.0)
    )


def test_deviations_equal_the_bootstrap() -> None:
    case = drawn_case(2, images=120)
    images, total = slow.counts_of_images(*case), count_pairs(*case)
    deviations = log_ratio_deviations(PairMoments.from_batch(*case), total, pseudo_count=0.0)
    for s, t in ((0, 0), (1, 2), (2, 3)):
        assert 0.85 < deviations[s, t].item() / slow.bootstrap_deviation(images, s, t, 300, seed=s) < 1.15


def test_what_all_images_share_does_not_vary() -> None:
    """The same image many times over: nothing that is drawn differs from another."""
    case = drawn_case(3, images=1)
    many = case._replace(upper=case.upper.repeat(9, 1, 1), lower=case.lower.repeat(9, 1, 1))
    deviations = log_ratio_deviations(PairMoments.from_batch(*many), count_pairs(*many), pseudo_count=0.0)
    assert deviations.nan_to_num(0.0).abs().max() < 1e-6


def test_deviations_follow_the_words() -> None:
    """Other numbers for the words, the same deviations."""
    case = drawn_case(4)
    upper, lower = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])
    moved = case._replace(upper=upper[case.upper], lower=lower[case.lower])
    before, after = (log_ratio_deviations(PairMoments.from_batch(*one), count_pairs(*one)) for one in (case, moved))
    assert torch.allclose(after[upper][:, lower], before, rtol=1e-12, equal_nan=True)


def test_more_images_make_it_surer() -> None:
    """As many images twice: the root of 2 less."""
    case = drawn_case(5)
    twice = case._replace(upper=case.upper.repeat(2, 1, 1), lower=case.lower.repeat(2, 1, 1))
    before, after = (
        log_ratio_deviations(PairMoments.from_batch(*one), count_pairs(*one), pseudo_count=0.0) for one in (case, twice)
    )
    assert torch.allclose(after * 2**0.5, before, rtol=1e-9, equal_nan=True)


def test_counts_of_other_images_are_refused() -> None:
    case = drawn_case(6)
    moments = PairMoments.from_batch(*case)
    with pytest.raises(RefusedInput, match="total: must be the counts of the images whose moments are given"):
        log_ratio_deviations(moments, torch.ones(3, 5, dtype=torch.int64))
    few = PairMoments.from_batch(*case.part(slice(1)))
    with pytest.raises(RefusedInput, match="count both from the same word maps"):
        log_ratio_deviations(few.of_pairs(), count_pairs(*case) + 1)
    with pytest.raises(RefusedInput, match="same shape in what is merged"):
        moments.merge(PairMoments.zero(3, 5))
    with pytest.raises(RefusedInput, match="less than 2\\^63"):
        replace(moments, nn=2**63)
