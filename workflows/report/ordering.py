"""The order of the words inside each layer that makes the fewest arrows cross."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations

import numpy as np
from jaxtyping import Float, Int

Pairs = Sequence[tuple[int, int]]
"""Edges between two neighbouring layers: upper word, lower word."""

_EXACT_WORDS = 5  # 120 orders a layer, 14,400 pairs of orders: milliseconds; 6 words are 36 times that
_SWEEPS = 8


def count_crossings(upper: Sequence[int], lower: Sequence[int], edges: Pairs) -> int:
    """How many pairs of straight arrows cross when both layers stand in these orders."""
    x_upper = {word: x for x, word in enumerate(upper)}
    x_lower = {word: x for x, word in enumerate(lower)}
    return sum((x_upper[a] - x_upper[c]) * (x_lower[b] - x_lower[d]) < 0 for (a, b), (c, d) in combinations(edges, 2))


def order_layers(layers: Sequence[Sequence[int]], edges: Sequence[Pairs]) -> list[tuple[int, ...]]:
    """Order every layer for the fewest crossings; among those, for the shortest arrows.

    Exact for layers of up to five words: crossings depend on neighbouring layers only, so the best orders of a chain
    of layers follow by dynamic programming over the permutations of each. Wider layers take barycentre sweeps.

    Args:
        layers: words from the top layer down, each in rank order (ties keep that order).
        edges: for each two neighbouring layers their (upper word, lower word) pairs.
    """
    if max(len(words) for words in layers) > _EXACT_WORDS:
        return _barycentre(layers, edges)
    orders = [np.array(list(permutations(range(len(words)))), dtype=np.int64) for words in layers]
    best = np.zeros(len(orders[0]))
    came_from: list[Int[np.ndarray, " orders"]] = []
    for upper, lower, pairs, upper_words, lower_words in zip(
        orders[:-1], orders[1:], edges, layers[:-1], layers[1:], strict=True
    ):
        ends = np.array([(upper_words.index(a), lower_words.index(b)) for a, b in pairs], dtype=np.int64)
        cost = best[:, None] + _costs(np.argsort(upper, axis=1), np.argsort(lower, axis=1), ends.reshape(-1, 2))
        came_from.append(cost.argmin(axis=0))
        best = cost.min(axis=0)
    choice = [int(best.argmin())]
    for back in reversed(came_from):
        choice.append(int(back[choice[-1]]))
    return [
        tuple(words[i] for i in order[pick])
        for words, order, pick in zip(layers, orders, reversed(choice), strict=True)
    ]


def _costs(
    upper: Int[np.ndarray, "orders K"], lower: Int[np.ndarray, "orders_lower K_lower"], ends: Int[np.ndarray, "E 2"]
) -> Float[np.ndarray, "orders orders_lower"]:
    """Crossings, plus arrow length scaled below one crossing, for every pair of orders (rows: place of each word)."""
    x_upper, x_lower = upper[:, ends[:, 0]], lower[:, ends[:, 1]]
    first, second = np.triu_indices(len(ends), k=1)
    sign_upper = np.sign(x_upper[:, first] - x_upper[:, second]).astype(np.float64)
    sign_lower = np.sign(x_lower[:, first] - x_lower[:, second]).astype(np.float64)
    crossings = (np.abs(sign_upper) @ np.abs(sign_lower).T - sign_upper @ sign_lower.T) / 2
    middle_upper, middle_lower = (upper.shape[1] - 1) / 2, (lower.shape[1] - 1) / 2
    length = np.zeros_like(crossings)
    for edge in range(len(ends)):
        length += np.abs((x_upper[:, edge, None] - middle_upper) - (x_lower[None, :, edge] - middle_lower))
    longest = (upper.shape[1] + lower.shape[1]) * (len(ends) + 1)
    return crossings + length / (longest * 100)


def _barycentre(layers: Sequence[Sequence[int]], edges: Sequence[Pairs]) -> list[tuple[int, ...]]:
    """Sweep down and up, placing each word at the mean place of its neighbours; keep the best order seen."""
    orders = [tuple(words) for words in layers]
    best, fewest = list(orders), _total(orders, edges)
    for _ in range(_SWEEPS):
        for index in range(1, len(orders)):
            orders[index] = _by_mean(orders[index], orders[index - 1], [(b, a) for a, b in edges[index - 1]])
        for index in range(len(orders) - 2, -1, -1):
            orders[index] = _by_mean(orders[index], orders[index + 1], edges[index])
        crossings = _total(orders, edges)
        if crossings < fewest:
            best, fewest = list(orders), crossings
    return best


def _by_mean(order: tuple[int, ...], fixed: tuple[int, ...], pairs: Pairs) -> tuple[int, ...]:
    place = {word: x / max(len(fixed) - 1, 1) for x, word in enumerate(fixed)}
    means = {}
    for x, word in enumerate(order):
        near = [place[other] for own, other in pairs if own == word]
        means[word] = sum(near) / len(near) if near else x / max(len(order) - 1, 1)
    return tuple(sorted(order, key=lambda word: (means[word], order.index(word))))


def _total(orders: Sequence[tuple[int, ...]], edges: Sequence[Pairs]) -> int:
    return sum(count_crossings(up, low, pairs) for up, low, pairs in zip(orders[:-1], orders[1:], edges, strict=True))
