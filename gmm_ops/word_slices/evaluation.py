"""Loss and errors of a sliced dictionary and its linear layer on images."""

from __future__ import annotations

import torch

from gmm_ops.discriminative.evaluation import Evaluation
from gmm_ops.discriminative.histogram import ImageColumns
from gmm_ops.discriminative.loss import ImageLabels, refuse_other_labels
from gmm_ops.fitting.collective import Collective
from gmm_ops.word_slices.gradient import ParameterSlice
from gmm_ops.word_slices.histograms import sliced_hard_histograms, sliced_soft_histograms


@torch.no_grad()
def sliced_evaluate(
    parameters: ParameterSlice,
    columns: ImageColumns,
    labels: ImageLabels,
    reduce: Collective,
    *,
    hard: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Evaluation:
    """`gmm_ops.discriminative.evaluation.evaluate` over slices, the same on every slice.

    columns: (N, positions, D), labels: (N,) 0 to M - 1, the same on every slice. ``hard`` adds the hard histograms'
    errors. Raises NonFiniteActivations, RefusedInput, on every slice alike.
    """
    refuse_other_labels(labels, columns.shape[0], parameters.own.n_labels)
    words = parameters.words(reduce)
    soft_logits = parameters.logits(sliced_soft_histograms(words, columns, reduce, dtype), reduce)
    hard_logits = parameters.logits(sliced_hard_histograms(words, columns, reduce), reduce) if hard else None
    return Evaluation.of_logits(soft_logits, labels, hard_logits)
