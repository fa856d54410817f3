"""The loop of every fit: minibatch -> sums -> step -> what held-out rows say, on one actor or many.

A ``Source`` says which rows, a ``Learner`` what is done with them. Actors that share the rows of a minibatch pass their
collective to the loop; actors that share the words of a model give theirs to the learner and take all rows alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.fitting.collective import LONE, Collective
from gmm_ops.fitting.schedule import MinibatchSchedule, Step
from gmm_ops.records import Sums

CHUNKS_PER_MINIBATCH = 8
"""Rows in memory are cut into chunks of this part of a minibatch; the schedule permutes them."""

State = TypeVar("State")
Rows = TypeVar("Rows")
Batch = TypeVar("Batch", bound=Sums)
Score = TypeVar("Score", bound=Sums)


@dataclass(frozen=True)
class LogLikelihood(Sums):
    """Sums over rows. total: of log p, natural logarithm. count: of rows."""

    total: float
    count: float

    @classmethod
    def zero(cls) -> LogLikelihood:
        """Of no row: the neutral element of ``merge``."""
        return cls(0.0, 0.0)

    @classmethod
    def of(cls, values: Float[Tensor, " n"]) -> LogLikelihood:
        """Of rows whose log p is given."""
        return cls(float(values.sum()), float(len(values)))

    @property
    def mean(self) -> float:
        """Per row; NaN of none."""
        return self.total / self.count if self.count else float("nan")


class Learner(ABC, Generic[State, Rows, Batch, Score]):
    """A way to learn from minibatches; every method is a pure function of its arguments."""

    @abstractmethod
    def empty(self, state: State) -> Batch:
        """The sums of no row."""

    @abstractmethod
    def sums(self, state: State, rows: Rows) -> Batch:
        """The E-step, or the gradient, of some rows."""

    @abstractmethod
    def move(self, state: State, batch: Batch) -> State:
        """One step. batch: sums over the whole global minibatch at ``state``."""

    @abstractmethod
    def unscored(self, state: State) -> Score:
        """What no held-out row says."""

    @abstractmethod
    def scorer(self, state: State) -> Callable[[Rows], Score]:
        """What held-out rows say of the model that ``state`` comes to, which is finished once for all of them."""

    def judged(self, state: State, held_out: Score) -> State:
        """After an epoch, by all held-out rows: the state with its best kept, if the learner keeps one."""
        return state

    def stops(self, state: State) -> bool:
        """Whether no step should follow."""
        return False


@dataclass(frozen=True)
class Source(Generic[Rows]):
    """Which rows a fit learns from and which judge it; of several actors, this one's.

    schedule: of global minibatches. parts: rows of a minibatch, part by part; none are allowed. held_out: all that are
    judged on, block by block; None: nothing is, of any actor's. glimpse: a fixed choice of them for every step, so that
    steps are comparable; None: no actor has one.
    """

    schedule: MinibatchSchedule
    parts: Callable[[Step], Iterable[Rows]]
    held_out: Callable[[], Iterable[Rows]] | None = None
    glimpse: Sequence[Rows] | None = None


@dataclass(frozen=True)
class Taken(Generic[State, Batch, Score]):
    """One step of a fit. glimpse, held_out: after it; held_out only where the step ends an epoch.

    after: with the judgement of ``held_out``. What it is worth is known by the next minibatch, so ``before`` is what a
    checkpoint of a fit that may diverge should hold.
    """

    step: Step
    before: State
    batch: Batch
    after: State
    glimpse: Score
    held_out: Score | None


@dataclass(frozen=True)
class FitLoop(Generic[State, Rows, Batch, Score]):
    """All actors of ``collective`` make the same calls and get the same bits back.

    So the number of actors changes nothing but the order in which float64 sums are added.
    """

    source: Source[Rows]
    learner: Learner[State, Rows, Batch, Score]
    collective: Collective = LONE

    def walk(self, state: State, epochs: int, taken: int = 0) -> Iterator[Taken[State, Batch, Score]]:
        """Step by step to the end of the last epoch, or until the learner or the caller stops. taken: steps before."""
        for step in self.source.schedule.walk(epochs, taken):
            if self.learner.stops(state):
                return
            found = self.take(state, step)
            yield found
            state = found.after

    def take(self, state: State, step: Step) -> Taken[State, Batch, Score]:
        """One global minibatch."""
        found = (self.learner.sums(state, rows) for rows in self.source.parts(step))
        batch = summed(found, lambda: self.learner.empty(state), self.collective)
        after = self.learner.move(state, batch)
        glimpse, held_out = self._scored(after, self.source.glimpse), None
        if self.source.held_out is not None and self.source.schedule.ends_epoch(step):
            held_out = self.held_out(after)
            after = self.learner.judged(after, held_out)
        return Taken(step, state, batch, after, glimpse, held_out)

    def held_out(self, state: State) -> Score:
        """What everything held out says of a state."""
        return self._scored(state, None if self.source.held_out is None else self.source.held_out())

    def _scored(self, state: State, blocks: Iterable[Rows] | None) -> Score:
        if blocks is None:
            return self.learner.unscored(state)
        score = self.learner.scorer(state)
        return summed((score(rows) for rows in blocks), lambda: self.learner.unscored(state), self.collective)


def summed(parts: Iterable[Batch], empty: Callable[[], Batch], collective: Collective = LONE) -> Batch:
    """The sum of an actor's parts, then over all actors; the same bits on every one. empty: of an actor without any."""
    total: Batch | None = None
    for part in parts:
        total = part if total is None else total.merge(part)
    total = empty() if total is None else total
    # Packing copies, and a slice of 16,384 words has sums of hundreds of megabytes.
    return total if collective.world == 1 else total.unpacked(collective.all_reduce_sum(total.pack()))


