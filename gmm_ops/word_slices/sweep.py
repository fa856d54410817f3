"""The E-step over a sliced dictionary: exact posteriors of the own words, statistics of the own words."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.axes import Columns
from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.collective import Collective
from gmm_ops.mixtures.estep import Engine
from gmm_ops.mixtures.gaussian import refuse_non_finite, refuse_other_shape
from gmm_ops.mixtures.products import full_precision, weighted_sums
from gmm_ops.mixtures.slices import WordSlice
from gmm_ops.mixtures.sparse_estep import DENSE_SHARE, neglected_below
from gmm_ops.mixtures.statistics import MixtureStatistics
from gmm_ops.word_slices.kept_words import KeptWords
from gmm_ops.word_slices.powers import powers
from gmm_ops.word_slices.tiles import ScoredTile, refuse_other_columns, rows_per_tile, scored_tiles, slice_weights

ROWS_LOOKED_AT = 512
"""Rows of the first tile that decide between the two engines."""


@torch.no_grad()
def sliced_sweep(
    words: WordSlice,
    columns: Columns,
    reduce: Collective,
    *,
    engine: Engine = "auto",
    tile_rows: int | None = None,
) -> MixtureStatistics:
    """`gmm_ops.mixtures.statistics.sweep` of a sliced dictionary: the own words' statistics.

    columns: (n, D), the same on every slice. Count and log-likelihood are those of the whole dictionary, the same bits
    on every slice; s0, s1, s2 are the own words'. Sums over several calls merge.
    engine: this slice's choice, which changes no sum by more than 1e-7 of its size. tile_rows: one value for all.
    Raises NonFiniteActivations, RefusedInput (on every slice alike).
    """
    refuse_unknown_engine(engine, columns)
    refuse_other_shape(columns, words.n_units)
    refuse_non_finite(columns)
    refuse_other_columns(columns, reduce)
    units = words.n_units
    step = _Sweep(words, columns, reduce, engine)
    rows = tile_rows or rows_per_tile(words.n_words, reduce.world, columns.device)
    with full_precision():
        for tile in scored_tiles(columns, words.own.center, slice_weights(words), rows):
            step.add(tile)
    total = float(step.log_likelihood.sum())
    if not math.isfinite(total):
        raise RefusedInput(
            "columns must have squares that fit float32 (about 1e19 at most); the log-likelihood overflowed. "
            "Rescale the layer's activations."
        )
    sums = step.sums
    # Parts of one tensor, not copies: at 16,384 words a copy is tens of megabytes.
    return MixtureStatistics(float(columns.shape[0]), total, sums[:, -1], sums[:, units : 2 * units], sums[:, :units])


class _Sweep:
    """What one sweep gathers. Both engines make the same two reductions per tile, so slices may differ in theirs."""

    def __init__(self, words: WordSlice, columns: Columns, reduce: Collective, engine: Engine) -> None:
        device = columns.device
        self.n_words, self.reduce = words.n_words, reduce
        self.engine: Engine = "dense" if device.type != "cpu" else engine
        self.sums = torch.zeros(words.own.n_words, 2 * words.n_units + 1, dtype=torch.float64, device=device)
        self.log_likelihood = torch.empty(columns.shape[0], dtype=torch.float64, device=device)

    def add(self, tile: ScoredTile) -> None:
        kept: KeptWords | None = None
        score = tile.score[: tile.rows]
        if self.engine == "dense":
            best = self.reduce.all_reduce_max(score.amax(dim=1))
        else:
            kept, own_best = KeptWords.of(score, self.n_words)
            best = self.reduce.all_reduce_max(own_best)
        if self.engine == "auto":
            self.engine = "sparse" if is_sparse(score, best, self.n_words) else "dense"
        if self.engine == "dense" or kept is None:
            own = powers(tile, best)
            total = self.reduce.all_reduce_sum(own)
            self._add_dense(tile, total)
        else:
            total = self.reduce.all_reduce_sum(kept.totals(best))
            kept.add(best, total, tile.features[: tile.rows], self.sums)
        torch.add(best.double(), total.log(), out=self.log_likelihood[tile.part])

    def _add_dense(self, tile: ScoredTile, total: Float[Tensor, " n"]) -> None:
        tile.features[: tile.rows].div_(total[:, None])
        tile.features[tile.rows :] = 0.0
        self.sums += weighted_sums(tile.score, tile.features)


def is_sparse(score: Float[Tensor, "n K_own"], best: Float[Tensor, " n"], n_words: int) -> bool:
    """Whether few enough own words matter in these rows for the loop to beat the second product."""
    score, best = score[:ROWS_LOOKED_AT], best[:ROWS_LOOKED_AT]
    kept = int((score >= (best - neglected_below(n_words))[:, None]).sum())
    return kept < DENSE_SHARE * score.numel()


@torch.no_grad()
def sliced_log_likelihood(words: WordSlice, columns: Columns, reduce: Collective) -> Float[Tensor, " n"]:
    """log p(x) per column under the whole dictionary, natural logarithm, float64; the same bits on every slice.

    columns: (n, D), the same on every slice. Raises NonFiniteActivations, RefusedInput.
    """
    refuse_other_shape(columns, words.n_units)
    refuse_non_finite(columns)
    refuse_other_columns(columns, reduce)
    found = torch.empty(columns.shape[0], dtype=torch.float64, device=columns.device)
    rows = rows_per_tile(words.n_words, reduce.world, columns.device)
    with full_precision():
        for tile in scored_tiles(columns, words.own.center, slice_weights(words), rows):
            best = reduce.all_reduce_max(tile.score[: tile.rows].amax(dim=1))
            total = reduce.all_reduce_sum(powers(tile, best))
            torch.add(best.double(), total.log(), out=found[tile.part])
    return found


def refuse_unknown_engine(engine: Engine, columns: Columns) -> None:
    """Raise RefusedInput unless the engine exists and runs where the columns are."""
    if engine not in ("auto", "dense", "sparse"):
        raise RefusedInput(f"engine must be 'auto', 'dense' or 'sparse'; got {engine!r}.")
    if engine == "sparse" and columns.device.type != "cpu":
        raise RefusedInput(
            f"engine 'sparse' runs on the CPU; the columns are on {columns.device}. Use 'auto' or 'dense'."
        )
