"""Slow twin of the ordering of words: every order of every layer, crossings counted one pair of arrows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product


def crossings(orders: Sequence[Sequence[int]], edges: Sequence[Sequence[tuple[int, int]]]) -> int:
    """Pairs of arrows (a -> b, c -> d) between neighbouring layers with a left of c and b right of d."""
    total = 0
    for upper, lower, pairs in zip(orders[:-1], orders[1:], edges, strict=True):
        for a, b in pairs:
            for c, d in pairs:
                if upper.index(a) < upper.index(c) and lower.index(b) > lower.index(d):
                    total += 1
    return total


def fewest_crossings(layers: Sequence[Sequence[int]], edges: Sequence[Sequence[tuple[int, int]]]) -> int:
    """The smallest number of crossings over all orders of all layers."""
    return min(crossings(orders, edges) for orders in product(*(list(permutations(layer)) for layer in layers)))
