"""The dictionary of a layer: a diagonal Gaussian mixture whose components are the words."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import ActivationMaps, Columns, WordMaps, WordStatistics
from gmm_ops.errors import RefusedInput
from gmm_ops.inputs import as_columns, as_count, as_float64, as_tensor
from gmm_ops.mixtures.gaussian import (
    ScoreParameters,
    centred,
    centred_tiles,
    exponentials,
    peaks,
    refuse_non_finite,
    refuse_other_shape,
    refuse_overflow,
    rows_per_tile,
    score_parameters,
    scores,
)
from gmm_ops.mixtures.model_selection import bayesian_criterion
from gmm_ops.mixtures.near_ties import ExactScores
from gmm_ops.mixtures.products import full_precision, row_products
from gmm_ops.mixtures.row_loops import expand_columns
from gmm_ops.records import Record

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

    def score_parameters(self, dtype: torch.dtype = torch.float32) -> ScoreParameters:
        """Weights of the score product about the centre."""
        return score_parameters(self.log_pi, self.mean - self.center, self.variance, dtype)

    def assign(self, columns: Columns | ActivationMaps) -> Assignment:
        """The hard word of every column, its posterior and its log joint (IG Sec. 3.1).

        columns: (n, D), or a layer's activations (N, D, H, W), for which the result holds maps (N, H, W).
        The products are float32, also of float64 columns; but words within rounding of the best are decided in
        float64 by all digits of the columns. Raises NonFiniteActivations, RefusedInput.
        """
        given = as_tensor("columns", columns)
        if given.ndim == 4:
            return Assignment(*assign_maps(self._whole(), given if given.is_floating_point() else given.float()))
        return assign(self._whole(), as_columns("columns", given))

    def log_prob(self, columns: Columns) -> Float[Tensor, " n"]:
        """log p(x) of every column (n, D), natural logarithm; float64 from float32 products (relative error 1e-6)."""
        return log_likelihood(self._whole(), as_columns("columns", columns))

    def posteriors(self, columns: Columns) -> Float[Tensor, "n K"]:
        """P(word | column) of every column (n, D): (n, K) float32, rows sum to 1.

        Beside the result only one tile of scores is held. Words under e^-60 of the best are 0 up to 1e-26.
        """
        return posteriors(self._whole(), as_columns("columns", columns))

    def sample(self, n_columns: int, seed: int) -> tuple[Columns, Int[Tensor, " n"]]:
        """Draw columns: ((n, D) float64 in the layer's units, their (n,) int64 words). The seed decides all."""
        whole, n_columns = self._whole(), as_count("n_columns", n_columns)
        generator = torch.Generator().manual_seed(as_count("seed", seed, 0))
        word = torch.multinomial(whole.log_pi.exp().cpu(), n_columns, replacement=True, generator=generator)
        noise = torch.randn(n_columns, self.n_units, generator=generator, dtype=torch.float64)
        place = word.to(self.mean.device)
        return self.mean[place] + self.variance[place].sqrt() * noise.to(self.mean.device), place

    def bic(self, columns: Columns) -> float:
        """Bayesian information criterion of the fitted columns (n, D), lower is better; see ``bayesian_criterion``."""
        each = self.log_prob(columns)
        return bayesian_criterion(float(each.sum()), len(each), self.n_words, self.n_units)

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


@torch.no_grad()
def assign(mixture: Mixture, columns: Columns, tile_rows: int | None = None) -> Assignment:
    """The hard word of every column (IG Sec. 3.1).

    Float32 products pick the words within rounding of the best; among those float64 decides, so the word
    depends neither on the tiling nor on the number of threads. Raises NonFiniteActivations, RefusedInput.
    """
    refuse_other_shape(columns, mixture.n_units)
    refuse_non_finite(columns)
    parameters = mixture.score_parameters()
    n = columns.shape[0]
    word = torch.empty(n, dtype=torch.int64, device=columns.device)
    posterior = torch.empty(n, dtype=torch.float32, device=columns.device)
    log_joint = torch.empty(n, dtype=torch.float32, device=columns.device)
    rows = tile_rows or rows_per_tile(mixture.n_words, columns.device)
    exact = ExactScores.of(mixture.mean, mixture.variance, mixture.center, peaks(mixture.log_pi, mixture.variance))
    with full_precision():
        for start, real, tile in centred_tiles(columns, mixture.center, rows):
            score = row_products(expand_columns(tile), parameters.weights)[:real]
            part = slice(start, start + real)
            word[part], joint = exact.settle(score, columns[part])
            log_joint[part] = joint.float()
            powers, _, total = exponentials(score)
            posterior[part] = (powers.gather(1, word[part, None]) / total).squeeze(1).float()
    refuse_overflow(posterior + log_joint)
    return Assignment(word, posterior, log_joint)


@torch.no_grad()
def assign_maps(
    mixture: Mixture, activations: ActivationMaps
) -> tuple[WordMaps, Float[Tensor, "N H W"], Float[Tensor, "N H W"]]:
    """Word maps, posterior maps and log-joint maps. Free of copies if the activations are channels-last."""
    if activations.ndim != 4:
        raise RefusedInput(
            f"activations must have shape (N, D, H, W); got {tuple(activations.shape)}. Give a dense layer H = W = 1."
        )
    maps = activations.permute(0, 2, 3, 1)
    found = assign(mixture, maps.reshape(-1, maps.shape[3]))
    shape = maps.shape[:3]
    return found.word.view(shape), found.posterior.view(shape), found.log_joint.view(shape)


@torch.no_grad()
def log_likelihood(mixture: Mixture, columns: Columns) -> Float[Tensor, " n"]:
    """log p(x) per column, natural logarithm, float64 from float32 products (IG Eq. 7 is minus its mean)."""
    refuse_other_shape(columns, mixture.n_units)
    refuse_non_finite(columns)
    parameters = mixture.score_parameters()
    out = torch.empty(columns.shape[0], dtype=torch.float64, device=columns.device)
    rows = rows_per_tile(mixture.n_words, columns.device)
    with full_precision():
        for start, real, tile in centred_tiles(columns, mixture.center, rows):
            _, best, total = exponentials(row_products(expand_columns(tile), parameters.weights))
            out[start : start + real] = (best.double() + total.log())[:real, 0]
    refuse_overflow(out)
    return out


@torch.no_grad()
def posteriors(mixture: Mixture, columns: Columns) -> Float[Tensor, "n K"]:
    """P(word | column), float32, tile by tile. Raises NonFiniteActivations, RefusedInput."""
    refuse_other_shape(columns, mixture.n_units)
    refuse_non_finite(columns)
    parameters = mixture.score_parameters()
    out = torch.empty(columns.shape[0], mixture.n_words, dtype=torch.float32, device=columns.device)
    rows = rows_per_tile(mixture.n_words, columns.device)
    with full_precision():
        for start, real, tile in centred_tiles(columns, mixture.center, rows):
            powers, _, total = exponentials(row_products(expand_columns(tile), parameters.weights))
            torch.div(powers[:real], total[:real].to(powers.dtype), out=out[start : start + real])
    refuse_overflow(out.sum(dim=1))
    return out


@torch.no_grad()
def log_joints(mixture: Mixture, columns: Columns) -> Float[Tensor, "n K"]:
    """Log joint of every column and word in float64: for tests, few columns and the last digit."""
    refuse_other_shape(columns, mixture.n_units)
    refuse_non_finite(columns)
    return scores(centred(columns, mixture.center, torch.float64), mixture.score_parameters(torch.float64))


def responsibilities(mixture: Mixture, columns: Columns) -> Float[Tensor, "n K"]:
    """P(word | column), float64, rows sum to 1. Holds (n, K): for tests and few columns."""
    return torch.softmax(log_joints(mixture, columns), dim=1)
