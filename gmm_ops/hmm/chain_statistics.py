"""Mergeable statistics of the hidden Markov model: zero, from_batch, merge; `learning.maximise` finishes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import LayerColumns, WordStatistics
from gmm_ops.hmm.inference import forward_backward
from gmm_ops.hmm.model import HiddenMarkovModel, ModelShape
from gmm_ops.records import Sums

PerLayer = tuple[WordStatistics, ...]


@dataclass(frozen=True)
class ChainStatistics(Sums):
    """Sums over images, float64 (IG Sec. 3.1, E-step; Cappe and Moulines 2009).

    count: images. log_likelihood: sum of log p, natural. s0: per layer (K,), sum of gamma.
    s1, s2: per layer (K, D), sum of gamma E[y - mu | x] and gamma E[(y - mu)^2 | x] about the model's means mu, which
    must be the same for statistics that merge. s3: per pair (K_upper, K_lower), sum of xi, the prediction's last.
    """

    count: float
    log_likelihood: float
    s0: tuple[Float[Tensor, " K"], ...]
    s1: PerLayer
    s2: PerLayer
    s3: tuple[Float[Tensor, "K_upper K_lower"], ...]

    @classmethod
    def zero(cls, shape: ModelShape, device: torch.device | str = "cpu") -> ChainStatistics:
        """The statistics of no image: the neutral element of ``merge``."""

        def zeros(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.float64, device=device)

        s1, s2 = (tuple(map(zeros, shape.n_words, shape.n_units)) for _ in range(2))
        tables = tuple(zeros(upper, lower) for lower, upper in pairwise(shape.n_states))
        return cls(0.0, 0.0, tuple(map(zeros, shape.n_words)), s1, s2, tables)

    @classmethod
    def from_batch(
        cls, model: HiddenMarkovModel, columns: Sequence[LayerColumns], predicted: Int[Tensor, " n"] | None = None
    ) -> ChainStatistics:
        """E-step at ``model``. columns: per layer (n, D). predicted: (n,), if the model observes the prediction.

        An image that is impossible under the model adds to the count and makes the log-likelihood -inf, nothing
        else. Raises NonFiniteActivations, RefusedInput.
        """
        posterior = forward_backward(model.chain, model.log_densities(columns, predicted))
        layers = list(zip(model.layers, columns, posterior.gamma, strict=False))
        moments = [layer.sums(x, gamma) for layer, x, gamma in layers]
        return cls(
            float(columns[0].shape[0]),
            float(posterior.log_likelihood.sum()),
            tuple(gamma.sum(dim=0, dtype=torch.float64) for _, _, gamma in layers),
            tuple(first for first, _ in moments),
            tuple(second for _, second in moments),
            posterior.xi,
        )

    def about(self, before: HiddenMarkovModel, after: HiddenMarkovModel) -> ChainStatistics:
        """The same sums, gathered about the means of ``before``, about those of ``after``."""
        first, second = [], []
        layers = zip(before.layers, after.layers, self.s0, self.s1, self.s2, strict=True)
        for old, new, s0, s1, s2 in layers:
            moved, weight = new.mean - old.mean, s0[:, None]
            first.append(s1 - moved * weight)
            second.append(s2 - 2.0 * moved * s1 + moved * moved * weight)
        return replace(self, s1=tuple(first), s2=tuple(second))
