"""Mergeable statistics of the mixture: zero, from_batch, merge; `gmm_ops.mixtures.em.maximise` finishes them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.axes import Columns, WordStatistics
from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.collective import LONE, Collective
from gmm_ops.mixtures.estep import Engine, estep
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.slices import WordSlice, as_slice
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
    def from_batch(cls, words: Mixture | WordSlice, columns: Columns, engine: Engine = "auto") -> MixtureStatistics:
        """E-step at a whole dictionary. Raises NonFiniteActivations, RefusedInput."""
        return em_pass(words, columns, engine=engine)


def em_pass(
    words: Mixture | WordSlice,
    columns: Columns,
    collective: Collective = LONE,
    *,
    engine: Engine = "auto",
    tile_rows: int | None = None,
) -> MixtureStatistics:
    """One E-step over columns: the sums of the own words, of all words for a whole dictionary.

    Count and log-likelihood are those of all words, the same bits on every slice. Sums over several calls merge.

    Args:
        columns: (n, D), the same on every slice.
        engine: this slice's choice, which changes no sum by more than 1e-7 of its size.
        tile_rows: columns of a tile, the same on every slice.

    Raises:
        NonFiniteActivations, RefusedInput: on every slice alike.
    """
    place = as_slice(words)
    units = place.n_units
    sums, log_likelihood = estep(place, columns, collective, engine, tile_rows)
    total = float(log_likelihood.sum())
    if not math.isfinite(total):
        raise RefusedInput(
            "columns must have squares that fit float32 (about 1e19 at most); the log-likelihood overflowed. "
            "Rescale the layer's activations."
        )
    # Parts of one tensor, not copies: at 16,384 words a copy is tens of megabytes.
    return MixtureStatistics(float(columns.shape[0]), total, sums[:, -1], sums[:, units : 2 * units], sums[:, :units])
