"""Sums over all words of a sliced dictionary's statistics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.fitting.collective import Collective
from gmm_ops.mixtures.statistics import MixtureStatistics


@dataclass(frozen=True)
class LayerTotals:
    """What the M-step of a slice needs of the others, float64, the same bits on every slice.

    share: sum of s0 over all words. variance: (D,) of each unit over all columns, whatever their word.
    """

    share: float
    variance: Float[Tensor, " D"]

    @classmethod
    def of(cls, own: MixtureStatistics, reduce: Collective) -> LayerTotals:
        """One reduction of 2D + 1 numbers."""
        packed = reduce.all_reduce_sum(torch.cat([own.s0.sum()[None], own.s1.sum(dim=0), own.s2.sum(dim=0)]))
        share, first, second = packed.split([1, own.s1.shape[1], own.s1.shape[1]])
        mean = first / share
        return cls(float(share), (second / share - mean * mean).clamp(min=0.0))
