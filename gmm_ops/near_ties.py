"""Which of the words within rounding of the best really is the best: float64, in a fixed order."""

from __future__ import annotations

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import Columns, WordStatistics

BLOCK = 64
"""Words looked at together: their maximum rules out the block at one instruction per 16 words."""

ROUNDING = 1e-6
"""Relative error allowed to a float32 product; a few roundings of its largest terms."""

CANDIDATES = 8
"""Words rescored per column on a GPU, where every column must do the same work."""


def settle_winners(
    score: Float[Tensor, "n K"],
    columns_centred: Columns,
    mean: WordStatistics,
    variance: WordStatistics,
    peak: Float[Tensor, " K"],
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Best word (ties: lowest) and its float64 log joint per row of float32 ``score``.

    mean, variance: (K, D) float64 about the centre. peak: (K,) log joint of a column on the word's mean.
    """
    if score.device.type != "cpu":
        return _settle_by_candidates(score, columns_centred, mean, variance, peak)
    # The product sums terms as large as x^2/var and mu^2/var before they cancel to the distance; this is
    # what its rounding is relative to. Per word: mu^2/var; per column: the distance, known from the score.
    offset = 0.5 * (mean * mean / variance).sum(dim=1)
    word = np.empty(score.shape[0], np.int64)
    joint = np.empty(score.shape[0], np.float64)
    arrays = (columns_centred, mean, 0.5 / variance, peak, offset)
    _settle(score.numpy(), *(a.contiguous().numpy() for a in arrays), word, joint)
    return torch.from_numpy(word), torch.from_numpy(joint)


def _settle_by_candidates(
    score: Float[Tensor, "n K"],
    columns_centred: Columns,
    mean: WordStatistics,
    variance: WordStatistics,
    peak: Float[Tensor, " K"],
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    word = score.topk(min(CANDIDATES, score.shape[1]), dim=1).indices.sort(dim=1).values
    joint = torch.stack([_exact_scores(columns_centred, w, mean, variance, peak) for w in word.T], dim=1)
    best = joint.max(dim=1, keepdim=True)
    first = (joint == best.values).int().argmax(dim=1, keepdim=True)
    return word.gather(1, first).squeeze(1), best.values.squeeze(1)


def _exact_scores(
    x: Columns, word: Int[Tensor, " n"], mean: WordStatistics, variance: WordStatistics, peak: Tensor
) -> Float[Tensor, " n"]:
    difference = x.double() - mean[word]
    return peak[word] - 0.5 * (difference * difference / variance[word]).sum(dim=1)


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz", "nnan"})
def largest(values):  # type: ignore[no-untyped-def]
    """Maximum of a few values without NaN; written so that the compiler uses vector instructions."""
    found = values[0]
    for k in range(values.shape[0]):
        if values[k] > found:
            found = values[k]
    return found


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _distance(x, mean, half_precision):  # type: ignore[no-untyped-def]
    total = 0.0
    for d in range(x.shape[0]):
        difference = np.float64(x[d]) - mean[d]
        total += difference * difference * half_precision[d]
    return total


@numba.njit(cache=True, nogil=True)
def _settle(score, x, mean, half_precision, peak, offset, word, joint):  # type: ignore[no-untyped-def]
    words = score.shape[1]
    blocks = (words + BLOCK - 1) // BLOCK
    maxima = np.empty(blocks, np.float32)
    for i in range(score.shape[0]):
        row = score[i]
        for block in range(blocks):
            maxima[block] = largest(row[block * BLOCK : (block + 1) * BLOCK])
        first = np.argmax(maxima) * BLOCK
        guess = first + np.argmax(row[first : first + BLOCK])
        top = row[guess]
        threshold = top - 1e-3 - ROUNDING * (6.0 * abs(peak[guess] - top) + 7.0 * offset[guess] + abs(top))
        best = -np.inf
        best_word = guess
        for block in range(blocks):
            if maxima[block] >= threshold:
                for k in range(block * BLOCK, min(words, (block + 1) * BLOCK)):
                    if row[k] >= threshold:
                        exact = peak[k] - _distance(x[i], mean[k], half_precision[k])
                        if exact > best:
                            best = exact
                            best_word = np.int64(k)
        word[i] = best_word
        joint[i] = best
