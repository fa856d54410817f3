"""What a rank of an actor group adds to a fit by online EM: its history, its checkpoint, its progress."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from gmm_ops.fitting.collective import Collective
from gmm_ops.fitting.loop import FitLoop, Learner, LogLikelihood, Source
from gmm_ops.hmm.chain_statistics import ChainStatistics
from gmm_ops.hmm.learning import HMMSettings, HMMState
from gmm_ops.mixtures.online_step import OnlineEMSettings, OnlineEMState
from gmm_ops.mixtures.statistics import MixtureStatistics
from workflows.fits.fit_history import FitHistory, HistoryRow
from workflows.storage.states import save_state

Rows = TypeVar("Rows")
State = TypeVar("State", OnlineEMState, HMMState)
Batch = TypeVar("Batch", MixtureStatistics, ChainStatistics)


class OnlineFit(ABC, Generic[State, Rows, Batch]):
    """``gmm_ops.fitting.loop`` in steps that a group of ranks shares, with what it came to after each.

    After every step a fixed held-out sample is scored, at the end of an epoch the whole held-out share.

    Attributes:
        em: how is learned.
        share: the rows that are this rank's.
        state: after the steps taken.
        history: one row a step.
    """

    em: OnlineEMSettings | HMMSettings
    share: Source[Rows]
    state: State
    history: FitHistory

    @abstractmethod
    def learner(self) -> Learner[State, Rows, Batch, LogLikelihood]:
        """How is learned, as the loop asks for it."""

    @abstractmethod
    def counts(self, batch: Batch) -> tuple[float, float]:
        """After a step: re-seeds so far, and words without a row in the minibatch."""

    @abstractmethod
    def digest(self) -> str:
        """Of what all ranks have in common."""

    @property
    def steps(self) -> int:
        """Global minibatches of all epochs."""
        return self.share.schedule.steps_of(self.em.epochs)

    @property
    def done(self) -> bool:
        """Whether the last epoch is over, or an epoch gained too little."""
        return self.history.stopped or self.state.step >= self.steps

    def advance(self, n_steps: int, collective: Collective) -> dict[str, Any]:
        """Up to ``n_steps`` global minibatches; ends with the last epoch, or with an epoch that gained too little."""
        while n_steps > 0 and not self.done:
            self.take_step(collective)
            n_steps -= 1
        return self.progress() | {"done": self.done}

    def take_step(self, collective: Collective) -> None:
        """The next global minibatch. collective: of the ranks that share its rows."""
        loop = FitLoop(self.share, self.learner(), collective)
        taken = loop.take(self.state, self.share.schedule.step(self.state.step))
        self.state = taken.after
        reseeded, empty = self.counts(taken.batch)
        row = HistoryRow(
            step=self.state.step,
            epoch=taken.step.epoch,
            columns=self.history.columns + taken.batch.count,
            held_out_log_likelihood=taken.glimpse.mean,
            train_log_likelihood=taken.batch.log_likelihood / taken.batch.count,
            held_out_full=np.nan if taken.held_out is None else taken.held_out.mean,
            reseeded=reseeded,
            empty=empty,
        )
        self.history.add(row, taken.held_out is not None, self.em.tolerance)

    def progress(self) -> dict[str, Any]:
        """What callers show, and a digest that all ranks must agree on."""
        return {
            "phase": "generative",
            "step": self.state.step,
            "steps": self.steps,
            "taken": self.state.step,
            "held_out": self.history.held_out,
            "columns": int(self.history.columns),
            "digest": self.digest(),
        }

    def to_arrays(self) -> dict[str, np.ndarray]:
        """For a checkpoint: the whole state, the history so far, whether it has stopped."""
        return self.state.to_arrays() | self.history.to_arrays()

    def save(self, path: Path) -> None:
        """Write the checkpoint."""
        save_state(path, self.to_arrays())
