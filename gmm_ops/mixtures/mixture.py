"""The dictionary of a layer: a diagonal Gaussian mixture whose components are the words."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import ActivationMaps, Columns, WordStatistics
from gmm_ops.errors import RefusedInput
from gmm_ops.inputs import as_columns, as_count, as_float64, as_tensor
from gmm_ops.mixtures.model_selection import VarianceOf, bayesian_criterion
from gmm_ops.records import Record, mapped

SHARE_TOLERANCE = 1e-6
"""How far the shares of a mixture may sum from 1: float32 shares of 1,500 words are within it."""


@dataclass(frozen=True)
class Mixture(Record):
    """A diagonal Gaussian mixture (IG Eq. 1), all float64, checked on construction.

    Fields may be given as tensors, arrays or lists; they are converted to float64 tensors once.

    log_pi: (K,) natural logarithm of the shares, which sum to 1; -inf for an empty word.
    mean: (K, D) in the layer's units. variance: (K, D) squared units, positive.
    center: (D,) global mean of each unit, subtracted from columns and means before any product, because
        E[x^2] - E[x]^2 in float32 goes negative where means are large and spreads small. Default: the mean of the
        mixture.
    Raises RefusedInput, naming the field, for other shapes, NaN, infinite means, variances that are not positive and
    shares that sum to more than 1. Shares that sum to less are those of some words of a sliced dictionary, which only
    the E-step and ``assign`` accept.
    """

    log_pi: Float[Tensor, " K"]
    mean: WordStatistics
    variance: WordStatistics
    center: Float[Tensor, " D"] = None  # type: ignore[assignment]  # set on construction

    def __post_init__(self) -> None:
        log_pi = as_float64("log_pi", self.log_pi, (None,))
        mean = as_float64("mean", self.mean, (len(log_pi), None))
        variance = as_float64("variance", self.variance, tuple(mean.shape))
        center = log_pi.exp() @ mean if self.center is None else self.center
        center = as_float64("center", center, (mean.shape[1],))
        for name, value in {"log_pi": log_pi, "mean": mean, "variance": variance, "center": center}.items():
            object.__setattr__(self, name, value)
        _refuse_other_numbers(self)

    @property
    def n_words(self) -> int:
        """K."""
        return self.mean.shape[0]

    @property
    def n_units(self) -> int:
        """D."""
        return self.mean.shape[1]

    def assign(self, columns: Columns | ActivationMaps) -> Assignment:
        """The hard word of every column, its posterior and its log joint (IG Sec. 3.1).

        columns: (n, D), or a layer's activations (N, D, H, W), for which the result holds maps (N, H, W).
        The products are float32, also of float64 columns; but words within rounding of the best are decided in
        float64 by all digits of the columns. Raises NonFiniteActivations, RefusedInput.
        """
        # Late, here and below: what sweeps over columns knows this record.
        from gmm_ops.mixtures.assignment import assign

        given = as_tensor("columns", columns)
        if given.ndim != 4:
            return assign(self._whole(), as_columns("columns", given))
        maps = given.permute(0, 2, 3, 1)  # of channels-last activations a view
        found: Assignment = assign(self._whole(), as_columns("columns", maps.flatten(0, 2)))
        placed: Assignment = mapped(lambda each: each.view(maps.shape[:3]), found)
        return placed

    def log_prob(self, columns: Columns) -> Float[Tensor, " n"]:
        """log p(x) of every column (n, D), natural logarithm; float64 from float32 products (relative error 1e-6)."""
        from gmm_ops.mixtures.assignment import log_likelihood

        return log_likelihood(self._whole(), as_columns("columns", columns))

    def posteriors(self, columns: Columns) -> Float[Tensor, "n K"]:
        """P(word | column) of every column (n, D): (n, K) float32, rows sum to 1.

        Beside the result only one tile of scores is held. Words under e^-60 of the best are 0 up to 1e-26.
        """
        from gmm_ops.mixtures.assignment import posteriors

        return posteriors(self._whole(), as_columns("columns", columns))

    def sample(self, n_columns: int, seed: int) -> tuple[Columns, Int[Tensor, " n"]]:
        """Draw columns: ((n, D) float64 in the layer's units, their (n,) int64 words). The seed decides all."""
        whole, n_columns = self._whole(), as_count("n_columns", n_columns)
        generator = torch.Generator().manual_seed(as_count("seed", seed, 0))
        word = torch.multinomial(whole.log_pi.exp().cpu(), n_columns, replacement=True, generator=generator)
        noise = torch.randn(n_columns, self.n_units, generator=generator, dtype=torch.float64)
        place = word.to(self.mean.device)
        return self.mean[place] + self.variance[place].sqrt() * noise.to(self.mean.device), place

    def bic(self, columns: Columns, variance_of: VarianceOf = "word") -> float:
        """Bayesian information criterion of the fitted columns (n, D), lower is better; see ``bayesian_criterion``.

        variance_of: as the mixture was fitted.
        """
        each = self.log_prob(columns)
        return bayesian_criterion(float(each.sum()), len(each), self.n_words, self.n_units, variance_of)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fields to an npz file, bit for bit, without pickles; a file that is there is replaced."""
        with open(path, "wb") as file:
            np.savez(file, **self.to_arrays())  # type: ignore[arg-type]  # the stubs take every name for a flag

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Mixture:
        """Inverse of ``save``; also reads the dictionaries of a run. Raises RefusedInput for another kind of file."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls.from_arrays({name: arrays[name] for name in arrays.files})
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError) as error:
            if isinstance(error, RefusedInput):
                raise
            raise RefusedInput(
                f"path: must name an npz file with log_pi, mean, variance and center, got {os.fspath(path)!r} "
                f"({error}); write it with Mixture.save()"
            ) from error

    def _whole(self) -> Mixture:
        total = float(self.log_pi.exp().sum())
        if total < 1.0 - SHARE_TOLERANCE:
            raise RefusedInput(
                f"log_pi: shares must sum to 1, got {total:.6g}; subtract logsumexp(log_pi), or join the slices"
            )
        return self

    def relabelled(self, order: Int[Tensor, " K"]) -> Mixture:
        """The same mixture with word k taken from word ``order[k]``."""
        return Mixture(self.log_pi[order], self.mean[order], self.variance[order], self.center)


