"""Which of the words within rounding of the best really is the best: float64, in a fixed order."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import Columns, WordStatistics

BLOCK = 32
"""Words looked at together: their maximum rules out the block at one instruction per 16 words."""

ROUNDING = 1e-6
"""Relative error allowed to a float32 product; a few roundings of its largest terms."""

CANDIDATES = 8
"""Words rescored per column on a GPU, where every column must do the same work."""


@dataclass(frozen=True)
class ExactScores:
    """Float64 parameters about the centre, laid out for the tie-break.

    mean, half_precision: (K, D) mu and 1 / (2 var). peak: (K,) log joint of a column on the word's mean.
    offset: (K,) sum_d mu^2 / (2 var). The float32 product sums terms as large as that before they cancel to the
    distance, and its rounding is relative to them.
    """

    mean: WordStatistics
    half_precision: WordStatistics
    peak: Float[Tensor, " K"]
    offset: Float[Tensor, " K"]

    @classmethod
    def of(cls, mean: WordStatistics, variance: WordStatistics, peak: Float[Tensor, " K"]) -> ExactScores:
        """From means about the centre and variances."""
        half_precision = (0.5 / variance).contiguous()
        return cls(mean.contiguous(), half_precision, peak, (mean * mean * half_precision).sum(dim=1))

    def settle(
        self, score: Float[Tensor, "n K"], columns_centred: Columns
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        """Best word (ties: lowest) and its float64 log joint per row of the float32 ``score``."""
        if score.device.type != "cpu":
            return self._settle_by_candidates(score, columns_centred)
        word = np.empty(score.shape[0], np.int64)
        joint = np.empty(score.shape[0], np.float64)
        parameters = (self.mean, self.half_precision, self.peak, self.offset)
        _settle(score.numpy(), columns_centred.numpy(), *(p.numpy() for p in parameters), word, joint)
        return torch.from_numpy(word), torch.from_numpy(joint)

    def _settle_by_candidates(
        self, score: Float[Tensor, "n K"], columns_centred: Columns
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        word = score.topk(min(CANDIDATES, score.shape[1]), dim=1).indices.sort(dim=1).values
        joint = torch.stack([self._joint(columns_centred, w) for w in word.T], dim=1)
        best = joint.amax(dim=1, keepdim=True)
        first = (joint == best).int().argmax(dim=1, keepdim=True)
        return word.gather(1, first).squeeze(1), best.squeeze(1)

    def _joint(self, columns_centred: Columns, word: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        difference = columns_centred.double() - self.mean[word]
        return self.peak[word] - (difference * difference * self.half_precision[word]).sum(dim=1)


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz", "nnan"})
def largest(values):  # type: ignore[no-untyped-def]
    """Maximum of a few values without NaN; written so that the compiler uses vector instructions."""
    found = values[0]
    for k in range(values.shape[0]):
        if values[k] > found:
            found = values[k]
    return found


@numba.njit(cache=True, nogil=True)
def block_maxima(row, maxima):  # type: ignore[no-untyped-def]
    """Maximum of every block of words into ``maxima``; returns the largest of all."""
    top = np.float32(-np.inf)
    for block in range(maxima.shape[0]):
        maxima[block] = largest(row[block * BLOCK : (block + 1) * BLOCK])
        if maxima[block] > top:
            top = maxima[block]
    return top


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _distance(x, mean, half_precision):  # type: ignore[no-untyped-def]
    total = 0.0
    for d in range(x.shape[0]):
        difference = np.float64(x[d]) - mean[d]
        total += difference * difference * half_precision[d]
    return total


@numba.njit(cache=True, nogil=True)
def _first_equal(row, maxima, top):  # type: ignore[no-untyped-def]
    for block in range(maxima.shape[0]):
        if maxima[block] == top:
            for k in range(block * BLOCK, min(row.shape[0], (block + 1) * BLOCK)):
                if row[k] == top:
                    return k
    return 0


@numba.njit(cache=True, nogil=True)
def _settle(score, x, mean, half_precision, peak, offset, word, joint):  # type: ignore[no-untyped-def]
    words = score.shape[1]
    maxima = np.empty((words + BLOCK - 1) // BLOCK, np.float32)
    for i in range(score.shape[0]):
        row = score[i]
        top = block_maxima(row, maxima)
        guess = _first_equal(row, maxima, top)
        terms = 6.0 * abs(peak[guess] - top) + 7.0 * offset[guess] + abs(top)
        threshold = np.float32(top - 1e-3 - ROUNDING * terms)
        best = -np.inf
        best_word = guess
        for block in range(maxima.shape[0]):
            if maxima[block] >= threshold:
                for k in range(block * BLOCK, min(words, (block + 1) * BLOCK)):
                    if row[k] >= threshold:
                        exact = peak[k] - _distance(x[i], mean[k], half_precision[k])
                        if exact > best:
                            best = exact
                            best_word = k
        word[i] = best_word
        joint[i] = best
