"""Log ratios as exact fractions; Algorithm 1 against the search over all subsets."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gmm_ops.errors import RefusedInput
from gmm_ops.graphs.inference_graph import (
    GraphEdge,
    GraphNode,
    LogRatios,
    edge_drawn,
    edge_scores,
    log_ratios,
    mine,
    pair_scores,
    rank_words,
)
from tests.references import inference_graph as slow

# A machine under load must not fail a law.
unhurried = settings(deadline=None)
Fractions = dict[tuple[int, int], Fraction]


def integers(seed: int, shape: tuple[int, ...], high: int = 12) -> torch.Tensor:
    """Counts with many zeros and, sometimes, a word that was never seen."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, high, shape) * random.integers(0, 2, shape)
    counts[random.integers(0, shape[0])] *= random.integers(0, 2)
    counts[:, random.integers(0, shape[1])] *= random.integers(0, 2)
    return torch.from_numpy(counts)


def assert_ratios(ratios: LogRatios, exact: Fractions) -> None:
    for s in range(ratios.values.shape[0]):
        for t in range(ratios.values.shape[1]):
            assert bool(ratios.defined[s, t]) == ((s, t) in exact)
            if (s, t) not in exact:
                assert math.isnan(ratios.values[s, t])
            else:
                expected = slow.log_ratio(exact[s, t])
                assert float(ratios.values[s, t]) == pytest.approx(expected, rel=1e-12, abs=1e-14)


@unhurried
@given(seed=st.integers(0, 10_000), pseudo_count=st.sampled_from([0.0, 0.5, 1.0, 7.0]))
def test_log_ratios_equal_exact_fractions(seed: int, pseudo_count: float) -> None:
    total = integers(seed, (4, 5))
    ratios = log_ratios(total, pseudo_count=pseudo_count)
    assert_ratios(ratios, slow.probability_ratios(total.tolist(), Fraction(pseudo_count)))
    frequency = total.sum(0) + 3
    ratios = log_ratios(total, prior="frequency", lower_frequency=frequency, pseudo_count=pseudo_count)
    assert_ratios(ratios, slow.probability_ratios(total.tolist(), Fraction(pseudo_count), frequency.tolist()))


@unhurried
@given(seed=st.integers(0, 10_000), pseudo_count=st.sampled_from([0.0, 1.0, 30.0]))
def test_smoothed_conditionals_sum_to_one(seed: int, pseudo_count: float) -> None:
    total = integers(seed, (5, 7))
    ratios = log_ratios(total, pseudo_count=pseudo_count)
    prior = total.sum(0) / total.sum().clamp(min=1)
    conditional = torch.where(ratios.defined, torch.exp2(ratios.values), 0.0) * prior
    seen = total.sum(1) > 0
    assert torch.allclose(conditional.sum(1)[seen], torch.ones(int(seen.sum()), dtype=torch.float64), atol=1e-12)


def test_unseen_pairs_are_finite_and_unseen_words_have_no_edge() -> None:
    total = torch.tensor([[6, 0, 0], [2, 8, 0], [0, 0, 0]])
    smoothed, paper = log_ratios(total), log_ratios(total, pseudo_count=0.0)
    defined = [[True, True, False], [True, True, False], [False, False, False]]
    assert smoothed.defined.tolist() == paper.defined.tolist() == defined
    # P(1) = 1/2 and P~(1|0) = (0 + 1/2) / (6 + 1) = 1/14.
    assert float(smoothed.values[0, 1]) == pytest.approx(math.log2(1 / 7))
    assert float(paper.values[0, 1]) == -math.inf
    frequency = log_ratios(total, prior="frequency", lower_frequency=torch.tensor([4, 4, 2]))
    assert frequency.defined[:2].all()
    assert math.isfinite(frequency.values[0, 2])


def test_independent_words_carry_no_bits() -> None:
    total = torch.tensor([1, 2, 5])[:, None] * torch.tensor([3, 4, 1, 8])[None, :]
    assert torch.allclose(log_ratios(total).values, torch.zeros(3, 4, dtype=torch.float64), atol=1e-14)


