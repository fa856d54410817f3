"""Trust: columns changed, first-order effects, controls, curves and intervals, against loops and laws."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.graphs.windows import Window
from gmm_ops.trust.column_changes import (
    ColumnChange,
    as_many_others,
    changed_columns,
    columns_of,
    inside_windows,
    principal_axes,
)
from gmm_ops.trust.paired_bootstrap import bootstrap_differences, bootstrap_ratios
from gmm_ops.trust.word_choices import draw_keys, frequency_matched, judging_half
from gmm_ops.trust.word_curves import curve_area, curve_steps, explained_share, kept_shares
from gmm_ops.trust.word_effects import FirstOrderSums, first_order_effects
from gmm_ops.units.selections import bootstrap_means
from tests.references import trust as slow

N, D, H, W, K = 4, 6, 5, 3, 7


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some_words() -> Tensor:
    """One column of no word."""
    words = torch.randint(0, K, (N, H, W), generator=torch.Generator().manual_seed(1))
    words[1, 2, 0] = -1
    return words


MAPS, MEANS, CENTRE, WORDS = drawn(N, D, H, W), drawn(K, D, seed=2), drawn(D, seed=3), some_words()


@pytest.mark.parametrize("change", get_args(ColumnChange))
def test_columns_are_changed_as_in_loops(change: ColumnChange) -> None:
    axes = principal_axes(MEANS, torch.ones(K), 2)
    found = changed_columns(MAPS, WORDS, MEANS, CENTRE, change, axes)
    expected = slow.changed(MAPS.numpy(), WORDS.numpy(), MEANS.numpy(), CENTRE.numpy(), change, axes.numpy())
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert torch.equal(found[1, :, 2, 0], MAPS[1, :, 2, 0]), "a column of no word stays"


def test_words_and_error_add_up_to_the_map_and_its_middle() -> None:
    words, error = (changed_columns(MAPS, WORDS.clamp(min=0), MEANS, CENTRE, one) for one in ("words", "error"))
    torch.testing.assert_close(words + error, MAPS + CENTRE[None, :, None, None])


def test_few_words_span_few_axes() -> None:
    assert principal_axes(MEANS[:1], torch.ones(1), 4).shape == (0, D), "one mean spans nothing"
    assert principal_axes(MEANS[:2], torch.ones(2), 4).shape == (1, D)
    flat = principal_axes(MEANS[:1], torch.ones(1), 4)
    maps, words = torch.randn(2, D, 3, 3), torch.zeros(2, 3, 3, dtype=torch.int64)
    changed = [changed_columns(maps, words, MEANS[:1], MEANS[0], change, flat) for change in ("components", "words")]
    assert torch.equal(*changed), "without axes a column keeps its word alone"


def test_principal_axes_are_those_of_power_iteration() -> None:
    shares = drawn(K, seed=11).abs()
    found = principal_axes(MEANS, shares, 3)
    expected = slow.principal_axes(MEANS.double().numpy(), shares.double().numpy(), 3)
    np.testing.assert_allclose(np.abs(found.numpy() @ expected.T), np.eye(3), atol=1e-6)
    torch.testing.assert_close(found @ found.T, torch.eye(3, dtype=torch.float64))
    order = torch.randperm(K, generator=torch.Generator().manual_seed(0))
    again = principal_axes(MEANS[order], 7 * shares[order], 3)
    np.testing.assert_allclose(np.abs((found @ again.T).numpy()), np.eye(3), atol=1e-6)
    assert principal_axes(MEANS, shares, D + 4).shape == (D, D)


def test_components_lie_between_the_words_and_the_map() -> None:
    """Of no axis they are the words' means, of all the map; what is kept alone is the centre, or the map."""
    every = principal_axes(MEANS, torch.ones(K), D)
    words = changed_columns(MAPS, WORDS, MEANS, CENTRE, "words")
    torch.testing.assert_close(changed_columns(MAPS, WORDS, MEANS, CENTRE, "components", every[:0]), words)
    centre = changed_columns(MAPS, WORDS, MEANS, CENTRE, "mean")
    torch.testing.assert_close(changed_columns(MAPS, WORDS, MEANS, CENTRE, "axes", every[:0]), centre)
    for change in ("components", "axes"):
        whole = changed_columns(MAPS, WORDS, MEANS, CENTRE, change, every)  # type: ignore[arg-type]
        torch.testing.assert_close(whole, MAPS, atol=1e-5, rtol=1e-5)
    gaps = [
        float((changed_columns(MAPS, WORDS, MEANS, CENTRE, "components", every[:count]) - MAPS).square().sum())
        for count in range(D + 1)
    ]
    assert gaps == sorted(gaps, reverse=True)


