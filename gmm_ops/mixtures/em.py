"""The M-step, and exact batch EM on columns in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.axes import Columns, WordStatistics
from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.collective import LONE, Collective
from gmm_ops.inputs import as_columns, as_count
from gmm_ops.mixtures.estep import Engine
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.model_selection import VarianceOf, refuse_other_variances
from gmm_ops.mixtures.seeding import Initialisation, fit_seed, initial_mixture
from gmm_ops.mixtures.statistics import MixtureStatistics
from gmm_ops.records import Record

EMPTY_SHARE = 1e-10
"""A word with a smaller share has no column to speak of: its sums are rounding, not evidence."""

VarianceFloor = float | Float[Tensor, " D"]
"""Lowest variance allowed, squared layer units; one number or one per unit."""


def maximise(
    statistics: MixtureStatistics,
    center: Float[Tensor, " D"],
    var_floor: VarianceFloor = 0.0,
    first: int = 0,
    collective: Collective = LONE,
    variance_of: VarianceOf = "word",
) -> Mixture:
    """M-step: pi = S0 / sum S0, mu = S1 / S0, var = max(S2 / S0 - mu^2, floor).

    A word without columns keeps share 0, the global mean and the layer's variance, or the one that all words share: the
    mean of those of the words by their shares, of all units together where it is the layer's.

    Args:
        statistics: of the own words, numbered from ``first``; shares are those of the whole dictionary.

    Raises:
        RefusedInput: on every slice alike: there are no columns, or a variance is zero with no floor to lift it.
    """
    refuse_other_variances(variance_of)
    share, layer_variance = layer_totals(statistics, collective)
    if not share > 0.0:
        raise RefusedInput("statistics must hold at least one column; they are empty. Merge a batch first.")
    empty = (statistics.s0 <= EMPTY_SHARE * share)[:, None]
    s0 = torch.where(empty[:, 0], 1.0, statistics.s0)[:, None]
    about_center = torch.where(empty, 0.0, statistics.s1 / s0)
    variance = torch.where(empty, layer_variance, statistics.s2 / s0 - about_center * about_center)
    own = torch.where(empty[:, 0], 0.0, statistics.s0)
    total = collective.all_reduce_sum(own.sum())
    variance = shared_variance(variance, own, variance_of, collective)
    variance.clamp_(min=torch.as_tensor(var_floor, dtype=torch.float64, device=variance.device))
    _refuse_zero_variance(variance, first, collective)
    return Mixture(torch.log(own / total), about_center.add_(center), variance, center)


def shared_variance(
    variance: WordStatistics, shares: Float[Tensor, " K"], variance_of: VarianceOf, collective: Collective = LONE
) -> WordStatistics:
    """Variances as they are, or the shared one: their mean by shares, over all units too where it is the layer's."""
    if variance_of == "word":
        return variance
    mean = collective.all_reduce_sum(shares @ variance) / collective.all_reduce_sum(shares.sum())
    return (mean.mean() if variance_of == "layer" else mean).expand_as(variance).clone()


def layer_totals(statistics: MixtureStatistics, collective: Collective = LONE) -> tuple[float, Float[Tensor, " D"]]:
    """(sum of s0 over all words, variance of each unit over all columns): one reduction of 2D + 1 numbers."""
    s0, s1, s2 = statistics.s0, statistics.s1, statistics.s2
    packed = collective.all_reduce_sum(torch.cat([s0.sum()[None], s1.sum(dim=0), s2.sum(dim=0)]))
    share, one, two = packed.split([1, s1.shape[1], s1.shape[1]])
    mean = one / share
    return float(share), (two / share - mean * mean).clamp(min=0.0)


def em_step(
    mixture: Mixture,
    columns: Columns,
    var_floor: VarianceFloor = 0.0,
    engine: Engine = "auto",
    variance_of: VarianceOf = "word",
) -> tuple[Mixture, float]:
    """One E- and one M-step: (new mixture, mean log p(x) under the old one, natural logarithm)."""
    statistics = MixtureStatistics.from_batch(mixture, columns, engine)
    mean_log_likelihood = statistics.log_likelihood / max(statistics.count, 1.0)
    return maximise(statistics, mixture.center, var_floor, variance_of=variance_of), mean_log_likelihood


