"""Tiles of images under a sliced dictionary: posteriors of the own words, for a product or for a loop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.discriminative.tile_scorer import KeptPosteriors, TilePosteriors
from gmm_ops.fitting.collective import Collective
from gmm_ops.mixtures.estep import Engine
from gmm_ops.word_slices.kept_words import KeptWords
from gmm_ops.word_slices.powers import powers
from gmm_ops.word_slices.sweep import is_sparse
from gmm_ops.word_slices.tiles import ScoredTile

Normaliser = tuple[Float[Tensor, " n"], Float[Tensor, " n"]]
"""(best, total) of every row over all words: posterior = exp(score - best) / total."""


@dataclass(frozen=True)
class ImageTile:
    """Columns of some images, as many of each. posteriors: of the own words; a gradient from them spends the tile."""

    posteriors: TilePosteriors | KeptPosteriors
    normaliser: Normaliser


class TileReader:
    """Makes the tiles of one call. The engine is this slice's choice: both make the same two reductions."""

    def __init__(
        self, n_words: int, reduce: Collective, dtype: torch.dtype, device: torch.device, engine: Engine
    ) -> None:
        self.n_words, self.reduce = n_words, reduce
        # The loop leaves out words under 1e-10 of a posterior, which float64 products are asked to see.
        self.engine: Engine = "dense" if device.type != "cpu" or dtype == torch.float64 else engine

    def read(self, tile: ScoredTile, known: Normaliser | None = None) -> ImageTile:
        """The tile's posteriors. known: the normaliser, if the tile was read before; saves the reductions."""
        score = tile.score[: tile.rows]
        kept, own_best = (None, score.amax(dim=1)) if self.engine == "dense" else KeptWords.of(score, self.n_words)
        best = self.reduce.all_reduce_max(own_best) if known is None else known[0]
        if self.engine == "auto":
            self.engine = "sparse" if is_sparse(score, best, self.n_words) else "dense"
        kept = None if self.engine == "dense" else kept
        own = powers(tile, best) if kept is None else None
        if known is None:
            own = kept.totals(best) if kept is not None else own
            assert own is not None
            known = best, self.reduce.all_reduce_sum(own)
        if kept is not None:
            return ImageTile(KeptPosteriors(kept, *known, tile.features[: tile.rows]), known)
        total = tile.score.new_ones(tile.score.shape[0], 1)
        total[: tile.rows, 0] = known[1]
        return ImageTile(TilePosteriors(tile.score, total, tile.features, tile.rows), known)
