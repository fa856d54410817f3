"""Diagonal Gaussians scored by one matrix product; never an (n, K, D) tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.axes import Columns
from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.mixtures.products import ROW_MULTIPLE, full_precision, row_products
from gmm_ops.mixtures.row_loops import expand_columns

LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class ScoreParameters:
    """The log joint as one product, s = [x*x, x, 1] @ weights.T (IG Eq. 1, diagonal mixture).

    weights: (K, 2D + 1): per word -1/2 / var, then mu / var, then the constant
        c_k = log pi_k - 1/2 sum_d [ mu_kd^2 / var_kd + log(2 pi var_kd) ].
        The column of ones makes the word counts one more column of the statistics product.
    """

    weights: Float[Tensor, "K two_D_plus_1"]

    @property
    def constant(self) -> Float[Tensor, " K"]:
        """c_k: what a column at the centre scores."""
        return self.weights[:, -1]

    @property
    def n_words(self) -> int:
        """K."""
        return self.weights.shape[0]

    @property
    def n_units(self) -> int:
        """D."""
        return (self.weights.shape[1] - 1) // 2


def score_parameters(
    log_pi: Float[Tensor, " K"],
    mean: Float[Tensor, "K D"],
    variance: Float[Tensor, "K D"],
    dtype: torch.dtype = torch.float32,
) -> ScoreParameters:
    """Weights of the score product, built in float64, then cast.

    log_pi: natural logarithm of the shares. mean: about the centre, in the layer's units. variance: squared.
    """
    precision = 1.0 / variance.double()
    weighted = mean.double() * precision
    constant = peaks(log_pi, variance) - 0.5 * (weighted * mean).sum(dim=1)
    return ScoreParameters(torch.cat([-0.5 * precision, weighted, constant[:, None]], dim=1).to(dtype))


def peaks(log_pi: Float[Tensor, " K"], variance: Float[Tensor, "K D"]) -> Float[Tensor, " K"]:
    """log pi_k - 1/2 sum_d log(2 pi var_kd), float64: the log joint of a column on the word's mean."""
    return log_pi.double() - 0.5 * (variance.double().log() + LOG_2PI).sum(dim=1)


def scores(columns_centred: Columns, parameters: ScoreParameters) -> Float[Tensor, "n K"]:
    """Log joint log pi_k + log N(x | mu_k, var_k) of every column and word, natural logarithm.

    columns_centred: columns minus the mixture's centre, in the dtype of ``parameters``.
    Raises RefusedInput if the number of units differs.
    """
    refuse_other_shape(columns_centred, parameters.n_units)
    with full_precision():
        every = row_products(expand_columns(padded(columns_centred)), parameters.weights)
    return every[: columns_centred.shape[0]]


def centred(columns: Columns, center: Float[Tensor, " D"], dtype: torch.dtype = torch.float32) -> Columns:
    """Columns minus the centre. float64 columns are centred before the cast, so no digit is lost."""
    if columns.dtype == torch.float64 or dtype == torch.float64:
        return (columns.double() - center).to(dtype)
    return columns.to(dtype) - center.to(dtype)


def padded(columns: Columns) -> Float[Tensor, "padded D"]:
    """Columns, with rows of zeros up to a multiple of 64."""
    missing = -columns.shape[0] % ROW_MULTIPLE
    if missing == 0:
        return columns
    return torch.cat([columns, columns.new_zeros(missing, columns.shape[1])])


def refuse_other_shape(columns: Columns, n_units: int) -> None:
    """Raise RefusedInput unless columns have shape (n, D)."""
    if columns.ndim != 2 or columns.shape[1] != n_units:
        raise RefusedInput(
            f"columns must have shape (n, {n_units}), one activation column per row; got "
            f"{tuple(columns.shape)}. Pass the activations of the layer that this dictionary models."
        )


def refuse_non_finite(columns: Columns, name: str = "columns") -> None:
    """Raise NonFiniteActivations if a column holds NaN or infinity, naming the first such row."""
    # One finite sum proves all entries finite at the price of a read; only a bad sum needs the exact look.
    if columns.numel() == 0 or bool(torch.isfinite(columns.sum(dtype=torch.float32))):
        return
    broken = ~torch.isfinite(columns).all(dim=1)
    if not bool(broken.any()):
        return
    raise NonFiniteActivations(
        f"{name} must be finite; {int(broken.sum())} of {columns.shape[0]} columns hold NaN or infinity "
        f"(first: row {int(broken.nonzero()[0])}). Look at the layer's weights and at the image behind it."
    )


def refuse_overflow(values: Float[Tensor, " n"], name: str = "columns") -> None:
    """Raise RefusedInput where a number a column, scored in float32, is not finite: its squares did not fit."""
    if values.numel() == 0 or bool(torch.isfinite(values.sum())):
        return
    broken = ~torch.isfinite(values)
    if not bool(broken.any()):
        return
    raise RefusedInput(
        f"{name}: must have squares that fit float32 against the variances of the words (about 1e19 at most), got "
        f"{int(broken.sum())} of {len(values)} columns that overflow (first: row {int(broken.nonzero()[0])}); "
        "rescale the layer's activations, or look at the image behind them"
    )
