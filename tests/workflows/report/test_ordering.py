from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tests.references.crossings import crossings, fewest_crossings
from workflows.report.ordering import count_crossings, order_layers


def random_chain(rng: np.random.Generator, sizes: tuple[int, ...], density: float):
    layers = [rng.choice(50, size, replace=False).tolist() for size in sizes]
    edges = [
        [(int(a), int(b)) for a in upper for b in lower if rng.random() < density] for upper, lower in pairwise(layers)
    ]
    return layers, edges


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("sizes", [(1, 3, 3, 3), (1, 2, 4, 3), (1, 5, 4)])
def test_order_has_the_fewest_crossings_of_all_orders(seed: int, sizes: tuple[int, ...]) -> None:
    layers, edges = random_chain(np.random.default_rng(seed), sizes, density=0.6)
    ordered = order_layers(layers, edges)
    assert [sorted(order) for order in ordered] == [sorted(layer) for layer in layers]
    assert crossings(ordered, edges) == fewest_crossings(layers, edges)


@pytest.mark.parametrize("seed", range(6))
def test_count_equals_the_slow_count(seed: int) -> None:
    (upper, lower), (edges,) = random_chain(np.random.default_rng(seed), (6, 7), density=0.5)
    assert count_crossings(upper, lower, edges) == crossings([upper, lower], [edges])


def test_wide_layers_are_untangled_too() -> None:
    words = list(range(8))
    reversed_edges = [(word, 7 - word) for word in words]
    ordered = order_layers([[0], words, words], [[(0, word) for word in words], reversed_edges])
    assert crossings(ordered, [[], reversed_edges]) == 0
    layers, edges = random_chain(np.random.default_rng(3), (1, 7, 7, 7), density=0.3)
    assert crossings(order_layers(layers, edges), edges) < crossings(layers, edges)


def test_without_edges_the_rank_order_stays() -> None:
    assert order_layers([[9], [5, 1, 3], [2, 0]], [[], []]) == [(9,), (5, 1, 3), (2, 0)]


def test_of_equal_crossings_the_shorter_arrows_win() -> None:
    # One arrow from the last-ranked lower word: no order crosses, but straight up is shortest.
    ordered = order_layers([[0], [4, 5, 6]], [[(0, 6)]])
    assert ordered[1][1] == 6


def test_the_order_is_repeatable_and_of_words_not_numbers() -> None:
    layers, edges = random_chain(np.random.default_rng(5), (1, 3, 3, 3), density=0.8)
    assert order_layers(layers, edges) == order_layers(layers, edges)
    shifted = [[word + 100 for word in layer] for layer in layers]
    moved = [[(a + 100, b + 100) for a, b in pairs] for pairs in edges]
    assert order_layers(shifted, moved) == [tuple(w + 100 for w in order) for order in order_layers(layers, edges)]
