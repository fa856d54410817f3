"""One step of online EM (Cappe and Moulines 2009): its settings, its state, and the pure update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.mixtures.averaging import MixtureAverage
from gmm_ops.mixtures.em import layer_variance, maximise
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.statistics import MixtureStatistics, WorstColumns

STEPS_PER_EPOCH = 200
"""Steps an epoch should have. Measured on ResNet columns (D = 32 to 256, K = 100 to 200, 0.07 to 0.5 million
columns, 3 epochs): the number of steps decides, not their size. 1,000 to 2,500 columns a step came within 0.1 to
0.5 % of 30 iterations of batch EM (D = 32, 64), 50,000 stayed 1.6 to 2 % below."""

COLUMNS_PER_WORD = 25
"""Fewest columns per word in a minibatch: with fewer, a step's sums are mostly chance."""

STEPS_PER_WARMUP = 50
"""One warm-up minibatch per this many steps of the fit. 1 to 3 of 70 to 280 steps was best: without any, words are
re-seeded before they had a chance; 20 cost 0.2 to 0.4 % of the log-likelihood."""


@dataclass(frozen=True)
class OnlineEMSettings:
    """How a dictionary is learned.

    exponent, offset: step size g_n = (n + offset)^-exponent; exponent in (0.5, 1], or 0 for g = 1 always.
    minibatch: columns in a global minibatch. epochs: passes over the columns, at most.
    warmup: minibatches that only gather statistics. min_share: a word whose share falls below this many
    times 1/K is re-seeded; 0 turns re-seeding off. var_floor: lowest variance, as a share of the layer's mean
    variance. max_reseeds: words re-seeded per step, at most. tolerance: stop when an epoch gains less than
    this, relative, in held-out log-likelihood. polyak: average the parameters over the steps after
    ``average_after``, which ``for_columns`` sets to half the fit.
    """

    exponent: float = 0.6
    offset: float = 1.0
    minibatch: int = 50_000
    epochs: int = 3
    warmup: int = 20
    min_share: float = 0.05
    var_floor: float = 1e-4
    max_reseeds: int = 8
    tolerance: float = 1e-4
    polyak: bool = False
    average_after: int = 0

    def __post_init__(self) -> None:
        rules = {
            "exponent": (0.0 <= self.exponent <= 1.0, "between 0 and 1"),
            "offset": (self.offset >= 1.0, "at least 1, so that the first step size is at most 1"),
            "minibatch": (self.minibatch >= 1, "at least 1"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "min_share": (0.0 <= self.min_share < 1.0, "at least 0 and below 1"),
            "var_floor": (self.var_floor >= 0.0, "0 or more"),
            "max_reseeds": (self.max_reseeds >= 0, "0 or more"),
        }
        for name, (kept, rule) in rules.items():
            if not kept:
                raise RefusedInput(f"{name} must be {rule}; got {getattr(self, name)}.")

    def for_columns(self, n_columns: int, n_words: int) -> OnlineEMSettings:
        """These settings with minibatch and warm-up cut to the layer, so that an epoch has enough steps.

        n_columns: columns of one epoch. Both settings are upper limits here: the minibatch becomes a 200th of an
        epoch, at least 25 columns per word, and the warm-up a 50th of the fit's steps, at least 1.
        """
        wanted = max(COLUMNS_PER_WORD * n_words, n_columns // STEPS_PER_EPOCH)
        minibatch = max(1, min(self.minibatch, wanted, n_columns))
        steps = self.epochs * max(1, round(n_columns / minibatch))
        warmup = min(self.warmup, max(1, steps // STEPS_PER_WARMUP), steps - 1)
        return replace(self, minibatch=minibatch, warmup=warmup, average_after=steps // 2)


def step_size(n: int, settings: OnlineEMSettings) -> float:
    """g_n = (n + n0)^-a for step n = 0, 1, ...; 1 at n = 0 with n0 = 1, so S starts as the first minibatch."""
    return float((n + settings.offset) ** -settings.exponent)


@dataclass(frozen=True)
class OnlineEMState:
    """All that a fit carries from one minibatch to the next; the same on every actor, bit for bit.

    step: minibatches taken. mixture: parameters of the next E-step. statistics: running means per column S.
    reseeded: (K,) int64, how often each word was re-seeded. var_floor: lowest variance, squared layer units.
    average: sums for Polyak averaging; empty unless asked for.
    """

    step: int
    mixture: Mixture
    statistics: MixtureStatistics
    reseeded: Int[Tensor, " K"]
    var_floor: float
    average: MixtureAverage

    def result(self, settings: OnlineEMSettings) -> Mixture:
        """The fitted dictionary: the last parameters, or their average."""
        return self.average.finish(self.mixture) if settings.polyak else self.mixture

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays for a checkpoint: a fit resumed from them goes on bit for bit."""
        return {
            "step": np.array(self.step, np.int64),
            "var_floor": np.array(self.var_floor, np.float64),
            "reseeded": self.reseeded.cpu().numpy(),
            "statistics": self.statistics.pack().cpu().numpy(),
            **self.mixture.to_arrays(),
            **self.average.to_arrays(),
        }

    def to(self, device: torch.device | str) -> OnlineEMState:
        """The same state on another device."""
        return replace(
            self,
            mixture=self.mixture.to(device),
            statistics=self.statistics.to(device),
            average=self.average.to(device),
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> OnlineEMState:
        """Inverse of ``to_arrays``."""
        mixture = Mixture.from_arrays(arrays)
        packed = torch.from_numpy(np.array(arrays["statistics"]))
        return cls(
            int(arrays["step"]),
            mixture,
            MixtureStatistics.unpack(packed, mixture.n_words, mixture.n_units),
            torch.from_numpy(np.array(arrays["reseeded"])),
            float(arrays["var_floor"]),
            MixtureAverage.from_arrays(arrays),
        )


def start(mixture: Mixture, settings: OnlineEMSettings) -> OnlineEMState:
    """State before the first minibatch. mixture: from ``initial_mixture``; its variance is the layer's."""
    words, units = mixture.n_words, mixture.n_units
    device = mixture.mean.device
    return OnlineEMState(
        0,
        mixture,
        MixtureStatistics.zero(words, units, device),
        torch.zeros(words, dtype=torch.int64),
        settings.var_floor * float(mixture.variance.mean()),
        MixtureAverage.none(words, units, device),
    )


def advance(
    state: OnlineEMState, batch: MixtureStatistics, worst: WorstColumns, settings: OnlineEMSettings
) -> OnlineEMState:
    """One online EM step: S <- (1 - g) S + g * batch mean, re-seed, M-step. Pure.

    batch: sums over the whole global minibatch at ``state.mixture``. worst: its worst-explained columns.
    """
    if batch.count <= 0:
        raise RefusedInput("batch must hold at least one column; the global minibatch is empty.")
    g = step_size(state.step, settings)
    statistics = state.statistics.scaled(1.0 - g).merge(batch.scaled(g / batch.count))
    step = state.step + 1
    if state.step < settings.warmup:
        return replace(state, step=step, statistics=statistics)
    statistics, words = reseed(statistics, worst, state.mixture.center, state.var_floor, settings)
    mixture = maximise(statistics, state.mixture.center, state.var_floor)
    reseeded = state.reseeded.clone()
    reseeded[words.cpu()] += 1
    averaged = settings.polyak and step > settings.average_after
    average = state.average.add(mixture, words) if averaged else state.average
    return replace(state, step=step, mixture=mixture, statistics=statistics, reseeded=reseeded, average=average)


def reseed(
    statistics: MixtureStatistics,
    worst: WorstColumns,
    center: Float[Tensor, " D"],
    var_floor: float,
    settings: OnlineEMSettings,
) -> tuple[MixtureStatistics, Int[Tensor, " R"]]:
    """Move words that lost their columns to the worst-explained ones: (statistics, words moved).

    The emptiest word (ties: lowest) goes to the worst column, and so on. Its sums are rewritten to share 1/K,
    that column as mean and the layer's variance, so the next M-step keeps it; the other words keep their
    means and variances and give up share in proportion.
    """
    n_words = statistics.s0.shape[0]
    share = statistics.s0 / statistics.s0.sum()
    low = int((share < settings.min_share / n_words).sum())
    count = min(low, settings.max_reseeds, int(torch.isfinite(worst.log_likelihood).sum()), n_words - 1)
    if count == 0:
        return statistics, torch.zeros(0, dtype=torch.int64)
    words = torch.argsort(share, stable=True)[:count]
    target = (worst.column[:count].to(center.device) - center).to(torch.float64)
    variance = layer_variance(statistics).clamp(min=var_floor)
    total = statistics.s0.sum()
    left = 1.0 - share[words].sum()
    shrink = (1.0 - count / n_words) / left
    s0, s1, s2 = statistics.s0 * shrink, statistics.s1 * shrink, statistics.s2 * shrink
    weight = total / n_words
    s0[words] = weight
    s1[words] = weight * target
    s2[words] = weight * (target * target + variance)
    return replace(statistics, s0=s0, s1=s1, s2=s2), words


def has_converged(held_out: list[float], tolerance: float) -> bool:
    """Whether the last epoch gained less than ``tolerance`` relative. held_out: mean log p(x) per epoch."""
    if len(held_out) < 2:
        return False
    return held_out[-1] - held_out[-2] < tolerance * abs(held_out[-2])
