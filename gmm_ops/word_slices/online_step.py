"""One step of online EM (Cappe and Moulines 2009) on a sliced dictionary: own words, reduced totals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.collective import Collective
from gmm_ops.mixtures.em import EMPTY_SHARE
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.online_step import OnlineEMSettings, OnlineEMState, start, step_size
from gmm_ops.mixtures.slices import WordSlice, refuse_broken_slices
from gmm_ops.mixtures.statistics import MixtureStatistics, WorstColumns
from gmm_ops.word_slices.reseeding import reseed_own
from gmm_ops.word_slices.totals import LayerTotals


@dataclass(frozen=True)
class SliceState:
    """A fit's state on one slice.

    own: the state of the own words; step and variance floor are the same on every slice.
    first, n_words: as in WordSlice.
    """

    own: OnlineEMState
    first: int
    n_words: int

    @property
    def words(self) -> WordSlice:
        """Parameters of the next E-step."""
        return WordSlice(self.own.mixture, self.first, self.n_words)

    def result(self, settings: OnlineEMSettings, reduce: Collective) -> WordSlice:
        """The fitted slice: the last parameters, or their average, its shares divided by those of all slices."""
        average = self.own.average
        if not settings.polyak or not bool(average.count.any()):
            return self.words
        pi = average.pi / average.count
        total = reduce.all_reduce_sum(pi.sum())
        count = average.count[:, None]
        own = Mixture(torch.log(pi / total), average.mean / count, average.variance / count, self.own.mixture.center)
        return self.words.with_words(own)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays for this slice's checkpoint: a fit resumed from those of all slices goes on bit for bit."""
        place = {"first": np.array(self.first, np.int64), "n_words": np.array(self.n_words, np.int64)}
        return self.own.to_arrays() | place

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> SliceState:
        """Inverse of ``to_arrays``."""
        return cls(OnlineEMState.from_arrays(arrays), int(arrays["first"]), int(arrays["n_words"]))


def sliced_start(words: WordSlice, settings: OnlineEMSettings, reduce: Collective) -> SliceState:
    """State before the first minibatch. words: from ``initial_slice``, or a slice of a fitted dictionary.

    Raises RefusedInput, on every slice alike, unless the slices tile one dictionary.
    """
    refuse_broken_slices(words, reduce)
    own = start(words.own, settings)
    mean_variance = float(reduce.all_reduce_sum(words.own.variance.sum())) / (words.n_words * words.n_units)
    return SliceState(replace(own, var_floor=settings.var_floor * mean_variance), words.first, words.n_words)


@torch.no_grad()
def sliced_advance(
    state: SliceState, batch: MixtureStatistics, worst: WorstColumns, settings: OnlineEMSettings, reduce: Collective
) -> SliceState:
    """`gmm_ops.mixtures.online_step.advance` of one slice: S <- (1 - g) S + g * batch mean, re-seed, M-step. Pure.

    batch: sums of the own words over the whole global minibatch. worst: its worst columns, the same on every slice.
    Two or three reductions of at most 2D + 1 numbers. Raises RefusedInput, on every slice alike.
    """
    if batch.count <= 0:
        raise RefusedInput("batch must hold at least one column; the global minibatch is empty.")
    own, center = state.own, state.own.mixture.center
    statistics = _blend(own.statistics, batch, step_size(own.step, settings))
    step = own.step + 1
    if own.step < settings.warmup:
        return replace(state, own=replace(own, step=step, statistics=statistics))
    totals = LayerTotals.of(statistics, reduce)
    place = state.words
    statistics, moved, any_moved = reseed_own(statistics, totals, worst, place, own.var_floor, settings, reduce)
    if any_moved:
        totals = LayerTotals.of(statistics, reduce)
    mixture = maximise_own(statistics, totals, center, own.var_floor, state.first, reduce)
    reseeded = own.reseeded.clone()
    reseeded[moved.cpu()] += 1
    averaged = settings.polyak and step > settings.average_after
    average = own.average.add(mixture, moved) if averaged else own.average
    new = OnlineEMState(step, mixture, statistics, reseeded, own.var_floor, average)
    return replace(state, own=new)


def maximise_own(
    statistics: MixtureStatistics,
    totals: LayerTotals,
    center: Float[Tensor, " D"],
    var_floor: float,
    first: int,
    reduce: Collective,
) -> Mixture:
    """M-step of the own words: pi = S0 / total S0, mu = S1 / S0, var = max(S2 / S0 - mu^2, floor).

    A word without columns keeps share 0, the global mean and the layer's variance. first: number of the first word.
    Raises RefusedInput, on every slice alike, if a variance is zero with no floor to lift it.
    """
    if not totals.share > 0.0:
        raise RefusedInput("statistics must hold at least one column; they are empty. Merge a batch first.")
    empty = (statistics.s0 <= EMPTY_SHARE * totals.share)[:, None]
    s0 = torch.where(empty[:, 0], 1.0, statistics.s0)[:, None]
    about_center = torch.where(empty, 0.0, statistics.s1 / s0)
    spread = torch.where(empty, totals.variance, statistics.s2 / s0 - about_center * about_center)
    variance = spread.clamp_(min=var_floor)
    _refuse_zero_variance(variance, first, reduce)
    share = torch.where(empty[:, 0], 0.0, statistics.s0)
    total = reduce.all_reduce_sum(share.sum())
    return Mixture(torch.log(share / total), about_center.add_(center), variance, center)


def _blend(before: MixtureStatistics, batch: MixtureStatistics, g: float) -> MixtureStatistics:
    """(1 - g) S + g * batch mean, with one new tensor per sum in place of three."""
    weight = g / batch.count

    def mixed(old: Tensor, new: Tensor) -> Tensor:
        return (old * (1.0 - g)).add_(new, alpha=weight)

    return MixtureStatistics(
        before.count * (1.0 - g) + batch.count * weight,
        before.log_likelihood * (1.0 - g) + batch.log_likelihood * weight,
        mixed(before.s0, batch.s0),
        mixed(before.s1, batch.s1),
        mixed(before.s2, batch.s2),
    )


def _refuse_zero_variance(variance: Float[Tensor, "K_own D"], first: int, reduce: Collective) -> None:
    flat = (~(variance > 0.0).all(dim=1)).nonzero()
    word = float(first + int(flat[0])) if len(flat) else torch.inf
    # Every slice must learn of it: one that stops alone leaves the others waiting.
    lowest = -float(reduce.all_reduce_max(variance.new_tensor(-word)))
    if lowest < torch.inf:
        raise RefusedInput(
            f"var_floor must be positive where a word has no spread; word {int(lowest)} is constant in a unit. "
            "Give a var_floor such as 1e-4 of the layer's mean variance, or fewer words."
        )
