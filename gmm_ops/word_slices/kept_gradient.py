"""Loops over the few own words that matter for a column: histograms and the gradient of IG Eq. 8."""

from __future__ import annotations

import math

import numba
import numpy as np

from gmm_ops.mixtures.near_ties import BLOCK
from gmm_ops.word_slices.kept_words import add_row


@numba.njit(cache=True, nogil=True)
def kept_posteriors(row, maxima, cut, best, total, word, posterior):  # type: ignore[no-untyped-def]
    """The row's kept words and their posteriors into ``word`` and ``posterior``; returns how many."""
    least = best - cut
    found = 0
    for block in range(maxima.shape[0]):
        if maxima[block] >= least:
            for k in range(block * BLOCK, min(row.shape[0], (block + 1) * BLOCK)):
                if row[k] >= least:
                    word[found] = k
                    posterior[found] = math.exp(np.float64(row[k]) - np.float64(best)) / total
                    found += 1
    return found


@numba.njit(cache=True, nogil=True)
def add_histograms(score, maxima, cut, best, total, histogram):  # type: ignore[no-untyped-def]
    """Add posteriors to ``histogram`` (N, K_own), the same number of rows per image."""
    positions = score.shape[0] // histogram.shape[0]
    word, posterior = np.empty(score.shape[1], np.int64), np.empty(score.shape[1], np.float64)
    for i in range(score.shape[0]):
        found = kept_posteriors(score[i], maxima[i], cut, best[i], total[i], word, posterior)
        for j in range(found):
            histogram[i // positions, word[j]] += posterior[j]


@numba.njit(cache=True, nogil=True)
def expect(score, maxima, cut, best, total, back, expected):  # type: ignore[no-untyped-def]
    """Write the own words' part of <g, r> of every row; back: (N, K_own), g of every image."""
    positions = score.shape[0] // back.shape[0]
    word, posterior = np.empty(score.shape[1], np.int64), np.empty(score.shape[1], np.float64)
    for i in range(score.shape[0]):
        found = kept_posteriors(score[i], maxima[i], cut, best[i], total[i], word, posterior)
        dot = 0.0
        for j in range(found):
            dot += posterior[j] * back[i // positions, word[j]]
        expected[i] = dot


@numba.njit(cache=True, nogil=True)
def add_gradient(score, maxima, cut, best, total, back, expected, features, sums):  # type: ignore[no-untyped-def]
    """Add r_k (g_k - <g, r>) * features to row k of ``sums``; expected: <g, r> over all slices."""
    positions = score.shape[0] // back.shape[0]
    word, posterior = np.empty(score.shape[1], np.int64), np.empty(score.shape[1], np.float64)
    for i in range(score.shape[0]):
        found = kept_posteriors(score[i], maxima[i], cut, best[i], total[i], word, posterior)
        for j in range(found):
            slope = posterior[j] * (back[i // positions, word[j]] - expected[i])
            add_row(features[i], slope, sums[word[j]])
