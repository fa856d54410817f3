"""How dictionaries are trained by gradient, and what helps if that diverges."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from gmm_ops.errors import RefusedInput

Precision = Literal["float32", "float64"]

REMEDY = "Lower mixture_rate or classifier_rate, or raise var_floor."


@dataclass(frozen=True)
class DiscriminativeSettings:
    """How a dictionary is trained to carry the decision.

    mixture_rate: highest learning rate of the words; for means in standard deviations of their unit in the layer, so
    that a unit times 10 trains alike. classifier_rate: of the linear layer. minibatch: images of a global minibatch.
    epochs: passes over the images, at most. patience: stop after this many epochs without a lower held-out loss.
    var_floor: lowest variance, as a share of the layer's mean variance. precision: of the products; sums and
    parameters are float64. max_loss: a minibatch loss above this many times log M, the loss of guessing, is refused.
    """

    mixture_rate: float = 1e-2
    classifier_rate: float = 1e-1
    minibatch: int = 100
    epochs: int = 5
    patience: int = 2
    var_floor: float = 1e-4
    precision: Precision = "float32"
    max_loss: float = 20.0

    def __post_init__(self) -> None:
        rules = {
            "mixture_rate": (0.0 <= self.mixture_rate < math.inf, "0 or more, and finite"),
            "classifier_rate": (0.0 < self.classifier_rate < math.inf, "above 0, and finite"),
            "minibatch": (self.minibatch >= 1, "at least 1"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "patience": (self.patience >= 1, "at least 1"),
            "var_floor": (self.var_floor > 0.0, "above 0"),
            "precision": (self.precision in ("float32", "float64"), "'float32' or 'float64'"),
            "max_loss": (self.max_loss > 1.0, "above 1"),
        }
        for name, (kept, rule) in rules.items():
            if not kept:
                raise RefusedInput(f"{name} must be {rule}; got {getattr(self, name)!r}.")

    @property
    def dtype(self) -> torch.dtype:
        """Of the products."""
        return torch.float64 if self.precision == "float64" else torch.float32
