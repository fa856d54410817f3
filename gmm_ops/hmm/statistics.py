"""Mergeable statistics of the hidden Markov model: zero, from_batch, merge; `learning.maximise` finishes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import Columns, WordStatistics
from gmm_ops.errors import RefusedInput
from gmm_ops.hmm.inference import forward_backward
from gmm_ops.hmm.model import HiddenMarkovModel, ModelShape

PerLayer = tuple[WordStatistics, ...]


@dataclass(frozen=True)
class ChainStatistics:
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
        empty = torch.zeros(sum(_sizes(shape)), dtype=torch.float64, device=device)
        return cls.unpack(empty, shape)

    @classmethod
    def from_batch(
        cls, model: HiddenMarkovModel, columns: Sequence[Columns], predicted: Int[Tensor, " n"] | None = None
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

    def merge(self, other: ChainStatistics) -> ChainStatistics:
        """Statistics of both sets of images."""
        return ChainStatistics(
            self.count + other.count,
            self.log_likelihood + other.log_likelihood,
            *(
                tuple(a + b for a, b in zip(getattr(self, name), getattr(other, name), strict=True))
                for name in ("s0", "s1", "s2", "s3")
            ),
        )

    __add__ = merge

    def scaled(self, factor: float) -> ChainStatistics:
        """Every sum times ``factor``; 1 / count gives means per image."""
        return ChainStatistics(
            self.count * factor,
            self.log_likelihood * factor,
            *(tuple(part * factor for part in getattr(self, name)) for name in ("s0", "s1", "s2", "s3")),
        )

    def about(self, before: HiddenMarkovModel, after: HiddenMarkovModel) -> ChainStatistics:
        """The same sums, gathered about the means of ``before``, about those of ``after``."""
        first, second = [], []
        layers = zip(before.layers, after.layers, self.s0, self.s1, self.s2, strict=True)
        for old, new, s0, s1, s2 in layers:
            moved, weight = new.mean - old.mean, s0[:, None]
            first.append(s1 - moved * weight)
            second.append(s2 - 2.0 * moved * s1 + moved * moved * weight)
        return ChainStatistics(self.count, self.log_likelihood, self.s0, tuple(first), tuple(second), self.s3)

    def pack(self) -> Float[Tensor, " P"]:
        """One float64 vector, count first, for an all-reduce: packing then adding equals merging."""
        parts = [part.flatten() for name in ("s0", "s1", "s2", "s3") for part in getattr(self, name)]
        head = torch.tensor([self.count, self.log_likelihood], dtype=torch.float64, device=self.s0[0].device)
        return torch.cat([head, *parts])

    @classmethod
    def unpack(cls, packed: Float[Tensor, " P"], shape: ModelShape) -> ChainStatistics:
        """Inverse of ``pack``. Raises RefusedInput for a vector of another length."""
        sizes = _sizes(shape)
        if packed.shape != (sum(sizes),):
            raise RefusedInput(
                f"packed must have shape ({sum(sizes)},) for a model of {shape}; got {tuple(packed.shape)}. Unpack "
                "with the shape of the model that the statistics were gathered at."
            )
        head, *parts = packed.split(sizes)
        layers, pairs = len(shape.n_words), len(shape.n_states) - 1
        blocks = list(zip(shape.n_words, shape.n_units, strict=True))
        s0, s1, s2 = parts[:layers], parts[layers : 2 * layers], parts[2 * layers : 3 * layers]
        tables = zip(parts[3 * layers : 3 * layers + pairs], pairwise(shape.n_states), strict=True)
        return cls(
            float(head[0]),
            float(head[1]),
            tuple(part.clone() for part in s0),
            tuple(part.reshape(block).clone() for part, block in zip(s1, blocks, strict=True)),
            tuple(part.reshape(block).clone() for part, block in zip(s2, blocks, strict=True)),
            tuple(part.reshape(upper, lower).clone() for part, (lower, upper) in tables),
        )


def _sizes(shape: ModelShape) -> list[int]:
    blocks = [words * units for words, units in zip(shape.n_words, shape.n_units, strict=True)]
    return [2, *shape.n_words, *blocks, *blocks, *(lower * upper for lower, upper in pairwise(shape.n_states))]
