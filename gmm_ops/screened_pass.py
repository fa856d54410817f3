"""E-step for layers where few words matter per column: screen the words by an upper bound, rescore the rest.

Every squared distance term of a diagonal Gaussian lowers the log joint, so the sum over *some* units is an
upper bound of the sum over all. A narrow product over the most telling units therefore rules most words out
for good; the few left are scored exactly in float64, in a fixed order, so a column's words do not depend on
its neighbours. Real columns of 256 and more units keep 1 to 2 words.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import Columns
from gmm_ops.gaussian import (
    ScoreParameters,
    centred_tiles,
    exact_products,
    expand_columns,
    normalisers,
)

NEGLECTED = 23.0
"""Words more than 23 + log K below the best are left out: together under 1e-10 of a column's posterior."""

BLOCK = 32
"""Words (or units) looked at together: one maximum rules out a whole block."""


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _exact_score(x, mean, half_precision, top, enough):
    """top - sum_d (x_d - mu_d)^2 / (2 var_d), or anything below ``enough`` once the sum has fallen there."""
    units = x.shape[0]
    score = top
    for first in range(0, units, BLOCK):
        distance = 0.0
        for d in range(first, min(first + BLOCK, units)):
            difference = np.float64(x[d]) - mean[d]
            distance += difference * difference * half_precision[d]
        score -= distance
        if score < enough:
            return score
    return score


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz", "nnan"})
def _block_maxima(bound, maxima):
    """Maximum of each block of words."""
    words = bound.shape[0]
    for block in range(maxima.shape[0]):
        largest = bound[block * BLOCK]
        for k in range(block * BLOCK, min((block + 1) * BLOCK, words)):
            largest = max(largest, bound[k])
        maxima[block] = largest


@numba.njit(cache=True, nogil=True)
def _rescore_row(bound, maxima, x, mean, half_precision, top, cut, word, score):
    """Words within ``cut`` of the best, with exact scores, ascending; returns how many."""
    _block_maxima(bound, maxima)
    block = np.argmax(maxima)
    guess = block * BLOCK + np.argmax(bound[block * BLOCK : (block + 1) * BLOCK])
    best = _exact_score(x, mean[guess], half_precision[guess], top[guess], -np.inf)
    kept = 0
    for block in range(maxima.shape[0]):
        if maxima[block] < best - cut:
            continue
        for k in range(block * BLOCK, min((block + 1) * BLOCK, bound.shape[0])):
            if bound[k] >= best - cut:
                exact = _exact_score(x, mean[k], half_precision[k], top[k], best - cut)
                if exact >= best - cut:
                    word[kept] = k
                    score[kept] = exact
                    kept += 1
                    best = max(best, exact)
    return kept


@numba.njit(cache=True, nogil=True)
def _rescore(bound, x, mean, half_precision, top, cut, kept, word, posterior, winner, log_joint, log_sum, lo, hi):
    """Rows lo to hi: kept words and posteriors, the winner (ties: lowest word), its log joint, the log sum."""
    words = bound.shape[1]
    maxima = np.empty((words + BLOCK - 1) // BLOCK, np.float32)
    score = np.empty(words, np.float64)
    for i in range(lo, hi):
        found = _rescore_row(bound[i], maxima, x[i], mean, half_precision, top, cut, word[i], score)
        best = 0
        for j in range(1, found):
            if score[j] > score[best]:
                best = j
        total = 0.0
        for j in range(found):
            score[j] = math.exp(score[j] - score[best]) if j != best else score[j]
            total += score[j] if j != best else 1.0
        winner[i] = word[i, best]
        log_joint[i] = score[best]
        log_sum[i] = score[best] + math.log(total)
        for j in range(found):
            posterior[i, j] = (1.0 if j == best else score[j]) / total
        kept[i] = found


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _accumulate(x, kept, word, posterior, s1, s2, lo, hi):
    """Add the units lo to hi of every row to its words; rows in order, so threads change no bit."""
    for i in range(x.shape[0]):
        for j in range(kept[i]):
            k = word[i, j]
            share = posterior[i, j]
            for d in range(lo, hi):
                weighted = share * np.float64(x[i, d])
                s1[k, d] += weighted
                s2[k, d] += weighted * np.float64(x[i, d])
