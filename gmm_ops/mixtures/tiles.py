"""Tiles of columns scored against the own words: blocks of bounded size, never (n, K) at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.axes import Columns
from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.collective import Collective
from gmm_ops.mixtures.gaussian import ScoreParameters, centred, padded, score_parameters
from gmm_ops.mixtures.products import ROW_MULTIPLE, row_products
from gmm_ops.mixtures.row_loops import expand_columns
from gmm_ops.mixtures.slices import WordSlice

TILE_BYTES = 2**25
"""Bytes of a float32 (rows, K_own) block of scores on a CPU."""

GPU_TILE_BYTES = 2**30
"""The same on a GPU, which larger products fill better."""

MOST_ROWS = 4_096
"""Rows of a tile at most, however few words a slice has; on a GPU 16 times as many."""

CACHED_WORDS = 256
"""With more own words a tile has half as many rows, so that its scores stay in the processor's cache."""

WORDS_AT_ONCE = 1_024
"""Words whose score weights are built together: float64 temporaries of a few MiB in place of several (K_own, D)."""


@dataclass(frozen=True)
class Tile:
    """Some columns, expanded.

    start: row of the first column. rows: number of columns. features: (n, 2D + 1) [x*x, x, 1] about the centre,
    n = rows rounded up to 64.
    """

    start: int
    rows: int
    features: Float[Tensor, "n two_D_plus_1"]

    @property
    def part(self) -> slice:
        """The tile's place among all columns."""
        return slice(self.start, self.start + self.rows)

    @property
    def columns_centred(self) -> Columns:
        """The columns about the centre."""
        units = (self.features.shape[1] - 1) // 2
        return self.features[: self.rows, units : 2 * units]

    def scored(self, parameters: ScoreParameters) -> ScoredTile:
        """With the log joint of every column and word, by one product."""
        return ScoredTile(self.start, self.rows, self.features, row_products(self.features, parameters.weights))


@dataclass(frozen=True)
class ScoredTile(Tile):
    """Some columns and their scores.

    score: (n, K_own) log joint with the own words; rows from ``rows`` on are padding.
    """

    score: Float[Tensor, "n K_own"]


def rows_per_tile(n_words: int, world: int, device: torch.device) -> int:
    """Rows of a tile: a block of scores of bounded bytes. The same on every slice, which reduce tile by tile."""
    most, size = (MOST_ROWS, TILE_BYTES) if device.type == "cpu" else (16 * MOST_ROWS, GPU_TILE_BYTES)
    own = -(-n_words // world)
    rows = size // (4 * own)
    if device.type == "cpu" and own > CACHED_WORDS:
        most //= 2
    return max(ROW_MULTIPLE, min(most, rows // ROW_MULTIPLE * ROW_MULTIPLE))


def slice_weights(words: WordSlice, dtype: torch.dtype = torch.float32) -> ScoreParameters:
    """Score weights (K_own, 2D + 1) of the own words, the same bits as those of the whole dictionary."""
    own = words.own
    weights = torch.empty(own.n_words, 2 * own.n_units + 1, dtype=dtype, device=own.mean.device)
    for start in range(0, own.n_words, WORDS_AT_ONCE):
        part = slice(start, start + WORDS_AT_ONCE)
        mean = own.mean[part] - own.center
        weights[part] = score_parameters(own.log_pi[part], mean, own.variance[part], dtype).weights
    return ScoreParameters(weights)


def tiles(
    columns: Columns, center: Float[Tensor, " D"], rows: int, dtype: torch.dtype = torch.float32
) -> Iterator[Tile]:
    """The columns, tile by tile, in the dtype of their products. A tile may be overwritten by who gets it."""
    for start in range(0, columns.shape[0], rows):
        tile = centred(columns[start : start + rows], center, dtype)
        yield Tile(start, tile.shape[0], expand_columns(padded(tile)))


def scored_tiles(
    columns: Columns, center: Float[Tensor, " D"], parameters: ScoreParameters, rows: int
) -> Iterator[ScoredTile]:
    """The columns and their scores, tile by tile, in the dtype of ``parameters``."""
    for tile in tiles(columns, center, rows, parameters.weights.dtype):
        yield tile.scored(parameters)


def scored_tile(columns: Columns, center: Float[Tensor, " D"], parameters: ScoreParameters) -> ScoredTile:
    """These columns, at once."""
    return next(scored_tiles(columns, center, parameters, max(1, columns.shape[0])))


def refuse_other_columns(columns: Columns, reduce: Collective) -> None:
    """Raise RefusedInput, on every slice alike, if the slices were given different numbers of columns.

    Without the look they would wait for each other for ever.
    """
    rows = torch.tensor([columns.shape[0], -columns.shape[0]], dtype=torch.float64, device=columns.device)
    most, fewest = reduce.all_reduce_max(rows).tolist()
    if most != -fewest:
        raise RefusedInput(
            f"columns must be the same on every slice of the words; got {columns.shape[0]} here, {int(-fewest)} to "
            f"{int(most)} over the slices. Give every actor the whole minibatch, in one order."
        )
