"""Branches of paths against plain loops over all paths, their laws, and errors planted at a known junction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.hmm.branches import NONE, BranchCounts, Departures, branch_scores, departure_levels, departures
from gmm_ops.hmm.chain import Chain, observed_log_likelihoods
from gmm_ops.hmm.model import HiddenMarkovModel
from gmm_ops.hmm.paths import max_marginals, most_probable_paths
from tests.gmm_ops.hmm.drawn_chains import drawn_activations, random_chain, random_log_likelihoods, random_model
from tests.references import branches as reference

STATES = (3, 4, 2, 5)
"""Words of three layers, and five classes."""


class Example:
    """Paths of a random chain; labels mostly as predicted, a third of them wrong."""

    def __init__(self, seed: int, n: int = 80, observed: bool = True, states: Sequence[int] = STATES) -> None:
        source = torch.Generator().manual_seed(seed)
        layers = states[:-1]
        self.chain = random_chain(states if observed else layers, seed, 2.0)
        self.values = random_log_likelihoods(n, layers, 1.5, seed)
        predicted = torch.randint(0, states[-1], (n,), generator=source)
        seen = [*self.values, observed_log_likelihoods(predicted, states[-1])] if observed else self.values
        words = most_probable_paths(self.chain, seen).word
        self.words = words if observed else torch.cat([words, predicted[:, None]], dim=1)
        wrong = torch.rand(n, generator=source) < 0.33
        shift = torch.randint(1, states[-1], (n,), generator=source)
        self.label = torch.where(wrong, (predicted + shift) % states[-1], predicted)
        self.correct = ~wrong
        self.states = tuple(states)

    def counts(self, rows: Tensor | None = None) -> BranchCounts:
        kept = self.correct if rows is None else rows
        return BranchCounts.from_batch(self.words[kept], self.label[kept], self.states[-1], self.states)

    def departures(self, min_images: int = 1, counted: Tensor | None = None) -> Departures:
        return departures(self.chain, self.values, self.words, self.label, self.counts(), min_images, counted)

    def expected(self, i: int, min_images: int, counted: bool) -> reference.Left:
        return reference.departure(
            self.chain.initial.tolist(),
            [table.tolist() for table in self.chain.transitions],
            [values[i].tolist() for values in self.values],
            self.words[i].tolist(),
            int(self.label[i]),
            reference.count_branches(self.words[self.correct].tolist(), self.label[self.correct].tolist()),
            min_images,
            counted,
        )


def as_left(found: Departures, i: int) -> reference.Left:
    words = [None if int(word[i]) == NONE else int(word[i]) for word in (found.lower, found.taken, found.expected)]
    odds = float(found.log_odds[i])
    return reference.Left(int(found.level[i]), *words, None if math.isnan(odds) else odds)


@pytest.mark.parametrize("min_images", [1, 2, 4])
@pytest.mark.parametrize("observed", [True, False], ids=["observed prediction", "prediction outside the chain"])
@pytest.mark.parametrize("left_out", [True, False], ids=["left out", "counted"])
def test_departures_equal_the_enumeration(min_images: int, observed: bool, left_out: bool) -> None:
    seen = set()
    for seed in range(3):
        example = Example(seed, observed=observed)
        found = example.departures(min_images, example.correct if left_out else None)
        for i in range(len(example.label)):
            expected = example.expected(i, min_images, left_out and bool(example.correct[i]))
            left = as_left(found, i)
            assert (left.level, left.lower, left.taken, left.expected) == (
                expected.level,
                expected.lower,
                expected.taken,
                expected.expected,
            )
            if expected.log_odds is None:
                assert left.log_odds is None
            else:
                assert left.log_odds == pytest.approx(expected.log_odds, rel=1e-10, abs=1e-10)
            seen.add((expected.level, expected.log_odds is None))
    # The cases that the comparison is about did come up. Whoever arrives by a branch of the class goes on by one,
    # unless it takes more than one image to own a branch.
    assert {level for level, _ in seen} >= {0, 2, 3, 4}
    without = {without for level, without in seen if level > 1}
    assert without == ({False} if observed and min_images == 1 else {True, False})


def test_counts_equal_plain_counting() -> None:
    example = Example(5)
    expected = reference.count_branches(example.words.tolist(), example.label.tolist())
    counts = example.counts(torch.ones_like(example.correct))
    assert sum(len(level.count) for level in counts.levels) == len(expected)
    for level in range(1, 5):
        dense = counts.total(level)
        below = 1 if level == 1 else STATES[level - 2]
        for upper, lower in np.ndindex(STATES[level - 1], below):
            low = reference.START if level == 1 else lower
            per_class = [expected[label, level, low, upper] for label in range(5)]
            assert int(dense[upper, lower]) == sum(per_class)
            label, came = torch.arange(5), torch.full((5,), lower)
            assert counts.at_junction(level, label, came)[:, upper].tolist() == per_class
    along = counts.along(example.words, example.label)
    for i, path in enumerate(example.words.tolist()):
        branches = reference.branches_of(path, int(example.label[i]))
        assert along[i].tolist() == [expected[branch] for branch in branches]


@pytest.mark.parametrize("parts", [[0, 80], [0, 1, 40, 80], [0, 0, 33, 34, 80]])
def test_merging_does_not_depend_on_the_split(parts: list[int]) -> None:
    example = Example(1)
    every = torch.ones_like(example.correct)
    pieces = []
    for start, stop in pairwise(parts):
        rows = torch.zeros_like(every)
        rows[start:stop] = True
        pieces.append(example.counts(rows))
    forward, backward = BranchCounts.zero(5, STATES), BranchCounts.zero(5, STATES)
    for piece in pieces:
        forward, backward = forward + piece, piece + backward
    assert forward == example.counts(every)
    assert backward == forward
    assert forward != example.counts()


def test_relabelling_the_words_relabels_the_departures() -> None:
    example = Example(2, n=200)
    before = example.departures(2)
    orders = [torch.randperm(k, generator=torch.Generator().manual_seed(k)) for k in STATES[:-1]]
    every = [*orders, torch.arange(STATES[-1])]
    new = [torch.argsort(order) for order in every]
    moved = Example(2, n=200)
    moved.chain = example.chain.relabelled(every)
    moved.values = [values[:, order] for values, order in zip(example.values, orders, strict=True)]
    moved.words = torch.stack([place[word] for place, word in zip(new, example.words.T, strict=True)], dim=1)
    after = moved.departures(2)
    assert torch.equal(after.level, before.level)
    for i, level in enumerate(before.level.tolist()):
        for name, at in (("lower", level - 1), ("taken", level), ("expected", level)):
            word = int(getattr(before, name)[i])
            assert int(getattr(after, name)[i]) == (NONE if word == NONE else int(new[at - 1][word]))
    torch.testing.assert_close(after.log_odds, before.log_odds, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_a_right_image_never_leaves_and_a_wrong_one_always_does() -> None:
    example = Example(3, n=400)
    level = departure_levels(example.counts(), example.words, example.label)
    assert bool((level[example.correct] == 0).all())
    assert bool((level[~example.correct] > 0).all())


def test_leaving_oneself_out_is_counting_without_oneself() -> None:
    example = Example(4, n=60)
    found = departure_levels(example.counts(), example.words, example.label, 2, example.correct)
    for i in range(60):
        rest = example.correct.clone()
        rest[i] = False
        one = slice(i, i + 1)
        expected = departure_levels(example.counts(rest), example.words[one], example.label[one], 2)
        assert int(found[i]) == int(expected[0])
    assert bool((found[example.correct] > 0).any())


def test_more_images_to_own_a_branch_never_leave_a_path_later() -> None:
    example = Example(6, n=300)
    never = 1 + len(STATES)
    before = torch.full((300,), never)
    for min_images in (1, 2, 4, 8, 1_000):
        level = departure_levels(example.counts(), example.words, example.label, min_images)
        level = torch.where(level == 0, never, level)
        assert bool((level <= before).all())
        before = level
    assert bool((before == 1).all())


def test_a_class_without_images_leaves_at_the_start() -> None:
    example = Example(7)
    none = BranchCounts.zero(5, STATES)
    found = departures(example.chain, example.values, example.words, example.label, none)
    assert bool((found.level == 1).all())
    assert torch.equal(found.taken, example.words[:, 0])
    for words in (found.lower, found.expected):
        assert bool((words == NONE).all())
    assert bool(found.log_odds.isnan().all())


def test_the_score_of_the_path_itself_is_its_max_marginal() -> None:
    """Without a prediction: at every level, what lies below and the score of the taken word make the best path."""
    chain, values = random_chain((5, 4, 6), 8), random_log_likelihoods(50, (5, 4, 6), 2.0)
    paths = most_probable_paths(chain, values)
    log_initial, tables = chain.logarithms()
    below = torch.zeros(50, dtype=torch.float64)
    every = torch.arange(50)
    for level in (1, 2, 3):
        lower = paths.word[:, max(0, level - 2)]
        score = branch_scores(chain, values, level, lower)[every, paths.word[:, level - 1]]
        torch.testing.assert_close(below + score, paths.log_joint, rtol=1e-12, atol=0)
        step = log_initial[paths.word[:, 0]] if level == 1 else tables[level - 2][paths.word[:, level - 1], lower]
        below += step + values[level - 1][every, paths.word[:, level - 1]]
    torch.testing.assert_close(branch_scores(chain, values, 1, every), max_marginals(chain, values)[0])


def test_ties_go_to_the_lowest_and_impossible_keeps_its_sign() -> None:
    sure = torch.tensor([[0.0], [1.0], [0.0], [0.0]]).double()
    chain = Chain(torch.ones(1).double(), (sure,))
    counts = BranchCounts.from_batch(torch.tensor([[0, 3], [0, 2]]), torch.tensor([1, 1]), 2, (1, 4))
    found = departures(chain, [torch.zeros(1, 1)], torch.tensor([[0, 1]]), torch.tensor([1]), counts)
    assert (int(found.level), int(found.lower), int(found.taken), int(found.expected)) == (2, 0, 1, 2)
    assert float(found.log_odds) == math.inf


def test_errors_planted_at_a_junction_are_found_there() -> None:
    """Two classes share words 0 below and part at level 3; wrong images of class 0 go class 1's way from there on."""
    right = torch.tensor([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 1, 1], [1, 0, 1, 1, 1]])
    paths, label = right.repeat(20, 1), torch.tensor([0, 0, 1, 1]).repeat(20)
    counts = BranchCounts.from_batch(paths, label, 2, (2,) * 5)
    tables = [torch.tensor([[0.5, 0.5], [0.5, 0.5]]).double()] * 2
    tables += [torch.tensor([[0.95, 0.05], [0.05, 0.95]]).double()] * 2
    chain = Chain(torch.tensor([0.5, 0.5]).double(), tuple(tables))
    wrong = torch.tensor([[1, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]])
    values = [torch.where(torch.arange(2) == wrong[:, layer, None], 0.0, -4.0).double() for layer in range(4)]
    found = departures(chain, values, wrong, torch.zeros(3, dtype=torch.int64), counts, min_images=5)
    assert found.level.tolist() == [3, 3, 5]
    assert found.lower.tolist() == [0, 0, 0]
    assert found.taken.tolist() == [1, 1, 1]
    assert found.expected.tolist() == [0, 0, 0]
    # 4 nats of layer 3, and above it the better of staying with word 1 and of crossing over to word 0.
    stay, cross = math.log(0.95), math.log(0.05)
    assert found.log_odds[:2].tolist() == pytest.approx([4.0 + stay - max(cross, stay - 4.0)] * 2)
    assert float(found.log_odds[2]) == pytest.approx(cross - stay)


