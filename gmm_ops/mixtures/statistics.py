"""Mergeable statistics of the mixture: zero, from_batch, merge; `gmm_ops.mixtures.em.maximise` finishes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.axes import Columns, WordStatistics
from gmm_ops.errors import RefusedInput
from gmm_ops.mixtures.estep import Engine, estep
from gmm_ops.mixtures.gaussian import refuse_non_finite, refuse_other_shape
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.records import Sums


@dataclass(frozen=True)
class MixtureStatistics(Sums):
    """Sums over columns, about the mixture's centre c, float64 (Cappe and Moulines 2009, Sec. 2).

    count: number of columns. log_likelihood: sum of log p(x), natural.
    s0: (K,) sum of posteriors r. s1: (K, D) sum of r (x - c). s2: (K, D) sum of r (x - c)^2.
    """

    count: float
    log_likelihood: float
    s0: Float[Tensor, " K"]
    s1: WordStatistics
    s2: WordStatistics

    @classmethod
    def zero(cls, n_words: int, n_units: int, device: torch.device | str = "cpu") -> MixtureStatistics:
        """The statistics of no column: the neutral element of ``merge``."""
        empty = torch.zeros(n_words, n_units, dtype=torch.float64, device=device)
        return cls(0.0, 0.0, empty[:, 0].clone() if n_units else empty.sum(1), empty, empty.clone())

    @classmethod
    def from_batch(cls, mixture: Mixture, columns: Columns, engine: Engine = "auto") -> MixtureStatistics:
        """E-step at ``mixture``. Raises NonFiniteActivations, RefusedInput."""
        return sweep(mixture, columns, engine=engine)


def sweep(
    mixture: Mixture, columns: Columns, *, engine: Engine = "auto", tile_rows: int | None = None
) -> MixtureStatistics:
    """One E-step over columns (n, D). Raises NonFiniteActivations, RefusedInput."""
    refuse_other_shape(columns, mixture.n_units)
    refuse_non_finite(columns)
    units = mixture.n_units
    sums, log_likelihood = estep(columns, mixture.center, mixture.score_parameters(), engine, tile_rows)
    total = float(log_likelihood.sum())
    if not np.isfinite(total):
        raise RefusedInput(
            "columns must have squares that fit float32 (about 1e19 at most); the log-likelihood overflowed. "
            "Rescale the layer's activations."
        )
    return MixtureStatistics(
        float(columns.shape[0]),
        total,
        sums[:, -1].clone(),
        sums[:, units : 2 * units].clone(),
        sums[:, :units].clone(),
    )
