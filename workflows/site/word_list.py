"""Which words have a page, and their numbers: one number a word over scopes and layers, the names of their chunks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from workflows.plan.run_plan import Plan

WordKey = tuple[str, str, int]
"""Scope, layer and word."""


class WordList:
    """Words of all scopes and layers, in order.

    Args:
        plan: layers and their numbers of words.
        scopes: in the order that the page has them.
        shown: those with a page; None: all.
    """

    def __init__(self, plan: Plan, scopes: Sequence[str], shown: Collection[WordKey] | None = None) -> None:
        self._layers = {layer.name: layer.words for layer in plan.layers}
        self._scopes = list(scopes)
        self._first: dict[tuple[str, str], int] = {}
        number = 0
        for scope in self._scopes:
            for layer, words in self._layers.items():
                self._first[scope, layer] = number
                number += words
        self.total = number
        self._shown = None if shown is None else frozenset(shown)

    def number(self, scope: str, layer: str, word: int) -> int:
        """Of a word."""
        return self._first[scope, layer] + word

    def shown(self, scope: str, layer: str) -> list[int]:
        """Words of a layer that have a page, ascending."""
        every = range(self._layers[layer])
        return [word for word in every if self._shown is None or (scope, layer, word) in self._shown]

    def described(self) -> dict[str, Any]:
        """For the page: first number by scope and layer, and which words have a page; None: all."""
        first = [[self._first[scope, layer] for layer in self._layers] for scope in self._scopes]
        if self._shown is None:
            return {"first": first, "shown": None}
        numbers = sorted(self.number(*key) for key in self._shown if (key[0], key[1]) in self._first)
        return {"first": first, "shown": np.unique(numbers).astype(int).tolist()}
