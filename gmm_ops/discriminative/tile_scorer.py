"""Tiles of images scored once: by a product over the own words, or by a loop over the few that matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.fitting.collective import Collective
from gmm_ops.mixtures.estep import Engine, is_sparse
from gmm_ops.mixtures.kept_words import KeptWords, add_row, kept_posterior
from gmm_ops.mixtures.powers import powers
from gmm_ops.mixtures.products import weighted_sums
from gmm_ops.mixtures.row_loops import row_maxima
from gmm_ops.mixtures.slices import WordSlice
from gmm_ops.mixtures.tiles import ScoredTile, scored_tile, slice_weights

Normaliser = tuple[Float[Tensor, " n"], Float[Tensor, " n"]]
"""(best, total) of every row over all words: posterior = exp(score - best) / total."""


@dataclass(frozen=True)
class TilePosteriors:
    """Posteriors of a tile before their division: posterior = powers / total, row by row.

    powers: (n, K) of the own words. total: (n, 1) over all words. features: (n, 2D + 1) = [x*x, x, 1] about the
    centre. rows: real rows; the others are padding. normaliser: of the real rows.
    """

    powers: Float[Tensor, "n K"]
    total: Float[Tensor, "n 1"]
    features: Float[Tensor, "n two_D_plus_1"]
    rows: int
    normaliser: Normaliser

    @classmethod
    def of(cls, tile: ScoredTile, normaliser: Normaliser) -> TilePosteriors:
        """From a tile whose scores have become powers."""
        total = tile.score.new_ones(tile.score.shape[0], 1)
        total[: tile.rows, 0] = normaliser[1]
        return cls(tile.score, total, tile.features, tile.rows, normaliser)

    def position_sums(self, n_images: int) -> Float[Tensor, "N K"]:
        """Sum of the posteriors over each image's positions in the tile, float64."""
        scale = self.total[: self.rows].reciprocal().view(n_images, 1, -1)
        return torch.bmm(scale, self._by_image(n_images)).squeeze(1).double()

    def weighted_means(self, back: Float[Tensor, "N K"]) -> Float[Tensor, " rows"]:
        """The own words' part of <g, r> of every column, float64. back: g of every image."""
        dots = torch.bmm(self._by_image(back.shape[0]), back.to(self.powers.dtype)[:, :, None])
        return (dots.view(-1) / self.total[: self.rows, 0]).double()

    def add_score_gradient(
        self, back: Float[Tensor, "N K"], expected: Float[Tensor, " rows"], sums: Float[Tensor, "K two_D_plus_1"]
    ) -> None:
        """Add the sum over columns of r_k (g_k - <g, r>) * [x*x, x, 1] to ``sums``, float64; spends the tile.

        back: g of every image, divided by its positions. expected: <g, r> of every column over all words.
        """
        n_images = back.shape[0]
        g, expected = back.to(self.powers.dtype), expected.to(self.powers.dtype)
        self._by_image(n_images).mul_(g[:, None, :] - expected.view(n_images, -1, 1))
        # Dividing the (n, 2D + 1) features by the row sums is cheaper than dividing the (n, K) posteriors.
        self.features.div_(self.total)
        self.features[self.rows :] = 0.0
        sums += weighted_sums(self.powers, self.features)

    def _by_image(self, n_images: int) -> Float[Tensor, "N positions K"]:
        return self.powers[: self.rows].view(n_images, -1, self.powers.shape[1])


