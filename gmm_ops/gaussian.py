"""Diagonal Gaussians scored by one matrix product; never an (n, K, D) tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.axes import Columns
from gmm_ops.errors import NonFiniteActivations, RefusedInput

LOG_2PI = math.log(2.0 * math.pi)

ROW_MULTIPLE = 64
"""Products run on a multiple of this many rows: below about 16 rows the matrix library switches to another
kernel whose last bits differ, and a column's score would depend on how many neighbours it was scored with."""


@dataclass(frozen=True)
class ScoreParameters:
    """The log joint as one product, s = [x*x, x, 1] @ weights (IG Eq. 1 for a diagonal mixture).

    weights: (2D + 1, K): rows of -1/2 / var, then of mu / var, then the constant
        c_k = log pi_k - 1/2 sum_d [ mu_kd^2 / var_kd + log(2 pi var_kd) ].
        The row of ones makes the word counts fall out of the statistics product as one more column.
    """

    weights: Float[Tensor, "two_D_plus_1 K"]

    @property
    def constant(self) -> Float[Tensor, " K"]:
        """c_k, what a column at the centre scores."""
        return self.weights[-1]

    @property
    def n_units(self) -> int:
        """D."""
        return (self.weights.shape[0] - 1) // 2


def score_parameters(
    log_pi: Float[Tensor, " K"],
    mean: Float[Tensor, "K D"],
    variance: Float[Tensor, "K D"],
    dtype: torch.dtype = torch.float32,
) -> ScoreParameters:
    """Weights of the score product, built in float64 from means about the centre, then cast.

    log_pi: natural logarithm of the shares. mean: about the centre, layer units. variance: squared units.
    """
    precision = 1.0 / variance.double()
    weighted = mean.double() * precision
    constant = normalisers(log_pi, variance) - 0.5 * (weighted * mean).sum(dim=1)
    weights = torch.cat([-0.5 * precision, weighted, constant[:, None]], dim=1)
    return ScoreParameters(weights.T.to(dtype).contiguous())


def normalisers(log_pi: Float[Tensor, " K"], variance: Float[Tensor, "K D"]) -> Float[Tensor, " K"]:
    """log pi_k - 1/2 sum_d log(2 pi var_kd), float64: the log joint of a column that sits on the mean."""
    return log_pi.double() - 0.5 * (variance.double().log() + LOG_2PI).sum(dim=1)


def expand_columns(
    columns_centred: Columns, out: Float[Tensor, "n two_D_plus_1"] | None = None
) -> Float[Tensor, "n two_D_plus_1"]:
    """[x*x, x, 1] per column, into ``out`` if given."""
    n, units = columns_centred.shape
    if out is None:
        out = columns_centred.new_empty(n, 2 * units + 1)
    torch.mul(columns_centred, columns_centred, out=out[:, :units])
    out[:, units : 2 * units] = columns_centred
    out[:, -1] = 1.0
    return out


def scores(columns_centred: Columns, parameters: ScoreParameters) -> Float[Tensor, "n K"]:
    """Log joint log pi_k + log N(x | mu_k, var_k) of every column and word, natural logarithm.

    columns_centred: columns minus the mixture's centre, in the dtype of ``parameters``.
    """
    if columns_centred.ndim != 2 or columns_centred.shape[1] != parameters.n_units:
        raise RefusedInput(
            f"columns must have shape (n, {parameters.n_units}), one row per column; got "
            f"{tuple(columns_centred.shape)}. Pass the activations of the layer this dictionary models."
        )
    with exact_products():
        return expand_columns(columns_centred) @ parameters.weights


def centred(columns: Columns, center: Float[Tensor, " D"], dtype: torch.dtype = torch.float32) -> Columns:
    """Columns minus the centre. float64 columns are centred before the cast, so no digit is lost."""
    if columns.dtype == torch.float64 or dtype == torch.float64:
        return (columns.double() - center).to(dtype)
    return columns.to(dtype) - center.to(dtype)


def centred_tiles(
    columns: Columns, center: Float[Tensor, " D"], rows: int, dtype: torch.dtype = torch.float32
) -> Iterator[tuple[int, int, Columns]]:
    """(first row, number of real rows, centred tile); the tile is zero-padded to a multiple of 64 rows."""
    for start in range(0, columns.shape[0], rows):
        tile = centred(columns[start : start + rows], center, dtype)
        real = tile.shape[0]
        missing = -real % ROW_MULTIPLE
        if missing:
            tile = torch.cat([tile, tile.new_zeros(missing, tile.shape[1])])
        yield start, real, tile


def refuse_non_finite(columns: Columns, name: str = "columns") -> None:
    """Raise NonFiniteActivations if any column holds NaN or infinity, naming the first such row."""
    # One finite sum proves all entries finite at the price of a read; only a bad sum needs the exact look.
    if columns.numel() == 0 or bool(torch.isfinite(columns.sum(dtype=torch.float32))):
        return
    broken = ~torch.isfinite(columns).all(dim=1)
    if not bool(broken.any()):
        return
    first = int(broken.nonzero()[0])
    raise NonFiniteActivations(
        f"{name} must be finite; {int(broken.sum())} of {columns.shape[0]} columns hold NaN or infinity "
        f"(first: row {first}). Look at the layer's weights and at the image behind that column."
    )


@contextmanager
def exact_products() -> Iterator[None]:
    """Full float32 products: TF32 keeps 10 bits of mantissa, too few for differences of large squares."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
