"""Which words can matter for a column, by a product of 8-bit mantissas; those are then scored in full precision.

Processors with matrix units (AMX) make bfloat16 products seven times as fast as float32 ones. Their scores are known
to a bound that holds for each word, not to a guess, so no word that matters is passed over.

Let Q = sum (x - mu)^2 / 2 var be the distance of a column to a word, M = sum mu^2 / 2 var and A = sum x^2 / 2 var (all
about the centre). The product's terms sum in absolute value to T <= A + 2 sqrt(A M) by Cauchy and Schwarz, and
sqrt(A) <= sqrt(Q) + sqrt(M), so T <= Q + 4 sqrt(Q M) + 3 M <= 5 Q + 4 M. Rounding both factors and the result to 8 bits
moves the score by at most u T. A word whose log joint is at least L has Q <= peak - L, hence
rough + u (5 peak + 4 M) >= L (1 + 5 u); the others cannot matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch
from jaxtyping import BFloat16, Float
from numpy.typing import NDArray
from torch import Tensor

from gmm_ops.mixtures.gaussian import peaks
from gmm_ops.mixtures.kept_words import KeptWords, neglected_below
from gmm_ops.mixtures.near_ties import BLOCK
from gmm_ops.mixtures.row_loops import largest
from gmm_ops.mixtures.slices import WordSlice

ROUNDING = np.float32(0.0125)
"""u: three roundings to 8 bits (2^-8 each, products of them included) and the float32 sums of up to 4,096 units."""

FEWEST_UNITS = 128
"""Below, the float32 product costs less than the look at its rough form and the distances of the candidates."""

UNITS_AT_ONCE = 128
"""Units after which a distance that has already grown too large is given up."""


def screens(n_units: int, device: torch.device) -> bool:
    """Whether a rough product comes first: by the processor's matrix units and the layer's size, never by timing."""
    return device.type == "cpu" and FEWEST_UNITS <= n_units <= 4_096 and torch.cpu._is_amx_tile_supported()


@dataclass(frozen=True)
class Screen:
    """The own words as the screen needs them, about the centre.

    weights: (K, 2D) [-1/2 / var, mu / var]. mean, half_precision: (K, D) mu and 1 / (2 var). peak: (K,) log joint of
    a column on the word's mean. constant: (K,) c_k, what a column at the centre scores. slack: (K,) u (5 peak + 4 M);
    most_slack: (B,) the largest of each block of 32 words.
    """

    weights: BFloat16[Tensor, "K two_D"]
    mean: NDArray[np.float32]
    half_precision: NDArray[np.float32]
    peak: NDArray[np.float32]
    constant: NDArray[np.float32]
    slack: NDArray[np.float32]
    most_slack: NDArray[np.float32]
    cut: np.float32

    @classmethod
    def of(cls, words: WordSlice) -> Screen:
        """Of some words or all of a dictionary; an empty word (peak -inf) never matters."""
        mean = words.own.mean - words.own.center
        half = 0.5 / words.own.variance
        offset = (mean * mean * half).sum(dim=1)
        peak = peaks(words.own.log_pi, words.own.variance)
        slack = torch.where(torch.isfinite(peak), float(ROUNDING) * (5.0 * peak + 4.0 * offset), 0.0)
        weights = torch.cat([-half, 2.0 * mean * half], dim=1).bfloat16()
        most = torch.stack([part.amax() for part in slack.split(BLOCK)])
        return cls(
            weights,
            mean=mean.float().numpy(),
            half_precision=half.float().numpy(),
            peak=peak.float().numpy(),
            constant=(peak - offset).float().numpy(),
            slack=slack.float().numpy(),
            most_slack=most.float().numpy(),
            cut=np.float32(neglected_below(words.n_words)),
        )

    def kept(self, features: Float[Tensor, "n two_D_plus_1"]) -> tuple[KeptWords, Float[Tensor, " n"]]:
        """(the words that matter, the best score of every row), as `KeptWords.of` finds them in all scores.

        features: [x*x, x, 1] about the centre.
        """
        rows = len(features)
        rough = torch.mm(features[:, :-1].bfloat16(), self.weights.T).view(torch.int16).numpy()
        words = (self.mean, self.half_precision, self.peak, self.constant, self.slack, self.most_slack, self.cut)
        return KeptWords.listed(
            lambda *lists: _screen(rough, features.numpy(), *words, *lists),
            (rows, len(self.peak)),
            self.peak.dtype,
            self.cut,
        )


@numba.njit(cache=True, nogil=True, inline="always")
def _value(bits):  # type: ignore[no-untyped-def]
    """A bfloat16 is the upper half of a float32."""
    return np.int32(np.int32(bits) << np.int32(16)).view(np.float32)


@numba.njit(cache=True, nogil=True)
def _rough_scores(rough, constant, scores):  # type: ignore[no-untyped-def]
    for k in range(scores.shape[0]):
        scores[k] = _value(rough[k]) + constant[k]


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _distance(x, mean, half_precision):  # type: ignore[no-untyped-def]
    total = np.float32(0.0)
    for d in range(x.shape[0]):
        difference = x[d] - mean[d]
        total += difference * difference * half_precision[d]
    return total


@numba.njit(cache=True, nogil=True)
def _log_joint(x, mean, half_precision, peak, least):  # type: ignore[no-untyped-def]
    """peak - distance, summed in float64 over runs of units; given up as soon as it falls below ``least``."""
    found = np.float64(peak)
    for start in range(0, x.shape[0], UNITS_AT_ONCE):
        end = start + UNITS_AT_ONCE
        found -= np.float64(_distance(x[start:end], mean[start:end], half_precision[start:end]))
        if found < least:
            break
    return found


@numba.njit(cache=True, nogil=True)
def _screen(rough, features, mean, half_precision, peak, constant, slack, most_slack, cut, best, first, word, score):  # type: ignore[no-untyped-def]
    words, units = rough.shape[1], mean.shape[1]
    scores = np.empty(words, np.float32)
    maxima = np.empty(most_slack.shape[0], np.float32)
    found = 0
    for i in range(rough.shape[0]):
        _rough_scores(rough[i], constant, scores)
        lead = _leading_word(scores, maxima)
        x = features[i, units : 2 * units]
        top = _log_joint(x, mean[lead], half_precision[lead], peak[lead], -np.inf)
        least, begin = _bound(top, cut), found
        for block in range(maxima.shape[0]):
            if maxima[block] + most_slack[block] < least:
                continue
            for k in range(block * BLOCK, min(words, (block + 1) * BLOCK)):
                if scores[k] + slack[k] < least:
                    continue
                joint = _log_joint(x, mean[k], half_precision[k], peak[k], top - cut)
                if joint < top - cut:
                    continue
                if found == word.shape[0]:
                    return False
                word[found], score[found] = k, joint
                found += 1
                if joint > top:
                    top, least = joint, _bound(joint, cut)
        found = _drop(word, score, begin, found, np.float32(top) - cut)
        best[i] = top
        first[i + 1] = found
    return True


@numba.njit(cache=True, nogil=True, inline="always")
def _bound(top, cut):  # type: ignore[no-untyped-def]
    """L (1 + 5 u), with a little room for the float32 sums of the bound itself."""
    least = top - np.float64(cut)
    return np.float32(least * (1.0 + 5.0 * np.float64(ROUNDING)) - 1e-3 - 1e-5 * abs(least))


@numba.njit(cache=True, nogil=True)
def _leading_word(scores, maxima):  # type: ignore[no-untyped-def]
    """The word of the largest rough score; the maximum of every block into ``maxima``."""
    top = 0
    for block in range(maxima.shape[0]):
        maxima[block] = largest(scores[block * BLOCK : (block + 1) * BLOCK])
        if maxima[block] > maxima[top]:
            top = block
    for k in range(top * BLOCK, min(scores.shape[0], (top + 1) * BLOCK)):
        if scores[k] == maxima[top]:
            return k
    return top * BLOCK


@numba.njit(cache=True, nogil=True)
def _drop(word, score, begin, end, least):  # type: ignore[no-untyped-def]
    """Leave out what was listed before a better word was found; returns the new end."""
    kept = begin
    for j in range(begin, end):
        if score[j] >= least:
            word[kept] = word[j]
            score[kept] = score[j]
            kept += 1
    return kept
