"""The linear layer on word histograms whose words stay as they are: how well a dictionary carries the decision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from gmm_ops.discriminative.adam import Moments, adam_step, one_cycle
from gmm_ops.discriminative.histogram import Histograms
from gmm_ops.discriminative.loss import ImageLabels, cross_entropy, first_best, refuse_other_labels
from gmm_ops.discriminative.parameters import Parameters
from gmm_ops.discriminative.training import DiscriminativeSettings, image_minibatches
from gmm_ops.errors import RefusedInput


@dataclass(frozen=True)
class LinearClassifier:
    """Logits of M labels from a histogram of K words, float64. weight: (M, K). bias: (M,)."""

    weight: Float[Tensor, "M K"]
    bias: Float[Tensor, " M"]

    @classmethod
    def of(cls, parameters: Parameters) -> LinearClassifier:
        """The layer that was trained together with the words."""
        return cls(parameters.weight, parameters.bias)

    def logits(self, histograms: Histograms) -> Float[Tensor, "N M"]:
        """One logit per image and label. Raises RefusedInput if the number of words differs."""
        if histograms.ndim != 2 or histograms.shape[1] != self.weight.shape[1]:
            raise RefusedInput(
                f"histograms must have shape (N, {self.weight.shape[1]}), one share per word; got "
                f"{tuple(histograms.shape)}. Pass the histograms of the dictionary that this layer was trained on."
            )
        return histograms.double() @ self.weight.T + self.bias

    def labels(self, histograms: Histograms) -> ImageLabels:
        """The best label of every image; ties go to the lowest label."""
        return first_best(self.logits(histograms))

    def wrong(self, histograms: Histograms, labels: ImageLabels) -> Bool[Tensor, " N"]:
        """Which images get another label than theirs."""
        refuse_other_labels(labels, histograms.shape[0], self.bias.shape[0])
        return self.labels(histograms) != labels

    def to_arrays(self) -> dict[str, NDArray[np.float64]]:
        """Plain arrays for a file, bit for bit."""
        return {"weight": self.weight.cpu().numpy(), "bias": self.bias.cpu().numpy()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> LinearClassifier:
        """Inverse of ``to_arrays``."""
        return cls(*(torch.from_numpy(np.array(arrays[name])) for name in ("weight", "bias")))


@torch.no_grad()
def fit_classifier(
    histograms: Histograms,
    labels: ImageLabels,
    n_labels: int,
    seed: int,
    settings: DiscriminativeSettings | None = None,
) -> LinearClassifier:
    """Train the linear layer on fixed histograms with the loss, batches and schedule of Eq. 8.

    histograms: (N, K), computed once. The same as discriminative training with mixture_rate 0, without the words'
    passes. Raises RefusedInput (labels outside 0 to n_labels - 1, no image).
    """
    settings = settings or DiscriminativeSettings()
    n_images, n_words = histograms.shape
    refuse_other_labels(labels, n_images, n_labels)
    if n_images < 1 or n_labels < 2:
        raise RefusedInput(
            f"histograms and n_labels must give at least 1 image and 2 labels; got {n_images} and {n_labels}. "
            "Check the split and the labels of the scope."
        )
    total_steps = settings.epochs * len(image_minibatches(n_images, settings.minibatch, seed, 0))
    histograms, labels = histograms.double(), labels.long()
    weight = torch.zeros(n_labels, n_words, dtype=torch.float64, device=histograms.device)
    values = {"weight": weight, "bias": weight.new_zeros(n_labels)}
    moments = Moments.zero(values)
    for epoch in range(settings.epochs):
        for rows in image_minibatches(n_images, settings.minibatch, seed, epoch):
            at = rows.to(histograms.device)
            rate, momentum = one_cycle(moments.step, total_steps, settings.classifier_rate)
            slopes = _slopes(values, histograms[at], labels[at])
            values, moments = adam_step(values, slopes, moments, dict.fromkeys(values, rate), momentum)
    return LinearClassifier(**values)


def _slopes(values: Mapping[str, Tensor], histograms: Histograms, labels: ImageLabels) -> dict[str, Tensor]:
    found = cross_entropy(histograms @ values["weight"].T + values["bias"], labels)
    gradient = found.logit_gradient / len(labels)
    return {"weight": gradient.T @ histograms, "bias": gradient.sum(dim=0)}


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
    count = len(first)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    total, gap = count + 2.0, float(only_first - only_second)
    center = gap / total
    half = NORMAL_95 * math.sqrt(only_first + only_second + 1.0 - gap * center) / total
    return PairedDifference(count, only_first, only_second, gap / count, center - half, center + half)