def has_converged(held_out: Sequence[float], tolerance: float) -> bool:
    """Whether the last epoch gained less than ``tolerance``, relative. held_out: mean log p after each epoch."""
    return len(held_out) > 1 and held_out[-1] - held_out[-2] < tolerance * abs(held_out[-2])


@dataclass(frozen=True)
class LikelihoodFit(Generic[State]):
    """Where a fit has come to. held_out: mean log p of everything held out, before the first epoch and after each."""

    state: State
    held_out: tuple[float, ...]
    converged: bool


def fit_likelihood(
    loop: FitLoop[State, Rows, Batch, LogLikelihood],
    state: State,
    epochs: int,
    tolerance: float,
    tell: Callable[[Taken[State, Batch, LogLikelihood]], None] = lambda taken: None,
) -> LikelihoodFit[State]:
    """From ``state`` to the last epoch, or to one that gains less than ``tolerance``. tell: hears of every step."""
    held_out = [loop.held_out(state).mean]
    for taken in loop.walk(state, epochs):
        state = taken.after
        tell(taken)
        if taken.held_out is not None:
            held_out.append(taken.held_out.mean)
            if has_converged(held_out[1:], tolerance):
                return LikelihoodFit(state, tuple(held_out), True)
    return LikelihoodFit(state, tuple(held_out), False)


def in_memory(
    rows: Int[Tensor, " n"],
    minibatch: int,
    seed: int,
    take: Callable[[Int[Tensor, " m"]], Rows],
    held_out: Rows,
    glimpse: Sequence[Rows] | None = None,
) -> Source[Rows]:
    """A source of rows that one actor holds. rows: those that are fitted. take: the rows of these numbers."""
    chunks = rows.split(max(1, minibatch // CHUNKS_PER_MINIBATCH))
    schedule = MinibatchSchedule(tuple(len(chunk) for chunk in chunks), minibatch, seed=seed)

    def parts(step: Step) -> Iterator[Rows]:
        yield take(torch.cat([chunks[c][torch.from_numpy(schedule.rows(step, c))] for c in step.buffer.chunks]))

    return Source(schedule, parts, lambda: [held_out], glimpse)
