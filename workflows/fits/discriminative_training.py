"""One rank's share of the training by gradient: words with a linear layer, and a linear layer on generative words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.discriminative.classifier import LinearClassifier
from gmm_ops.discriminative.classifier_training import ClassifierState
from gmm_ops.discriminative.early_stopping import SideBySide, States, TrainingSums
from gmm_ops.discriminative.histogram import Histograms, LabelledImages, soft_histograms
from gmm_ops.discriminative.settings import DiscriminativeSettings
from gmm_ops.discriminative.training import TrainingState, training_start
from gmm_ops.fitting.collective import LONE, Collective
from gmm_ops.fitting.loop import FitLoop, Source, Taken
from gmm_ops.fitting.schedule import MinibatchSchedule, Step
from gmm_ops.mixtures.mixture import Mixture
from workflows.fits.fit_history import LossRow
from workflows.fits.labelled_images import ImageSource
from workflows.fits.minibatches import PARTS, OwnParts, mixed_minibatches
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.runtime.devices import STORAGE_DTYPES
from workflows.settings import Settings
from workflows.words.sliced_words import Place, columns_parts

PART_COLUMNS = 4_096
"""Columns that a part of a global minibatch has at least: smaller tiles cost more than they compute."""
FEWEST_PARTS = 4
"""Parts of a global minibatch at least: so many actors can share a fit of the smallest layer."""

STEPS_AN_EPOCH = 40
"""Minibatches of an epoch, if possible: a scope of few images takes smaller ones, else Adam would hardly move."""

FEWEST_IMAGES = 10
"""Images of a minibatch at least: with one or two, single images throw the linear layer about, and a loss far above
that of guessing says nothing about the fit."""

HISTOGRAM_BYTES = 256 * 2**20
"""Histograms of the generative words that a rank keeps; those of other chunks are computed anew in every epoch."""

HELD_OUT_CHUNKS = 10
"""Chunks whose held-out images are judged together, whoever does it."""


class DiscriminativeTraining:
    """The second phase of a fit (IG Eq. 8); see ``discriminative_fit`` for the first and the last.

    Two things learn from the same global minibatches: words with their linear layer, and a linear layer on the
    histograms of the generative words, which stay as they are. Every rank takes its own parts of a minibatch, all
    gradients are added in float64, and every rank makes the same step of Adam; so the number of ranks changes nothing
    but the order of float64 sums. After an epoch both are judged on the held-out images, and stop by themselves.

    Where the words are sliced over the ranks, every rank takes all images and holds its own words, their moments and
    their columns of the linear layers; what depends on all words is a sum over ranks.

    Args:
        rank, world: whose images of a minibatch are this rank's; (0, 1) where the words are sliced.
        place: whose words are.
        settings: of the run.
        layer: of the fit.
        source: the scope's images.
        generative: the dictionary of the first phase, or the own words of it.
        n_labels: of the scope.
        seed: of the minibatches.

    Attributes:
        state: of both after the steps taken: ``words``, and ``frozen`` for the linear layer on the generative words.
        rows: one for every step.
    """

    def __init__(
        self,
        *,
        rank: int,
        world: int,
        settings: Settings,
        layer: LayerPlan,
        source: ImageSource,
        generative: Mixture,
        n_labels: int,
        seed: int,
        place: Place,
    ) -> None:
        self.rank, self.world, self.source, self.n_labels = rank, world, source, n_labels
        self.generative = generative.to(source.device)
        self.place = place
        self.limits = discriminative_settings(settings)
        sizes = source.chunk_sizes()
        batch = global_batch(self.limits.minibatch, sum(sizes))
        self.schedule = MinibatchSchedule(sizes, batch, buffer_minibatches(batch, layer, settings), seed)
        self.steps = self.schedule.steps_of(self.limits.epochs)
        parts = columns_parts(batch * layer.stored) if self.place.sliced else parts_of(batch, layer)
        self._parts = OwnParts(self.schedule, self._chunk, rank, world, parts)
        self.share = Source(self.schedule, self._fitted, self._held_out)
        self._histograms: dict[tuple[str, int], Histograms] = {}
        self._kept_bytes = 0
        self.state: States
        self.rows: list[LossRow] = []
        self._before: States | None = None

    def begin(self, words: Mixture, layer_variance: Float[Tensor, " D"], lowest: Float[Tensor, " D"]) -> None:
        """Before the first step.

        words: what training starts from, all or own. layer_variance: of every unit. lowest: variance of a word in every
        unit, that of the first phase.
        """
        device, place = self.source.device, self.place
        begun = place.slice(words.to(device))
        given = self.n_labels, self.steps, layer_variance.to(device), self.limits
        frozen = ClassifierState.start(self.generative.n_words, self.n_labels, self.steps, device)
        self.state = {"words": training_start(begun, *given, place.reduce, lowest), "frozen": frozen}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the state that ``to_arrays`` gave."""
        kinds: dict[str, Any] = {"words": TrainingState, "frozen": ClassifierState}
        found = {name: kind.from_arrays(arrays, f"{name}.") for name, kind in kinds.items()}
        self.state = {name: one.to(self.source.device) for name, one in found.items()}
        self._before, self.rows = None, [LossRow(*row) for row in arrays["loss_history"].tolist()]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """For a checkpoint: the state before the last step, whose loss is known to be a good one.

        What the last step led to is judged by the next minibatch alone; a state that proves bad then must not have
        replaced a good one. Once training is over its best parameters have been judged.
        """
        known = self.state if self.done or self._before is None else self._before
        steps = max(one.step for one in known.values())
        rows = np.array(self.rows[:steps], np.float64).reshape(-1, len(LossRow._fields))
        arrays = {key: values for name, one in known.items() for key, values in one.to_arrays(f"{name}.").items()}
        return arrays | {"loss_history": rows}

    @property
    def done(self) -> bool:
        """Whether both have stopped."""
        return all(one.should_stop(self.limits) for one in self.state.values())

    def take_step(self, collective: Collective) -> None:
        """The next global minibatch, and the judgement if it ends an epoch. Raises Diverged."""
        learner = SideBySide(self.limits, self.place.reduce, hard=True)
        loop = FitLoop(self.share, learner, LONE if self.place.sliced else collective)
        taken = loop.take(self.state, self.schedule.step(len(self.rows)))
        self.rows.append(self._row(taken))
        self.state, self._before = taken.after, taken.before

    def models(self) -> dict[str, tuple[Mixture, LinearClassifier]]:
        """The dictionaries and linear layers that the fit comes to, whole or this rank's part of them, by loss."""
        best, layer = self.state["words"].result(), self.state["frozen"].result()
        return {
            "discriminative": (best.to_mixture(self.place.reduce), LinearClassifier.of(best)),
            "generative": (self.generative, layer),
        }

    def _row(self, taken: Taken[States, TrainingSums, TrainingSums]) -> LossRow:
        seen = {"step": taken.step.index + 1, "epoch": taken.step.epoch}
        before = self.rows[-1].columns if self.rows else 0.0
        gradients, judged = taken.batch.of, {} if taken.held_out is None else taken.held_out.of
        seen["columns"] = before + max(one.count for one in gradients.values()) * self.source.layer.stored
        if (words := gradients.get("words")) is not None:
            seen |= {"loss": words.loss / words.count, "error": words.wrong / words.count}
        if (frozen := gradients.get("frozen")) is not None:
            seen |= {"generative_loss": frozen.loss / frozen.count}
        if (found := judged.get("words")) is not None:
            seen |= {"held_out_loss": found.mean_loss}
            seen |= {"held_out_error_soft": found.soft_error, "held_out_error_hard": found.hard_error}
        if (found := judged.get("frozen")) is not None:
            seen |= {"generative_held_out_loss": found.mean_loss, "generative_held_out_error_soft": found.soft_error}
        return LossRow(**{name: seen.get(name, float("nan")) for name in LossRow._fields})

    def _chunk(self, chunk: int) -> LabelledImages:
        return self._with_histograms("fitted", chunk, *self.source.fitted(chunk))

    def _with_histograms(
        self, which: str, chunk: int, columns: Float[Tensor, "N positions D"], labels: Int[Tensor, " N"]
    ) -> LabelledImages:
        if self.place.sliced:
            # Filled in when used: those of a buffer of images would take as much memory as the words.
            return LabelledImages(columns, labels, torch.empty(len(labels), 0, device=labels.device))
        # Of all images of the chunk at once, so that the bits do not depend on what is kept.
        found = self._histograms.get((which, chunk))
        if found is None:
            found = soft_histograms(self.generative, columns, self.limits.dtype)
            if self._kept_bytes + found.nbytes <= HISTOGRAM_BYTES:
                self._histograms[which, chunk] = found
                self._kept_bytes += found.nbytes
        return LabelledImages(columns, labels, found)

    def _fitted(self, step: Step) -> Iterator[LabelledImages]:
        return map(self._filled, self._parts.of(step))

    def _filled(self, images: LabelledImages) -> LabelledImages:
        """With the histograms of sliced words, while something learns from them."""
        if not self.place.sliced or self.state["frozen"].out_of_patience(self.limits):
            return images
        words, reduce = self.place.slice(self.generative), self.place.reduce
        return replace(images, histograms=soft_histograms(words, images.columns, self.limits.dtype, collective=reduce))

    def _held_out(self) -> Iterator[LabelledImages]:
        """This rank's held-out images, some chunks at a time; the tiles do not depend on the number of ranks."""
        sizes = self.source.held_out_sizes()
        for first in range(HELD_OUT_CHUNKS * self.rank, len(sizes), HELD_OUT_CHUNKS * self.world):
            chunks = [chunk for chunk in range(first, min(first + HELD_OUT_CHUNKS, len(sizes))) if sizes[chunk]]
            if chunks:
                blocks = (self._with_histograms("held out", chunk, *self.source.held_out(chunk)) for chunk in chunks)
                yield self._filled(LabelledImages.joined(list(blocks)))


