"""Polyak averaging of a mixture over the last steps of online EM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import WordStatistics
from gmm_ops.fitting.collective import LONE, Collective
from gmm_ops.mixtures.em import shared_variance
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.model_selection import VarianceOf
from gmm_ops.records import Record


@dataclass(frozen=True)
class MixtureAverage(Record):
    """Sums of the parameters over the last steps (Polyak and Juditsky 1992), float64.

    count: (K,) terms per word; a word that was split starts anew. pi, mean, variance: sums.
    """

    count: Float[Tensor, " K"]
    pi: Float[Tensor, " K"]
    mean: WordStatistics
    variance: WordStatistics

    @classmethod
    def none(cls, n_words: int, n_units: int, device: torch.device | str = "cpu") -> MixtureAverage:
        """No term yet."""
        word = torch.zeros(n_words, dtype=torch.float64, device=device)
        unit = torch.zeros(n_words, n_units, dtype=torch.float64, device=device)
        return cls(word, word.clone(), unit, unit.clone())

    def add(self, mixture: Mixture, changed: Int[Tensor, " R"]) -> MixtureAverage:
        """One more term; words that were split forget what they were."""
        keep = torch.ones_like(self.count)
        keep[changed] = 0.0
        return MixtureAverage(
            keep * self.count + 1.0,
            keep * self.pi + mixture.log_pi.exp(),
            keep[:, None] * self.mean + mixture.mean,
            keep[:, None] * self.variance + mixture.variance,
        )

    def finish(self, otherwise: Mixture, collective: Collective = LONE, variance_of: VarianceOf = "word") -> Mixture:
        """The averaged own words, shares divided by those of all slices, or ``otherwise`` if there is no term.

        variance_of: what has a variance of its own; words that were split have fewer terms, so shared ones are shared
            again.
        """
        if not bool(self.count.any()):
            return otherwise
        pi = self.pi / self.count
        return Mixture(
            torch.log(pi / collective.all_reduce_sum(pi.sum())),
            self.mean / self.count[:, None],
            shared_variance(self.variance / self.count[:, None], pi, variance_of, collective),
            otherwise.center,
        )
