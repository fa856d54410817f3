"""Word histograms over slices: the own part of each, a tile at a time (IG Eq. 8)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from gmm_ops.discriminative.histogram import (
    Group,
    Histograms,
    ImageColumns,
    counted,
    groups,
    refuse_other_image_columns,
)
from gmm_ops.fitting.collective import Collective
from gmm_ops.mixtures.estep import Engine
from gmm_ops.mixtures.products import full_precision
from gmm_ops.mixtures.slices import WordSlice
from gmm_ops.word_slices.assignment import sliced_assign
from gmm_ops.word_slices.image_tiles import ImageTile, Normaliser, TileReader
from gmm_ops.word_slices.tiles import refuse_other_columns, rows_per_tile, scored_tile, slice_weights


@torch.no_grad()
def sliced_soft_histograms(
    words: WordSlice, columns: ImageColumns, reduce: Collective, dtype: torch.dtype = torch.float32
) -> Histograms:
    """(N, K_own): mean posterior of the own words over an image's positions, float64; rows sum to 1 over all slices.

    columns: (N, positions, D), the same on every slice. Raises NonFiniteActivations, RefusedInput.
    """
    refuse_other_image_columns(columns, words.n_units)
    refuse_other_columns(columns.flatten(0, 1), reduce)
    return HistogramReader(words, reduce, dtype, "auto", columns.device).histograms(columns)


@torch.no_grad()
def sliced_hard_histograms(words: WordSlice, columns: ImageColumns, reduce: Collective) -> Histograms:
    """(N, K_own): share of an image's positions whose hard word is an own one; rows sum to 1 over all slices.

    columns: (N, positions, D), the same on every slice. Raises NonFiniteActivations, RefusedInput.
    """
    refuse_other_image_columns(columns, words.n_units)
    word = sliced_assign(words, columns.flatten(0, 1), reduce).word.view(columns.shape[:2])
    return own_counts(word, words)


def own_counts(word: Int[Tensor, "N positions"], words: WordSlice) -> Histograms:
    """The own part of hard histograms from numbers of words in the whole dictionary, as stored maps give them."""
    others = words.own.n_words
    is_own = (word >= words.first) & (word < words.last)
    return counted(torch.where(is_own, word - words.first, others), others + 1)[:, :others]


@dataclass(frozen=True)
class Forward:
    """Own histograms of a group, its first tile, and the normalisers of all."""

    histograms: Histograms
    first: ImageTile
    normalisers: list[Normaliser]


class HistogramReader:
    """Own histograms of images, group by group."""

    def __init__(
        self, words: WordSlice, reduce: Collective, dtype: torch.dtype, engine: Engine, device: torch.device
    ) -> None:
        self.reduce, self.place, self.center = reduce, words, words.own.center
        self.weights = slice_weights(words, dtype)
        self.reader = TileReader(words.n_words, reduce, dtype, device, engine)

    def histograms(self, columns: ImageColumns) -> Histograms:
        """(N, K_own) of all images."""
        rows = rows_per_tile(self.place.n_words, self.reduce.world, columns.device)
        images, positions = columns.shape[:2]
        with full_precision():
            parts = [self.forward(g, columns[g.images]).histograms for g in groups(images, positions, rows)]
        empty = torch.zeros(0, self.place.own.n_words, dtype=torch.float64, device=columns.device)
        return torch.cat(parts) if parts else empty

    def forward(self, group: Group, columns: ImageColumns) -> Forward:
        """Of one group; columns: its images."""
        first, *others = group.positions
        tile = self.read(columns[:, first])
        # One tile is kept for the way back; an image in many tiles must not hold them all.
        images = columns.shape[0]
        total, normalisers = tile.posteriors.position_sums(images), [tile.normaliser]
        for positions in others:
            other = self.read(columns[:, positions])
            total += other.posteriors.position_sums(images)
            normalisers.append(other.normaliser)
        return Forward(total.div_(columns.shape[1]), tile, normalisers)

    def read(self, columns: ImageColumns, known: Normaliser | None = None) -> ImageTile:
        """One tile. known: its normaliser, if it was read before."""
        tile = scored_tile(columns.flatten(0, 1), self.center, self.weights)
        return self.reader.read(tile, known)
