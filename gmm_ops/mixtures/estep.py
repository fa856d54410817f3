"""The E-step over tiles of columns: exact posteriors of the own words, their sums, log p(x) under all words.

A whole dictionary is one slice: what the slices tell each other costs it two copies of a number a column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.axes import Columns
from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.collective import Collective
from gmm_ops.mixtures.gaussian import ScoreParameters, refuse_non_finite, refuse_other_shape
from gmm_ops.mixtures.kept_words import DENSE_SHARE, KeptWords, neglected_below
from gmm_ops.mixtures.powers import normalised
from gmm_ops.mixtures.products import full_precision, weighted_sums
from gmm_ops.mixtures.row_loops import row_maxima
from gmm_ops.mixtures.screening import Screen, screens
from gmm_ops.mixtures.slices import WordSlice
from gmm_ops.mixtures.tiles import (
    ScoredTile,
    Tile,
    refuse_other_columns,
    rows_per_tile,
    scored_tiles,
    slice_weights,
    tiles,
)
from gmm_ops.threads import in_order

Engine = Literal["auto", "dense", "sparse", "screened"]
"""dense: the second product over all words. sparse: a loop over the words that matter. screened: the same, and the
first product is a rough one that leaves few words to score. auto: by the density of the first columns and by what the
processor has. The choice changes no sum by more than 1e-7 of its size, where float32 products are that good: a rough
product's survivors are scored by their distances, which lose no digits."""

ROWS_LOOKED_AT = 512
"""First rows that decide between the engines."""

TILES_AT_ONCE = 4
"""Tiles whose sums are added as one: the work of a thread. Fixed, so that sums do not depend on the threads."""


@torch.no_grad()
def estep(
    words: WordSlice,
    columns: Columns,
    collective: Collective,
    engine: Engine = "auto",
    tile_rows: int | None = None,
) -> tuple[Float[Tensor, "K_own two_D_plus_1"], Float[Tensor, " n"]]:
    """(sums over columns of posterior * [x*x, x, 1] about the centre, log p(x)), both float64.

    columns: (n, D), any float dtype, the same on every slice; products are float32, tiles add in float64. A lone
    slice takes its tiles on as many threads as torch has; that changes no bit.
    Raises NonFiniteActivations, RefusedInput (on every slice alike).
    """
    refuse_unknown_engine(engine, columns)
    refuse_other_shape(columns, words.n_units)
    refuse_non_finite(columns)
    refuse_other_columns(columns, collective)
    n, rows = len(columns), tile_rows or rows_per_tile(words.n_words, collective.world, columns.device)
    sums = torch.zeros(words.own.n_words, 2 * words.n_units + 1, dtype=torch.float64, device=columns.device)
    log_likelihood = torch.empty(n, dtype=torch.float64, device=columns.device)
    with full_precision():
        one_pass = _Pass.of(words, columns, collective, engine)
        starts = range(0, n, TILES_AT_ONCE * rows)
        parts = [slice(start, start + TILES_AT_ONCE * rows) for start in starts]
        alone = collective.world == 1 and columns.device.type == "cpu"
        every = (in_order if alone else map)(lambda part: one_pass(columns[part], rows, log_likelihood[part]), parts)
        for part_sums in every:
            sums += part_sums
    return sums, log_likelihood


@dataclass(frozen=True)
class _Pass:
    """How tiles are taken. All engines make the same two reductions per tile, so slices may differ in theirs."""

    weights: ScoreParameters
    center: Float[Tensor, " D"]
    n_words: int
    collective: Collective
    engine: Engine
    screen: Screen | None

    @classmethod
    def of(cls, words: WordSlice, columns: Columns, collective: Collective, engine: Engine) -> _Pass:
        weights, center = slice_weights(words), words.own.center
        if columns.device.type != "cpu":
            engine = "dense"
        if engine == "auto":
            first = next(scored_tiles(columns[:ROWS_LOOKED_AT], center, weights, ROWS_LOOKED_AT), None)
            score = first.score[: first.rows] if first else weights.weights[:0, :1]
            engine = "sparse" if is_sparse(score, row_maxima(score), words.n_words) else "dense"
            if engine == "sparse" and screens(words.n_units, columns.device):
                engine = "screened"
        screen = Screen.of(words) if engine == "screened" else None
        return cls(weights, center, words.n_words, collective, engine, screen)

    def __call__(
        self, columns: Columns, rows: int, log_likelihood: Float[Tensor, " n"]
    ) -> Float[Tensor, "K_own two_D_plus_1"]:
        """Sums of these columns; their log p(x) is written."""
        sums = torch.zeros(self.weights.weights.shape, dtype=torch.float64, device=columns.device)
        for tile in tiles(columns, self.center, rows):
            best, total = self._add(tile, sums)
            torch.add(best.double(), total.log(), out=log_likelihood[tile.part])
        return sums

    def _add(self, tile: Tile, sums: Float[Tensor, "K_own F"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        if self.engine == "dense":
            return self._add_dense(tile.scored(self.weights), sums)
        features = tile.features[: tile.rows]
        if self.screen is not None:
            kept, own_best = self.screen.kept(features)
        else:
            kept, own_best = KeptWords.of(tile.scored(self.weights).score[: tile.rows], self.n_words)
        best = self.collective.all_reduce_max(own_best)
        total = self.collective.all_reduce_sum(kept.totals(best))
        kept.add(best, total, features, sums)
        return best, total

    def _add_dense(
        self, tile: ScoredTile, sums: Float[Tensor, "K_own F"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        best, total = normalised(tile, self.collective)
        tile.features[: tile.rows].div_(total[:, None].to(tile.features.dtype))
        tile.features[tile.rows :] = 0.0
        sums += weighted_sums(tile.score, tile.features)
        return best, total


def is_sparse(score: Float[Tensor, "n K_own"], best: Float[Tensor, " n"], n_words: int) -> bool:
    """Whether few enough own words matter in these rows for the loop to beat the second product."""
    score, best = score[:ROWS_LOOKED_AT], best[:ROWS_LOOKED_AT]
    kept = int((score >= (best - neglected_below(n_words))[:, None]).sum())
    return kept < DENSE_SHARE * score.numel()


def refuse_unknown_engine(engine: Engine, columns: Columns) -> None:
    """Raise RefusedInput unless the engine exists and runs where the columns are."""
    if engine not in ("auto", "dense", "sparse", "screened"):
        raise RefusedInput(f"engine must be 'auto', 'dense', 'sparse' or 'screened'; got {engine!r}.")
    if engine in ("sparse", "screened") and columns.device.type != "cpu":
        raise RefusedInput(
            f"engine {engine!r} runs on the CPU; the columns are on {columns.device}. Use 'auto' or 'dense'."
        )
