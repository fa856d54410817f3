"""The dictionary of a layer: a diagonal Gaussian mixture whose components are the words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import ActivationMaps, Columns, WordMaps, WordStatistics
from gmm_ops.errors import RefusedInput
from gmm_ops.mixtures.gaussian import (
    ScoreParameters,
    centred,
    centred_tiles,
    expand_columns,
    exponentials,
    peaks,
    refuse_non_finite,
    refuse_other_shape,
    refuse_overflow,
    rows_per_tile,
    score_parameters,
    scores,
)
from gmm_ops.mixtures.near_ties import ExactScores
from gmm_ops.mixtures.products import full_precision, row_products
from gmm_ops.records import Record


@dataclass(frozen=True)
class Mixture(Record):
    """A diagonal Gaussian mixture (IG Eq. 1), all float64.

    log_pi: (K,) natural logarithm of the shares; -inf for an empty word.
    mean: (K, D) in the layer's units. variance: (K, D) squared units, positive.
    center: (D,) global mean of each unit, subtracted from columns and means before any product, because
        E[x^2] - E[x]^2 in float32 goes negative where means are large and spreads small.
    """

    log_pi: Float[Tensor, " K"]
    mean: WordStatistics
    variance: WordStatistics
    center: Float[Tensor, " D"]

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

    def relabelled(self, order: Int[Tensor, " K"]) -> Mixture:
        """The same mixture with word k taken from word ``order[k]``."""
        return Mixture(self.log_pi[order], self.mean[order], self.variance[order], self.center)


@dataclass(frozen=True)
class Assignment(Record):
    """The hard word of every column.

    word: (n,) int64, argmax of the log joint; ties go to the lowest word.
    posterior: (n,) float32, P(word | column). log_joint: (n,) float32, log pi + log density, natural.
    """

    word: Int[Tensor, " n"]
    posterior: Float[Tensor, " n"]
    log_joint: Float[Tensor, " n"]


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
            posterior[part] = (powers.gather(1, word[part, None]) / total).squeeze(1)
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
            out[start : start + real] = (best.double() + total.double().log())[:real, 0]
    refuse_overflow(out)
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
