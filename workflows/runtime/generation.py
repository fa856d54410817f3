"""The actors of a fit group from generation to generation: their rendezvous, and calls that every rank acknowledges."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.util import placement_group, remove_placement_group

from workflows.errors import BudgetError, ShardError
from workflows.runtime import kept_actors, nodes
from workflows.runtime.actor_process import Outcome, fetch
from workflows.runtime.cluster import resources
from workflows.runtime.handshake import may_pass
from workflows.runtime.kept_actors import Claim, Crew, hire
from workflows.runtime.progress import Heartbeat
from workflows.runtime.rendezvous import Rendezvous, meet

_POLL_S = 0.25
_STARTING = ("ready", "start", "join")
"""Calls that have ``start_timeout_s``; all others have ``segment_timeout_s``."""
_ANSWER_S = 5.0
"""How long actors that are kept, or shall be, may take to answer."""
_VERDICT_S, _SILENCE_S = 5.0, 30.0
"""Ray may see the death of an actor sooner than that of its node; the second where it cannot tell either."""
_GRACE_S = 1.0
"""After the first failure the other ranks may still tell a better reason than "connection closed by peer"."""


@dataclass(frozen=True)
class GroupSettings:
    """How wide and how patient a fit group is."""

    n_actors: int = 1
    num_cpus: float = 1
    """Of one actor."""
    num_gpus: float = 0
    threads: int = 1
    segment_steps: int = 25
    """Steps between acknowledgements: how often progress is reported."""
    checkpoint_steps: int = 25
    """Steps between checkpoints, rounded up to whole segments."""
    max_attempts: int = 3
    """Groups that may be lost in a row without a new checkpoint."""
    max_node_losses: int = 10
    """The same where a node was lost, which is no fault of the fit."""
    retry_wait_s: float = 15.0
    """How long a fit waits for its second try where storage failed; four times as long before each further one."""
    start_timeout_s: float = 300.0
    segment_timeout_s: float = 1800.0
    """A rank that has not acknowledged a segment by then is taken for hung."""
    beat: Callable[[Heartbeat | None], None] | None = None
    """Told every second what is at work, and None at the end."""
    alone: bool = False
    """Without Ray, in this process."""


class GenerationLost(Exception):
    """A rank died, hung or failed: the group is no use any more, its last checkpoint is.

    ``node_lost``: because a node of the group is gone. ``passing``: because storage failed, which may be back.
    """

    def __init__(self, reason: str, node_lost: bool = False, passing: bool = False) -> None:
        super().__init__(reason)
        self.node_lost, self.passing = node_lost, passing


class Stopped(Exception):
    """Another fit failed; this one was told to end."""


class Rooms:
    """How many groups have room on the cluster, counted by the groups themselves, each from its own thread."""

    def __init__(self) -> None:
        self._lock, self.taken = threading.Lock(), 0

    def add(self, change: int) -> None:
        """A group got room (1) or gave it back (-1)."""
        with self._lock:
            self.taken += change


class FitGroup:
    """A group of actors that does one fit after the other; leaving the block keeps them for others, or ends them.

    The actors are placed before the first fit and stay joined for the next ones, which saves a start each. They live
    and die together, as a generation: after ``end`` others must be placed. They may be such as earlier pools or fits
    have left behind; several of a joined cluster may not, for those could lie on nodes far apart.
    """

    def __init__(self, settings: GroupSettings, stop: threading.Event, rooms: Rooms) -> None:
        self._settings, self._stop, self._rooms = settings, stop, rooms
        self._rendezvous = Rendezvous(settings.n_actors, settings.start_timeout_s)
        self._generation = 0
        self._crew: Crew | None = None
        self._asked: Any = None
        """The placement group of actors that have yet to be hired."""
        self._asked_off: dict[str, str] = {}
        """Which nodes it keeps off."""
        self._joined = False
        self._places: dict[int, str] = {}
        """Nodes of the ranks."""

    def __enter__(self) -> FitGroup:
        self._rendezvous.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and not self._stop.is_set() and _may_be_kept(self._settings):
                self._keep()
        finally:
            self.end()
            self._rendezvous.__exit__()

    def _keep(self) -> None:
        """For others, once they have left the store of this driver, which ends with the block."""
        if self._crew is None:
            return
        answers = [actor.rest.remote() for actor in self._crew.actors]
        ready, _ = ray.wait(answers, num_returns=len(answers), timeout=_ANSWER_S)
        if len(ready) == len(answers) and not any(fetch(answer).failure for answer in answers):
            crew = self._crew
            self._forget()
            kept_actors.keep(crew)

    def end(self) -> None:
        """Kill this generation and give its room back."""
        if self._crew is not None:
            self._crew.end()
        if self._asked is not None:
            remove_placement_group(self._asked)
        self._forget()

    def _forget(self) -> None:
        self._rooms.add(-(self._crew is not None))
        self._crew, self._asked, self._joined = None, None, False
        self._places = {}

    def place(self, wanted: Callable[[], bool]) -> bool:
        """Start actors unless there are some; False if ``wanted`` ends before the cluster has room for them.

        Room is given for all of them at once or not at all: groups that hold a part each would wait for one another.
        While other groups have room there is nothing wrong with waiting: they hold what these actors need.

        Raises:
            GenerationLost: no room within ``start_timeout_s`` though no other group has any, or an actor died.
        """
        claim = _claim(self._settings)
        if self._crew is not None and not self._is_avoided(self._places.values(), claim):
            return True
        self.end()
        if not wanted():
            return False
        if self._takes_kept(claim):
            return True
        self._reserve(claim)
        deadline = time.monotonic() + self._settings.start_timeout_s
        while not ray.wait([self._asked.ready()], timeout=_POLL_S)[0]:
            if self._stop.is_set():
                raise Stopped
            if not wanted():
                self.end()
                return False
            if self._takes_kept(claim):
                return True
            self._ask_elsewhere(claim)
            if self._rooms.taken:
                deadline = time.monotonic() + self._settings.start_timeout_s
            elif time.monotonic() > deadline:
                raise GenerationLost(f"the cluster had no room for them within {self._settings.start_timeout_s:g} s")
        self._begin_generation(claim)
        return True

    def _ask_elsewhere(self, claim: Claim) -> None:
        """A node that was refused may be back, or another one avoided, since room was asked for."""
        if nodes.current().place() != self._asked_off:
            self.end()
            self._reserve(claim)

    def _takes_kept(self, claim: Claim) -> bool:
        """Whether the actors come from those that are kept; that some died since is no failure."""
        if not _may_be_kept(self._settings):
            kept_actors.release()
            return False
        while (crew := kept_actors.take(claim, self._settings.n_actors)) is not None:
            if not self._all_answer(crew) or self._is_avoided(self._places.values(), claim):
                crew.end()
                continue
            places = self._places
            self.end()  # the room that was asked for
            self._hired(crew)
            self._places = places
            return True
        return False

    def _all_answer(self, crew: Crew) -> bool:
        """Soon: a process that is silent for longer costs more than a new one."""
        answers = [actor.ready.remote() for actor in crew.actors]
        deadline = time.monotonic() + _ANSWER_S
        while len(ray.wait(answers, num_returns=len(answers), timeout=_POLL_S)[0]) < len(answers):
            if self._stop.is_set():
                crew.end()
                raise Stopped
            if time.monotonic() > deadline:
                return False
        outcomes = [fetch(answer) for answer in answers]
        self._places = {rank: outcome.node for rank, outcome in enumerate(outcomes)}
        return not any(outcome.failure for outcome in outcomes)

    @staticmethod
    def _is_avoided(places: Iterable[str], claim: Claim) -> bool:
        return bool(nodes.current().avoided(claim) & set(places))

    def _hired(self, crew: Crew) -> None:
        self._crew = crew
        self._generation += 1
        self._rooms.add(1)

    def _reserve(self, claim: Claim) -> None:
        """Ask for the room of all actors."""
        _refuse_unfitting(self._settings)
        bundle = {name: amount for name, amount in zip(("CPU", "GPU"), claim, strict=True) if amount}
        # Close together: they reduce sums at every step.
        bundles, place = [bundle] * self._settings.n_actors, nodes.current().place()
        where = [place] * len(bundles) if place else None
        self._asked_off = place
        self._asked = placement_group(bundles, strategy="PACK", bundle_label_selector=where)

    def _begin_generation(self, claim: Claim) -> None:
        crew = hire(claim, self._settings.n_actors, self._asked)
        self._asked = None
        self._hired(crew)
        self._wait([actor.ready.remote() for actor in crew.actors], self._settings.start_timeout_s, "ready")

    def _actors(self) -> tuple[Any, ...]:
        assert self._crew is not None, "calls are only given to actors that were placed"
        return self._crew.actors

    def start(self, factory: Callable[..., Any], kwargs: dict[str, Any], checkpoint: Path | None) -> None:
        """Build the workers, those of the fit before dropped, and give all of them the same state."""
        settings = self._settings
        pickled, world = ray.put(cloudpickle.dumps((factory, kwargs))), settings.n_actors
        starts = [
            actor.start.remote(pickled, settings.threads, nodes.current().terms, rank=rank, world=world)
            for rank, actor in enumerate(self._actors())
        ]
        self._wait(starts, settings.start_timeout_s, "start")
        if not self._joined:
            self._join()
        restored = [actor.call.remote("restore", checkpoint) for actor in self._actors()]
        self._wait(restored, settings.segment_timeout_s, "restore")

    def _join(self) -> None:
        settings, rendezvous = self._settings, self._rendezvous
        meeting = (rendezvous.host, rendezvous.port, f"{rendezvous.secret}/gen{self._generation}")
        joins = []
        for rank, actor in enumerate(self._actors()):
            call = partial(meet, *meeting, rank, settings.n_actors, settings.segment_timeout_s)
            joins.append(actor.join.remote(cloudpickle.dumps(call)))
        self._wait(joins, settings.start_timeout_s, "join")
        self._joined = True

    def advance(self, n_steps: int) -> dict[str, Any]:
        """One segment on all ranks; the progress of rank 0."""
        steps = [actor.advance.remote(n_steps) for actor in self._actors()]
        progress = self._wait(steps, self._settings.segment_timeout_s, "advance")
        for key in ("done", "digest"):
            if any(other.get(key) != progress[0].get(key) for other in progress):
                raise ShardError(f"the ranks of a fit disagree on {key!r}: {[one.get(key) for one in progress]}")
        return dict(progress[0])

    def save(self, path: Path) -> None:
        """Rank 0 writes the checkpoint."""
        self._first("save", path)

    def result(self) -> Any:
        """What rank 0's worker comes to."""
        return self._wait([self._actors()[0].result.remote()], self._settings.segment_timeout_s, "result")[0]

    def _first(self, method: str, *args: Any) -> Any:
        call = self._actors()[0].call.remote(method, *args)
        return self._wait([call], self._settings.segment_timeout_s, method)[0]

    def _wait(self, calls: list[Any], timeout_s: float, method: str) -> list[Any]:
        """Values by rank. A refusal is raised at once; any other failure, or silence, loses the generation."""
        deadline = time.monotonic() + timeout_s
        pending, outcomes = dict(enumerate(calls)), dict[int, Outcome]()
        while pending and time.monotonic() < deadline:
            ready, _ = ray.wait(list(pending.values()), num_returns=1, timeout=_POLL_S)
            for rank in [rank for rank, reference in pending.items() if reference in set(ready)]:
                outcomes[rank] = outcome = fetch(pending.pop(rank))
                self._places[rank] = outcome.node or self._places.get(rank, "")
                if outcome.refusal is not None:
                    self._refused(rank, outcome.refusal)
                if outcome.failure:
                    deadline = min(deadline, time.monotonic() + _GRACE_S)
            if self._stop.is_set():
                raise Stopped
        failed = {rank: outcome for rank, outcome in outcomes.items() if outcome.failure}
        if failed or pending:
            raise self._lost(failed, pending, _reason(failed, pending, timeout_s, method))
        if method == "advance":
            for node in self._places.values():
                nodes.current().done(node)
        return [outcomes[rank].value for rank in range(len(calls))]

    def _refused(self, rank: int, error: Exception) -> None:
        """Raises the error; GenerationLost where another node may not repeat it."""
        node = self._places.get(rank, "")
        if nodes.current().repeats(node, _claim(self._settings), error):
            raise error
        raise GenerationLost(f"rank {rank}: {error}{nodes.current().where(node)}")

    def _lost(self, failed: dict[int, Outcome], silent: dict[int, Any], reason: str) -> GenerationLost:
        """Whose fault it is: a lost node's nobody's, else that of the node of the rank that explains the others."""
        known, rank = nodes.current(), _at_fault(failed, silent)
        node = self._places.get(rank, "")
        passing = rank in failed and (failed[rank].passing or may_pass(failed[rank].unfit))
        if rank in failed and failed[rank].unfit:
            known.refuse(node, failed[rank].unfit)
        elif self._node_is_lost(any(outcome.silent for outcome in failed.values())):
            return GenerationLost(f"{reason}{known.where(node)}, a node was lost", node_lost=True)
        else:
            known.failed(node, (self, self._generation), reason)
        return GenerationLost(f"{reason}{known.where(node)}", passing=passing)

    def _node_is_lost(self, silent: bool) -> bool:
        """Whether a rank's node is gone, which Ray may know some time after the rank is."""
        known, places = nodes.current(), [place for place in self._places.values() if place]
        deadline = time.monotonic() + (_SILENCE_S if silent else _VERDICT_S)
        while known.joined and places and not self._stop.is_set():
            if known.is_dead(*places):
                return True
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        return False


