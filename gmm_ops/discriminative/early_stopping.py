"""What every training carries from minibatch to minibatch, and the rule by which its best is kept and it ends."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Generic, Self, TypeVar

from gmm_ops.discriminative.adam import Moments
from gmm_ops.discriminative.settings import REMEDY, DiscriminativeSettings
from gmm_ops.errors import Diverged
from gmm_ops.records import Record

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
        """Whether the schedule is done, or the held-out loss has not fallen for ``patience`` judgements."""
        return self.step >= self.total_steps or self.stale >= settings.patience
