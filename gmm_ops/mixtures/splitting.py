"""Words that lost their columns take half of the heaviest word: decided by statistics alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from gmm_ops.axes import WordStatistics
from gmm_ops.fitting.collective import Collective
from gmm_ops.mixtures.statistics import MixtureStatistics

APART = 0.5
"""Halves of a word lie this many standard deviations to either side of it, in every unit."""

Split = tuple[int, int]
"""(dead word, heaviest word that it takes half of)."""


def planned_splits(s0: Float[NDArray[np.float64], " K"], min_share: float) -> list[Split]:
    """Which word takes half of which, in order: every word below ``min_share`` / K, lowest first.

    Each takes half of the word that is heaviest then (ties: the lowest), so a word may be split more than once.

    Args:
        s0: posterior sums of all words.
        min_share: least share of a word, times 1/K; 0 splits nothing.
    """
    weight = s0.copy()
    splits = []
    for word in np.flatnonzero(weight < min_share / len(weight) * weight.sum()).tolist():
        heaviest = int(weight.argmax())
        weight[[word, heaviest]] = weight[heaviest] / 2.0
        splits.append((word, heaviest))
    return splits


def halves(
    s0: Float[Tensor, ""], s1: Float[Tensor, " D"], s2: Float[Tensor, " D"], var_floor: Float[Tensor, " D"] | float
) -> tuple[Float[Tensor, ""], Float[Tensor, "2 D"], Float[Tensor, "2 D"]]:
    """(s0 of each half, s1, s2 of the upper and the lower half) of one word.

    Means lie half a standard deviation above and below the word's, and each half keeps three quarters of its
    variance: together they have the sums of the word, wherever its variance is above the floor.
    """
    mean = s1 / s0
    variance = torch.maximum(s2 / s0 - mean * mean, torch.as_tensor(var_floor, dtype=mean.dtype, device=mean.device))
    shift = APART * variance.sqrt()
    means = torch.stack([mean + shift, mean - shift])
    half = s0 / 2.0
    return half, half * means, half * (means * means + (1.0 - APART * APART) * variance)


def split_dead(
    statistics: MixtureStatistics,
    first: int,
    n_words: int,
    min_share: float,
    var_floor: Float[Tensor, " D"] | float,
    collective: Collective,
) -> tuple[MixtureStatistics, Int[Tensor, " R"], Int[Tensor, " R"]]:
    """Dead words take half of the heaviest: (statistics, own words re-seeded, own words that changed).

    Sums alone decide, so no column is needed and every slice of a dictionary does the same. What little a dead word
    had is dropped.

    Args:
        statistics: of the own words, ``first`` and the following of ``n_words``; left as they are.
        min_share, var_floor: as in OnlineEMSettings and OnlineEMState.
    """
    nothing = torch.zeros(0, dtype=torch.int64)
    if min_share == 0.0:
        return statistics, nothing, nothing
    last = first + len(statistics.s0)
    every = statistics.s0.new_zeros(n_words)
    every[first:last] = statistics.s0
    splits = planned_splits(collective.all_reduce_sum(every).cpu().numpy(), min_share)
    if not splits:
        return statistics, nothing, nothing
    s0, s1, s2 = statistics.s0.clone(), statistics.s1.clone(), statistics.s2.clone()
    for pair in splits:
        donor = collective.all_reduce_sum(_row(pair[1] - first, s0, s1, s2))
        half, upper_lower, squares = halves(donor[0, 0], donor[1], donor[2], var_floor)
        for side, word in enumerate(pair):
            if first <= word < last:
                s0[word - first], s1[word - first], s2[word - first] = half, upper_lower[side], squares[side]
    dead, changed = {word for word, _ in splits}, {word for pair in splits for word in pair}
    return replace(statistics, s0=s0, s1=s1, s2=s2), _own(dead, first, last), _own(changed, first, last)


def _own(words: set[int], first: int, last: int) -> Int[Tensor, " R"]:
    return torch.tensor(sorted(word - first for word in words if first <= word < last), dtype=torch.int64)


def _row(own: int, s0: Float[Tensor, " K_own"], s1: WordStatistics, s2: WordStatistics) -> Float[Tensor, "3 D"]:
    """Sums of a word where it is an own one, else zeros: what the slices add up to tell each other."""
    row = s1.new_zeros(3, s1.shape[1])
    if 0 <= own < len(s0):
        row[0], row[1], row[2] = s0[own], s1[own], s2[own]
    return row
