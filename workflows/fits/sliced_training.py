"""One rank's words of the training by gradient (IG Eq. 8)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.discriminative.classifier import LinearClassifier
from gmm_ops.discriminative.classifier_training import ClassifierGradient, ClassifierState
from gmm_ops.discriminative.evaluation import Evaluation
from gmm_ops.discriminative.histogram import Histograms
from gmm_ops.discriminative.loss import Gradient
from gmm_ops.fitting.schedule import Step
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.word_slices.evaluation import sliced_evaluate
from gmm_ops.word_slices.gradient import sliced_batch_gradient
from gmm_ops.word_slices.histograms import sliced_soft_histograms
from gmm_ops.word_slices.training import sliced_training_start
from workflows.fits.discriminative_training import DiscriminativeTraining
from workflows.fits.labelled_images import LabelledImages
from workflows.fits.minibatches import OwnParts
from workflows.runtime.collective import Collective, LoneCollective
from workflows.words.sliced_words import Place, parts_of


class SlicedTraining(DiscriminativeTraining):
    """``DiscriminativeTraining`` on the same minibatches, with K / W of the words on each of W ranks.

    As to images it is a group of one. Adam is a step of every parameter by itself, so the states are those of the own
    words and of their columns of the linear layers; logits are summed over ranks.

    Args:
        place: of the rank.
        inputs: those of DiscriminativeTraining but for rank and world; generative: the own words.
    """

    def __init__(self, place: Place, **inputs: Any) -> None:
        super().__init__(rank=0, world=1, **inputs)
        self.place = place
        columns = self.schedule.minibatch * self.source.layer.stored
        self._parts = OwnParts(self.schedule, self._chunk, 0, 1, parts_of(columns))

    def begin(self, words: Mixture, layer_variance: Float[Tensor, " D"]) -> None:
        """Before the first step. words: the own ones that training starts from."""
        device, place = self.source.device, self.place
        start = place.slice(words.to(device))
        given = self.n_labels, self.steps, layer_variance.to(device), self.limits, place.reduce
        self.words = sliced_training_start(start, *given).own
        self.frozen = ClassifierState.start(start.own.n_words, self.n_labels, self.steps, device)

    def models(self) -> dict[str, tuple[Mixture, LinearClassifier]]:
        """The own words and their part of the linear layers, by loss."""
        best = self.words.result()
        own = self.place.of(best).words(self.place.reduce).own
        return {
            "discriminative": (own, LinearClassifier.of(best)),
            "generative": (self.generative, self.frozen.result()),
        }

    def _gradients(
        self, step: Step, collective: Collective, words: bool, frozen: bool
    ) -> tuple[Gradient, ClassifierGradient]:
        """Of the own words, over the whole global minibatch."""
        own, labels, device = self.generative.n_words, self.n_labels, self.source.device
        gradient = Gradient.zero(own, self.generative.n_units, labels, device)
        linear = ClassifierGradient.zero(own, labels, device)
        now, reduce = self.place.of(self.words.parameters), self.place.reduce
        for part in self._parts.of(step):
            if words:
                gradient += sliced_batch_gradient(now, part.columns, part.labels, reduce, self.limits.dtype)
            if frozen:
                linear += self._frozen_gradient(part)
        return gradient, linear

    def _frozen_gradient(self, images: LabelledImages) -> ClassifierGradient:
        histograms = self._own_histograms(images)
        logits = self.place.logits(self.frozen.classifier, histograms)
        return ClassifierGradient.of_logits(logits, histograms, images.labels)

    def _own_histograms(self, images: LabelledImages) -> Histograms:
        words = self.place.slice(self.generative)
        return sliced_soft_histograms(words, images.columns, self.place.reduce, self.limits.dtype)

    def _with_histograms(
        self, which: str, chunk: int, columns: Float[Tensor, "N positions D"], labels: Int[Tensor, " N"]
    ) -> LabelledImages:
        # Computed when used: those of a buffer of images would take as much memory as the words.
        return LabelledImages(columns, labels, torch.empty(len(labels), 0, device=labels.device))

    def _judge(self, collective: Collective, words: bool, frozen: bool) -> dict[str, float]:
        # Every rank comes to the same sums over all images.
        return super()._judge(LoneCollective(), words, frozen)

    def _judge_words(self, images: LabelledImages, learning: bool) -> Float[Tensor, "4"]:
        if not learning:
            return Evaluation.zero().pack()
        now = self.place.of(self.words.parameters)
        return sliced_evaluate(
            now, images.columns, images.labels, self.place.reduce, hard=True, dtype=self.limits.dtype
        ).pack()

    def _judge_frozen(self, images: LabelledImages, learning: bool) -> Float[Tensor, "4"]:
        if not learning:
            return Evaluation.zero().pack()
        logits = self.place.logits(self.frozen.classifier, self._own_histograms(images))
        return Evaluation.of_logits(logits, images.labels).pack()
