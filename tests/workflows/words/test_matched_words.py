"""Words matched one to one, against all matchings; layers of several runs that belong together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gmm_ops.graphs.windows import Window
from gmm_ops.trust.agreement import word_overlaps
from tests.references.agreement import best_sum
from workflows.plan.run_plan import LayerPlan
from workflows.words.matched_words import match_overlapping, paired_layers


def plan(name: str) -> LayerPlan:
    return LayerPlan(name, name, 4, 3, 3, 5, 9, None, Window.whole())


@pytest.mark.parametrize("seed", range(5))
def test_the_matching_is_the_best_of_all(seed: int) -> None:
    both = torch.randint(0, 40, (5, 6), generator=torch.Generator().manual_seed(seed))
    found = match_overlapping(both)
    assert found.overlap.sum() == pytest.approx(best_sum(word_overlaps(both).numpy()))
    assert len(set(found.match.tolist())) == len(found.word)
    turned = match_overlapping(both.T)
    assert turned.overlap.sum() == pytest.approx(found.overlap.sum())
    again = found.reversed()
    assert dict(zip(again.match.tolist(), again.word.tolist(), strict=True)) == dict(
        zip(found.word.tolist(), found.match.tolist(), strict=True)
    )
    order = np.random.default_rng(seed).permutation(5)
    renamed = match_overlapping(both[order])
    assert {(int(order[word]), int(match)) for word, match in zip(renamed.word, renamed.match, strict=True)} == {
        (int(word), int(match)) for word, match in zip(found.word, found.match, strict=True)
    }


def test_words_without_a_common_column_have_no_match() -> None:
    found = match_overlapping(torch.tensor([[4, 0], [0, 0], [0, 2]]))
    assert found.of([0, 1, 2]) == {0: (0, 1.0), 2: (1, 1.0)}


def test_layers_go_by_name_else_from_the_output_down() -> None:
    low, middle, high = map(plan, ("low", "middle", "high"))
    other = replace(low, words=9)
    assert paired_layers([(low, middle, high), (other, high)]) == [(low, other), (high, high)]
    strange, stranger = plan("conv4"), plan("conv5")
    assert paired_layers([(low, middle, high), (strange, stranger)]) == [(middle, strange), (high, stranger)]