def test_first_order_effects_are_slopes_of_the_logit() -> None:
    weights = drawn(D, H, W, seed=5)

    def logit(maps: Tensor) -> Tensor:
        return (torch.tanh(maps.double()) * weights.double()).sum(dim=(1, 2, 3))

    maps = MAPS.clone().requires_grad_()
    (gradients,) = torch.autograd.grad(logit(maps).sum(), maps)
    changed = changed_columns(MAPS, WORDS, MEANS, CENTRE, "shift")
    found = first_order_effects(gradients, MAPS, changed, WORDS, K)
    expected = slow.first_order(gradients.numpy(), MAPS.numpy(), changed.numpy(), WORDS.numpy(), K)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    step = 1e-4
    for word in range(K):
        where = columns_of(WORDS, torch.arange(K)[None] == word)
        towards = torch.where(where[:, None], MAPS.double() + step * (changed - MAPS).double(), MAPS.double())
        slope = (logit(MAPS.double()) - logit(towards)) / step
        torch.testing.assert_close(found[:, word], slope, rtol=1e-3, atol=1e-3)


def test_effects_add_up_however_images_are_split() -> None:
    effects, groups = drawn(9, 2, K, seed=6).double(), torch.tensor([3, 0, 3, 1, 1, 1, 0, 3, 3])
    whole = FirstOrderSums.from_batch(groups, effects)
    parts = FirstOrderSums.zero(2, K)
    for first in range(0, 9, 2):
        parts = parts + FirstOrderSums.from_batch(groups[first : first + 2], effects[first : first + 2])
    images, total = parts.by_group(5)
    assert images.tolist() == [2, 3, 0, 0 + 4, 0]
    for one, other in zip((images, total), whole.by_group(5), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(total[3], effects[groups == 3].sum(dim=0))
    assert FirstOrderSums.from_arrays(parts.to_arrays()) == parts
    relabelled = FirstOrderSums.from_batch(groups, effects[:, :, torch.arange(K - 1, -1, -1)])
    torch.testing.assert_close(relabelled.by_group(5)[1], total.flip(2))


def test_columns_of_words_may_differ_by_image() -> None:
    chosen = torch.zeros(N, K, dtype=torch.bool)
    chosen[0, 3] = chosen[1, [0, 2]] = True
    found = columns_of(WORDS, chosen)
    assert torch.equal(found[0], WORDS[0] == 3)
    assert torch.equal(found[1], (WORDS[1] == 0) | (WORDS[1] == 2))
    assert not found[2:].any()
    assert torch.equal(columns_of(WORDS, torch.ones(1, K, dtype=torch.bool)), WORDS >= 0)


def test_as_many_others_are_drawn_outside() -> None:
    columns = columns_of(WORDS, torch.arange(K)[None] < 3)
    among = torch.ones_like(columns)
    among[2] = columns[2]  # nowhere to draw from
    drawn_at = [
        as_many_others(columns, among, draw_keys(np.arange(N), H * W, draw, 0).view(N, H, W)) for draw in (0, 1)
    ]
    for found in drawn_at:
        assert not (found & columns).any()
        free = (among & ~columns).sum(dim=(1, 2))
        assert found.sum(dim=(1, 2)).tolist() == torch.minimum(columns.sum(dim=(1, 2)), free).tolist()
    assert not torch.equal(*drawn_at)
    assert torch.equal(draw_keys(np.array([2]), 15, 0, 0)[0], draw_keys(np.arange(N), 15, 0, 0)[2]), "by image alone"


@pytest.mark.parametrize("window", [Window.square(2, -1, 3), Window.square(1, 0, 1), Window.whole()])
def test_windows_cover_what_loops_cover(window: Window) -> None:
    upper = drawn(3, 4, 5, seed=8) > 1
    found = inside_windows(upper, window, 8, 9)
    np.testing.assert_array_equal(found.numpy(), slow.windowed(upper.numpy(), window, 8, 9))


def test_curves_are_those_of_loops() -> None:
    steps = curve_steps(60)
    assert steps.tolist() == [0, 1, 2, 3, 5, 10, 20, 50, 60]
    assert curve_steps(1).tolist() == [0, 1]
    plain, without = drawn(8).abs() + 3, drawn(8, seed=1)
    after = torch.cat([plain[:, None], drawn(8, len(steps) - 2, seed=2), without[:, None]], dim=1)
    kept = kept_shares(plain, after, without)
    np.testing.assert_allclose(kept.numpy(), slow.kept(plain.numpy(), after.numpy(), without.numpy()), rtol=1e-6)
    assert (float(kept[0]), float(kept[-1])) == (1.0, 0.0)
    assert curve_area(steps, kept) == pytest.approx(slow.area(steps.numpy(), kept.numpy()))
    assert curve_area(torch.tensor([0, 1, 4]), torch.tensor([1.0, 1.0, 1.0])) == 1.0
    assert kept_shares(plain, after, plain).isnan().all()


def test_the_bootstrap_is_that_of_loops() -> None:
    above, below = drawn(12, 2).double(), drawn(12, 2, seed=1).abs().double() + 0.1
    found = bootstrap_ratios(above, below, seed=4, draws=60)
    rows = torch.randint(0, 12, (60, 12), generator=torch.Generator().manual_seed(4)).numpy()
    for column in range(2):
        drawn_again = slow.drawn_ratios(above[:, column].numpy(), below[:, column].numpy(), rows)
        ends = np.quantile(drawn_again, [0.025, 0.975])
        np.testing.assert_allclose(found[1:, column].numpy(), ends)
        assert float(found[0, column]) == pytest.approx(float(above[:, column].sum() / below[:, column].sum()))


def test_the_bootstrap_of_means_is_a_special_case(monkeypatch: pytest.MonkeyPatch) -> None:
    values = drawn(30, 3, seed=9)
    values[4, 1] = torch.nan
    values[:, 2] = torch.nan
    found = bootstrap_differences(values, torch.zeros_like(values), seed=1, draws=500)
    torch.testing.assert_close(found, bootstrap_means(values, 1, draws=500), equal_nan=True)
    monkeypatch.setattr("gmm_ops.trust.paired_bootstrap._AT_ONCE", 70)
    again = bootstrap_differences(values, torch.zeros_like(values), seed=1, draws=500)
    torch.testing.assert_close(found, again, equal_nan=True)


def test_the_interval_of_a_mean_covers_as_often_as_it_says() -> None:
    means = [bootstrap_ratios(drawn(60, 1, seed=seed), torch.ones(60, 1), seed=seed, draws=400) for seed in range(200)]
    covered = np.mean([float(low) <= 0 <= float(high) for _, low, high in means])
    assert 0.89 < covered < 0.98


def test_words_beside_a_graph_are_as_frequent() -> None:
    counts = torch.tensor([50, 0, 48, 10, 9, 52, 9])
    assert frequency_matched(counts, (0, 3)) == (2, 4)
    assert frequency_matched(counts, (3, 4)) == (6, 2)
    assert frequency_matched(torch.tensor([3, 4]), (0, 1)) == ()
    scores = torch.tensor([3.0, -1.0, 1.0, torch.nan])
    assert explained_share(scores, torch.tensor([0])) == pytest.approx(0.75)
    assert np.isnan(explained_share(-scores.abs(), torch.tensor([0])))


def test_halves_are_even_seeded_and_by_image() -> None:
    images = np.arange(4000)
    half = judging_half(images, 0)
    assert 0.46 < half.mean() < 0.54
    assert np.array_equal(judging_half(images[7:9], 0), half[7:9])
    assert 0.45 < (judging_half(images, 1) == half).mean() < 0.55


def test_bad_input_is_told_by_its_words() -> None:
    with pytest.raises(RefusedInput, match="change: must be shift, mean, words, error, components, axes, got 'zero'"):
        changed_columns(MAPS, WORDS, MEANS, CENTRE, "zero")  # type: ignore[arg-type]
    with pytest.raises(RefusedInput, match="words, means, centre: must be a word a column, and of 6 units"):
        changed_columns(MAPS, WORDS, MEANS[:, :5], CENTRE, "shift")
    with pytest.raises(RefusedInput, match="axes: must be of 6 units to keep components, got none; take"):
        changed_columns(MAPS, WORDS, MEANS, CENTRE, "axes")
    with pytest.raises(RefusedInput, match=r"axes: must be of 6 units to keep components, got \(1, 5\)"):
        changed_columns(MAPS, WORDS, MEANS, CENTRE, "components", torch.ones(1, 5))
    with pytest.raises(RefusedInput, match="groups: must be one of each of 3 images, got 2"):
        FirstOrderSums.from_batch(torch.tensor([0, 1]), torch.zeros(3, 1, 2))
    with pytest.raises(RefusedInput, match=r"denominators: must be \(n, J\) as the numerators"):
        bootstrap_ratios(torch.zeros(3, 1), torch.zeros(2, 1), 0)
    with pytest.raises(RefusedInput, match="draws, level: must be at least 1 and between 0 and 1, got 0"):
        bootstrap_ratios(torch.zeros(3, 1), torch.zeros(3, 1), 0, draws=0)
    with pytest.raises(RefusedInput, match="words: must be at least 1 for a curve, got 0"):
        curve_steps(0)
    with pytest.raises(RefusedInput, match="plain, after, without: must have a row for every image"):
        kept_shares(torch.zeros(2), torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(RefusedInput, match=r"chosen: must be words from 0 to 2, got \[3\]"):
        frequency_matched(torch.tensor([1, 2, 3]), (3,))