def test_hand_made_graph_of_five_nodes() -> None:
    # Layers: output (2 classes) over b (3 words) over a (2 words). The graph of class 0 has five nodes:
    # the class, the two best of b, the two best of a. m = 0, so every probability is a ratio of the counts.
    output_b = torch.tensor([[6, 2, 0], [2, 2, 4]])
    b_a = torch.tensor([[8, 0], [2, 2], [0, 4]])
    exact_upper = {(0, 0): Fraction(3, 2), (0, 1): Fraction(1), (1, 0): Fraction(1, 2), (1, 1): Fraction(1)}
    # P(b): 8/16, 4/16, 4/16. P(0|class 0) = 6/8, so 6/8 / (1/2) = 3/2; P(2|class 0) = 0.
    exact_upper |= {(0, 2): Fraction(0), (1, 2): Fraction(2)}
    # P(a): 10/16, 6/16. P(0|b0) = 1, so 8/5; P(0|b1) = 1/2, so 4/5; P(1|b1) = 1/2, so 4/3; P(1|b2) = 1, so 8/3.
    exact_lower = {(0, 0): Fraction(8, 5), (0, 1): Fraction(0), (1, 0): Fraction(4, 5), (1, 1): Fraction(4, 3)}
    exact_lower |= {(2, 0): Fraction(0), (2, 1): Fraction(8, 3)}
    ratios = [log_ratios(total, pseudo_count=0.0) for total in (output_b, b_a)]
    assert_ratios(ratios[0], exact_upper)
    assert_ratios(ratios[1], exact_lower)

    omega = [torch.tensor([[5, 1, 0], [0, 0, 0]]), torch.tensor([[6, 0], [1, 2], [0, 0]])]
    graph = mine(0, omega, ratios, top=2)
    b0, b1 = 5 * math.log2(3 / 2), 0.0
    a0, a1 = 6 * math.log2(8 / 5) + math.log2(4 / 5), 2 * math.log2(4 / 3)
    assert graph.root == 0
    assert [(node.layer, node.word, node.rank) for node in graph.nodes] == [
        (2, 0, 0), (1, 0, 0), (1, 1, 1), (0, 0, 0), (0, 1, 1),
    ]  # fmt: skip
    assert [node.score for node in graph.nodes] == pytest.approx([0.0, b0, b1, a0, a1])
    edge_lists = [
        (2, 0, 1, 0, 5, Fraction(5, 6), Fraction(3, 2)),
        (2, 0, 1, 1, 1, Fraction(1, 6), Fraction(1)),
        (1, 0, 0, 0, 6, Fraction(1), Fraction(8, 5)),
        (1, 1, 0, 0, 1, Fraction(1, 3), Fraction(4, 5)),
        (1, 1, 0, 1, 2, Fraction(2, 3), Fraction(4, 3)),
    ]
    assert len(graph.edges) == len(edge_lists)
    for edge, (*words, count, share, ratio) in zip(graph.edges, edge_lists, strict=True):
        assert [edge.upper_layer, edge.upper_word, edge.lower_layer, edge.lower_word, edge.count] == [*words, count]
        assert edge.relative_frequency == pytest.approx(float(share), abs=0, rel=1e-15)
        assert edge.log_ratio == pytest.approx(math.log2(ratio), rel=1e-15, abs=1e-15)
        assert edge.score == pytest.approx(count * math.log2(ratio), rel=1e-15, abs=1e-15)
    assert [edge_drawn(edge.log_ratio) for edge in graph.edges] == ["weak", "hidden", "weak", "hidden", "weak"]
    assert graph.nodes_of(1) == (GraphNode(1, 0, 0, graph.nodes[1].score), GraphNode(1, 1, 1, 0.0))


@unhurried
@given(seed=st.integers(0, 10_000), top=st.integers(1, 4), pseudo_count=st.sampled_from([0.5, 1.0]))
def test_algorithm_1_equals_the_search_over_all_subsets(seed: int, top: int, pseudo_count: float) -> None:
    totals = [integers(seed, (3, 6), 40), integers(seed + 1, (6, 7), 40)]
    # Omega is a part of all validation images.
    omega = [torch.minimum(total, integers(seed + 2, tuple(total.shape), 30)) for total in totals]
    omega[0][1, 0] += 1
    bits = [
        {pair: slow.log_ratio(ratio) for pair, ratio in exact.items()}
        for exact in (slow.probability_ratios(total.tolist(), Fraction(pseudo_count)) for total in totals)
    ]
    graph = mine(1, omega, [log_ratios(total, pseudo_count=pseudo_count) for total in totals], top=top)
    upper_words = [1]
    for place, layer in enumerate((1, 0)):
        chosen = [node.word for node in graph.nodes_of(layer)]
        candidates = set(slow.present_words(upper_words, omega[place].tolist(), bits[place]))
        assert len(set(chosen)) == min(top, len(candidates))
        assert set(chosen) <= candidates
        if not chosen:
            break
        best, _ = slow.best_subset(upper_words, omega[place].tolist(), bits[place], top)
        found = slow.log_likelihood_ratio(upper_words, chosen, omega[place].tolist(), bits[place])
        assert found == pytest.approx(best, rel=1e-12, abs=1e-9)
        assert sum(node.score for node in graph.nodes_of(layer)) == pytest.approx(best, rel=1e-12, abs=1e-9)
        upper_words = chosen


