"""Shortcuts: counts, entropy and rule against loops; laws of sums, names and special cases; bad input by its words."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.trust.shortcuts import PlaceCounts, positional_entropy, rank_shortcuts
from tests.references import shortcuts as slow

N, H, W, K, G = 30, 4, 5, 7, 3


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


WORDS = torch.randint(-1, K - 1, (N, H, W), generator=chance()).short()
"""The last word is nowhere; some columns have none."""
GROUPS = torch.randint(0, G, (N,), generator=chance(1))


def some_rule(words: int = 40) -> dict[str, Tensor]:
    ratios, drops = (3 * torch.randn(words, generator=chance(seed)).double() for seed in (2, 3))
    entropies, on_object = (torch.rand(words, generator=chance(seed)).double() for seed in (4, 5))
    controls = torch.randn(words, generator=chance(6)).double()
    controls[3], on_object[::4], drops[7] = math.nan, math.nan, controls[7]
    return {
        "log_ratios": ratios,
        "entropies": entropies,
        "drops": drops,
        "controls": controls,
        "on_object": on_object,
    }


def test_counts_are_those_of_loops() -> None:
    found = PlaceCounts.from_batch(GROUPS, WORDS, G, K)
    images, holding, places = slow.counted(GROUPS.numpy(), WORDS.numpy(), G, K)
    assert np.array_equal(found.images, images)
    assert np.array_equal(found.holding, holding)
    assert np.array_equal(found.places, places)
    for group, word in np.ndindex(G, K):
        others = images.sum() - images[group], holding[:, word].sum() - holding[group, word]
        expected = slow.log_ratio(holding[group, word], images[group], others[1], others[0])
        assert float(found.log_ratios()[group, word]) == pytest.approx(expected)
        assert float(found.shares()[group, word]) == pytest.approx(holding[group, word] / images[group])
        assert float(found.other_shares()[group, word]) == pytest.approx(others[1] / others[0])


def test_counts_add_up_however_images_are_split() -> None:
    whole = PlaceCounts.from_batch(GROUPS, WORDS, G, K)
    for cut in (1, 11, N):
        parts = [PlaceCounts.from_batch(GROUPS[some], WORDS[some], G, K) for some in torch.arange(N).split(cut)]
        total = PlaceCounts.zero(G, K, H * W)
        for part in reversed(parts):
            total = total.merge(part)
        assert total == whole


def test_other_names_of_words_give_the_same_under_them() -> None:
    order = torch.randperm(K, generator=chance(8))
    renamed = torch.where(WORDS < 0, -1, order[WORDS.long()])
    one, other = (PlaceCounts.from_batch(GROUPS, words, G, K) for words in (WORDS, renamed))
    torch.testing.assert_close(other.log_ratios()[:, order], one.log_ratios())
    torch.testing.assert_close(
        positional_entropy(other.places)[:, order], positional_entropy(one.places), rtol=1e-12, atol=0
    )


def test_entropy_is_that_of_loops_and_of_special_cases() -> None:
    places = PlaceCounts.from_batch(GROUPS, WORDS, G, K).places
    found = positional_entropy(places)
    for group, word in np.ndindex(G, K):
        assert float(found[group, word]) == pytest.approx(slow.entropy(places[group, word].numpy()))
    fixed, even, moved = torch.zeros(64), torch.full((64,), 9), torch.zeros(64)
    fixed[5], moved[:3] = 50, 1
    assert float(positional_entropy(fixed)) == 0
    assert float(positional_entropy(even)) == pytest.approx(1)
    assert float(positional_entropy(moved)) == 1, "three columns cannot lie in more than three places"
    assert float(positional_entropy(torch.tensor([4]))) == 1, "a layer of one position says nothing"
    assert float(positional_entropy(torch.zeros(64))) == 1
    assert positional_entropy(places[:, :, torch.randperm(H * W)]).allclose(found), "which place it is does not matter"


def test_the_correction_takes_few_columns_for_less_fixed() -> None:
    """Columns that lie anywhere: plain entropy of few is far too low."""
    drawn = torch.multinomial(torch.full((200, 256), 1 / 256), 30, replacement=True, generator=chance(9))
    places = torch.stack([torch.bincount(row, minlength=256) for row in drawn])
    assert float(positional_entropy(places).mean()) > 0.97


def test_the_rule_is_that_of_loops() -> None:
    given = some_rule()
    names = {"log_ratios": "ratio", "entropies": "entropy", "drops": "drop", "controls": "control"}
    rows = [
        {
            name: None if math.isnan(value) else value
            for name, value in ((names.get(key, key), float(values[at])) for key, values in given.items())
        }
        for at in range(len(given["drops"]))
    ]
    expected, found = slow.ranked(rows), rank_shortcuts(**given)
    for at, (looks, used, weight) in enumerate(expected):
        assert float(found.looks[at]) == pytest.approx(looks)
        assert bool(found.used[at]) == used
        assert float(found.weight[at]) == pytest.approx(weight)
    assert found.rank.tolist() == slow.ranks(expected)


def test_the_order_of_words_changes_nothing() -> None:
    given, order = some_rule(), torch.randperm(40, generator=chance(7))
    given["log_ratios"] = given["log_ratios"].abs() + 0.1
    given["drops"] = given["drops"].abs() + 0.1
    given["controls"] = given["controls"].abs()
    one, other = rank_shortcuts(**given), rank_shortcuts(**{name: values[order] for name, values in given.items()})
    assert torch.equal(other.rank, one.rank[order])


def test_what_makes_a_word_more_of_a_shortcut() -> None:
    """A fixed place, a place off the object and an effect each raise it; unknown objects are as if it lay on one."""
    ratio, plain = torch.full((5,), 4.0), torch.full((5,), 1.0)
    entropies, on_object = plain.clone(), plain.clone()
    entropies[1], on_object[2], on_object[3] = 0.0, 0.0, math.nan
    drops = torch.tensor([2.0, 2.0, 2.0, 2.0, 0.5])
    found = rank_shortcuts(ratio, entropies, drops, plain, on_object)
    assert found.looks.tolist() == [4, 8, 8, 4, 4]
    assert found.used.tolist() == [True, True, True, True, False]
    assert found.weight.tolist() == [1, 1, 1, 1, 0.5]
    assert found.rank.tolist() == [2, 0, 1, 3, 4]
    assert not bool(rank_shortcuts(ratio, entropies, -drops, -3 * plain).used.any()), "no drop is no use"


def test_bad_input_is_refused() -> None:
    given = some_rule()
    with pytest.raises(RefusedInput, match=r"groups: must be one of each of 30 images, got \(2,\); give both of one"):
        PlaceCounts.from_batch(GROUPS[:2], WORDS, G, K)
    with pytest.raises(RefusedInput, match="groups: must be from 0 to 1, got 0 to 2; give their number"):
        PlaceCounts.from_batch(GROUPS, WORDS, 2, K)
    with pytest.raises(RefusedInput, match="words: must be from 0 to 2, got 0 to 5; give their number"):
        PlaceCounts.from_batch(GROUPS, WORDS, G, 3)
    with pytest.raises(RefusedInput, match="places: must be counts of columns, got -1; count at least 0"):
        positional_entropy(torch.tensor([3, -1]))
    with pytest.raises(RefusedInput, match=r"log_ratios: must be of the same words as the others, got .*\(39,\)"):
        rank_shortcuts(**{**given, "drops": given["drops"][1:]})
    with pytest.raises(RefusedInput, match=r"entropies: must be from 0 to 1, got \[1.5\]; give shares"):
        rank_shortcuts(**{**given, "entropies": torch.where(torch.arange(40) == 2, 1.5, given["entropies"])})
    with pytest.raises(RefusedInput, match=r"drops: must be finite, got .*; leave out words without one"):
        rank_shortcuts(**{**given, "drops": given["drops"] / 0})
