"""Loss and errors of a dictionary and its classifier on images, as sums that merge."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.discriminative.classifier import LinearClassifier
from gmm_ops.discriminative.histogram import ImageColumns, hard_histograms, soft_histograms
from gmm_ops.discriminative.loss import ImageLabels, cross_entropy, refuse_other_labels
from gmm_ops.errors import RefusedInput
from gmm_ops.mixture import Mixture


@dataclass(frozen=True)
class Evaluation:
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

    def merge(self, other: Evaluation) -> Evaluation:
        """Sums over both sets of images."""
        return Evaluation.unpack(self.pack() + other.pack())

    __add__ = merge

    def pack(self) -> Float[Tensor, "4"]:
        """One float64 vector for an all-reduce."""
        return torch.tensor([self.count, self.loss, self.soft_wrong, self.hard_wrong], dtype=torch.float64)

    @classmethod
    def unpack(cls, packed: Float[Tensor, "4"]) -> Evaluation:
        """Inverse of ``pack``."""
        return cls(*(float(value) for value in packed))

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
    mixture: Mixture,
    classifier: LinearClassifier,
    columns: ImageColumns,
    labels: ImageLabels,
    *,
    hard: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Evaluation:
    """Loss and wrong images of a dictionary and a classifier; ``hard`` adds the hard histograms' errors.

    columns: (N, positions, D). Raises NonFiniteActivations, RefusedInput.
    """
    refuse_other_labels(labels, columns.shape[0], classifier.bias.shape[0])
    soft = soft_histograms(mixture, columns, dtype)
    found = cross_entropy(classifier.logits(soft), labels.long())
    hard_wrong = float(classifier.wrong(hard_histograms(mixture, columns), labels).sum()) if hard else 0.0
    return Evaluation(float(columns.shape[0]), found.loss, found.wrong, hard_wrong)