@unhurried
@given(seed=st.integers(0, 10_000), top=st.integers(1, 4), positive_only=st.booleans())
def test_edges_hold_the_parts_of_the_scores(seed: int, top: int, positive_only: bool) -> None:
    totals = [integers(seed, (3, 6)) + 1, integers(seed + 1, (6, 7)) + 1]
    omega = [torch.minimum(total, integers(seed + 2, tuple(total.shape))) for total in totals]
    omega[0][2, 1] += 1
    ratios = [log_ratios(total) for total in totals]
    graph = mine(2, omega, ratios, top=top, positive_only=positive_only)
    for node in graph.nodes[1:]:
        into = [edge for edge in graph.edges if (edge.lower_layer, edge.lower_word) == (node.layer, node.word)]
        assert node.score == pytest.approx(math.fsum(edge.score for edge in into), abs=1e-12)
        assert not positive_only or node.score > 0
        for edge in into:
            place = 1 - node.layer
            assert edge.count == omega[place][edge.upper_word, edge.lower_word] > 0
            assert edge.log_ratio == ratios[place].values[edge.upper_word, edge.lower_word]
            assert edge.relative_frequency == edge.count / int(omega[place][edge.upper_word].sum())
    for layer in (1, 0):
        scores = [node.score for node in graph.nodes_of(layer)]
        assert scores == sorted(scores, reverse=True)
        assert [node.rank for node in graph.nodes_of(layer)] == list(range(len(scores)))


