"""What discriminative training learns: the words and the linear layer on their histogram (IG Eq. 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.axes import WordStatistics
from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.collective import LONE, Collective, log_sum_exp
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.slices import WordSlice
from gmm_ops.records import Record

TRAINED = ("word_logits", "mean", "log_sd", "weight", "bias")
"""Fields that the gradient moves, in the order of every packed vector."""

REVIVED_SHARE = 1e-3
"""A word without columns starts with this many times 1/K: at share 0 no gradient would ever reach it."""


@dataclass(frozen=True)
class Parameters(Record):
    """A dictionary and the classifier on its histograms, all float64; or the slice of both that an actor holds.

    Of a slice, K is the number of its own words, ``weight`` their columns of the linear layer, and the bias is the same
    on every slice.

    word_logits: (K,) log pi = log_softmax(word_logits), over all words of the dictionary. mean: (K, D) in the layer's
        units. log_sd: (K, D) natural logarithm of the standard deviation. weight: (M, K), bias: (M,), the linear layer
        over M labels.
    center: (D,) subtracted before any product; fixed.
    """

    word_logits: Float[Tensor, " K"]
    mean: WordStatistics
    log_sd: WordStatistics
    weight: Float[Tensor, "M K"]
    bias: Float[Tensor, " M"]
    center: Float[Tensor, " D"]

    @property
    def n_words(self) -> int:
        """K."""
        return self.mean.shape[0]

    @property
    def n_units(self) -> int:
        """D."""
        return self.mean.shape[1]

    @property
    def n_labels(self) -> int:
        """M."""
        return self.bias.shape[0]

    @classmethod
    def from_mixture(cls, words: Mixture | WordSlice, n_labels: int) -> Parameters:
        """A start: the words of a generative fit, or of ``initial_mixture`` (the paper's), and a linear layer of zeros.

        Raises RefusedInput for fewer than 2 labels.
        """
        if n_labels < 2:
            raise RefusedInput(
                f"n_labels must be at least 2, for there is nothing to decide otherwise; got {n_labels}. "
                "Take a list of classes with the label rest, or the generative loss."
            )
        mixture = words if isinstance(words, Mixture) else words.own
        log_pi = mixture.log_pi.double()
        # At a share of 1/K of the whole dictionary, not of a slice.
        lowest = float(np.log(REVIVED_SHARE / words.n_words))
        weight = torch.zeros(n_labels, mixture.n_words, dtype=torch.float64, device=log_pi.device)
        return cls(
            log_pi.clamp(min=lowest),
            mixture.mean.double(),
            0.5 * mixture.variance.double().log(),
            weight,
            weight.new_zeros(n_labels),
            mixture.center.double(),
        )

    def to_mixture(self, collective: Collective = LONE) -> Mixture:
        """The own words alone; their shares are those of the whole dictionary."""
        total = log_sum_exp(torch.logsumexp(self.word_logits, dim=0, keepdim=True), collective)
        return Mixture(self.word_logits - total, self.mean, (2.0 * self.log_sd).exp(), self.center)

    def trained(self) -> dict[str, Tensor]:
        """The fields that the gradient moves, by name."""
        return {name: getattr(self, name) for name in TRAINED}

    def moved(self, values: Mapping[str, Tensor]) -> Parameters:
        """The same parameters with these fields replaced."""
        return replace(self, **values)

    def is_finite(self) -> bool:
        """Whether no parameter is NaN or infinite."""
        return all(bool(torch.isfinite(value).all()) for value in self.trained().values())
