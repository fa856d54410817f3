"""Word histograms of images: the posterior map, averaged over positions, a tile at a time (IG Eq. 8)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.axes import ActivationMaps
from gmm_ops.discriminative.tile_scorer import KeptPosteriors, Normaliser, TilePosteriors, TileScorer
from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.collective import LONE, Collective
from gmm_ops.mixtures.assignment import assign
from gmm_ops.mixtures.estep import Engine
from gmm_ops.mixtures.gaussian import refuse_non_finite
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.products import full_precision
from gmm_ops.mixtures.slices import WordSlice, as_slice
from gmm_ops.mixtures.tiles import refuse_other_columns, rows_per_tile

ImageColumns = Float[Tensor, "N positions D"]
"""The columns of every image: its whole map row by row, or the same number of drawn positions each."""

Histograms = Float[Tensor, "N K"]
"""Mean posterior (soft) or share of positions (hard) of every own word, float64; rows sum to 1 over all words."""


@dataclass(frozen=True)
class LabelledImages:
    """Images to learn from. columns: any float dtype. labels: 0 to M - 1. histograms: of words that are not trained."""

    columns: ImageColumns
    labels: Int[Tensor, " N"]
    histograms: Histograms

    @classmethod
    def joined(cls, blocks: Sequence[LabelledImages]) -> LabelledImages:
        """All images of some blocks, in order."""
        parts = zip(*((block.columns, block.labels, block.histograms) for block in blocks), strict=True)
        return cls(*(torch.cat(part) for part in parts))

    def take(self, rows: Int[np.ndarray, " m"] | Int[Tensor, " m"]) -> LabelledImages:
        """Some of the images."""
        index = torch.as_tensor(rows, device=self.labels.device)
        return LabelledImages(self.columns[index], self.labels[index], self.histograms[index])

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Group:
    """Images that are looked at together, in one tile, or one image in several.

    images: rows of the batch. positions: one slice per tile; several only if one image outgrows a tile.
    """

    images: slice
    positions: tuple[slice, ...]


def image_columns(activations: ActivationMaps) -> ImageColumns:
    """A layer's maps as columns, row by row; free of copies if they are channels-last."""
    if activations.ndim != 4:
        raise RefusedInput(
            f"activations must have shape (N, D, H, W); got {tuple(activations.shape)}. Give a dense layer H = W = 1."
        )
    return activations.permute(0, 2, 3, 1).flatten(1, 2)


def groups(n_images: int, n_positions: int, rows: int) -> Iterator[Group]:
    """All images in order, in groups of at most ``rows`` columns; larger images alone, cut into tiles."""
    if n_positions <= rows:
        several = max(1, rows // max(1, n_positions))
        for first in range(0, n_images, several):
            yield Group(slice(first, min(first + several, n_images)), (slice(0, n_positions),))
        return
    cut = tuple(slice(p, min(p + rows, n_positions)) for p in range(0, n_positions, rows))
    for image in range(n_images):
        yield Group(slice(image, image + 1), cut)


@dataclass(frozen=True)
class Forward:
    """Own histograms of a group, its first tile, and the normalisers of all."""

    histograms: Histograms
    first: TilePosteriors | KeptPosteriors
    normalisers: list[Normaliser]

    @classmethod
    def of(cls, scorer: TileScorer, group: Group, columns: ImageColumns) -> Forward:
        """Of one group; columns: its images."""
        first, *others = group.positions
        tile = scorer(columns[:, first])
        # One tile is kept for the way back; an image in many tiles must not hold them all.
        images = columns.shape[0]
        total, normalisers = tile.position_sums(images), [tile.normaliser]
        for positions in others:
            other = scorer(columns[:, positions])
            total += other.position_sums(images)
            normalisers.append(other.normaliser)
        return cls(total.div_(columns.shape[1]), tile, normalisers)


@torch.no_grad()
def soft_histograms(
    words: Mixture | WordSlice,
    columns: ImageColumns,
    dtype: torch.dtype = torch.float32,
    tile_rows: int | None = None,
    engine: Engine = "auto",
    collective: Collective = LONE,
) -> Histograms:
    """Mean posterior of every own word over an image's positions (IG Eq. 8), float64 from products in ``dtype``.

    words: a dictionary, or the slice of it that this actor holds. columns: (N, positions, D), any float dtype, the same
    on every slice. The posterior map of more than a tile is never held. engine: as in ``gmm_ops.mixtures.estep``.
    Raises NonFiniteActivations, RefusedInput, on every slice alike.
    """
    place = as_slice(words)
    refuse_other_image_columns(columns, place.n_units, collective)
    scorer = TileScorer(place, collective, dtype, engine)
    rows = tile_rows or rows_per_tile(place.n_words, collective.world, columns.device)
    with full_precision():
        found = [
            Forward.of(scorer, g, columns[g.images]).histograms
            for g in groups(columns.shape[0], columns.shape[1], rows)
        ]
    return torch.cat(found) if found else columns.new_zeros(0, place.own.n_words, dtype=torch.float64)


@torch.no_grad()
def hard_histograms(words: Mixture | WordSlice, columns: ImageColumns, collective: Collective = LONE) -> Histograms:
    """Share of an image's positions whose hard word is an own one, float64.

    words, columns: as for ``soft_histograms``. Raises NonFiniteActivations, RefusedInput, on every slice alike.
    """
    place = as_slice(words)
    refuse_other_image_columns(columns, place.n_units, collective)
    word = assign(place, columns.flatten(0, 1), collective).word.view(columns.shape[:2])
    others = place.own.n_words
    is_own = (word >= place.first) & (word < place.last)
    return counted(torch.where(is_own, word - place.first, others), others + 1)[:, :others]


def counted(word: Tensor, n_words: int) -> Histograms:
    """Shares of words per image from hard words (N, positions), as stored word maps give them."""
    counts = torch.zeros(word.shape[0], n_words, dtype=torch.float64, device=word.device)
    counts.scatter_add_(1, word.long(), torch.ones(word.shape, dtype=torch.float64, device=word.device))
    return counts / word.shape[1]


def refuse_other_image_columns(columns: ImageColumns, n_units: int, collective: Collective = LONE) -> None:
    """Raise RefusedInput unless columns have shape (N, positions >= 1, D) and are as many on every slice of the words.

    NonFiniteActivations on NaN or infinity.
    """
    if columns.ndim != 3 or columns.shape[2] != n_units or columns.shape[1] < 1:
        raise RefusedInput(
            f"columns must have shape (N, positions, {n_units}), the columns of every image; got "
            f"{tuple(columns.shape)}. Pass the activations of the layer that this dictionary models."
        )
    refuse_non_finite(columns.reshape(-1, n_units))
    refuse_other_columns(columns.flatten(0, 1), collective)
