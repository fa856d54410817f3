"""Exponentials of the own scores relative to the best of all words."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from gmm_ops.mixtures.row_loops import DENORMAL_GUARD, exponentiate
from gmm_ops.mixtures.tiles import ScoredTile


def powers(tile: ScoredTile, best: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """In place: score becomes exp(score - best) (padding: 1e-26). Returns the own sum of every row, float64.

    best: (n,) of all words, real rows only. Posterior = power / sum over all slices.
    """
    score = tile.score
    score[tile.rows :] = math.exp(DENORMAL_GUARD)
    return exponentiate(score[: tile.rows], best)
