"""Tiles of images under a sliced dictionary: own histograms and own gradients, by a product or by a loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.discriminative.histogram import Histograms, TilePosteriors, position_sums
from gmm_ops.discriminative.loss import score_gradient, weighted_means
from gmm_ops.estep import Engine
from gmm_ops.word_slices.kept_gradient import add_gradient, add_histograms, expect
from gmm_ops.word_slices.kept_words import KeptWords
from gmm_ops.word_slices.powers import powers
from gmm_ops.word_slices.reduce import Reduce
from gmm_ops.word_slices.sweep import is_sparse
from gmm_ops.word_slices.tiles import ScoredTile

Normaliser = tuple[Float[Tensor, " n"], Float[Tensor, " n"]]
"""(best, total) of every row over all words: posterior = exp(score - best) / total."""


@dataclass(frozen=True)
class ImageTile:
    """The same number of columns of each of some images, and how their posteriors are read.

    kept: the scores, for the loop; without it ``tile.score`` holds exp(score - best), for the product.
    """

    tile: ScoredTile
    images: int
    normaliser: Normaliser
    kept: KeptWords | None

    def histograms(self) -> Histograms:
        """(N, K_own): sum of the own posteriors over each image's positions in the tile, float64."""
        if self.kept is None:
            return position_sums(self._dense(), self.images)
        found = torch.zeros(self.images, self.tile.score.shape[1], dtype=torch.float64)
        add_histograms(*self._kept(self.kept), found.numpy())
        return found

    def expected(self, back: Histograms) -> Float[Tensor, " n"]:
        """The own words' part of <g, r> per column, float64. back: (N, K_own) g, divided by the positions."""
        if self.kept is None:
            tile = self._dense()
            return weighted_means(tile, back.to(tile.powers.dtype)).double().squeeze(1)
        found = torch.empty(self.tile.rows, dtype=torch.float64)
        expect(*self._kept(self.kept), back.numpy(), found.numpy())
        return found

    def add_gradient(
        self, back: Histograms, expected: Float[Tensor, " n"], sums: Float[Tensor, "K_own two_D_plus_1"]
    ) -> None:
        """Add dL/ds * [x*x, x, 1] of the own words to ``sums``; spends the tile. expected: over all slices."""
        if self.kept is None:
            tile = self._dense()
            sums += score_gradient(tile, back, expected.to(tile.powers.dtype)[:, None])
            return
        features = self.tile.features[: self.tile.rows].numpy()
        add_gradient(*self._kept(self.kept), back.numpy(), expected.numpy(), features, sums.numpy())

    def _kept(self, kept: KeptWords) -> tuple[Any, ...]:
        best, total = self.normaliser
        return kept.score, kept.maxima, kept.cut, best.numpy(), total.numpy()

    def _dense(self) -> TilePosteriors:
        total = self.tile.score.new_ones(self.tile.score.shape[0], 1)
        total[: self.tile.rows, 0] = self.normaliser[1]
        return TilePosteriors(self.tile.score, total, self.tile.features, self.tile.rows)


class TileReader:
    """Makes the tiles of one call. The engine is this slice's choice: both make the same two reductions."""

    def __init__(self, n_words: int, reduce: Reduce, dtype: torch.dtype, device: torch.device, engine: Engine) -> None:
        self.n_words, self.reduce = n_words, reduce
        # The loop leaves out words under 1e-10 of a posterior, which float64 products are asked to see.
        self.engine: Engine = "dense" if device.type != "cpu" or dtype == torch.float64 else engine

    def read(self, tile: ScoredTile, images: int, known: Normaliser | None = None) -> ImageTile:
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
        return ImageTile(tile, images, known, kept)