def _refuse_other_numbers(mixture: Mixture) -> None:
    """Raise RefusedInput, naming the field, where the numbers make no mixture or part of one."""
    flat = ~((mixture.variance > 0.0) & torch.isfinite(mixture.variance))
    if bool(flat.any()):
        word, unit = flat.nonzero()[0].tolist()
        raise RefusedInput(
            f"variance: must be positive and finite, got {float(mixture.variance[word, unit]):g} at word {word}, unit "
            f"{unit}; give squared deviations, and a variance floor to the fit"
        )
    for name in ("mean", "center"):
        if not bool(torch.isfinite(getattr(mixture, name)).all()):
            raise RefusedInput(f"{name}: must be finite, got infinity; look at the columns that were fitted")
    total = float(mixture.log_pi.exp().sum())
    # Less is a part of a dictionary, whose words may all be empty; ``_whole`` refuses it to users.
    if not total <= 1.0 + SHARE_TOLERANCE:
        raise RefusedInput(
            f"log_pi: shares must sum to 1, got {total:.6g}; give natural logarithms, and subtract logsumexp(log_pi)"
        )


@dataclass(frozen=True)
class Assignment(Record):
    """The hard word of every column.

    word: (n,) int64, argmax of the log joint; ties go to the lowest word. Of activations (N, H, W), as all fields.
    posterior: (n,) float32, P(word | column). log_joint: (n,) float32, log pi + log density, natural.
    """

    word: Int[Tensor, "*places"]
    posterior: Float[Tensor, "*places"]
    log_joint: Float[Tensor, "*places"]
