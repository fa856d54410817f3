"""Polyak averaging of a mixture over the last steps of online EM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from gmm_ops.axes import WordStatistics
from gmm_ops.mixtures.mixture import Mixture


@dataclass(frozen=True)
class MixtureAverage:
    """Sums of the parameters over the last steps (Polyak and Juditsky 1992), float64.

    count: (K,) terms per word; a re-seeded word starts anew. pi, mean, variance: sums.
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

    def add(self, mixture: Mixture, reseeded: Int[Tensor, " R"]) -> MixtureAverage:
        """One more term; re-seeded words forget what they were."""
        keep = torch.ones_like(self.count)
        keep[reseeded] = 0.0
        return MixtureAverage(
            keep * self.count + 1.0,
            keep * self.pi + mixture.log_pi.exp(),
            keep[:, None] * self.mean + mixture.mean,
            keep[:, None] * self.variance + mixture.variance,
        )

    def finish(self, otherwise: Mixture) -> Mixture:
        """The averaged mixture, or ``otherwise`` if there is no term."""
        if not bool(self.count.any()):
            return otherwise
        pi = self.pi / self.count
        return Mixture(
            torch.log(pi / pi.sum()),
            self.mean / self.count[:, None],
            self.variance / self.count[:, None],
            otherwise.center,
        )

    def to(self, device: torch.device | str) -> MixtureAverage:
        """The same sums on another device."""
        tensors = (getattr(self, name).to(device) for name in ("count", "pi", "mean", "variance"))
        return MixtureAverage(*tensors)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays, each named average_..."""
        tensors = {name: getattr(self, name).cpu().numpy() for name in ("count", "pi", "mean", "variance")}
        return {f"average_{name}": array for name, array in tensors.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> MixtureAverage:
        """Inverse of ``to_arrays``."""
        tensors = (torch.from_numpy(np.array(arrays[f"average_{n}"])) for n in ("count", "pi", "mean", "variance"))
        return cls(*tensors)
