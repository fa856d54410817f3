"""Word histograms of images: the posterior map, averaged over positions, a tile at a time (IG Eq. 8)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.axes import ActivationMaps
from gmm_ops.discriminative.tile_scorer import TileScorer
from gmm_ops.errors import RefusedInput
from gmm_ops.mixtures.estep import Engine
from gmm_ops.mixtures.gaussian import refuse_non_finite
from gmm_ops.mixtures.mixture import Mixture, assign
from gmm_ops.mixtures.products import full_precision

ImageColumns = Float[Tensor, "N positions D"]
"""The columns of every image: its whole map row by row, or the same number of drawn positions each."""

Histograms = Float[Tensor, "N K"]
"""Mean posterior (soft) or share of positions (hard) of every word, float64; rows sum to 1."""

TILE_ROWS = 8_192
"""Columns per tile: the (rows, K) block stays in the processor's cache."""

DEVICE_TILE_ROWS = 65_536
"""Columns per tile on a GPU."""

TILE_CELLS = 1 << 26
"""Most scores in a tile: 256 MiB of float32."""


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


@torch.no_grad()
def soft_histograms(
    mixture: Mixture,
    columns: ImageColumns,
    dtype: torch.dtype = torch.float32,
    tile_rows: int | None = None,
    engine: Engine = "auto",
) -> Histograms:
    """Mean posterior of every word over an image's positions (IG Eq. 8), float64 from products in ``dtype``.

    columns: (N, positions, D), any float dtype. The posterior map of more than a tile is never held.
    engine: as in ``gmm_ops.mixtures.estep``.
    Raises NonFiniteActivations, RefusedInput.
    """
    refuse_other_image_columns(columns, mixture.n_units)
    scorer = TileScorer(mixture.center, mixture.score_parameters(dtype), engine)
    n_images, n_positions = columns.shape[:2]
    sums = torch.zeros(n_images, mixture.n_words, dtype=torch.float64, device=columns.device)
    with full_precision():
        for group in groups(n_images, n_positions, tile_rows or default_tile_rows(mixture.n_words, columns.device)):
            found = sums[group.images]
            for positions in group.positions:
                found += scorer(columns[group.images, positions]).position_sums(found.shape[0])
    return sums / n_positions


@torch.no_grad()
def hard_histograms(mixture: Mixture, columns: ImageColumns) -> Histograms:
    """Share of an image's positions whose hard word is k, float64. Raises NonFiniteActivations, RefusedInput."""
    refuse_other_image_columns(columns, mixture.n_units)
    n_images, n_positions, units = columns.shape
    word = assign(mixture, columns.reshape(-1, units)).word.view(n_images, n_positions)
    return counted(word, mixture.n_words)


def counted(word: Tensor, n_words: int) -> Histograms:
    """Shares of words per image from hard words (N, positions), as stored word maps give them."""
    counts = torch.zeros(word.shape[0], n_words, dtype=torch.float64, device=word.device)
    counts.scatter_add_(1, word.long(), torch.ones(word.shape, dtype=torch.float64, device=word.device))
    return counts / word.shape[1]


def default_tile_rows(n_words: int, device: torch.device) -> int:
    """Columns per tile: the measured best, fewer where the (rows, K) block would pass 256 MiB."""
    wanted = TILE_ROWS if device.type == "cpu" else DEVICE_TILE_ROWS
    return max(1, min(wanted, TILE_CELLS // n_words))


def refuse_other_image_columns(columns: ImageColumns, n_units: int) -> None:
    """Raise RefusedInput unless columns have shape (N, positions >= 1, D), NonFiniteActivations on NaN or infinity."""
    if columns.ndim != 3 or columns.shape[2] != n_units or columns.shape[1] < 1:
        raise RefusedInput(
            f"columns must have shape (N, positions, {n_units}), the columns of every image; got "
            f"{tuple(columns.shape)}. Pass the activations of the layer that this dictionary models."
        )
    refuse_non_finite(columns.reshape(-1, n_units))
