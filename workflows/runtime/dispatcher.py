"""Work items over a pool of Ray actors: replaced when they die, bounded attempts, nothing lost.

An item that keeps killing its actor is quarantined after ``max_attempts`` deaths that were surely its own, while all
others finish. Ray's own tools stop short of that: actors are restarted and their calls retried only as often as
``max_restarts`` and ``max_task_retries`` say (by default never), without regard to which call was the cause; Ray Data
retries a block after a process death without end; and an ``ActorPool`` replaces nothing that dies.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import cloudpickle

from workflows.errors import BudgetError, ShardError
from workflows.runtime import kept_actors
from workflows.runtime.actor_process import fetch
from workflows.runtime.alone import map_here
from workflows.runtime.cluster import resources
from workflows.runtime.kept_actors import Crew

Record = dict[str, Any]
OnDone = Callable[[Any, Record], None]
OnFailure = Callable[[Any, str, bool], None]

_POLL_S = 0.5
_IN_FLIGHT = 2
"""Items handed to an actor: one at work, one waiting, so that it never idles."""


@dataclass(frozen=True)
class PoolSettings:
    """How wide and how patient a pool is."""

    n_actors: int
    num_cpus: float = 1
    num_gpus: float = 0
    threads: int | None = 1
    """Compute threads of an actor; None does not import torch."""
    max_attempts: int = 3
    """Tries of an item before it is quarantined, and of starting an actor before the run stops."""
    start_timeout_s: float = 300.0
    """How long the pool may be without any actor that has started: at first, or after its nodes were lost."""
    item_timeout_s: float | None = None
    """An item at work for longer is taken for hung: its actor is killed, the try counts."""
    name: str = "shard"
    """What an item is called in messages."""
    alone: bool = False
    """Without Ray, in this process."""


@dataclass
class DispatchReport:
    """What a pool did."""

    records: dict[Any, Record] = field(default_factory=dict)
    """Record of every finished item; ``peak_memory`` (bytes, of its worker so far), ``seconds`` and ``attempts``
    are added."""
    quarantined: dict[Any, str] = field(default_factory=dict)
    """Items given up, and the last reason."""
    replaced_actors: int = 0


def map_shards(
    factory: Callable[..., Callable[[Any], Record]],
    kwargs: dict[str, Any],
    items: Iterable[Hashable],
    settings: PoolSettings,
    *,
    on_done: OnDone | None = None,
    on_failure: OnFailure | None = None,
) -> DispatchReport:
    """Run ``factory(**kwargs)(item)`` for every item, on actors that each build their worker once.

    Args:
        factory: builds the worker in the actor; the worker takes an item and returns a small record. Giving one item
            twice must be harmless.
        kwargs: of the factory, sent once to every actor.
        items: hashable, handed out in this order.
        settings: of the pool.
        on_done: called in the driver with each finished item and its record, in order of completion. Progress bars
            and ledgers hang here.
        on_failure: called in the driver after each failed try with the item, the reason, and whether it was the last.

    Raises:
        RunError, RefusedInput: raised by a worker or the factory; nothing is retried, the run stops at once.
        ShardError: items kept failing; every other item has finished, each failed one is named with its reason.
        BudgetError: no actor fits the cluster, or what is left of it.
    """
    if settings.alone:
        return DispatchReport(map_here(factory, kwargs, items, on_done))
    pool = _Pool(cloudpickle.dumps((factory, kwargs)), list(items), settings, on_done, on_failure)
    try:
        pool.run()
    finally:
        pool.close()
    if pool.report.quarantined:
        raise ShardError(_quarantine_words(pool.report, settings))
    return pool.report


@dataclass(eq=False)
class _Seat:
    """A place in the pool: the actor that sits there, and what it has been given, oldest first."""

    crew: Crew
    """Of one."""
    starting: Any
    """Reference of the pending start; None once it has started."""
    kept: bool = False
    """Whether it worked for an earlier pool: it may have died since, which is no failed start."""
    given: deque[tuple[Any, Any]] = field(default_factory=deque)
    since: float = 0.0
    """When the oldest given item can have begun."""


class _Pool:
    def __init__(
        self,
        pickled: bytes,
        items: list[Any],
        settings: PoolSettings,
        on_done: OnDone | None,
        on_failure: OnFailure | None,
    ) -> None:
        self._pickled = ray.put(pickled)
        self._waiting = deque(items)
        self._settings = settings
        self._claim = (settings.num_cpus, settings.num_gpus)
        self._on_done, self._on_failure = on_done, on_failure
        self._attempts: dict[Any, int] = {}
        self._suspects: set[Any] = set()
        self._seats: list[_Seat] = []
        self._failed_starts = 0
        self._manned = time.monotonic()
        """When an actor that has started was last seen; at first, when the pool was opened."""
        self.report = DispatchReport()

    def run(self) -> None:
        if self._waiting:
            _refuse_unfitting(self._settings)
            self._seats = [self._seat() for _ in range(min(self._settings.n_actors, len(self._waiting)))]
        while self._waiting or any(seat.given for seat in self._seats):
            self._hand_out()
            self._collect()
            self._check_patience()

    def close(self) -> None:
        for seat in self._seats:
            if seat.starting is None and not seat.given:
                seat.crew.actor.rest.remote()
                kept_actors.keep(seat.crew)
            else:
                seat.crew.end()
        self._seats = []

    def _seat(self) -> _Seat:
        kept = kept_actors.take(self._claim)
        crew = kept or kept_actors.hire(self._claim)
        return _Seat(crew, crew.actor.start.remote(self._pickled, self._settings.threads), kept is not None)

    def _hand_out(self) -> None:
        # Breadth first: a second item waits at an actor only when every actor has one.
        for depth in range(_IN_FLIGHT):
            for seat in self._seats:
                if self._waiting and seat.starting is None and len(seat.given) == depth and self._may_take(seat):
                    if not seat.given:
                        seat.since = time.monotonic()
                    item = self._waiting.popleft()
                    seat.given.append((item, seat.crew.actor.work.remote(item)))

    def _may_take(self, seat: _Seat) -> bool:
        """A suspect has its actor for itself, so that the next death says for certain whose fault it is."""
        company = [self._waiting[0], *(item for item, _ in seat.given)]
        return len(company) == 1 or not any(item in self._suspects for item in company)

    def _collect(self) -> None:
        pending = [seat.starting for seat in self._seats if seat.starting is not None]
        pending += [reference for seat in self._seats for _, reference in seat.given]
        ray.wait(pending, num_returns=1, timeout=_POLL_S)
        arrived = set(ray.wait(pending, num_returns=len(pending), timeout=0)[0])
        for seat in list(self._seats):
            if seat.starting in arrived:
                self._started(seat)
            elif any(reference in arrived for _, reference in seat.given):
                self._finished(seat, arrived)

    def _started(self, seat: _Seat) -> None:
        outcome = fetch(seat.starting)
        if outcome.refusal is not None:
            raise outcome.refusal
        if not outcome.failure:
            seat.starting, self._failed_starts = None, 0
            return
        if seat.kept and outcome.process_died:
            self._replace(seat)
            return
        self._failed_starts += 1
        if self._failed_starts < self._settings.max_attempts:
            self._replace(seat)
        elif any(other.starting is None for other in self._seats):
            self._remove(seat)
        else:
            raise ShardError(f"workers could not be started {self._failed_starts} times in a row: {outcome.failure}")

    def _finished(self, seat: _Seat, arrived: set[Any]) -> None:
        death = ""
        for entry in [entry for entry in seat.given if entry[1] in arrived]:
            outcome = fetch(entry[1])
            if outcome.process_died:
                death = outcome.failure
                continue
            seat.given.remove(entry)
            seat.since = time.monotonic()
            if outcome.refusal is not None:
                raise outcome.refusal
            if outcome.failure:
                self._blame(entry[0], outcome.failure)
            else:
                self._done(entry[0], outcome.value)
        if death:
            self._lost(seat, death)

    def _done(self, item: Any, value: Record) -> None:
        record = {**value, "attempts": self._attempts.get(item, 0) + 1}
        self.report.records[item] = record
        if self._on_done is not None:
            self._on_done(item, record)

    def _lost(self, seat: _Seat, reason: str, *, first_is_guilty: bool = False) -> None:
        """The actor is gone. Which of its items was at work is known only if it had one, or if the first one hung."""
        given = [item for item, _ in seat.given]
        if len(given) == 1 or first_is_guilty:
            self._waiting.extendleft(reversed(given[1:]))
            self._blame(given[0], reason)
        else:
            self._suspects.update(given)
            self._waiting.extend(given)
        if self._waiting:
            self._replace(seat)
        else:
            self._remove(seat)

    def _blame(self, item: Any, reason: str) -> None:
        self._attempts[item] = self._attempts.get(item, 0) + 1
        last = self._attempts[item] >= self._settings.max_attempts
        if last:
            self.report.quarantined[item] = reason
        else:
            # To the back: all other items come first, whatever this one does next.
            self._waiting.append(item)
        if self._on_failure is not None:
            self._on_failure(item, reason, last)

    def _replace(self, seat: _Seat) -> None:
        seat.crew.end()
        self._seats[self._seats.index(seat)] = self._seat()
        self.report.replaced_actors += 1

    def _remove(self, seat: _Seat) -> None:
        seat.crew.end()
        self._seats.remove(seat)

    def _check_patience(self) -> None:
        now = time.monotonic()
        if any(seat.starting is None for seat in self._seats):
            self._manned = now
        elif now - self._manned > self._settings.start_timeout_s:
            words = _no_actor_words(self._settings, f"none started within {self._settings.start_timeout_s:g} s")
            raise BudgetError(f"{words}, or add nodes and run the same command again")
        limit = self._settings.item_timeout_s
        for seat in list(self._seats):
            if limit is not None and seat.given and now - seat.since > limit:
                self._lost(seat, f"it was still at work after {limit} s and was stopped", first_is_guilty=True)


def _refuse_unfitting(settings: PoolSettings) -> None:
    if resources().joined:
        return  # A cluster may grow when it sees what is asked for; start_timeout_s is its limit.
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = any(node.get("CPU", 0) >= settings.num_cpus and node.get("GPU", 0) >= settings.num_gpus for node in nodes)
    if not fits:
        raise BudgetError(_no_actor_words(settings, "no node has as many"))


def _no_actor_words(settings: PoolSettings, why: str) -> str:
    offered = ray.cluster_resources()
    return (
        f"an actor needs {settings.num_cpus} cores and {settings.num_gpus} GPUs, {why} (Ray offers "
        f"{offered.get('CPU', 0):g} cores and {offered.get('GPU', 0):g} GPUs in all): "
        "lower runtime.threads or set runtime.device to 'cpu'"
    )


def _quarantine_words(report: DispatchReport, settings: PoolSettings) -> str:
    lines = [f"  {settings.name} {item}: {reason}" for item, reason in report.quarantined.items()]
    return (
        f"{len(report.quarantined)} {settings.name}(s) failed {settings.max_attempts} times each and are left out, "
        f"{len(report.records)} are done:\n" + "\n".join(lines[:20]) + "\nrun the same command again to try only these"
    )