@dataclass(frozen=True)
class KeptPosteriors:
    """Scores of a tile whose columns have few words each; the others, under 1e-10 of a posterior, are left out.

    kept: words and scores of the real rows. n_words: K_own. features, normaliser: as in TilePosteriors, of the real
    rows.
    """

    kept: KeptWords
    n_words: int
    features: Float[Tensor, "n two_D_plus_1"]
    normaliser: Normaliser

    def position_sums(self, n_images: int) -> Float[Tensor, "N K"]:
        """As in TilePosteriors."""
        found = torch.zeros(n_images, self.n_words, dtype=torch.float64)
        _add_histograms(*self._loop(), found.numpy())
        return found

    def weighted_means(self, back: Float[Tensor, "N K"]) -> Float[Tensor, " n"]:
        """As in TilePosteriors."""
        found = torch.empty(len(self.features), dtype=torch.float64)
        _expect(*self._loop(), back.numpy(), found.numpy())
        return found

    def add_score_gradient(
        self, back: Float[Tensor, "N K"], expected: Float[Tensor, " n"], sums: Float[Tensor, "K two_D_plus_1"]
    ) -> None:
        """As in TilePosteriors, but the tile may be used again; without another array as large as ``sums``."""
        _add_gradient(*self._loop(), back.numpy(), expected.numpy(), self.features.numpy(), sums.numpy())

    def _loop(self) -> tuple[Any, ...]:
        return self.kept.loop(*self.normaliser)


class TileScorer:
    """Scores the tiles of one call against the own words; the first tile's density chooses the engine.

    The choice changes no sum by 1e-6 and is a slice's own: both engines make the same two reductions. The loop is for
    float32 products on a CPU: it leaves out words under 1e-10 of a posterior, which float64 products are asked to see.
    """

    def __init__(self, words: WordSlice, collective: Collective, dtype: torch.dtype, engine: Engine = "auto") -> None:
        loops = words.own.mean.device.type == "cpu" and dtype == torch.float32
        self.center, self.weights, self.n_words = words.own.center, slice_weights(words, dtype), words.n_words
        self.collective = collective
        self.engine: Engine = engine if loops else "dense"

    def __call__(
        self, columns: Float[Tensor, "N positions D"], known: Normaliser | None = None
    ) -> TilePosteriors | KeptPosteriors:
        """One score product for the columns of some images.

        known: the tile's normaliser, if it was scored before; saves the reductions.
        """
        tile = scored_tile(columns.flatten(0, 1), self.center, self.weights)
        score = tile.score[: tile.rows]
        kept, own_best = (None, row_maxima(score)) if self.engine == "dense" else KeptWords.of(score, self.n_words)
        best = self.collective.all_reduce_max(own_best) if known is None else known[0]
        if self.engine == "auto":
            self.engine = "sparse" if is_sparse(score, best, self.n_words) else "dense"
        if self.engine == "dense" or kept is None:
            own = powers(tile, best)
            return TilePosteriors.of(tile, known or (best, self.collective.all_reduce_sum(own)))
        normaliser = known or (best, self.collective.all_reduce_sum(kept.totals(best)))
        return KeptPosteriors(kept, score.shape[1], tile.features[: tile.rows], normaliser)


@numba.njit(cache=True, nogil=True)
def _add_histograms(first, word, score, cut, best, total, histogram):  # type: ignore[no-untyped-def]
    """Add posteriors to ``histogram`` (N, K_own), the same number of rows per image."""
    positions = best.shape[0] // histogram.shape[0]
    for i in range(best.shape[0]):
        for j in range(first[i], first[i + 1]):
            histogram[i // positions, word[j]] += kept_posterior(j, i, score, cut, best, total)


@numba.njit(cache=True, nogil=True)
def _expect(first, word, score, cut, best, total, back, expected):  # type: ignore[no-untyped-def]
    """Write the own words' part of <g, r> of every row; back: (N, K_own), g of every image."""
    positions = best.shape[0] // back.shape[0]
    for i in range(best.shape[0]):
        dot = 0.0
        for j in range(first[i], first[i + 1]):
            dot += kept_posterior(j, i, score, cut, best, total) * back[i // positions, word[j]]
        expected[i] = dot


@numba.njit(cache=True, nogil=True)
def _add_gradient(first, word, score, cut, best, total, back, expected, features, sums):  # type: ignore[no-untyped-def]
    """Add r_k (g_k - <g, r>) * features to row k of ``sums``; expected: <g, r> over all slices."""
    positions = best.shape[0] // back.shape[0]
    for i in range(best.shape[0]):
        for j in range(first[i], first[i + 1]):
            posterior = kept_posterior(j, i, score, cut, best, total)
            if posterior > 0.0:
                add_row(features[i], posterior * (back[i // positions, word[j]] - expected[i]), sums[word[j]])
