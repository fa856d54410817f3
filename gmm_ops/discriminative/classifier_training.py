"""The linear layer on the histograms of words that stay as they are, minibatch by minibatch on many actors.

The same loss, minibatches and schedule as IG Eq. 8 with the words left alone: what a generative dictionary carries of
the decision, measured beside the discriminative fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from gmm_ops.discriminative.adam import Moments, adam_step, one_cycle
from gmm_ops.discriminative.classifier import LinearClassifier
from gmm_ops.discriminative.early_stopping import JudgedState
from gmm_ops.discriminative.evaluation import Evaluation
from gmm_ops.discriminative.histogram import Histograms, LabelledImages
from gmm_ops.discriminative.loss import ImageLabels, cross_entropy, refuse_other_labels
from gmm_ops.discriminative.settings import DiscriminativeSettings
from gmm_ops.discriminative.training import refuse_diverging
from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.collective import LONE, Collective
from gmm_ops.records import Sums


@dataclass(frozen=True)
class ClassifierGradient(Sums):
    """Mergeable sums over images of the loss and its gradient, float64, as ``loss.Gradient`` without the words.

    count: images. loss: sum of cross entropies, natural logarithm. wrong: images whose best label is another.
    weight: (M, K). bias: (M,).
    """

    count: float
    loss: float
    wrong: float
    weight: Float[Tensor, "M K"]
    bias: Float[Tensor, " M"]

    @classmethod
    def zero(cls, n_words: int, n_labels: int, device: torch.device | str = "cpu") -> ClassifierGradient:
        """The gradient of no image: the neutral element of ``merge``."""
        weight = torch.zeros(n_labels, n_words, dtype=torch.float64, device=device)
        return cls(0.0, 0.0, 0.0, weight, weight.new_zeros(n_labels))

    @classmethod
    def of(
        cls,
        classifier: LinearClassifier,
        histograms: Histograms,
        labels: ImageLabels,
        collective: Collective = LONE,
    ) -> ClassifierGradient:
        """Of some images. histograms: (N, K). labels: (N,), 0 to M - 1; raises RefusedInput on others."""
        refuse_other_labels(labels, histograms.shape[0], classifier.bias.shape[0])
        found = cross_entropy(classifier.logits(histograms, collective), labels.long())
        slope = found.logit_gradient
        return cls(float(len(labels)), found.loss, found.wrong, slope.T @ histograms.double(), slope.sum(dim=0))


@dataclass(frozen=True)
class ClassifierState(JudgedState[LinearClassifier]):
    """The state of the layer's training; the same on every actor, bit for bit. classifier: of the next step."""

    classifier: LinearClassifier
    best: LinearClassifier = field(kw_only=True)

    @property
    def current(self) -> LinearClassifier:
        """``classifier``."""
        return self.classifier

    @classmethod
    def start(cls, n_words: int, n_labels: int, total_steps: int, device: torch.device | str = "cpu") -> Self:
        """A layer of zeros before the first minibatch. Raises RefusedInput (fewer than 2 labels, no step)."""
        if n_labels < 2 or total_steps < 1:
            raise RefusedInput(
                f"n_labels must be at least 2 and total_steps at least 1; got {n_labels} and {total_steps}. "
                "Check the labels of the scope and its images."
            )
        weight = torch.zeros(n_labels, n_words, dtype=torch.float64, device=device)
        layer = LinearClassifier(weight, weight.new_zeros(n_labels))
        return cls(layer, moments=Moments.zero(_values(layer)), total_steps=total_steps, best=layer)

    def no_gradient(self) -> ClassifierGradient:
        """Of no image."""
        weight = self.classifier.weight
        return ClassifierGradient.zero(weight.shape[1], weight.shape[0], weight.device)

    def gradient(
        self, images: LabelledImages, settings: DiscriminativeSettings, words: Collective = LONE
    ) -> ClassifierGradient:
        """``ClassifierGradient.of``."""
        return ClassifierGradient.of(self.classifier, images.histograms, images.labels, words)

    def judge(
        self, settings: DiscriminativeSettings, words: Collective = LONE, hard: bool = False
    ) -> Callable[[LabelledImages], Evaluation]:
        """By the histograms."""
        logits = self.classifier.logits
        return lambda images: Evaluation.of_logits(logits(images.histograms, words), images.labels)

    def advanced(
        self, gradient: ClassifierGradient, settings: DiscriminativeSettings, words: Collective = LONE
    ) -> ClassifierState:
        """One step of Adam on the mean loss of the global minibatch. Raises Diverged, RefusedInput (empty batch)."""
        if gradient.count <= 0:
            raise RefusedInput("gradient must hold at least one image; the global batch is empty.")
        slopes = {"weight": gradient.weight / gradient.count, "bias": gradient.bias / gradient.count}
        refuse_diverging(gradient, slopes, self.step, settings)
        rate, momentum = one_cycle(self.step, self.total_steps, settings.classifier_rate)
        values = _values(self.classifier)
        values, moments = adam_step(values, slopes, self.moments, dict.fromkeys(values, rate), momentum)
        return replace(self, classifier=LinearClassifier(**values), moments=moments)


def _values(layer: LinearClassifier) -> dict[str, Tensor]:
    return {"weight": layer.weight, "bias": layer.bias}
