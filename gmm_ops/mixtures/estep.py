"""The E-step over tiles of columns: exact posteriors of the own words, their sums, log p(x) under all words.

A whole dictionary is one slice: what the slices tell each other costs it two copies of a number a column.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.axes import Columns
from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.collective import Collective
from gmm_ops.mixtures.gaussian import refuse_non_finite, refuse_other_shape
from gmm_ops.mixtures.kept_words import DENSE_SHARE, KeptWords, neglected_below
from gmm_ops.mixtures.powers import powers
from gmm_ops.mixtures.products import full_precision, weighted_sums
from gmm_ops.mixtures.slices import WordSlice
from gmm_ops.mixtures.tiles import ScoredTile, refuse_other_columns, rows_per_tile, scored_tiles, slice_weights

Engine = Literal["auto", "dense", "sparse"]
"""dense: the second product over all words. sparse: a loop over the words that matter. auto: by measured
density of the first tile. The choice changes no sum by more than 1e-7 of its size."""

ROWS_LOOKED_AT = 512
"""Rows of the first tile that decide between the two engines."""


@torch.no_grad()
def estep(
    words: WordSlice,
    columns: Columns,
    collective: Collective,
    engine: Engine = "auto",
    tile_rows: int | None = None,
) -> tuple[Float[Tensor, "K_own two_D_plus_1"], Float[Tensor, " n"]]:
    """(sums over columns of posterior * [x*x, x, 1] about the centre, log p(x)), both float64.

    columns: (n, D), any float dtype, the same on every slice; products are float32, tiles add in float64.
    Raises NonFiniteActivations, RefusedInput (on every slice alike).
    """
    refuse_unknown_engine(engine, columns)
    refuse_other_shape(columns, words.n_units)
    refuse_non_finite(columns)
    refuse_other_columns(columns, collective)
    gathered = _Gathered(words, columns, collective, engine)
    rows = tile_rows or rows_per_tile(words.n_words, collective.world, columns.device)
    with full_precision():
        for tile in scored_tiles(columns, words.own.center, slice_weights(words), rows):
            gathered.add(tile)
    return gathered.sums, gathered.log_likelihood


class _Gathered:
    """What one pass gathers. Both engines make the same two reductions per tile, so slices may differ in theirs."""

    def __init__(self, words: WordSlice, columns: Columns, collective: Collective, engine: Engine) -> None:
        device = columns.device
        self.n_words, self.collective = words.n_words, collective
        self.engine: Engine = "dense" if device.type != "cpu" else engine
        self.sums = torch.zeros(words.own.n_words, 2 * words.n_units + 1, dtype=torch.float64, device=device)
        self.log_likelihood = torch.empty(columns.shape[0], dtype=torch.float64, device=device)

    def add(self, tile: ScoredTile) -> None:
        kept: KeptWords | None = None
        score = tile.score[: tile.rows]
        if self.engine == "dense":
            best = self.collective.all_reduce_max(score.amax(dim=1))
        else:
            kept, own_best = KeptWords.of(score, self.n_words)
            best = self.collective.all_reduce_max(own_best)
        if self.engine == "auto":
            self.engine = "sparse" if is_sparse(score, best, self.n_words) else "dense"
        if self.engine == "dense" or kept is None:
            own = powers(tile, best)
            total = self.collective.all_reduce_sum(own)
            self._add_dense(tile, total)
        else:
            total = self.collective.all_reduce_sum(kept.totals(best))
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
def sliced_log_likelihood(words: WordSlice, columns: Columns, collective: Collective) -> Float[Tensor, " n"]:
    """log p(x) per column under the whole dictionary, natural logarithm, float64; the same bits on every slice.

    columns: (n, D), the same on every slice. Raises NonFiniteActivations, RefusedInput.
    """
    refuse_other_shape(columns, words.n_units)
    refuse_non_finite(columns)
    refuse_other_columns(columns, collective)
    found = torch.empty(columns.shape[0], dtype=torch.float64, device=columns.device)
    rows = rows_per_tile(words.n_words, collective.world, columns.device)
    with full_precision():
        for tile in scored_tiles(columns, words.own.center, slice_weights(words), rows):
            best = collective.all_reduce_max(tile.score[: tile.rows].amax(dim=1))
            total = collective.all_reduce_sum(powers(tile, best))
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
