"""Which of the words within rounding of the best really is the best: float64, in a fixed order."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import Columns, WordStatistics
from gmm_ops.mixtures.row_loops import largest

BLOCK = 32
"""Words looked at together: their maximum rules out the block at one instruction per 16 words."""

ROUNDING = 1e-6
"""Relative error allowed to a float32 product; a few roundings of its largest terms."""

SLACK = 1e-3
"""Error allowed to every float32 score on top: the last sums of a product whose terms are all small."""

CANDIDATES = 8
"""Words rescored per column on a GPU, where every column must do the same work."""


@dataclass(frozen=True)
class ExactScores:
    """Float64 parameters, laid out for the tie-break.

    The float32 product s of a word sums terms that cancel to p - d, with p its peak and d the distance: x^2 h <=
    2 (d + o) and 2 x mu h <= 2 d + 3 o, with h = 1 / (2 var) and o = sum mu^2 h about the centre, and the constant
    |p| + o. So its rounding is relative to 4 d + 6 o + |p| <= 6 |p - s| + 7 o + |s|, which differs from word to word:
    a narrow word far from the centre is known a thousand times worse than a wide one at it, and each word within
    *its own* rounding of the best stays a candidate.

    mean, half_precision: (K, D) mu, layer units, and 1 / (2 var). peak: (K,) log joint of a column on the word's
    mean. offset: (K,) o. most_peak, most_offset: (blocks,) largest |peak| and offset of every block of words.
    """

    mean: WordStatistics
    half_precision: WordStatistics
    peak: Float[Tensor, " K"]
    offset: Float[Tensor, " K"]
    most_peak: Float[Tensor, " B"]
    most_offset: Float[Tensor, " B"]

    @classmethod
    def of(
        cls, mean: WordStatistics, variance: WordStatistics, center: Float[Tensor, " D"], peak: Float[Tensor, " K"]
    ) -> ExactScores:
        """From the words and the centre of a mixture; an empty word (peak -inf) is never a candidate."""
        half_precision = (0.5 / variance).contiguous()
        moved = mean - center
        offset = (moved * moved * half_precision).sum(dim=1)
        possible = torch.isfinite(peak)
        blocks = [torch.where(possible, values, 0.0).split(BLOCK) for values in (peak.abs(), offset)]
        most = (torch.stack([part.amax() for part in parts]) for parts in blocks)
        return cls(mean.contiguous(), half_precision, peak.contiguous(), offset, *most)

    def settle(self, score: Float[Tensor, "n K"], columns: Columns) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        """Best word (ties: lowest) and its float64 log joint per row of the float32 ``score``.

        columns: as they came, not centred: float64 sees every digit of them.
        """
        if columns.dtype not in (torch.float32, torch.float64):
            columns = columns.float()
        if score.device.type != "cpu":
            return self._settle_by_candidates(score, columns)
        word = np.empty(score.shape[0], np.int64)
        joint = np.empty(score.shape[0], np.float64)
        parameters = (self.mean, self.half_precision, self.peak, self.offset, self.most_peak, self.most_offset)
        _settle(score.numpy(), columns.contiguous().numpy(), *(p.numpy() for p in parameters), word, joint)
        return torch.from_numpy(word), torch.from_numpy(joint)

    def _settle_by_candidates(
        self, score: Float[Tensor, "n K"], columns: Columns
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        terms = 6.0 * (self.peak.float() - score).abs() + 7.0 * self.offset.float() + score.abs()
        upper = torch.where(torch.isfinite(terms), score + ROUNDING * terms, score)
        word = upper.topk(min(CANDIDATES, score.shape[1]), dim=1).indices.sort(dim=1).values
        joint = torch.stack([self._joint(columns, w) for w in word.T], dim=1)
        best = joint.amax(dim=1, keepdim=True)
        first = (joint == best).int().argmax(dim=1, keepdim=True)
        return word.gather(1, first).squeeze(1), best.squeeze(1)

    def _joint(self, columns: Columns, word: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        difference = columns.double() - self.mean[word]
        return self.peak[word] - (difference * difference * self.half_precision[word]).sum(dim=1)


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
def _error(score, peak, offset):  # type: ignore[no-untyped-def]
    return SLACK + ROUNDING * (6.0 * abs(peak - score) + 7.0 * offset + abs(score))


@numba.njit(cache=True, nogil=True)
def _settle(score, x, mean, half_precision, peak, offset, most_peak, most_offset, word, joint):  # type: ignore[no-untyped-def]
    words = score.shape[1]
    maxima = np.empty((words + BLOCK - 1) // BLOCK, np.float32)
    for i in range(score.shape[0]):
        row = score[i]
        top = block_maxima(row, maxima)
        guess = _first_equal(row, maxima, top)
        least = top - _error(np.float64(top), peak[guess], offset[guess])
        best = -np.inf
        best_word = guess
        for block in range(maxima.shape[0]):
            highest = np.float64(maxima[block])
            # |p - s| <= |p| + |s|: what the best word of the block could be at most.
            error = SLACK + ROUNDING * (6.0 * most_peak[block] + 7.0 * (abs(highest) + most_offset[block]))
            if highest + error < least:
                continue
            for k in range(block * BLOCK, min(words, (block + 1) * BLOCK)):
                if row[k] + _error(np.float64(row[k]), peak[k], offset[k]) >= least and peak[k] > -np.inf:
                    exact = peak[k] - _distance(x[i], mean[k], half_precision[k])
                    if exact > best:
                        best = exact
                        best_word = k
        word[i] = best_word
        joint[i] = best