def global_batch(wanted: int, images: int) -> int:
    """Images of a global minibatch: fewer than wanted where an epoch would have fewer than 40, but at least 10."""
    return min(wanted, max(FEWEST_IMAGES, images // STEPS_AN_EPOCH))


def parts_of(batch: int, layer: LayerPlan) -> int:
    """Parts of a global minibatch; never of the number of ranks, on which no sum may depend."""
    return max(FEWEST_PARTS, min(PARTS, batch * layer.stored // PART_COLUMNS))


def buffer_minibatches(batch: int, layer: LayerPlan, settings: Settings) -> int:
    """Minibatches that are mixed at a time."""
    image = layer.stored * layer.units * STORAGE_DTYPES[settings.extract.dtype].itemsize
    return mixed_minibatches(batch, image, settings.extract.images_per_chunk)


def training_bytes(settings: Settings, plan: Plan, layer: LayerPlan) -> int:
    """Of one rank: buffered images, histograms, a float32 minibatch, float64 copies of the parameters."""
    batch = global_batch(settings.discriminative.batch, plan.train_images)
    mixed = min(buffer_minibatches(batch, layer, settings) * batch, plan.train_images)
    column = layer.units * STORAGE_DTYPES[settings.extract.dtype].itemsize
    # Those of buffered images are held also where the others are computed anew.
    histograms = min(plan.train_images, HISTOGRAM_BYTES // (layer.words * 8) + mixed) * layer.words * 8
    parameters = layer.words * (2 * layer.units + len(plan.class_names)) * 8
    return mixed * layer.stored * column + histograms + batch * layer.stored * layer.units * 4 + 10 * parameters


def discriminative_settings(settings: Settings) -> DiscriminativeSettings:
    """The run's settings as the core knows them."""
    given = settings.discriminative
    return DiscriminativeSettings(
        mixture_rate=given.mixture_rate,
        classifier_rate=given.classifier_rate,
        minibatch=given.batch,
        epochs=given.epochs,
        patience=given.patience,
        var_floor=settings.fit.var_floor,
        precision=given.precision,
        max_loss=given.max_loss,
    )
