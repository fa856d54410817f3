"""Tiles of images scored once: by a product over all words, or by a loop over the few that matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.mixtures import sparse_estep
from gmm_ops.mixtures.estep import Engine
from gmm_ops.mixtures.gaussian import ScoreParameters, centred, expand_columns, exponentials, padded
from gmm_ops.mixtures.products import row_products, weighted_sums
from gmm_ops.word_slices.kept_gradient import add_gradient, add_histograms, expect
from gmm_ops.word_slices.kept_words import KeptWords

JUDGED_ROWS = 512
"""Rows of the first tile whose density chooses the engine."""


@dataclass(frozen=True)
class TilePosteriors:
    """Posteriors of a tile before their division: posterior = powers / total, row by row.

    powers: (n, K). total: (n, 1). features: (n, 2D + 1) = [x*x, x, 1] about the centre. rows: real rows; the
    others are padding.
    """

    powers: Float[Tensor, "n K"]
    total: Float[Tensor, "n 1"]
    features: Float[Tensor, "n two_D_plus_1"]
    rows: int

    def position_sums(self, n_images: int) -> Float[Tensor, "N K"]:
        """Sum of the posteriors over each image's positions in the tile, float64."""
        scale = self.total[: self.rows].reciprocal().view(n_images, 1, -1)
        return torch.bmm(scale, self._by_image(n_images)).squeeze(1).double()

    def weighted_means(self, back: Float[Tensor, "N K"]) -> Float[Tensor, " rows"]:
        """<g, r> of every column over the tile's words, float64. back: g of every image."""
        dots = torch.bmm(self._by_image(back.shape[0]), back.to(self.powers.dtype)[:, :, None])
        return (dots.view(-1) / self.total[: self.rows, 0]).double()

    def score_gradient(
        self, back: Float[Tensor, "N K"], expected: Float[Tensor, " rows"] | None = None
    ) -> Float[Tensor, "K two_D_plus_1"]:
        """Sum over columns of r_k (g_k - <g, r>) * [x*x, x, 1], float64; spends the tile.

        back: g of every image, divided by its positions. expected: <g, r> of every column where these words are
        not all words; computed otherwise.
        """
        g = back.to(self.powers.dtype)
        expected = (self.weighted_means(g) if expected is None else expected).to(g.dtype)
        n_images = back.shape[0]
        self._by_image(n_images).mul_(g[:, None, :] - expected.view(n_images, -1, 1))
        # Dividing the (n, 2D + 1) features by the row sums is cheaper than dividing the (n, K) posteriors.
        self.features.div_(self.total)
        self.features[self.rows :] = 0.0
        return weighted_sums(self.powers, self.features).double()

    def add_score_gradient(
        self, back: Float[Tensor, "N K"], expected: Float[Tensor, " rows"], sums: Float[Tensor, "K two_D_plus_1"]
    ) -> None:
        """Add ``score_gradient`` to ``sums``."""
        sums += self.score_gradient(back, expected)

    def _by_image(self, n_images: int) -> Float[Tensor, "N positions K"]:
        return self.powers[: self.rows].view(n_images, -1, self.powers.shape[1])


@dataclass(frozen=True)
class KeptPosteriors:
    """Scores of a tile whose columns have few words each; the others, under 1e-10 of a posterior, are left out.

    kept: scores of the real rows. best, total: (n,) normaliser of the kept words. features: as in TilePosteriors.
    """

    kept: KeptWords
    best: Float[Tensor, " n"]
    total: Float[Tensor, " n"]
    features: Float[Tensor, "n two_D_plus_1"]

    def position_sums(self, n_images: int) -> Float[Tensor, "N K"]:
        """As in TilePosteriors."""
        found = torch.zeros(n_images, self.kept.score.shape[1], dtype=torch.float64)
        add_histograms(*self._loop(), found.numpy())
        return found

    def score_gradient(self, back: Float[Tensor, "N K"]) -> Float[Tensor, "K two_D_plus_1"]:
        """As in TilePosteriors, but the tile may be used again."""
        sums = torch.zeros(back.shape[1], self.features.shape[1], dtype=torch.float64)
        self.add_score_gradient(back, self.weighted_means(back), sums)
        return sums

    def weighted_means(self, back: Float[Tensor, "N K"]) -> Float[Tensor, " n"]:
        """As in TilePosteriors."""
        found = torch.empty(len(self.best), dtype=torch.float64)
        expect(*self._loop(), back.numpy(), found.numpy())
        return found

    def add_score_gradient(
        self, back: Float[Tensor, "N K"], expected: Float[Tensor, " n"], sums: Float[Tensor, "K two_D_plus_1"]
    ) -> None:
        """As in TilePosteriors; without another array as large as ``sums``."""
        add_gradient(*self._loop(), back.numpy(), expected.numpy(), self.features.numpy(), sums.numpy())

    def _loop(self) -> tuple[Any, ...]:
        return self.kept.score, self.kept.maxima, self.kept.cut, self.best.numpy(), self.total.numpy()


class TileScorer:
    """Scores the tiles of one call; the first tile's density chooses the engine, which changes no sum by 1e-6.

    The loop is for float32 products on a CPU: float64 ones are asked for to the last digit.
    """

    def __init__(self, center: Float[Tensor, " D"], parameters: ScoreParameters, engine: Engine = "auto") -> None:
        loops = parameters.weights.device.type == "cpu" and parameters.weights.dtype == torch.float32
        self.center, self.parameters = center, parameters
        self.engine: Engine = engine if loops else "dense"

    def __call__(self, columns: Float[Tensor, "N positions D"]) -> TilePosteriors | KeptPosteriors:
        """One score product for the columns of some images."""
        rows = columns.shape[0] * columns.shape[1]
        tile = padded(centred(columns.reshape(rows, columns.shape[2]), self.center, self.parameters.weights.dtype))
        features = expand_columns(tile)
        score = row_products(features, self.parameters.weights)
        if self.engine == "auto":
            sparse = sparse_estep.is_sparse(score[: min(rows, JUDGED_ROWS)])
            self.engine = "sparse" if sparse else "dense"
        if self.engine == "sparse":
            kept, best = KeptWords.of(score[:rows], self.parameters.n_words)
            return KeptPosteriors(kept, best, kept.totals(best), features[:rows])
        powers, _, total = exponentials(score)
        return TilePosteriors(powers, total, features, rows)
