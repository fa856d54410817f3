"""One step of online EM (Cappe and Moulines 2009): its settings, its state, and the pure update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import Columns
from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.collective import LONE, Collective
from gmm_ops.fitting.loop import Learner, LogLikelihood
from gmm_ops.mixtures.assignment import log_likelihood
from gmm_ops.mixtures.averaging import MixtureAverage
from gmm_ops.mixtures.em import maximise
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.model_selection import VarianceOf
from gmm_ops.mixtures.seeding import FloorOf, lowest_variance
from gmm_ops.mixtures.slices import WordSlice, as_slice, refuse_broken_slices
from gmm_ops.mixtures.splitting import split_dead
from gmm_ops.mixtures.statistics import MixtureStatistics, em_pass
from gmm_ops.records import Record

COLUMNS_PER_WORD = 10
"""Columns per word in a minibatch. Measured on 80,000 columns of ResNet-20's add8, K = 100: 10 came within 0.1 nats
of 60 iterations of batch EM, 25 stayed 0.3 nats below (fewer steps)."""

STEPS_PER_WARMUP = 50
"""One warm-up minibatch per this many steps of the fit, at least one: without any, words would be split before they had
a chance."""

LEAST_STEPS = 50
"""Steps that a fit has at least, however few its columns: such a fit makes more passes over them, which are short."""


@dataclass(frozen=True)
class OnlineEMSettings:
    """How a dictionary is learned.

    Minibatch, warm-up and epochs follow the number of columns, see ``for_columns``.

    Attributes:
        exponent, offset: step size g_n = (n + offset)^-exponent; exponent in (0.5, 1], or 0 for g = 1 always.
        minibatch: columns in a global minibatch, at most.
        epochs: passes over the columns, at most; more where these are less than ``LEAST_STEPS`` steps.
        warmup: minibatches that only gather statistics, at most.
        min_share: a word whose share falls below this many times 1/K takes half of the heaviest word; 0 turns that off.
        var_floor: lowest variance, as a share of the layer's.
        floor_of: what ``var_floor`` is a share of: the layer's mean variance over units, or each unit's own, for layers
            whose units differ by orders of magnitude.
        variance_of: what has a variance of its own: ``word``, each unit of each word; ``unit``, shared by all words;
            ``layer``, one number. Shared ones keep more of what the network uses in the words' means.
        tolerance: stop when an epoch gains less than this, relative, in held-out log-likelihood.
        polyak: average the parameters over the steps after ``average_after``, which ``for_columns`` sets to half the
            fit.
    """

    exponent: float = 0.51
    offset: float = 1.0
    minibatch: int = 50_000
    epochs: int = 3
    warmup: int = 20
    min_share: float = 0.05
    var_floor: float = 1e-4
    tolerance: float = 1e-4
    polyak: bool = False
    average_after: int = 0
    floor_of: FloorOf = "layer"
    variance_of: VarianceOf = "word"

    def __post_init__(self) -> None:
        rules = {
            "exponent": (0.0 <= self.exponent <= 1.0, "between 0 and 1"),
            "offset": (self.offset >= 1.0, "at least 1, so that the first step size is at most 1"),
            "minibatch": (self.minibatch >= 1, "at least 1"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "min_share": (0.0 <= self.min_share < 1.0, "at least 0 and below 1"),
            "var_floor": (self.var_floor >= 0.0, "0 or more"),
            "floor_of": (self.floor_of in ("layer", "unit"), "'layer' or 'unit'"),
            "variance_of": (self.variance_of in ("word", "unit", "layer"), "'word', 'unit' or 'layer'"),
        }
        for name, (kept, rule) in rules.items():
            if not kept:
                raise RefusedInput(f"{name} must be {rule}; got {getattr(self, name)}.")

    def for_columns(self, n_columns: int, n_words: int) -> OnlineEMSettings:
        """These settings for so many columns an epoch.

        The minibatch becomes 10 columns a word, at most ``minibatch`` and what there is; the warm-up a 50th of the
        fit's steps, at least 1 and at most ``warmup``; epochs grow until there are ``LEAST_STEPS`` steps. Settings
        that were cut once are cut no further.
        """
        minibatch = max(1, min(self.minibatch, COLUMNS_PER_WORD * n_words, n_columns))
        in_epoch = max(1, round(n_columns / minibatch))
        epochs = max(self.epochs, -(-LEAST_STEPS // in_epoch))
        steps = epochs * in_epoch
        warmup = min(self.warmup, max(1, steps // STEPS_PER_WARMUP))
        return replace(self, minibatch=minibatch, warmup=warmup, epochs=epochs, average_after=steps // 2)


def step_size(n: int, settings: OnlineEMSettings) -> float:
    """g_n = (n + n0)^-a for step n = 0, 1, ...; 1 at n = 0 with n0 = 1, so S starts as the first minibatch."""
    return float((n + settings.offset) ** -settings.exponent)


@dataclass(frozen=True)
class OnlineEMState(Record):
    """All that a fit of some words carries from one minibatch to the next.

    A fit resumed from its arrays goes on bit for bit. Of a whole dictionary it is the same on every actor, bit for
    bit; of a slice, step and variance floor are.

    Attributes:
        step: minibatches taken.
        words: parameters of the next E-step, with their place in the dictionary.
        statistics: running means per column S of the own words.
        reseeded: (K_own,) int64, how often each word took half of another.
        var_floor: (D,) lowest variance, squared layer units.
        average: sums for Polyak averaging; empty unless asked for.
    """

    step: int
    words: WordSlice
    statistics: MixtureStatistics
    reseeded: Int[Tensor, " K"]
    var_floor: Float[Tensor, " D"]
    average: MixtureAverage

    @property
    def mixture(self) -> Mixture:
        """Parameters of the own words: of all words, where the dictionary is whole."""
        return self.words.own

    def result(self, settings: OnlineEMSettings, collective: Collective = LONE) -> Mixture:
        """The fitted own words: the last parameters, or their average."""
        if not settings.polyak:
            return self.mixture
        return self.average.finish(self.mixture, collective, settings.variance_of)


def start(words: Mixture | WordSlice, settings: OnlineEMSettings, collective: Collective = LONE) -> OnlineEMState:
    """State before the first minibatch.

    words: from ``initial_mixture`` or ``initial_slice``; the mean of their variances is the layer's.
    Raises RefusedInput, on every slice alike, unless the slices tile one dictionary.
    """
    place = as_slice(words)
    own = place.own
    refuse_broken_slices(place, collective)
    variance = collective.all_reduce_sum(own.variance.sum(dim=0)) / place.n_words
    return OnlineEMState(
        0,
        place,
        MixtureStatistics.zero(own.n_words, own.n_units, own.mean.device),
        torch.zeros(own.n_words, dtype=torch.int64),
        lowest_variance(variance, settings.var_floor, settings.floor_of),
        MixtureAverage.none(own.n_words, own.n_units, own.mean.device),
    )


@torch.no_grad()
def advance(
    state: OnlineEMState, batch: MixtureStatistics, settings: OnlineEMSettings, collective: Collective = LONE
) -> OnlineEMState:
    """One online EM step: S <- (1 - g) S + g * batch mean, splits of dead words, M-step. Pure.

    batch: sums of the own words over the whole global minibatch at ``state.words``.
    Raises RefusedInput, on every slice alike.
    """
    if batch.count <= 0:
        raise RefusedInput("batch must hold at least one column; the global minibatch is empty.")
    statistics = _blend(state.statistics, batch, step_size(state.step, settings))
    step, place = state.step + 1, state.words
    if state.step < settings.warmup:
        return replace(state, step=step, statistics=statistics)
    statistics, dead, changed = split_dead(
        statistics, place.first, place.n_words, settings.min_share, state.var_floor, collective
    )
    own = maximise(statistics, place.own.center, state.var_floor, place.first, collective, settings.variance_of)
    reseeded = state.reseeded.clone()
    reseeded[dead] += 1
    averaged = settings.polyak and step > settings.average_after
    average = state.average.add(own, changed) if averaged else state.average
    return OnlineEMState(step, place.with_words(own), statistics, reseeded, state.var_floor, average)


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


@dataclass(frozen=True)
class OnlineEM(Learner[OnlineEMState, Columns, MixtureStatistics, LogLikelihood]):
    """Online EM of the own words, as ``gmm_ops.fitting.loop`` asks for it.

    words: how the slices of the dictionary meet; all of them see the same columns.
    """

    settings: OnlineEMSettings
    words: Collective = LONE

    def empty(self, state: OnlineEMState) -> MixtureStatistics:
        """Of the own words."""
        own = state.mixture
        return MixtureStatistics.zero(own.n_words, own.n_units, own.mean.device)

    def sums(self, state: OnlineEMState, rows: Columns) -> MixtureStatistics:
        """The E-step."""
        return em_pass(state.words, rows, self.words)

    def move(self, state: OnlineEMState, batch: MixtureStatistics) -> OnlineEMState:
        """``advance``."""
        return advance(state, batch, self.settings, self.words)

    def unscored(self, state: OnlineEMState) -> LogLikelihood:
        """Of no column."""
        return LogLikelihood.zero()

    def scorer(self, state: OnlineEMState) -> Callable[[Columns], LogLikelihood]:
        """log p(x) under the fitted words, averaged where the settings say so."""
        words = state.words.with_words(state.result(self.settings, self.words))
        return lambda columns: LogLikelihood.of(log_likelihood(words, columns, self.words))
