"""The M-step, and exact batch EM on columns in memory."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.axes import Columns
from gmm_ops.errors import RefusedInput
from gmm_ops.mixtures.estep import Engine
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.statistics import MixtureStatistics

EMPTY_SHARE = 1e-10
"""A word with a smaller share has no column to speak of: its sums are rounding, not evidence."""

VarianceFloor = float | Float[Tensor, " D"]
"""Lowest variance allowed, squared layer units; one number or one per unit."""


def maximise(statistics: MixtureStatistics, center: Float[Tensor, " D"], var_floor: VarianceFloor = 0.0) -> Mixture:
    """M-step: pi = S0 / sum S0, mu = S1 / S0, var = max(S2 / S0 - mu^2, floor).

    A word without columns keeps share 0, the global mean and the layer's variance.
    Raises RefusedInput if there are no columns, or a variance is zero with no floor to lift it.
    """
    total = statistics.s0.sum()
    if not float(total) > 0.0:
        raise RefusedInput("statistics must hold at least one column; they are empty. Merge a batch first.")
    empty = statistics.s0 <= EMPTY_SHARE * total
    s0 = torch.where(empty, 1.0, statistics.s0)[:, None]
    about_center = torch.where(empty[:, None], 0.0, statistics.s1 / s0)
    spread = torch.where(empty[:, None], layer_variance(statistics), statistics.s2 / s0 - about_center * about_center)
    floor = torch.as_tensor(var_floor, dtype=torch.float64, device=spread.device)
    variance = torch.maximum(spread, floor.expand_as(spread))
    _refuse_zero_variance(variance)
    share = torch.where(empty, 0.0, statistics.s0)
    return Mixture(torch.log(share / share.sum()), about_center + center, variance, center)


def layer_variance(statistics: MixtureStatistics) -> Float[Tensor, " D"]:
    """Variance of each unit over all columns, whatever their word."""
    total = statistics.s0.sum()
    mean = statistics.s1.sum(dim=0) / total
    return (statistics.s2.sum(dim=0) / total - mean * mean).clamp(min=0.0)


def em_step(
    mixture: Mixture, columns: Columns, var_floor: VarianceFloor = 0.0, engine: Engine = "auto"
) -> tuple[Mixture, float]:
    """One E- and one M-step: (new mixture, mean log p(x) under the old one, natural logarithm)."""
    statistics = MixtureStatistics.from_batch(mixture, columns, engine)
    mean_log_likelihood = statistics.log_likelihood / max(statistics.count, 1.0)
    return maximise(statistics, mixture.center, var_floor), mean_log_likelihood


def fit_batch_em(
    mixture: Mixture,
    columns: Columns,
    iterations: int,
    var_floor: VarianceFloor = 0.0,
    engine: Engine = "auto",
) -> tuple[Mixture, list[float]]:
    """Exact EM from ``mixture``: (fitted mixture, mean log p(x) before each of the M-steps).

    Without a floor the log-likelihood never falls (Dempster, Laird and Rubin 1977). columns: (n, D).
    """
    if iterations < 1:
        raise RefusedInput(f"iterations must be at least 1; got {iterations}.")
    history = []
    for _ in range(iterations):
        mixture, mean_log_likelihood = em_step(mixture, columns, var_floor, engine)
        history.append(mean_log_likelihood)
    return mixture, history


def _refuse_zero_variance(variance: Float[Tensor, "K D"]) -> None:
    flat = ~(variance > 0.0)
    if bool(flat.any()):
        word, unit = (int(i) for i in flat.nonzero()[0])
        raise RefusedInput(
            f"var_floor must be positive where a word has no spread; word {word} is constant in unit {unit}. "
            "Give a var_floor such as 1e-4 of the layer's mean variance, or fewer words."
        )
