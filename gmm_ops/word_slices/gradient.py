"""The discriminative loss of a sliced dictionary and the exact gradient of the own words (IG Eq. 8).

A slice holds its part of each histogram and of the linear layer; the logits are a sum over slices, and so is
<g, r> of each column, the one number through which a word's gradient depends on the words of other slices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.discriminative.histogram import (
    Group,
    Histograms,
    ImageColumns,
    groups,
    refuse_other_image_columns,
)
from gmm_ops.discriminative.loss import Gradient, ImageLabels, cross_entropy, refuse_other_labels
from gmm_ops.discriminative.parameters import Parameters
from gmm_ops.fitting.collective import Collective, log_sum_exp
from gmm_ops.mixtures.estep import Engine
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.products import full_precision
from gmm_ops.mixtures.slices import WordSlice
from gmm_ops.word_slices.histograms import Forward, HistogramReader
from gmm_ops.word_slices.tiles import refuse_other_columns, rows_per_tile


@dataclass(frozen=True)
class ParameterSlice:
    """The own words and the own columns of the linear layer.

    own: (K_own, D) words, weight (M, K_own); the bias (M,) is the same on every slice.
    first, n_words: as in WordSlice.
    """

    own: Parameters
    first: int
    n_words: int

    def words(self, reduce: Collective) -> WordSlice:
        """The dictionary's slice; its shares are a softmax over the words of all slices."""
        logits = self.own.word_logits
        total = log_sum_exp(torch.logsumexp(logits, dim=0, keepdim=True), reduce)
        own = Mixture(logits - total, self.own.mean, (2.0 * self.own.log_sd).exp(), self.own.center)
        return WordSlice(own, self.first, self.n_words)

    def logits(self, histograms: Histograms, reduce: Collective) -> Float[Tensor, "N M"]:
        """From each slice's part (N, K_own) of the histograms; the same bits on every slice."""
        return reduce.all_reduce_sum(histograms @ self.own.weight.T) + self.own.bias


@torch.no_grad()
def sliced_batch_gradient(
    parameters: ParameterSlice,
    columns: ImageColumns,
    labels: ImageLabels,
    reduce: Collective,
    dtype: torch.dtype = torch.float32,
    *,
    engine: Engine = "auto",
    tile_rows: int | None = None,
) -> Gradient:
    """`gmm_ops.discriminative.loss.batch_gradient` of one slice: loss of these images, gradient of the own words.

    columns: (N, positions, D), labels: (N,) 0 to M - 1, the same on every slice. The result's count, loss, wrong
    and bias are of the whole dictionary, the same bits on every slice; scores and weight have K_own words. Sums over
    several calls merge. engine: this slice's choice ("dense" in float64). tile_rows: one value for all slices.
    Raises NonFiniteActivations, RefusedInput, on every slice alike.
    """
    refuse_other_image_columns(columns, parameters.own.n_units)
    refuse_other_labels(labels, columns.shape[0], parameters.own.n_labels)
    refuse_other_columns(columns.flatten(0, 1), reduce)
    own = parameters.own
    sums = Gradient.zero(own.n_words, own.n_units, own.n_labels, own.mean.device)
    reader = HistogramReader(parameters.words(reduce), reduce, dtype, engine, columns.device)
    rows = tile_rows or rows_per_tile(parameters.n_words, reduce.world, columns.device)
    loss = wrong = 0.0
    with full_precision():
        for group in groups(columns.shape[0], columns.shape[1], rows):
            images = columns[group.images]
            found = reader.forward(group, images)
            judged = cross_entropy(parameters.logits(found.histograms, reduce), labels[group.images].long())
            loss, wrong = loss + judged.loss, wrong + judged.wrong
            sums.weight.add_(judged.logit_gradient.T @ found.histograms)
            sums.bias.add_(judged.logit_gradient.sum(dim=0))
            back = judged.logit_gradient @ own.weight / columns.shape[1]
            _add_backward(reader, found, group, images, back, sums.scores)
    return replace(sums, count=float(columns.shape[0]), loss=loss, wrong=wrong)


def _add_backward(
    reader: HistogramReader,
    found: Forward,
    group: Group,
    columns: ImageColumns,
    back: Histograms,
    sums: Float[Tensor, "K_own two_D_plus_1"],
) -> None:
    for number, positions in enumerate(group.positions):
        # An image larger than a tile is scored twice rather than held.
        tile = reader.read(columns[:, positions], found.normalisers[number]) if number else found.first
        expected = reader.reduce.all_reduce_sum(tile.posteriors.weighted_means(back))
        tile.posteriors.add_score_gradient(back, expected, sums)
