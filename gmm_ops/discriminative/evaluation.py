"""Loss and errors of a dictionary and its classifier on images, as sums that merge."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.discriminative.classifier import LinearClassifier
from gmm_ops.discriminative.histogram import ImageColumns, hard_histograms, soft_histograms
from gmm_ops.discriminative.loss import ImageLabels, cross_entropy, first_best, refuse_other_labels
from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.collective import LONE, Collective
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.slices import WordSlice
from gmm_ops.records import Sums


@dataclass(frozen=True)
class Evaluation(Sums):
    """Sums over images.

    count: images. loss: cross entropy of the soft histograms, natural logarithm. soft_wrong, hard_wrong: images
    that get another label from their soft (mean posterior) or hard (share of hard words) histogram; the hard one is
    0 unless asked for.
    """

    count: float
    loss: float
    soft_wrong: float
    hard_wrong: float

    @classmethod
    def zero(cls) -> Evaluation:
        """No image: the neutral element of ``merge``."""
        return cls(0.0, 0.0, 0.0, 0.0)

    @classmethod
    def of_logits(
        cls, soft: Float[Tensor, "N M"], labels: ImageLabels, hard: Float[Tensor, "N M"] | None = None
    ) -> Evaluation:
        """Of some images. soft, hard: logits from their soft and hard histograms. labels: (N,), 0 to M - 1."""
        found = cross_entropy(soft, labels.long())
        hard_wrong = 0.0 if hard is None else float((first_best(hard) != labels).sum())
        return cls(float(len(labels)), found.loss, found.wrong, hard_wrong)

    @property
    def mean_loss(self) -> float:
        """Per image."""
        return self._per_image(self.loss)

    @property
    def soft_error(self) -> float:
        """Share of images, 0 to 1."""
        return self._per_image(self.soft_wrong)

    @property
    def hard_error(self) -> float:
        """Share of images, 0 to 1."""
        return self._per_image(self.hard_wrong)

    def _per_image(self, total: float) -> float:
        if self.count <= 0:
            raise RefusedInput("an evaluation must hold at least one image; it is empty. Is the split empty?")
        return total / self.count


@torch.no_grad()
def evaluate(
    words: Mixture | WordSlice,
    classifier: LinearClassifier,
    columns: ImageColumns,
    labels: ImageLabels,
    *,
    hard: bool = False,
    dtype: torch.dtype = torch.float32,
    collective: Collective = LONE,
) -> Evaluation:
    """Loss and wrong images of a dictionary and a classifier; ``hard`` adds the hard histograms' errors.

    words, classifier: whole, or the own slice of both; the result is the same on every slice. columns:
    (N, positions, D), labels: (N,) 0 to M - 1, the same on every slice.
    Raises NonFiniteActivations, RefusedInput, on every slice alike.
    """
    refuse_other_labels(labels, columns.shape[0], classifier.bias.shape[0])
    soft_logits = classifier.logits(soft_histograms(words, columns, dtype, collective=collective), collective)
    hard_logits = classifier.logits(hard_histograms(words, columns, collective), collective) if hard else None
    return Evaluation.of_logits(soft_logits, labels, hard_logits)