def fit_batch_em(
    mixture: Mixture,
    columns: Columns,
    iterations: int,
    var_floor: VarianceFloor = 0.0,
    engine: Engine = "auto",
    variance_of: VarianceOf = "word",
) -> tuple[Mixture, list[float]]:
    """Exact EM from ``mixture``: (fitted mixture, mean log p(x) before each of the M-steps).

    Without a floor the log-likelihood never falls (Dempster, Laird and Rubin 1977). columns: (n, D).
    """
    if iterations < 1:
        raise RefusedInput(f"iterations must be at least 1; got {iterations}.")
    history = []
    for _ in range(iterations):
        mixture, mean_log_likelihood = em_step(mixture, columns, var_floor, engine, variance_of)
        history.append(mean_log_likelihood)
    return mixture, history


@dataclass(frozen=True)
class BatchFit(Record):
    """A mixture fitted by batch EM and how it was reached.

    mixture: of the best start. log_likelihood: mean log p(x) per column before each of its M-steps, natural logarithm.
    converged: the last M-step gained less than the tolerance; otherwise more iterations may gain more. restart: number
    of the start that was kept, from 0.
    """

    mixture: Mixture
    log_likelihood: tuple[float, ...]
    converged: bool
    restart: int


def fit_batch(
    columns: Columns,
    n_words: int,
    seed: int,
    iterations: int = 100,
    tolerance: float = 1e-4,
    restarts: int = 1,
    init: Initialisation = "random",
    var_floor: float = 1e-4,
    variance_of: VarianceOf = "word",
) -> BatchFit:
    """Exact EM on columns in memory, from ``restarts`` starts; the one with the best log-likelihood is kept.

    Args:
        columns: (n, D), tensor, array or list; held in memory and looked at ``iterations`` times at most.
        tolerance: stop when an M-step gains less than this in mean log p(x), nats a column; 0 takes all iterations.
        var_floor: lowest variance, as a share of the layer's mean variance.
        variance_of: what has a variance of its own, as in ``OnlineEMSettings``.

    Raises:
        RefusedInput: fewer different columns than words, or a number below what it counts. NonFiniteActivations is
            one.
    """
    columns, n_words, seed = as_columns("columns", columns), as_count("n_words", n_words), as_count("seed", seed, 0)
    if not 0.0 <= tolerance < float("inf"):
        raise RefusedInput(f"tolerance: must be a number from 0 up, got {tolerance}; 0 takes all iterations")
    starts = range(as_count("restarts", restarts))
    seeds = [seed if start == 0 else fit_seed(seed, "restart", str(start)) for start in starts]
    common = columns, n_words, as_count("iterations", iterations), tolerance, init, var_floor, variance_of
    fits = [_from_start(*common, seed=s, restart=i) for i, s in enumerate(seeds)]
    return max(fits, key=lambda fit: fit.log_likelihood[-1])


def _from_start(
    columns: Columns,
    n_words: int,
    iterations: int,
    tolerance: float,
    init: Initialisation,
    var_floor: float,
    variance_of: VarianceOf,
    seed: int,
    restart: int,
) -> BatchFit:
    mixture = initial_mixture(columns, n_words, seed, init, var_floor)
    # The same floor in every iteration, of all columns: EM under a fixed floor never lowers the likelihood.
    floor = var_floor * float(columns.double().var(dim=0, unbiased=False).mean())
    history: list[float] = []
    converged = False
    while len(history) < iterations and not converged:
        mixture, now = em_step(mixture, columns, floor, variance_of=variance_of)
        converged = bool(history) and now - history[-1] < tolerance
        history.append(now)
    return BatchFit(mixture, tuple(history), converged, restart)


def _refuse_zero_variance(variance: Float[Tensor, "K_own D"], first: int, collective: Collective) -> None:
    flat = (~(variance > 0.0)).nonzero()
    place = [float(first + flat[0, 0]), float(flat[0, 1])] if len(flat) else [torch.inf, torch.inf]
    # Every slice must learn of it: one that stops alone leaves the others waiting.
    word, unit = (-collective.all_reduce_max(-variance.new_tensor(place))).tolist()
    if word < torch.inf:
        raise RefusedInput(
            f"var_floor must be positive where a word has no spread; word {int(word)} is constant in unit {int(unit)}. "
            "Give a var_floor such as 1e-4 of the layer's mean variance, or fewer words."
        )
