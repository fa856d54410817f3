"""Mergeable statistics of the mixture: zero, from_batch, merge; `gmm_ops.mixtures.em.maximise` finishes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import Columns, WordStatistics
from gmm_ops.errors import RefusedInput
from gmm_ops.mixtures.estep import Engine, estep
from gmm_ops.mixtures.gaussian import refuse_non_finite, refuse_other_shape
from gmm_ops.mixtures.mixture import Mixture, log_joints


@dataclass(frozen=True)
class MixtureStatistics:
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
        return sweep(mixture, columns, engine=engine)[0]

    def merge(self, other: MixtureStatistics) -> MixtureStatistics:
        """Statistics of both sets of columns."""
        return MixtureStatistics(
            self.count + other.count,
            self.log_likelihood + other.log_likelihood,
            self.s0 + other.s0,
            self.s1 + other.s1,
            self.s2 + other.s2,
        )

    __add__ = merge

    def scaled(self, factor: float) -> MixtureStatistics:
        """Every sum times ``factor``; 1 / count gives means per column."""
        return MixtureStatistics(
            self.count * factor,
            self.log_likelihood * factor,
            self.s0 * factor,
            self.s1 * factor,
            self.s2 * factor,
        )

    def to(self, device: torch.device | str) -> MixtureStatistics:
        """The same sums on another device."""
        tensors = (getattr(self, name).to(device) for name in ("s0", "s1", "s2"))
        return MixtureStatistics(self.count, self.log_likelihood, *tensors)

    def pack(self) -> Float[Tensor, " P"]:
        """One float64 vector, count first, for an all-reduce: packing then adding equals merging."""
        head = torch.tensor([self.count, self.log_likelihood], dtype=torch.float64, device=self.s0.device)
        return torch.cat([head, self.s0, self.s1.flatten(), self.s2.flatten()])

    @classmethod
    def unpack(cls, packed: Float[Tensor, " P"], n_words: int, n_units: int) -> MixtureStatistics:
        """Inverse of ``pack``."""
        head, s0, s1, s2 = packed.split([2, n_words, n_words * n_units, n_words * n_units])
        shape = (n_words, n_units)
        return cls(float(head[0]), float(head[1]), s0.clone(), s1.reshape(shape).clone(), s2.reshape(shape).clone())


@dataclass(frozen=True)
class WorstColumns:
    """The R columns with the lowest log p(x), worst first; ties: lowest image, then position.

    log_likelihood: (R,) float64, +inf where there is no column. image, position: (R,) int64, -1 there.
    column: (R, D) float64 in the layer's units.
    """

    log_likelihood: Float[Tensor, " R"]
    image: Int[Tensor, " R"]
    position: Int[Tensor, " R"]
    column: Float[Tensor, "R D"]

    @classmethod
    def none(cls, size: int, n_units: int) -> WorstColumns:
        """No column yet: the neutral element of ``merge``."""
        absent = torch.full((size,), -1, dtype=torch.int64)
        return cls(
            torch.full((size,), torch.inf, dtype=torch.float64),
            absent,
            absent.clone(),
            torch.zeros(size, n_units, dtype=torch.float64),
        )

    def merge(self, other: WorstColumns) -> WorstColumns:
        """The R worst of both; independent of the order of merging."""
        joined = WorstColumns(
            torch.cat([self.log_likelihood, other.log_likelihood]),
            torch.cat([self.image, other.image]),
            torch.cat([self.position, other.position]),
            torch.cat([self.column, other.column]),
        )
        return joined._worst(max(len(self.image), len(other.image)))

    def pack(self) -> Float[Tensor, "R D_plus_3"]:
        """One float64 row per column: log p(x), image, position, column. For an all-gather."""
        head = torch.stack([self.log_likelihood, self.image.double(), self.position.double()], dim=1)
        return torch.cat([head, self.column], dim=1)

    @classmethod
    def unpack(cls, packed: Float[Tensor, "R D_plus_3"]) -> WorstColumns:
        """Inverse of ``pack``."""
        return cls(packed[:, 0].clone(), packed[:, 1].long(), packed[:, 2].long(), packed[:, 3:].clone())

    def _worst(self, size: int) -> WorstColumns:
        keys = (self.position.numpy(), self.image.numpy(), self.log_likelihood.numpy())
        order = torch.from_numpy(np.lexsort(keys)[:size])
        return WorstColumns(self.log_likelihood[order], self.image[order], self.position[order], self.column[order])


def sweep(
    mixture: Mixture,
    columns: Columns,
    *,
    engine: Engine = "auto",
    n_worst: int = 0,
    image: Int[Tensor, " n"] | None = None,
    position: Int[Tensor, " n"] | None = None,
    tile_rows: int | None = None,
) -> tuple[MixtureStatistics, WorstColumns]:
    """One E-step: the statistics and, from the same sweep, the ``n_worst`` worst-explained columns.

    image, position: id of each column, to break ties; default the row number and 0.
    Raises NonFiniteActivations, RefusedInput.
    """
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
    statistics = MixtureStatistics(
        float(columns.shape[0]),
        total,
        sums[:, -1].clone(),
        sums[:, units : 2 * units].clone(),
        sums[:, :units].clone(),
    )
    return statistics, _worst_of(mixture, columns, log_likelihood, n_worst, image, position)


def _worst_of(
    mixture: Mixture,
    columns: Columns,
    log_likelihood: Float[Tensor, " n"],
    size: int,
    image: Int[Tensor, " n"] | None,
    position: Int[Tensor, " n"] | None,
) -> WorstColumns:
    empty = WorstColumns.none(size, mixture.n_units)
    n = columns.shape[0]
    if size == 0 or n == 0:
        return empty
    # Float32 sums order close columns at random; a few more candidates than asked, ordered in float64,
    # make the choice independent of who computed it.
    last = log_likelihood.kthvalue(min(n, 4 * size)).values
    row = (log_likelihood <= last).nonzero().squeeze(1)
    chosen = columns[row]
    exact = torch.logsumexp(log_joints(mixture, chosen), dim=1).cpu()
    row = row.cpu()
    images = row if image is None else image.cpu()[row].long()
    positions = torch.zeros_like(row) if position is None else position.cpu()[row].long()
    candidates = WorstColumns(exact, images, positions, chosen.cpu().double())
    return empty.merge(candidates)._worst(size)
