"""One sweep over columns: posterior-weighted sums of [x*x, x, 1] per word, and log p(x) per column."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.axes import Columns
from gmm_ops.errors import RefusedInput
from gmm_ops.mixtures import sparse_estep
from gmm_ops.mixtures.gaussian import (
    ScoreParameters,
    centred_tiles,
    expand_columns,
    exponentials,
    rows_per_tile,
)
from gmm_ops.mixtures.products import full_precision, row_products, weighted_sums

Engine = Literal["auto", "dense", "sparse"]
"""dense: the second product over all words. sparse: a loop over the words that matter. auto: by measured
density of the first tile. The choice changes no sum by more than 1e-7 of its size."""


@torch.no_grad()
def estep(
    columns: Columns,
    center: Float[Tensor, " D"],
    parameters: ScoreParameters,
    engine: Engine = "auto",
    tile_rows: int | None = None,
) -> tuple[Float[Tensor, "K two_D_plus_1"], Float[Tensor, " n"]]:
    """(sums over columns of posterior * [x*x, x, 1] about the centre, log p(x)), both float64.

    columns: finite; any float dtype, tiles are cast to float32. Products are float32, tiles add in float64.
    """
    _refuse_unknown_engine(engine, columns)
    rows = tile_rows or rows_per_tile(parameters.n_words, columns.device)
    sums = torch.zeros(parameters.weights.shape, dtype=torch.float64, device=columns.device)
    log_likelihood = torch.empty(columns.shape[0], dtype=torch.float64, device=columns.device)
    kept: sparse_estep.KeptWords | None = None
    with full_precision():
        for start, real, tile in centred_tiles(columns, center, rows):
            features = expand_columns(tile)
            score = row_products(features, parameters.weights)
            if engine == "auto":
                engine = "sparse" if sparse_estep.is_sparse(score[: min(real, 512)]) else "dense"
            part = log_likelihood[start : start + real]
            if engine == "sparse":
                kept = kept or sparse_estep.KeptWords(min(rows, columns.shape[0]), parameters.n_words)
                sparse_estep.add_tile(score[:real], features, kept, sums.numpy(), part.numpy())
            else:
                _add_dense(score, features, real, sums, part)
    return sums, log_likelihood


def _add_dense(score: Tensor, features: Tensor, real: int, sums: Tensor, log_likelihood: Tensor) -> None:
    powers, best, total = exponentials(score)
    torch.add(best[:real, 0].double(), total[:real, 0].double().log(), out=log_likelihood)
    # Dividing the (n, 2D + 1) features by the row sums is cheaper than dividing the (n, K) posteriors.
    features.div_(total)
    features[real:] = 0.0
    sums += weighted_sums(powers, features)


def _refuse_unknown_engine(engine: Engine, columns: Columns) -> None:
    if engine not in ("auto", "dense", "sparse"):
        raise RefusedInput(f"engine must be 'auto', 'dense' or 'sparse'; got {engine!r}.")
    if engine == "sparse" and columns.device.type != "cpu":
        raise RefusedInput(
            f"engine 'sparse' runs on the CPU; the columns are on {columns.device}. Use 'auto' or 'dense'."
        )
