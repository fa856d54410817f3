"""Training by gradient: what it carries from step to step, when its best is kept and it ends, several side by side."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

from gmm_ops.discriminative.adam import Moments
from gmm_ops.discriminative.evaluation import Evaluation
from gmm_ops.discriminative.histogram import LabelledImages
from gmm_ops.discriminative.settings import REMEDY, DiscriminativeSettings
from gmm_ops.errors import Diverged
from gmm_ops.fitting.collective import LONE, Collective
from gmm_ops.fitting.loop import Learner
from gmm_ops.records import Record, Sums

Trained = TypeVar("Trained", bound=Record)
"""What a training moves."""


@dataclass(frozen=True, kw_only=True)
class JudgedState(Record, ABC, Generic[Trained]):
    """What every training carries from one minibatch to the next: Adam, its schedule, and early stopping.

    moments: Adam's. total_steps: length of the one-cycle schedule. best: what had the lowest held-out loss so far,
    ``best_loss`` (mean, natural logarithm; inf before the first judgement). stale: judgements since then.
    """

    moments: Moments
    total_steps: int
    best: Trained
    best_loss: float = math.inf
    stale: int = 0

    @property
    @abstractmethod
    def current(self) -> Trained:
        """What the next step starts from."""

    @abstractmethod
    def no_gradient(self) -> Any:
        """Of no image, as ``gradient`` gives it."""

    @abstractmethod
    def gradient(self, images: LabelledImages, settings: DiscriminativeSettings, words: Collective = LONE) -> Any:
        """Sums over images at ``current``. words: how the slices of a dictionary meet; all see the same images."""

    @abstractmethod
    def advanced(self, gradient: Any, settings: DiscriminativeSettings, words: Collective = LONE) -> Self:
        """One step of Adam. gradient: over the whole global minibatch. Raises Diverged, RefusedInput."""

    @abstractmethod
    def judge(
        self, settings: DiscriminativeSettings, words: Collective = LONE, hard: bool = False
    ) -> Callable[[LabelledImages], Evaluation]:
        """How ``current`` decides on images. hard: by hard words too, where words are trained."""

    @property
    def step(self) -> int:
        """Minibatches taken."""
        return self.moments.step

    def result(self) -> Trained:
        """The best by held-out loss; the last if none was judged."""
        return self.best if math.isfinite(self.best_loss) else self.current

    def judged(self, held_out_loss: float) -> Self:
        """After an epoch: keep what is trained if its mean held-out loss is the lowest. NaN raises Diverged."""
        if not math.isfinite(held_out_loss):
            raise Diverged(f"the held-out loss is {held_out_loss}. {REMEDY}", max(0, self.step - 1))
        if held_out_loss < self.best_loss:
            return replace(self, best=self.current, best_loss=held_out_loss, stale=0)
        return replace(self, stale=self.stale + 1)

    def should_stop(self, settings: DiscriminativeSettings) -> bool:
        """Whether the schedule is done, or the training is out of patience."""
        return self.step >= self.total_steps or self.out_of_patience(settings)

    def out_of_patience(self, settings: DiscriminativeSettings) -> bool:
        """Whether the held-out loss has not fallen for ``patience`` judgements."""
        return self.stale >= settings.patience


States = Mapping[str, Any]
"""``JudgedState`` by the name of the training."""


@dataclass(frozen=True)
class TrainingSums(Sums):
    """Gradients or evaluations by the name of their training; those out of patience have none."""

    of: Mapping[str, Any]


@dataclass(frozen=True)
class SideBySide(Learner[States, LabelledImages, TrainingSums, TrainingSums]):
    """Trainings on the same minibatches, each until it is out of patience, as ``gmm_ops.fitting.loop`` asks for them.

    words, hard: as in ``JudgedState``.
    """

    settings: DiscriminativeSettings
    words: Collective = LONE
    hard: bool = False

    def empty(self, state: States) -> TrainingSums:
        """Of no image."""
        return self._each(state, lambda one: one.no_gradient())

    def sums(self, state: States, rows: LabelledImages) -> TrainingSums:
        """Gradients."""
        return self._each(state, lambda one: one.gradient(rows, self.settings, self.words))

    def move(self, state: States, batch: TrainingSums) -> States:
        """One step of each."""
        moved = {name: state[name].advanced(found, self.settings, self.words) for name, found in batch.of.items()}
        return {**state, **moved}

    def unscored(self, state: States) -> TrainingSums:
        """Of no image."""
        return self._each(state, lambda one: Evaluation.zero())

    def scorer(self, state: States) -> Callable[[LabelledImages], TrainingSums]:
        """Evaluations."""
        judges = self._each(state, lambda one: one.judge(self.settings, self.words, self.hard)).of
        return lambda images: TrainingSums({name: judge(images) for name, judge in judges.items()})

    def judged(self, state: States, held_out: TrainingSums) -> States:
        """``JudgedState.judged`` of each."""
        return {**state, **{name: state[name].judged(found.mean_loss) for name, found in held_out.of.items()}}

    def stops(self, state: States) -> bool:
        """Whether all are out of patience."""
        return all(one.out_of_patience(self.settings) for one in state.values())

    def _each(self, state: States, work: Callable[[JudgedState[Any]], Any]) -> TrainingSums:
        return TrainingSums({name: work(one) for name, one in state.items() if not one.out_of_patience(self.settings)})
