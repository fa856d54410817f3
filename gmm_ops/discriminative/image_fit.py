"""Whole fits of images in memory: words with a linear layer, early stopping included, and a linear layer alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.discriminative.classifier import LinearClassifier
from gmm_ops.discriminative.classifier_training import ClassifierGradient, ClassifierState
from gmm_ops.discriminative.evaluation import Evaluation, evaluate
from gmm_ops.discriminative.histogram import Histograms, ImageColumns, refuse_other_image_columns
from gmm_ops.discriminative.loss import ImageLabels, batch_gradient, refuse_other_labels
from gmm_ops.discriminative.parameters import Parameters
from gmm_ops.discriminative.settings import DiscriminativeSettings
from gmm_ops.discriminative.training import (
    TrainingState,
    image_minibatches,
    step_rates,
    training_start,
    training_step,
)
from gmm_ops.errors import RefusedInput
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.seeding import generator

HELD_OUT_SHARE = 0.1
"""Share of the images that are not fitted but judged on."""

HELD_OUT_TILE = 500
"""Held-out images that are cast to products at a time."""

VARIANCE_COLUMNS = 100_000
"""Columns that the layer's variance is measured on, at most."""


@dataclass(frozen=True)
class LossRecord:
    """One minibatch. loss: mean cross entropy, before the step. error: share of wrong images. rate: of the words."""

    step: int
    epoch: int
    rate: float
    loss: float
    error: float


@dataclass(frozen=True)
class EpochRecord:
    """One epoch. loss, error: mean of its minibatches, each before its step. held_out_...: after the epoch."""

    epoch: int
    loss: float
    error: float
    held_out_loss: float
    held_out_error: float


@dataclass(frozen=True)
class DiscriminativeFit:
    """Trained words and classifier, and how they were reached: one record per minibatch and per epoch."""

    parameters: Parameters
    steps: tuple[LossRecord, ...]
    epochs: tuple[EpochRecord, ...]


def fit_discriminative(
    columns: ImageColumns,
    labels: ImageLabels,
    mixture: Mixture,
    n_labels: int,
    seed: int,
    settings: DiscriminativeSettings | None = None,
) -> DiscriminativeFit:
    """Train ``mixture`` and a linear layer on the labels of images in memory (IG Eq. 8).

    columns: (N, positions, D). labels: (N,), 0 to n_labels - 1. A seeded tenth of the images is held out and
    decides which epoch's parameters are given back.
    Raises NonFiniteActivations, RefusedInput, Diverged.
    """
    settings = settings or DiscriminativeSettings()
    refuse_other_image_columns(columns, mixture.n_units)
    refuse_other_labels(labels, columns.shape[0], n_labels)
    fitted, judged = _split(columns.shape[0], seed)
    total_steps = settings.epochs * len(image_minibatches(len(fitted), settings.minibatch, seed, 0))
    fit = _Fit(columns, labels.long(), fitted, judged, seed, settings)
    return fit.run(training_start(mixture, n_labels, total_steps, layer_variance(columns), settings))


def layer_variance(columns: ImageColumns) -> Float[Tensor, " D"]:
    """Variance of each unit over 100,000 to 200,000 columns (all, if fewer), evenly spread over the images, float64."""
    flat = columns.reshape(-1, columns.shape[2])
    every = max(1, flat.shape[0] // VARIANCE_COLUMNS)
    return flat[::every].double().var(dim=0, unbiased=False)


@torch.no_grad()
def fit_classifier(
    histograms: Histograms,
    labels: ImageLabels,
    n_labels: int,
    seed: int,
    settings: DiscriminativeSettings | None = None,
) -> LinearClassifier:
    """Train the linear layer on fixed histograms with the loss, batches and schedule of Eq. 8; the last layer of it.

    histograms: (N, K), computed once. The same as discriminative training with mixture_rate 0, without the words'
    passes. Raises RefusedInput (labels outside 0 to n_labels - 1, no image), Diverged.
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
    state = ClassifierState.start(n_words, n_labels, total_steps, histograms.device)
    for epoch in range(settings.epochs):
        for rows in image_minibatches(n_images, settings.minibatch, seed, epoch):
            at = rows.to(histograms.device)
            gradient = ClassifierGradient.of(state.classifier, histograms[at], labels[at])
            state = state.advanced(gradient, settings)
    return state.classifier


class _Fit:
    """Images and judge of one fit; the state walks through it."""

    def __init__(
        self,
        columns: ImageColumns,
        labels: ImageLabels,
        fitted: Int[Tensor, " n"],
        judged: Int[Tensor, " m"],
        seed: int,
        settings: DiscriminativeSettings,
    ) -> None:
        self.columns, self.labels, self.settings = columns, labels, settings
        self.fitted, self.judged, self.seed = fitted, judged, seed

    def run(self, state: TrainingState) -> DiscriminativeFit:
        steps: list[LossRecord] = []
        epochs: list[EpochRecord] = []
        while not state.should_stop(self.settings):
            seen = Evaluation.zero()
            for rows in image_minibatches(len(self.fitted), self.settings.minibatch, self.seed, len(epochs)):
                state, record, batch = self.take(state, self.fitted[rows], len(epochs))
                steps.append(record)
                seen += batch
            held_out = self.judge(state)
            state = state.judged(held_out.mean_loss)
            epochs.append(_epoch_record(len(epochs), seen, held_out))
        return DiscriminativeFit(state.result(), tuple(steps), tuple(epochs))

    def take(
        self, state: TrainingState, rows: Int[Tensor, " n"], epoch: int
    ) -> tuple[TrainingState, LossRecord, Evaluation]:
        at = rows.to(self.columns.device)
        gradient = batch_gradient(state.parameters, self.columns[at], self.labels[at], self.settings.dtype)
        rates, _ = step_rates(state.step, state.total_steps, state.scale, self.settings)
        seen = Evaluation(gradient.count, gradient.loss, gradient.wrong, 0.0)
        record = LossRecord(state.step, epoch, float(rates["word_logits"]), seen.mean_loss, seen.soft_error)
        return training_step(state, gradient, self.settings), record, seen

    def judge(self, state: TrainingState) -> Evaluation:
        mixture, classifier = state.parameters.to_mixture(), LinearClassifier.of(state.parameters)
        total = Evaluation.zero()
        for rows in self.judged.split(HELD_OUT_TILE):
            at = rows.to(self.columns.device)
            total += evaluate(mixture, classifier, self.columns[at], self.labels[at], dtype=self.settings.dtype)
        return total


def _epoch_record(epoch: int, seen: Evaluation, held_out: Evaluation) -> EpochRecord:
    return EpochRecord(epoch, seen.mean_loss, seen.soft_error, held_out.mean_loss, held_out.soft_error)


def _split(n_images: int, seed: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
    """(fitted images, held-out images)."""
    if n_images < 2:
        raise RefusedInput(
            f"columns must come from at least 2 images, one to hold out; got {n_images}. Pass more images."
        )
    order = torch.randperm(n_images, generator=generator(seed))
    count = max(1, round(HELD_OUT_SHARE * n_images))
    return order[count:], order[:count]
