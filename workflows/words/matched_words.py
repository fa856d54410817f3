"""Words of two runs matched one to one by what they cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gmm_ops.trust.agreement import word_overlaps
from workflows.plan.run_plan import LayerPlan


@dataclass(frozen=True, eq=False)
class MatchedWords:
    """Words of a layer and their matches, those with a column in common; ascending words.

    Attributes:
        word, match: (m,) a word of the first run and its match in the second.
        overlap: (m,) intersection over union of their columns.
    """

    word: Int[np.ndarray, " m"]
    match: Int[np.ndarray, " m"]
    overlap: Float[np.ndarray, " m"]

    def reversed(self) -> MatchedWords:
        """From the second run to the first."""
        order = np.argsort(self.match, kind="stable")
        return MatchedWords(self.match[order], self.word[order], self.overlap[order])

    def of(self, words: Sequence[int]) -> dict[int, tuple[int, float]]:
        """Of some words of the first run those that have a match: it, and how far they overlap."""
        rows = np.flatnonzero(np.isin(self.word, list(words)))
        return {int(self.word[row]): (int(self.match[row]), float(self.overlap[row])) for row in rows}


def match_overlapping(both: Int[Tensor, "K K_other"]) -> MatchedWords:
    """The one-to-one matching of the largest sum of overlaps (Hungarian method), from the columns that words share."""
    overlaps = word_overlaps(both).numpy()
    word, match = linear_sum_assignment(overlaps, maximize=True)
    found = overlaps[word, match]
    return MatchedWords(word[found > 0], match[found > 0], found[found > 0])


def paired_layers(runs: Sequence[Sequence[LayerPlan]]) -> list[tuple[LayerPlan, ...]]:
    """Layers of several runs that belong together, lowest of the first run first.

    By their names; where the runs share none, from the output downwards, as many as each of them has.
    """
    named = [{layer.name: layer for layer in layers} for layers in runs]
    shared = [layer.name for layer in runs[0] if all(layer.name in known for known in named)]
    found = [tuple(known[name] for known in named) for name in shared]
    if found:
        return found
    return list(zip(*(list(layers)[::-1] for layers in runs), strict=False))[::-1]