def family_model(seed: int) -> HiddenMarkovModel:
    """Two classes of two words a layer; a path changes over to the other class with probability 0.02 a step."""
    stay = torch.tensor([[0.6, 0.3], [0.38, 0.68]]).double()
    table = torch.cat([torch.cat([stay, 0.01 * torch.ones(2, 2)]), torch.cat([0.01 * torch.ones(2, 2), stay])], dim=1)
    last = torch.tensor([[0.99, 0.99, 0.01, 0.01], [0.01, 0.01, 0.99, 0.99]]).double()
    layers = random_model((4,) * 4, (30,) * 4, (True,) * 4, seed=seed).layers
    return HiddenMarkovModel(Chain(torch.full((4,), 0.25).double(), (table,) * 3 + (last,)), layers)


@pytest.mark.parametrize("planted", [1, 2, 3, 4])
def test_drawn_images_leave_where_they_take_over_another_class(planted: int) -> None:
    model = family_model(planted)
    columns, drawn = drawn_activations(model, 2_000, seed=planted)
    predicted = drawn[-1]
    words = most_probable_paths(model.chain, model.log_densities(columns, predicted)).word
    states = model.chain.n_states
    counts = BranchCounts.from_batch(words, predicted, 2, states)
    # Errors: layers of a pure path of class 0 below the planted level, of a pure path of class 1 from it on.
    families = torch.stack(drawn[:-1], dim=1) // 2
    zeros, ones = (families == 0).all(dim=1), (families == 1).all(dim=1)
    n = min(int(zeros.sum()), int(ones.sum()), 300)
    mixed = [x[zeros][:n] if level < planted else x[ones][:n] for level, x in enumerate(columns, start=1)]
    label, wrong = torch.zeros(n, dtype=torch.int64), torch.ones(n, dtype=torch.int64)
    densities = model.log_densities(mixed, wrong)
    paths = most_probable_paths(model.chain, densities).word
    found = departures(model.chain, densities[:-1], paths, label, counts, min_images=60)
    assert (found.level == planted).double().mean() > 0.98
    there = found.level == planted
    assert bool((found.lower[there] < 2).all())
    assert bool((found.taken[there] >= 2).all())
    assert bool(((found.expected[there] == 0) | (found.expected[there] == 1)).all())
    assert float(found.log_odds[there].min()) > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: e.words.__setitem__((4, 1), 4), "row 4 has 4 at level 2"),
        (lambda e: e.words.__setitem__((2, 0), -1), "row 2 has -1 at level 1.*word -1"),
        (lambda e: e.label.__setitem__(3, 5), "label must lie in 0 ... 4; row 3 is 5"),
        (lambda e: setattr(e, "words", e.words[:, 1:]), r"shape \(n, 4\).*got \(80, 3\)"),
        (lambda e: setattr(e, "values", e.values[:1]), r"one \(n, K\) tensor per layer of words.*\(3, 4, 2, 5\)"),
        (lambda e: setattr(e, "values", e.values[::-1]), "chain's order"),
    ],
)
def test_bad_paths_are_refused(change, words) -> None:
    example = Example(0)
    counts = example.counts()
    change(example)
    with pytest.raises(RefusedInput, match=words):
        departures(example.chain, example.values, example.words, example.label, counts)


def test_bad_numbers_are_refused() -> None:
    example = Example(0)
    with pytest.raises(RefusedInput, match="min_images must be at least 1, got 0"):
        example.departures(0)
    with pytest.raises(RefusedInput, match=r"n_classes: must be the same in what is merged, got 5 and 6"):
        example.counts().merge(BranchCounts.zero(6, STATES))
    with pytest.raises(RefusedInput, match=r"level must lie in 1 \.\.\. 4"):
        branch_scores(example.chain, example.values, 5, torch.zeros(80, dtype=torch.int64))
    example.values[1][7, 0] = torch.nan
    with pytest.raises(NonFiniteActivations, match=r"log_likelihoods\[1\] must be below infinity"):
        example.departures()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_departures() -> None:
    example = Example(9, n=300)
    here = example.departures(2)
    example.values = [values.cuda() for values in example.values]
    there = example.departures(2)
    for name in ("level", "lower", "taken", "expected"):
        assert torch.equal(getattr(here, name), getattr(there, name))
    torch.testing.assert_close(there.log_odds, here.log_odds, rtol=1e-12, atol=1e-12, equal_nan=True)