@unhurried
@given(seed=st.integers(0, 10_000))
def test_relabelling_words_relabels_the_graph(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = (4, 6, 5)  # output, middle, lowest
    # Counts spread so widely that no two scores are equal: ties go by word number, which relabelling changes.
    totals = [torch.randint(1, 10**6, shape, generator=generator) for shape in pairwise(sizes)]
    omega = [torch.randint(1, 10**5, tuple(total.shape), generator=generator) for total in totals]
    new = [torch.randperm(size, generator=generator) for size in sizes]

    def renamed(tables: list[torch.Tensor]) -> list[torch.Tensor]:
        return [table[new[i].argsort()][:, new[i + 1].argsort()] for i, table in enumerate(tables)]

    graph = mine(3, omega, [log_ratios(total) for total in totals])
    again = mine(int(new[0][3]), renamed(omega), [log_ratios(total) for total in renamed(totals)])
    expected = graph.relabelled([words.tolist() for words in reversed(new)])
    assert again.root == expected.root
    for got, want in zip(again.nodes, expected.nodes, strict=True):
        assert (got.layer, got.word, got.rank) == (want.layer, want.word, want.rank)
        assert got.score == pytest.approx(want.score, rel=1e-9)
    for edge, want_edge in zip(again.edges, expected.edges, strict=True):
        assert (edge.upper_layer, edge.upper_word, edge.lower_word) == (
            want_edge.upper_layer, want_edge.upper_word, want_edge.lower_word,
        )  # fmt: skip
        assert (edge.count, edge.relative_frequency) == (want_edge.count, want_edge.relative_frequency)
        assert edge.log_ratio == pytest.approx(want_edge.log_ratio, rel=1e-9, abs=1e-12)


def ratios_of(bits: list[list[float]]) -> LogRatios:
    table = torch.tensor(bits, dtype=torch.float64)
    return LogRatios(values=table, defined=~table.isnan())


def test_ties_go_to_the_lower_word() -> None:
    counts = torch.tensor([[2, 2, 2, 1, 2]])
    graph = mine(0, [counts], [ratios_of([[0.5, 1.0, 1.0, 2.0, 1.0]])], top=3)
    assert [node.word for node in graph.nodes_of(0)] == [1, 2, 3]
    # Many words, so that a selection that is stable by luck on a short list is found out.
    counts = torch.ones(1, 5000, dtype=torch.int64)
    bits = torch.ones(1, 5000, dtype=torch.float64)
    bits[0, 40:] = 2.0
    graph = mine(0, [counts], [LogRatios(bits, ~bits.isnan())], top=50)
    assert [node.word for node in graph.nodes_of(0)] == list(range(40, 90))


def test_the_paper_keeps_any_sign_and_the_code_only_positive() -> None:
    counts, ratios = torch.tensor([[3, 4, 1]]), ratios_of([[-1.0, 2.0, -0.5]])
    assert [(node.word, node.score) for node in mine(0, [counts], [ratios]).nodes_of(0)] == [(1, 8), (2, -0.5), (0, -3)]
    positive = mine(0, [counts], [ratios], positive_only=True)
    assert [node.word for node in positive.nodes_of(0)] == [1]
    assert positive.edges == (GraphEdge(1, 0, 0, 1, 4, 0.5, 2.0, 8.0),)


def test_a_word_absent_from_omega_never_beats_a_present_one() -> None:
    # Word 0 is absent and would score 0, above the negative scores of the two words that are there.
    counts, ratios = torch.tensor([[0, 4, 1]]), ratios_of([[2.0, -1.0, -3.0]])
    graph = mine(0, [counts], [ratios], top=3)
    assert [(node.word, node.score) for node in graph.nodes_of(0)] == [(2, -3.0), (1, -4.0)]
    assert [edge.lower_word for edge in graph.edges] == [2, 1], "every chosen word has an edge"


def test_the_graph_ends_where_nothing_can_be_chosen() -> None:
    counts = [torch.tensor([[3, 4]]), torch.tensor([[1, 1], [1, 1]])]
    ratios = [ratios_of([[-1.0, -2.0]]), ratios_of([[1.0, 1.0], [1.0, 1.0]])]
    graph = mine(0, counts, ratios, positive_only=True)
    assert [node.layer for node in graph.nodes] == [2]
    assert graph.edges == ()


def test_words_without_a_log_ratio_are_never_chosen() -> None:
    # Word 0 was never seen in validation; word 2 has minus infinity (m = 0) and no pair here: it adds nothing.
    counts = torch.tensor([[9, 4, 0, 2]])
    ratios = ratios_of([[math.nan, 1.0, -math.inf, -math.inf]])
    assert edge_scores(counts, ratios).tolist() == [[0.0, 4.0, 0.0, -math.inf]]
    graph = mine(0, [counts], [ratios], top=4)
    # Word 2 has no pair in Omega, so it is not eligible either.
    assert [node.word for node in graph.nodes_of(0)] == [1, 3]
    assert [(edge.lower_word, edge.count) for edge in graph.edges] == [(1, 4), (3, 2)]
    assert graph.edges[0].relative_frequency == pytest.approx(4 / 15)


@unhurried
@given(seed=st.integers(0, 10_000), top=st.integers(1, 4), positive_only=st.booleans())
def test_scores_of_the_paper_give_the_papers_graph(seed: int, top: int, positive_only: bool) -> None:
    counts = [integers(seed + level, shape) for level, shape in enumerate(((2, 5), (5, 4), (4, 6)))]
    counts[0][1, 0] = 1
    ratios = [log_ratios(count + integers(seed + 7, tuple(count.shape))) for count in counts]
    graph = mine(1, counts, ratios, top, positive_only)
    above = [[1], *([node.word for node in graph.nodes_of(layer)] for layer in (2, 1))]
    scores = [
        pair_scores(words, count, ratio) if words else torch.full((count.shape[1],), torch.nan)
        for words, count, ratio in zip(above, counts, ratios, strict=True)
    ]
    assert mine(1, counts, ratios, top, positive_only, scores) == graph
    ranked = rank_words(1, counts, ratios, (top,), 2, positive_only, scores)
    assert ranked == rank_words(1, counts, ratios, (top,), 2, positive_only)


def test_given_scores_choose_and_edges_stay() -> None:
    counts, ratios = torch.tensor([[3, 4, 1, 0, 2]]), ratios_of([[1.0, 2.0, -0.5, 1.0, 0.5]])
    scores = torch.tensor([1.0, -2.0, 5.0, math.nan, 1.0])
    graph = mine(0, [counts], [ratios], 3, scores=[scores])
    assert [(node.word, node.score) for node in graph.nodes_of(0)] == [(2, 5.0), (0, 1.0), (4, 1.0)]
    assert [(edge.lower_word, edge.score) for edge in graph.edges] == [(2, -0.5), (0, 3.0), (4, 1.0)]
    every = mine(0, [counts], [ratios], 9, scores=[scores])
    assert [node.word for node in every.nodes_of(0)] == [2, 0, 4, 1], "a word without a score is never chosen"
    assert [node.word for node in mine(0, [counts], [ratios], 9, True, [scores]).nodes_of(0)] == [2, 0, 4]


def test_scores_that_do_not_fit_are_refused() -> None:
    counts, ratios = torch.tensor([[1, 2]]), ratios_of([[1.0, 1.0]])
    for scores in ([], [torch.zeros(3)], [torch.tensor([0.0, math.inf])]):
        with pytest.raises(RefusedInput, match=r"scores: must be one number or NaN for each lower word .*got shapes"):
            mine(0, [counts], [ratios], scores=scores)


@pytest.mark.parametrize(
    ("log_ratio", "drawn"),
    [(-math.inf, "hidden"), (-0.1, "hidden"), (0.0, "hidden"), (0.1, "weak"), (1.0, "weak"), (1.01, "strong")],
)
def test_drawing_rule(log_ratio: float, drawn: str) -> None:
    assert edge_drawn(log_ratio) == drawn


def test_refusals() -> None:
    counts, ratios = torch.tensor([[1, 2], [0, 0]]), ratios_of([[1.0, 1.0], [1.0, 1.0]])
    with pytest.raises(RefusedInput, match=r"total: must be \(upper words, lower words\) int64 .* torch.float32"):
        log_ratios(counts.float())
    with pytest.raises(RefusedInput, match=r"total: .*not negative"):
        log_ratios(-counts)
    with pytest.raises(RefusedInput, match=r"pseudo_count: must be a number from 0 up, got -1.0"):
        log_ratios(counts, pseudo_count=-1.0)
    with pytest.raises(RefusedInput, match=r"prior: must be 'marginal' or 'frequency', got 'uniform'"):
        log_ratios(counts, prior="uniform")  # type: ignore[arg-type]
    with pytest.raises(RefusedInput, match=r"lower_frequency: must hold one number for each of the 2 .*got nothing"):
        log_ratios(counts, prior="frequency")
    with pytest.raises(RefusedInput, match=r"lower_frequency: is only read with prior='frequency'"):
        log_ratios(counts, lower_frequency=torch.ones(2))
    with pytest.raises(RefusedInput, match=r"positive for every lower word that was counted"):
        log_ratios(counts, prior="frequency", lower_frequency=torch.tensor([0, 1]))
    with pytest.raises(RefusedInput, match=r"top: must be a whole number of at least 1, got 0"):
        mine(0, [counts], [ratios], top=0)
    with pytest.raises(RefusedInput, match=r"counts, ratios: must have one entry for each pair of layers, got 1 and 0"):
        mine(0, [counts], [])
    with pytest.raises(RefusedInput, match=r"counts\[1\], ratios\[1\]: must be of one shape .* 2 lower words"):
        mine(0, [counts, torch.ones(3, 2, dtype=torch.int64)], [ratios, ratios])
    with pytest.raises(RefusedInput, match=r"root: must be a word from 0 to 1, got 2"):
        mine(2, [counts], [ratios])
    with pytest.raises(RefusedInput, match=r"root: Omega must hold pairs of the root word, got none for word 1"):
        mine(1, [counts], [ratios])


@unhurried
@given(seed=st.integers(0, 10_000), positive_only=st.booleans())
def test_ranked_words_are_those_mined_and_those_that_come_next(seed: int, positive_only: bool) -> None:
    counts = [integers(seed, (2, 6)), integers(seed + 1, (6, 5))]
    counts[0][0, 0] += 1
    ratios = [log_ratios(count + 1) for count in counts]
    ranked = rank_words(0, counts, ratios, (1, 2, 4), spare=2, positive_only=positive_only)
    for top, layers in zip((1, 2, 4), ranked, strict=True):
        graph = mine(0, counts, ratios, top, positive_only)
        for level, words in enumerate(layers):
            own = [(node.word, node.score) for node in graph.nodes_of(1 - level)]
            assert words[:top] == own
            assert len(words) <= top + 2
    first = [layers[0] for layers in ranked]
    assert first[0] == first[2][: len(first[0])], "below the root nothing depends on the top"


def test_ranking_refuses_what_mining_refuses() -> None:
    counts, ratios = [torch.ones(2, 3, dtype=torch.int64)], [log_ratios(torch.ones(2, 3, dtype=torch.int64))]
    with pytest.raises(RefusedInput, match="top: must be a whole number of at least 1, got 0"):
        rank_words(0, counts, ratios, (1, 0))
    with pytest.raises(RefusedInput, match="spare: must be a whole number of at least 0, got -1"):
        rank_words(0, counts, ratios, (1,), spare=-1)
    with pytest.raises(RefusedInput, match="root: must be a word from 0 to 1, got 2"):
        rank_words(2, counts, ratios, (1,))
