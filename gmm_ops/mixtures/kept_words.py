"""The few own words that matter for a column, as lists: sums of posteriors without a second product.

Real columns of 256 and more units keep 1 to 2 words. Which words are left out is decided against the best word of the
whole dictionary, so the same words are kept however it is sliced.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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

ROOM = 8
"""Words a column that the lists have room for at first; a tile that keeps more is listed again with more room."""


def neglected_below(n_words: int) -> float:
    """How far below the best (natural logarithm) a word must lie to be left out."""
    return NEGLECTED + math.log(n_words)


@dataclass(frozen=True)
class KeptWords:
    """The own words of every row of a tile that lie less than ``cut`` below its best own one.

    first: (n + 1,) int64, where the list of each row begins. word: own words, ascending in a row. score: their log
    joints. cut: words more than this below a column's best of *all* words are passed over.
    """

    first: NDArray[np.int64]
    word: NDArray[np.int32]
    score: NDArray[np.floating]
    cut: np.floating

    @classmethod
    def of(cls, score: Float[Tensor, "n K_own"], n_words: int) -> tuple[KeptWords, Float[Tensor, " n"]]:
        """(the lists, best own score of every row). n_words: K of the whole dictionary."""
        scores = score.numpy()
        cut = scores.dtype.type(neglected_below(n_words))
        return cls.listed(lambda *lists: _list(scores, cut, *lists), scores.shape, scores.dtype, cut)

    @classmethod
    def listed(
        cls, fill: Callable[..., bool], shape: tuple[int, ...], dtype: np.dtype[np.floating], cut: np.floating
    ) -> tuple[KeptWords, Float[Tensor, " n"]]:
        """Lists that ``fill(best, first, word, score)`` writes; it returns False where they have too little room.

        shape: (n, K_own).
        """
        n, words = shape
        best, first = np.empty(n, dtype), np.zeros(n + 1, np.int64)
        room = min(ROOM, words) * n
        while True:
            word, score = np.empty(room, np.int32), np.empty(room, dtype)
            if fill(best, first, word, score):
                return cls(first, word[: first[n]], score[: first[n]], cut), torch.from_numpy(best)
            room = min(4 * room, words * n)

    def totals(self, best: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Sum over own words of exp(s - best), float64. best: of all words."""
        total = np.empty(len(best), np.float64)
        _totals(self.first, self.score, best.numpy(), self.cut, total)
        return torch.from_numpy(total)

    def add(
        self,
        best: Float[Tensor, " n"],
        total: Float[Tensor, " n"],
        features: Float[Tensor, "n F"],
        sums: Float[Tensor, "K_own F"],
    ) -> None:
        """Add posteriors.T @ features to ``sums`` (float64), row by row. best, total: of all words."""
        _add(*self.loop(best, total), features.numpy(), sums.numpy())

    def loop(self, best: Float[Tensor, " n"], total: Float[Tensor, " n"]) -> tuple[NDArray, ...]:  # type: ignore[type-arg]
        """What `kept_posteriors` is given: lists, cut, and the normaliser of every row over all words."""
        return self.first, self.word, self.score, self.cut, best.numpy(), total.numpy()  # type: ignore[return-value]


@numba.njit(cache=True, nogil=True)
def _list(scores, cut, best, first, word, score):  # type: ignore[no-untyped-def]
    words = scores.shape[1]
    maxima = np.empty((words + BLOCK - 1) // BLOCK, scores.dtype)
    found = 0
    for i in range(scores.shape[0]):
        row = scores[i]
        best[i] = block_maxima(row, maxima)
        least = best[i] - cut
        for block in range(maxima.shape[0]):
            if maxima[block] >= least:
                for k in range(block * BLOCK, min(words, (block + 1) * BLOCK)):
                    if row[k] >= least:
                        if found == word.shape[0]:
                            return False
                        word[found] = k
                        score[found] = row[k]
                        found += 1
        first[i + 1] = found
    return True


@numba.njit(cache=True, nogil=True)
def _totals(first, score, best, cut, total):  # type: ignore[no-untyped-def]
    for i in range(best.shape[0]):
        found = 0.0
        for j in range(first[i], first[i + 1]):
            if score[j] >= best[i] - cut:
                found += math.exp(np.float64(score[j]) - np.float64(best[i]))
        total[i] = found


@numba.njit(cache=True, nogil=True, inline="always")
def kept_posterior(j, i, score, cut, best, total):  # type: ignore[no-untyped-def]
    """Posterior of entry ``j`` of row ``i``; 0 where the whole dictionary's best word leaves it out."""
    if score[j] < best[i] - cut:
        return 0.0
    return math.exp(np.float64(score[j]) - np.float64(best[i])) / total[i]


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def add_row(features, share, sums):  # type: ignore[no-untyped-def]
    """sums += share * features, float64."""
    for d in range(features.shape[0]):
        sums[d] += share * np.float64(features[d])


@numba.njit(cache=True, nogil=True)
def _add(first, word, score, cut, best, total, features, sums):  # type: ignore[no-untyped-def]
    for i in range(features.shape[0]):
        for j in range(first[i], first[i + 1]):
            share = kept_posterior(j, i, score, cut, best, total)
            if share > 0.0:
                add_row(features[i], share, sums[word[j]])