def _claim(settings: GroupSettings) -> Claim:
    """Of an actor: a group works only if all of it fits, so on a small machine its actors share the cores."""
    offered, num_cpus = resources(), settings.num_cpus
    if not offered.joined and settings.n_actors * num_cpus > offered.cpus:
        num_cpus = int(1000 * offered.cpus / settings.n_actors) / 1000
    return num_cpus, settings.num_gpus


def _may_be_kept(settings: GroupSettings) -> bool:
    return settings.n_actors == 1 or not resources().joined


def _refuse_unfitting(settings: GroupSettings) -> None:
    offered = resources()
    if settings.n_actors * settings.num_gpus > offered.gpus and not offered.joined:
        raise BudgetError(
            f"a fit group of {settings.n_actors} actors needs {settings.n_actors * settings.num_gpus:g} GPUs and Ray "
            f"offers {offered.gpus}: lower runtime.fit_actors (fit.word_slices, if that is above 1) or set "
            "runtime.device to 'cpu'"
        )


def _at_fault(failed: dict[int, Outcome], silent: dict[int, Any]) -> int:
    """The rank that explains the others: a dead process, then a worker's own words, then a lost connection."""
    if not failed:
        return min(silent)

    def weight(rank: int) -> tuple[int, int]:
        outcome = failed[rank]
        return (0 if outcome.process_died else 2 if outcome.failure.startswith("CollectiveLost") else 1, rank)

    return min(failed, key=weight)


def _reason(failed: dict[int, Outcome], silent: dict[int, Any], timeout_s: float, method: str) -> str:
    rank = _at_fault(failed, silent)
    if not failed:
        limit = "" if method in _STARTING else " (runtime.hung_after_s: raise it if the rank was at work)"
        return f"rank {rank} did not answer {method} within {timeout_s:g} s{limit}"
    return f"rank {rank}: {failed[rank].failure}"
