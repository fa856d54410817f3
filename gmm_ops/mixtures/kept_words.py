"""Loops over the few own words that matter for a column: sums of posteriors without a second product.

Real columns of 256 and more units keep 1 to 2 words. Which words are left out is decided against the best word of the
whole dictionary, so the same words are kept however it is sliced. Nothing of size (n, K_own) is stored besides the
scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from gmm_ops.mixtures.near_ties import BLOCK, block_maxima

NEGLECTED = 23.0
"""Words more than 23 + log K below a column's best are left out: together under 1e-10 of its posterior."""

DENSE_SHARE = 1.0 / 16.0
"""With more than this share of the words left per column, the second product is faster than the loop."""


def neglected_below(n_words: int) -> float:
    """How far below the best (natural logarithm) a word must lie to be left out."""
    return NEGLECTED + math.log(n_words)


@dataclass(frozen=True)
class KeptWords:
    """One tile's scores with the maxima of every 32 words.

    score: (n, K_own). maxima: (n, K_own / 32). cut: words more than this below a column's best are left out.
    """

    score: NDArray[np.floating]
    maxima: NDArray[np.floating]
    cut: np.floating

    @classmethod
    def of(cls, score: Float[Tensor, "n K_own"], n_words: int) -> tuple[KeptWords, Float[Tensor, " n"]]:
        """(the tile, best own score of every row). n_words: K of the whole dictionary."""
        scores = score.numpy()
        maxima = np.empty((len(scores), -(-scores.shape[1] // BLOCK)), scores.dtype)
        best = np.empty(len(scores), scores.dtype)
        _scan(scores, maxima, best)
        return cls(scores, maxima, scores.dtype.type(neglected_below(n_words))), torch.from_numpy(best)

    def totals(self, best: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Sum over own words of exp(s - best), float64. best: of all words."""
        total = np.empty(len(best), np.float64)
        _totals(self.score, self.maxima, best.numpy(), self.cut, total)
        return torch.from_numpy(total)

    def add(
        self,
        best: Float[Tensor, " n"],
        total: Float[Tensor, " n"],
        features: Float[Tensor, "n F"],
        sums: Float[Tensor, "K_own F"],
    ) -> None:
        """Add posteriors.T @ features to ``sums`` (float64), row by row. best, total: of all words."""
        arrays = (best, total, features, sums)
        _add(self.score, self.maxima, self.cut, *(a.numpy() for a in arrays))


@numba.njit(cache=True, nogil=True)
def _scan(score, maxima, best):  # type: ignore[no-untyped-def]
    for i in range(score.shape[0]):
        best[i] = block_maxima(score[i], maxima[i])


@numba.njit(cache=True, nogil=True)
def _totals(score, maxima, best, cut, total):  # type: ignore[no-untyped-def]
    words = score.shape[1]
    for i in range(score.shape[0]):
        least = best[i] - cut
        found = 0.0
        for block in range(maxima.shape[1]):
            if maxima[i, block] >= least:
                for k in range(block * BLOCK, min(words, (block + 1) * BLOCK)):
                    if score[i, k] >= least:
                        found += math.exp(np.float64(score[i, k]) - np.float64(best[i]))
        total[i] = found


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def add_row(features, share, sums):  # type: ignore[no-untyped-def]
    """sums += share * features, float64."""
    for d in range(features.shape[0]):
        sums[d] += share * np.float64(features[d])


@numba.njit(cache=True, nogil=True)
def _add(score, maxima, cut, best, total, features, sums):  # type: ignore[no-untyped-def]
    words = score.shape[1]
    for i in range(score.shape[0]):
        least = best[i] - cut
        for block in range(maxima.shape[1]):
            if maxima[i, block] >= least:
                for k in range(block * BLOCK, min(words, (block + 1) * BLOCK)):
                    if score[i, k] >= least:
                        power = math.exp(np.float64(score[i, k]) - np.float64(best[i]))
                        add_row(features[i], power / total[i], sums[k])
