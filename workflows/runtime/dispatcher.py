"""Work items over a pool of Ray actors: replaced when they die, bounded attempts, nothing lost.

An item that keeps killing its actor is quarantined after ``max_attempts`` deaths that were surely its own, while all
others finish. What fails on one node alone is that node's fault, and a node that is lost is nobody's. Ray's own tools
stop short of that: actors are restarted and their calls retried only as often as ``max_restarts`` and
``max_task_retries`` say (by default never), without regard to which call was the cause; Ray Data retries a block after
a process death without end; and an ``ActorPool`` replaces nothing that dies.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import cloudpickle

from workflows.errors import BudgetError, ClusterError, RunError, ShardError
from workflows.runtime import kept_actors, nodes
from workflows.runtime.actor_process import Outcome, fetch
from workflows.runtime.alone import map_here
from workflows.runtime.blame import ItemAttempts, hang_limit
from workflows.runtime.kept_actors import Crew
from workflows.runtime.patience import wait_before
from workflows.runtime.pool_settings import (
    DispatchReport,
    PoolSettings,
    Record,
    no_actor_words,
    quarantine_words,
    refuse_unfitting,
)
from workflows.runtime.progress import Heartbeat

OnDone = Callable[[Any, Record], None]
OnFailure = Callable[[Any, str, bool], None]

_POLL_S = 0.5
_LOOK_S = 1.0
"""Between two looks at the cluster: who has joined, who hangs, how many actors have room."""
_VERDICT_S = 5.0
"""Ray may see the death of an actor sooner than that of its node."""
_SILENCE_S = 30.0
"""The same where it cannot tell whether the actor died."""
_IN_FLIGHT = 2
"""Items handed to an actor: one at work, one waiting, so that it never idles."""


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
        raise ShardError(quarantine_words(pool.report, settings))
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
    node: str = ""
    """Where it is, once it has started."""
    place: str = ""
    """The same, as host and process."""


@dataclass(frozen=True)
class _Loss:
    """An actor died, and whether its node did is not known yet."""

    items: list[Any]
    reason: str
    node: str
    deadline: float


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
        self._resting: list[tuple[float, Any]] = []
        """Items that storage failed, and when they may be tried again."""
        self._settings = settings
        self._claim = (settings.num_cpus, settings.num_gpus)
        self._on_done, self._on_failure = on_done, on_failure
        self._nodes = nodes.current()
        self._attempts = ItemAttempts(settings.max_attempts, settings.max_node_losses)
        self._suspects: set[Any] = set()
        self._unclear: list[_Loss] = []
        self._slow: set[Any] = set()
        self._seconds: list[float] = []
        """Of finished items."""
        self._seats: list[_Seat] = []
        self._vacant: list[float] = []
        """When the seats of actors that storage failed are taken again."""
        self._failed_starts = 0
        self._manned = self._looked = time.monotonic()
        """When an actor that has started was last seen; at first, when the pool was opened."""
        self.report = DispatchReport(quarantined=self._attempts.given_up)

    def run(self) -> None:
        if self._waiting:
            refuse_unfitting(self._settings)
            self._seats = [self._seat() for _ in range(min(self._settings.n_actors, len(self._waiting)))]
        while self._left():
            self._wake()
            self._hand_out()
            self._collect()
            self._judge()
            self._check_patience()
            if time.monotonic() - self._looked > _LOOK_S:
                self._looked = time.monotonic()
                self._look_around()

    def _left(self) -> int:
        """Items that are neither done nor given up."""
        unclear = sum(len(loss.items) for loss in self._unclear)
        return len(self._waiting) + len(self._resting) + unclear + sum(len(seat.given) for seat in self._seats)

    def close(self) -> None:
        for seat in self._seats:
            if seat.starting is None and not seat.given:
                seat.crew.actor.rest.remote()
                kept_actors.keep(seat.crew)
            else:
                seat.crew.end()
        self._seats = []
        if self._settings.beat is not None:
            self._settings.beat(None)

    def _seat(self) -> _Seat:
        kept = kept_actors.take(self._claim)
        crew = kept or kept_actors.hire(self._claim)
        start = crew.actor.start.remote(self._pickled, self._settings.threads, self._nodes.terms)
        return _Seat(crew, start, kept is not None)

    def _wake(self) -> None:
        """Items that have rested long enough wait for an actor again."""
        now = time.monotonic()
        self._waiting.extend(item for due, item in self._resting if due <= now)
        self._resting = [(due, item) for due, item in self._resting if due > now]
        for due in [due for due in self._vacant if due <= now and self._nodes.usable()]:
            self._vacant.remove(due)
            if len(self._seats) < self._left():
                self._seats.append(self._seat())

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
        if not pending:
            time.sleep(_POLL_S)
            return
        ray.wait(pending, num_returns=1, timeout=_POLL_S)
        arrived = set(ray.wait(pending, num_returns=len(pending), timeout=0)[0])
        for seat in list(self._seats):
            if seat not in self._seats:
                continue  # its node was given up meanwhile
            if seat.starting in arrived:
                self._started(seat)
            elif any(reference in arrived for _, reference in seat.given):
                self._finished(seat, arrived)

    def _started(self, seat: _Seat) -> None:
        outcome = fetch(seat.starting)
        seat.node, seat.place = outcome.node, outcome.place
        if outcome.unfit:
            self._nodes.refuse(seat.node, outcome.unfit)
            if self._nodes.usable():
                self._replace(seat)
            elif self._nodes.may_return:
                self._vacate(seat, 0.0)
            else:
                raise RunError(self._nodes.refusals())
        elif outcome.refusal is not None:
            self._refused(seat, outcome.refusal)
        elif outcome.failure:
            self._failed_start(seat, outcome)
        elif seat.node in self._shunned():
            self._replace(seat)  # it was kept, or placed before that was known
        else:
            seat.starting, self._failed_starts = None, 0
            self._tell("actor started", seat, kept=seat.kept or None)

    def _failed_start(self, seat: _Seat, outcome: Outcome) -> None:
        self._nodes.greet()  # a node that has just joined may be why
        self._nodes.failed(seat.node, seat, f"an actor could not be started: {outcome.failure}")
        if seat.kept and outcome.process_died:
            self._replace(seat)
            return
        self._tell("actor did not start", seat, words=outcome.failure)
        self._failed_starts += 1
        if self._failed_starts < self._settings.max_attempts and outcome.passing:
            self._vacate(seat, wait_before(self._failed_starts, self._settings.retry_wait_s))
        elif self._failed_starts < self._settings.max_attempts:
            self._replace(seat)
        elif any(other.starting is None for other in self._seats):
            self._remove(seat)
        else:
            raise ShardError(
                f"workers could not be started {self._failed_starts} times in a row: "
                f"{outcome.failure}{self._nodes.where(seat.node)}"
            )

    def _refused(self, seat: _Seat, error: Exception) -> None:
        """What would only be refused again stops the run; but what one node refuses may be that node's fault."""
        if self._nodes.repeats(seat.node, self._claim, error):
            raise error
        self._leave(self._shunned() | {seat.node})

    def _shunned(self) -> set[str]:
        return self._nodes.avoided(self._claim)

    def _leave(self, shunned: set[str]) -> None:
        """Take the actors away from nodes, and what they have been given; what failed there is tried elsewhere."""
        for seat in [seat for seat in self._seats if seat.node in shunned]:
            self._waiting.extendleft(item for item, _ in reversed(seat.given))
            self._replace(seat)
        self._waiting.extend(self._attempts.forgive(shunned))

    def _finished(self, seat: _Seat, arrived: set[Any]) -> None:
        death: Outcome | None = None
        for entry in [entry for entry in seat.given if entry[1] in arrived]:
            outcome = fetch(entry[1])
            if outcome.process_died:
                death = outcome
                continue
            if outcome.refusal is not None:
                self._refused(seat, outcome.refusal)
                return  # what else it was given is given to others
            seat.given.remove(entry)
            seat.since = time.monotonic()
            if outcome.failure:
                self._tell("failed", seat, item=entry[0], words=outcome.failure)
                self._blame(entry[0], outcome.failure, seat.node, passing=outcome.passing)
            else:
                self._done(entry[0], outcome.value, seat.node)
        if death is not None:
            self._lost(seat, death)
        elif (shunned := self._shunned()) and seat.node in shunned:
            self._leave(shunned)

    def _done(self, item: Any, value: Record, node: str) -> None:
        self._nodes.done(node)
        self._seconds.append(value["seconds"])
        record = {**value, "attempts": self._attempts.tries(item) + 1}
        self.report.records[item] = record
        if self._on_done is not None:
            self._on_done(item, record)

    def _lost(self, seat: _Seat, death: Outcome) -> None:
        """The actor is gone. What becomes of its items depends on whether its node is."""
        patience = 0.0 if not self._nodes.joined else _SILENCE_S if death.silent else _VERDICT_S
        items = [item for item, _ in seat.given]
        self._tell("actor lost", seat, items=[str(item) for item in items], words=death.failure)
        self._unclear.append(_Loss(items, death.failure, seat.node, time.monotonic() + patience))
        seat.given.clear()
        if self._left() >= len(self._seats):
            self._replace(seat)
        else:
            self._remove(seat)
        self._judge()

    def _judge(self) -> None:
        """A lost node is no attempt of an item. Else which item was at work is known only if there was one."""
        for loss in list(self._unclear):
            if self._nodes.joined and self._nodes.is_dead(loss.node):
                self._unclear.remove(loss)
                for item in reversed(loss.items):
                    self._lost_node(item, loss.reason, loss.node)
            elif time.monotonic() >= loss.deadline:
                self._unclear.remove(loss)
                if len(loss.items) == 1:
                    self._blame(loss.items[0], loss.reason, loss.node)
                else:
                    self._suspects.update(loss.items)
                    self._waiting.extend(loss.items)

    def _lost_node(self, item: Any, reason: str, node: str) -> None:
        words = f"its node was lost: {self._nodes.name(node)}"
        if not self._attempts.lost_node(item, words):
            self._waiting.appendleft(item)
        elif self._on_failure is not None:
            self._on_failure(item, f"{words}, {reason}", True)

    def _blame(self, item: Any, reason: str, node: str, *, passing: bool = False) -> None:
        self._nodes.failed(node, (self, item), reason)
        words = f"{reason}{self._nodes.where(node)}"
        last = self._attempts.failed(item, node, words, self._shunned())
        if not last and passing:
            wait_s = wait_before(self._attempts.tries(item), self._settings.retry_wait_s)
            self._resting.append((time.monotonic() + wait_s, item))
        elif not last:
            # To the back: all other items come first, whatever this one does next.
            self._waiting.append(item)
        if self._on_failure is not None:
            self._on_failure(item, words, last)

    def _replace(self, seat: _Seat) -> None:
        seat.crew.end()
        self._seats[self._seats.index(seat)] = self._seat()
        self.report.replaced_actors += 1

    def _vacate(self, seat: _Seat, wait_s: float) -> None:
        """Another actor comes after a while, once there is a node for it: storage may be back then."""
        self._remove(seat)
        self._vacant.append(time.monotonic() + wait_s)
        self.report.replaced_actors += 1

    def _remove(self, seat: _Seat) -> None:
        seat.crew.end()
        self._seats.remove(seat)

    def _check_patience(self) -> None:
        now = time.monotonic()
        if any(seat.starting is None for seat in self._seats):
            self._manned = now
        elif now - self._manned > self._settings.start_timeout_s:
            if self._nodes.may_return and not self._nodes.usable():
                raise ClusterError(self._nodes.refusals())
            words = no_actor_words(self._settings, f"none started within {self._settings.start_timeout_s:g} s")
            raise BudgetError(f"{words}, or add nodes and run the same command again")
        for seat in list(self._seats):
            limit, age = self._limit(seat), now - seat.since
            if limit is not None and age > limit:
                self._stop_hung(seat, limit)
            elif limit is None and seat.given and age > self._settings.hang_floor_s:
                self._tell_slow(seat)

    def _tell_slow(self, seat: _Seat) -> None:
        """Too few are finished to know how long an item may take: told once, and left at work."""
        item = seat.given[0][0]
        if item not in self._slow:
            self._slow.add(item)
            self._nodes.warn(
                f"{self._settings.name} {item} has been at work for {self._settings.hang_floor_s:g} s"
                f"{self._nodes.where(seat.node)}, and too few are done to tell whether it hangs; "
                "runtime.item_timeout_s gives a limit"
            )

    def _limit(self, seat: _Seat) -> float | None:
        """Seconds that the oldest item of an actor may take."""
        if not seat.given or self._settings.item_timeout_s is not None:
            return self._settings.item_timeout_s if seat.given else None
        return hang_limit(self._seconds, self._settings.hang_floor_s, self._attempts.tries(seat.given[0][0]))

    def _stop_hung(self, seat: _Seat, limit: float) -> None:
        (item, _), *others = seat.given
        why = f"it was still at work after {limit:g} s and was stopped"
        self._nodes.warn(f"{self._settings.name} {item} is overdue: {why}{self._nodes.where(seat.node)}")
        self._tell("overdue", seat, item=item, words=why)
        seat.given.clear()
        self._waiting.extendleft(other for other, _ in reversed(others))
        self._blame(item, why, seat.node)
        if self._left():
            self._replace(seat)
        else:
            self._remove(seat)

    def _look_around(self) -> None:
        """The pool grows and shrinks with the cluster; nodes that have joined are greeted first."""
        self._nodes.greet()
        if self._settings.width is not None:
            wanted = min(self._settings.width(), self._left())
            while len(self._seats) + len(self._vacant) < wanted:
                self._seats.append(self._seat())
            starting = [seat for seat in self._seats if seat.starting is not None]
            for seat in starting[: max(0, len(self._seats) - wanted)]:
                self._remove(seat)  # nobody has room for it any more
        if self._settings.beat is not None:
            self._settings.beat(self._heartbeat())

    def _tell(self, event: str, seat: _Seat, **fields: Any) -> None:
        if self._settings.tell is not None:
            node = self._nodes.name(seat.node) if self._nodes.joined and seat.node else None
            self._settings.tell(event, place=seat.place, node=node, **fields)

    def _heartbeat(self) -> Heartbeat:
        starting = sum(seat.starting is not None for seat in self._seats)
        busy = [seat for seat in self._seats if seat.given]
        told, seconds = "", 0.0
        if busy:
            oldest = min(busy, key=lambda seat: seat.since)
            told = f"{self._settings.name} {oldest.given[0][0]}{self._nodes.where(oldest.node)}"
            seconds = time.monotonic() - oldest.since
        waiting = self._left() - sum(len(seat.given) for seat in self._seats)
        return Heartbeat(len(self._seats) - starting, starting, waiting, told, seconds)
