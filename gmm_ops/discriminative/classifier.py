"""A linear layer on word histograms: how well a dictionary carries the decision; and two of them compared."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from gmm_ops.discriminative.histogram import Histograms
from gmm_ops.discriminative.loss import ImageLabels, first_best, refuse_other_labels
from gmm_ops.discriminative.parameters import Parameters
from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.collective import LONE, Collective
from gmm_ops.records import Record


@dataclass(frozen=True)
class LinearClassifier(Record):
    """Logits of M labels from a histogram of K words, float64. weight: (M, K). bias: (M,).

    Where words lie in slices, K are the own words and the logits a sum over slices; the bias is the same on each.
    """

    weight: Float[Tensor, "M K"]
    bias: Float[Tensor, " M"]

    @classmethod
    def of(cls, parameters: Parameters) -> LinearClassifier:
        """The layer that was trained together with the words."""
        return cls(parameters.weight, parameters.bias)

    def logits(self, histograms: Histograms, collective: Collective = LONE) -> Float[Tensor, "N M"]:
        """One logit per image and label, the same bits on every slice. Raises RefusedInput (other number of words)."""
        if histograms.ndim != 2 or histograms.shape[1] != self.weight.shape[1]:
            raise RefusedInput(
                f"histograms must have shape (N, {self.weight.shape[1]}), one share per word; got "
                f"{tuple(histograms.shape)}. Pass the histograms of the dictionary that this layer was trained on."
            )
        return collective.all_reduce_sum(histograms.double() @ self.weight.T) + self.bias

    def labels(self, histograms: Histograms) -> ImageLabels:
        """The best label of every image; ties go to the lowest label."""
        return first_best(self.logits(histograms))

    def wrong(self, histograms: Histograms, labels: ImageLabels) -> Bool[Tensor, " N"]:
        """Which images get another label than theirs."""
        refuse_other_labels(labels, histograms.shape[0], self.bias.shape[0])
        return self.labels(histograms) != labels


NORMAL_95 = 1.959963984540054
"""Half width of a 95 % interval in standard errors."""


@dataclass(frozen=True)
class PairedDifference:
    """How two classifiers' errors differ on the same images (McNemar 1947).

    count: images. only_first, only_second: images that only that one gets wrong. difference: error of the first
    minus error of the second. low, high: its 95 % interval by Agresti and Min (2005), Wald with half an image added
    to each of the four cells, so that few discordant images do not give an interval of no width.
    """

    count: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float

    @classmethod
    def of_counts(cls, count: int, only_first: int, only_second: int) -> PairedDifference:
        """From the counts, which add over blocks of images. Raises RefusedInput (no image, or fewer than pairs)."""
        if count < 1 or min(only_first, only_second) < 0 or only_first + only_second > count:
            raise RefusedInput(
                f"only_first and only_second must count some of at least 1 image; got {only_first} and {only_second} "
                f"of {count}. Count both classifiers on the same images."
            )
        total, gap = count + 2.0, float(only_first - only_second)
        center = gap / total
        half = NORMAL_95 * math.sqrt(only_first + only_second + 1.0 - gap * center) / total
        return cls(count, only_first, only_second, gap / count, center - half, center + half)

    @property
    def is_tie(self) -> bool:
        """Whether the interval holds 0."""
        return self.low <= 0.0 <= self.high


def paired_difference(first: Bool[Tensor, " N"], second: Bool[Tensor, " N"]) -> PairedDifference:
    """Compare two classifiers by the images they get wrong. Raises RefusedInput unless the images are the same."""
    if first.shape != second.shape or first.ndim != 1 or len(first) == 0:
        raise RefusedInput(
            f"first and second must say which of the same images are wrong, shape (N,), N at least 1; got "
            f"{tuple(first.shape)} and {tuple(second.shape)}. Evaluate both on the same images in the same order."
        )
    return PairedDifference.of_counts(len(first), int((first & ~second).sum()), int((second & ~first).sum()))
