"""The E-step where few words matter per column: real columns of 256 and more units keep 1 to 2 words.

The scores are the same product; the posteriors of the words left and their sums are one loop over rows, in
place of an exponential of the whole (n, K) block and a second product of the same size as the first.
"""

from __future__ import annotations

import math

import numba
import numpy as np
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


def is_sparse(score: Float[Tensor, "n K"]) -> bool:
    """Whether few enough words matter in these rows for the loop to win."""
    if score.device.type != "cpu" or score.shape[0] == 0:
        return False
    best = score.amax(dim=1, keepdim=True)
    kept = (score >= best - neglected_below(score.shape[1])).sum().item() / score.shape[0]
    return kept < DENSE_SHARE * score.shape[1]


class KeptWords:
    """Room for the words kept in one tile, reused from tile to tile: how many, which, and their posteriors."""

    def __init__(self, rows: int, n_words: int) -> None:
        self.count: NDArray[np.int32] = np.zeros(rows, np.int32)
        self.word: NDArray[np.int32] = np.empty((rows, n_words), np.int32)
        self.posterior: NDArray[np.float64] = np.empty((rows, n_words), np.float64)


def add_tile(
    score: Float[Tensor, "n K"],
    features: Float[Tensor, "n F"],
    kept: KeptWords,
    sums: NDArray[np.float64],
    log_likelihood: NDArray[np.float64],
) -> None:
    """Add posteriors.T @ features of the kept words to ``sums`` (K, F); write log p(x) of every row.

    Rows are added one by one in float64: the sums depend on the tiling in the last bit of a double only.
    """
    cut = np.float32(neglected_below(score.shape[1]))
    _keep(score.numpy(), cut, kept.count, kept.word, kept.posterior, log_likelihood)
    _add(features.numpy()[: score.shape[0]], kept.count, kept.word, kept.posterior, sums)


@numba.njit(cache=True, nogil=True)
def _keep(score, cut, count, word, posterior, log_likelihood):  # type: ignore[no-untyped-def]
    words = score.shape[1]
    maxima = np.empty((words + BLOCK - 1) // BLOCK, np.float32)
    for i in range(score.shape[0]):
        row = score[i]
        best = block_maxima(row, maxima)
        found = 0
        total = 0.0
        for block in range(maxima.shape[0]):
            if maxima[block] >= best - cut:
                for k in range(block * BLOCK, min(words, (block + 1) * BLOCK)):
                    if row[k] >= best - cut:
                        power = math.exp(np.float64(row[k]) - np.float64(best))
                        word[i, found] = k
                        posterior[i, found] = power
                        total += power
                        found += 1
        for j in range(found):
            posterior[i, j] /= total
        count[i] = found
        log_likelihood[i] = best + math.log(total)


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _add_row(features, share, sums):  # type: ignore[no-untyped-def]
    for d in range(features.shape[0]):
        sums[d] += share * np.float64(features[d])


@numba.njit(cache=True, nogil=True)
def _add(features, count, word, posterior, sums):  # type: ignore[no-untyped-def]
    for i in range(features.shape[0]):
        for j in range(count[i]):
            _add_row(features[i], posterior[i, j], sums[word[i, j]])
