"""Exponentials of the own scores relative to the best of all words, and their sums over all."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from gmm_ops.fitting.collective import Collective
from gmm_ops.mixtures.row_loops import DENORMAL_GUARD, exponentiate, row_maxima
from gmm_ops.mixtures.tiles import ScoredTile


def powers(tile: ScoredTile, best: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """In place: score becomes exp(score - best) (padding: 1e-26). Returns the own sum of every row, float64.

    best: (n,) of all words, real rows only. Posterior = power / sum over all slices.
    """
    score = tile.score
    score[tile.rows :] = math.exp(DENORMAL_GUARD)
    return exponentiate(score[: tile.rows], best)


def normalised(tile: ScoredTile, collective: Collective) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """``powers`` of a tile in place; (best score, float64 sum of the powers) of every row over all words."""
    best = collective.all_reduce_max(row_maxima(tile.score[: tile.rows]))
    return best, collective.all_reduce_sum(powers(tile, best))
