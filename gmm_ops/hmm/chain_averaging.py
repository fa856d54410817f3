"""Polyak averaging of a hidden Markov model over the last steps of online EM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.hmm.chain import Chain
from gmm_ops.hmm.model import HiddenMarkovModel, LayerWords
from gmm_ops.records import Record


@dataclass(frozen=True)
class ModelAverage(Record):
    """Sum of the parameters over steps (Polyak and Juditsky 1992).

    count: terms. total: (P,) float64, the sum of initial, transitions, means and variances, flat. Averages of
    probabilities stay probabilities, and the deviation of an averaged variance is at least the averaged deviation, so
    the clamp of the means still holds.
    """

    count: int
    total: Float[Tensor, " P"]

    @classmethod
    def none(cls, model: HiddenMarkovModel) -> ModelAverage:
        """No term yet."""
        return cls(0, torch.zeros_like(torch.cat([part.flatten() for part in _parts(model)])))

    def add(self, model: HiddenMarkovModel) -> ModelAverage:
        """One more term."""
        return ModelAverage(self.count + 1, self.total + torch.cat([part.flatten() for part in _parts(model)]))

    def finish(self, otherwise: HiddenMarkovModel) -> HiddenMarkovModel:
        """The averaged model, or ``otherwise`` if there is no term."""
        if self.count == 0:
            return otherwise
        shapes = [part.shape for part in _parts(otherwise)]
        flat = (self.total / self.count).split([shape.numel() for shape in shapes])
        initial, *rest = (values.reshape(shape) for values, shape in zip(flat, shapes, strict=True))
        tables = len(otherwise.chain.transitions)
        emitted = zip(rest[tables::2], rest[tables + 1 :: 2], otherwise.layers, strict=True)
        layers = tuple(LayerWords(mean, variance, layer.rectified) for mean, variance, layer in emitted)
        return HiddenMarkovModel(Chain(initial, tuple(rest[:tables])), layers)


def _parts(model: HiddenMarkovModel) -> list[Tensor]:
    emitted = [part for layer in model.layers for part in (layer.mean, layer.variance)]
    return [model.chain.initial, *model.chain.transitions, *emitted]
