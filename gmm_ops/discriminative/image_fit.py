"""Whole fits of images in memory: words with a linear layer, early stopping included, and a linear layer alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.discriminative.classifier import LinearClassifier
from gmm_ops.discriminative.classifier_training import ClassifierState
from gmm_ops.discriminative.early_stopping import SideBySide
from gmm_ops.discriminative.evaluation import Evaluation
from gmm_ops.discriminative.histogram import Histograms, ImageColumns, LabelledImages, refuse_other_image_columns
from gmm_ops.discriminative.loss import ImageLabels, refuse_other_labels
from gmm_ops.discriminative.parameters import Parameters
from gmm_ops.discriminative.settings import DiscriminativeSettings
from gmm_ops.discriminative.training import image_minibatches, step_rates, training_start
from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.loop import FitLoop, Source
from gmm_ops.fitting.schedule import MinibatchSchedule, Step
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.seeding import generator

WORDS = "words"
"""Name of the one training of a fit."""

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
    source = _source(LabelledImages(columns, labels, columns[:, 0, :0]), fitted, seed, settings, judged)
    total_steps = source.schedule.steps_of(settings.epochs)
    state = training_start(mixture, n_labels, total_steps, layer_variance(columns), settings)
    steps: list[LossRecord] = []
    epochs: list[EpochRecord] = []
    seen = Evaluation.zero()
    for taken in FitLoop(source, SideBySide(settings)).walk({WORDS: state}, settings.epochs):
        gradient, epoch, step = taken.batch.of[WORDS], taken.step.epoch, taken.step.index
        batch = Evaluation(gradient.count, gradient.loss, gradient.wrong, 0.0)
        rates, _ = step_rates(step, total_steps, state.scale, settings)
        steps.append(LossRecord(step, epoch, float(rates["word_logits"]), batch.mean_loss, batch.soft_error))
        seen += batch
        if taken.held_out is not None:
            judgement = taken.held_out.of[WORDS]
            found = seen.mean_loss, seen.soft_error, judgement.mean_loss, judgement.soft_error
            epochs.append(EpochRecord(epoch, *found))
            seen = Evaluation.zero()
    return DiscriminativeFit(taken.after[WORDS].result(), tuple(steps), tuple(epochs))


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
    images = LabelledImages(histograms[:, None, :0], labels, histograms)
    source = _source(images, torch.arange(n_images), seed, settings)
    state = ClassifierState.start(n_words, n_labels, source.schedule.steps_of(settings.epochs), histograms.device)
    for taken in FitLoop(source, SideBySide(settings)).walk({WORDS: state}, settings.epochs):
        state = taken.after[WORDS]
    return state.classifier


def _source(
    images: LabelledImages,
    fitted: Int[Tensor, " n"],
    seed: int,
    settings: DiscriminativeSettings,
    judged: Int[Tensor, " m"] | None = None,
) -> Source[LabelledImages]:
    """fitted, judged: numbers of images."""
    size, minibatch = len(fitted), settings.minibatch

    def parts(step: Step) -> Iterator[LabelledImages]:
        # The schedule counts the steps; which images they take is dealt here.
        yield images.take(fitted[image_minibatches(size, minibatch, seed, step.epoch)[step.minibatch]])

    held_out = None if judged is None else lambda: map(images.take, judged.split(HELD_OUT_TILE))
    return Source(MinibatchSchedule((size,), minibatch, seed=seed), parts, held_out)


def _split(n_images: int, seed: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
    """(fitted images, held-out images)."""
    if n_images < 2:
        raise RefusedInput(
            f"columns must come from at least 2 images, one to hold out; got {n_images}. Pass more images."
        )
    order = torch.randperm(n_images, generator=generator(seed))
    count = max(1, round(HELD_OUT_SHARE * n_images))
    return order[count:], order[:count]
