"""The actors of a fit group from generation to generation: their rendezvous, and calls that every rank acknowledges."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from workflows.errors import BudgetError, ShardError
from workflows.runtime.actor_process import Outcome, attempt, fetch, set_threads
from workflows.runtime.cluster import resources

_POLL_S = 0.25
_STARTING = ("ready", "start", "join")
"""Calls that have ``start_timeout_s``; all others have ``segment_timeout_s``."""
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
    start_timeout_s: float = 300.0
    segment_timeout_s: float = 1800.0
    """A rank that has not acknowledged a segment by then is taken for hung."""


class GenerationLost(Exception):
    """A rank died, hung or failed: the group is no use any more, its last checkpoint is."""


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


class Rendezvous:
    """The store of the driver where the ranks of every generation meet; none is needed for a single rank."""

    def __init__(self, settings: GroupSettings) -> None:
        self._settings = settings
        self._store: Any = None
        self.host = ""
        self.port = 0

    def __enter__(self) -> Rendezvous:
        if self._settings.n_actors > 1:
            from torch.distributed import TCPStore

            self.host = ray.util.get_node_ip_address()
            timeout = timedelta(seconds=self._settings.start_timeout_s)
            self._store = TCPStore(self.host, 0, is_master=True, wait_for_workers=False, timeout=timeout)
            self.port = self._store.port
        return self

    def __exit__(self, *_: object) -> None:
        self._store = None


class _FitActor:
    """Carries one rank's worker, and after it the next fit's.

    The factory arrives pickled so that threads are set before anything imports torch.
    """

    _worker: Any = None

    def ready(self) -> Outcome:
        return Outcome(None)

    def start(self, pickled: bytes, rank: int, world: int, threads: int) -> Outcome:
        set_threads(threads)
        return attempt(self._build, pickled, rank, world)

    def _build(self, pickled: bytes, rank: int, world: int) -> None:
        factory, kwargs = cloudpickle.loads(pickled)
        if self._worker is None:
            gc.freeze()  # what was imported stays: looking through it would cost a tenth of a second a fit
        # Before the next one is built, so that a process never holds two fits; a worker may refer to itself.
        self._worker = None
        gc.collect()
        self._worker = factory(rank=rank, world=world, **kwargs)

    def join(self, host: str, port: int, generation: int, rank: int, world: int, timeout_s: float) -> Outcome:
        return attempt(self._join, host, port, generation, rank, world, timeout_s)

    def _join(self, host: str, port: int, generation: int, rank: int, world: int, timeout_s: float) -> None:
        from gmm_ops.fitting.collective import LONE, Collective
        from workflows.runtime.collective import GroupCollective

        address = ray.util.get_node_ip_address()
        self._collective: Collective = (
            LONE if world == 1 else GroupCollective(host, port, generation, rank, world, timeout_s, address)
        )

    def restore(self, checkpoint: Path | None) -> Outcome:
        return attempt(self._worker.restore, checkpoint)

    def advance(self, n_steps: int) -> Outcome:
        return attempt(self._worker.advance, n_steps, self._collective)

    def save(self, path: Path) -> Outcome:
        return attempt(self._worker.save, path)

    def result(self) -> Outcome:
        return attempt(self._worker.result)


class FitGroup:
    """A group of actors that does one fit after the other; leaving the block kills them all.

    The actors are placed before the first fit and stay joined for the next ones, which saves a start each. They live
    and die together, as a generation: after ``end`` new ones must be placed.
    """

    def __init__(self, settings: GroupSettings, stop: threading.Event, rooms: Rooms) -> None:
        self._settings, self._stop, self._rooms = settings, stop, rooms
        self._rendezvous = Rendezvous(settings)
        self._generation = 0
        self._actors: list[Any] = []
        self._room: Any = None
        self._has_room = self._joined = False

    def __enter__(self) -> FitGroup:
        self._rendezvous.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._rendezvous.__exit__()

    def end(self) -> None:
        """Kill this generation and give its room back."""
        for actor in self._actors:
            ray.kill(actor)
        if self._room is not None:
            remove_placement_group(self._room)
            self._rooms.add(-self._has_room)
        self._actors, self._room, self._has_room, self._joined = [], None, False, False

    def place(self, wanted: Callable[[], bool]) -> bool:
        """Start actors unless there are some; False if ``wanted`` ends before the cluster has room for them.

        Room is given for all of them at once or not at all: groups that hold a part each would wait for one another.
        While other groups have room there is nothing wrong with waiting: they hold what these actors need.

        Raises:
            GenerationLost: no room within ``start_timeout_s`` though no other group has any, or an actor died.
        """
        if self._actors:
            return True
        if not wanted():
            return False
        each = self._reserve()
        given = self._room.ready()
        deadline = time.monotonic() + self._settings.start_timeout_s
        while not ray.wait([given], timeout=_POLL_S)[0]:
            if self._stop.is_set():
                raise Stopped
            if not wanted():
                self.end()
                return False
            if self._rooms.taken:
                deadline = time.monotonic() + self._settings.start_timeout_s
            elif time.monotonic() > deadline:
                raise GenerationLost(f"the cluster had no room for them within {self._settings.start_timeout_s:g} s")
        self._has_room = True
        self._rooms.add(1)
        self._begin_generation(each)
        return True

    def _reserve(self) -> dict[str, float]:
        """Ask for the room of all actors; what each of them needs."""
        settings = self._settings
        _refuse_unfitting(settings)
        each = {"num_cpus": _cpus_each(settings), "num_gpus": settings.num_gpus}
        bundle = {name: amount for name, amount in zip(("CPU", "GPU"), each.values(), strict=True) if amount}
        # Close together: they reduce sums at every step.
        self._room = placement_group([bundle] * settings.n_actors, strategy="PACK")
        return each

    def _begin_generation(self, each: dict[str, float]) -> None:
        self._generation += 1
        for rank in range(self._settings.n_actors):
            place = PlacementGroupSchedulingStrategy(self._room, placement_group_bundle_index=rank)
            actor = ray.remote(**each, max_restarts=0, scheduling_strategy=place)(_FitActor)
            self._actors.append(actor.remote())
        self._all("ready", self._settings.start_timeout_s, lambda rank: ())

    def start(self, factory: Callable[..., Any], kwargs: dict[str, Any], checkpoint: Path | None) -> None:
        """Build the workers, those of the fit before dropped, and give all of them the same state."""
        settings = self._settings
        pickled = ray.put(cloudpickle.dumps((factory, kwargs)))
        world = settings.n_actors
        self._all("start", settings.start_timeout_s, lambda rank: (pickled, rank, world, settings.threads))
        if not self._joined:
            self._join()
        self._all("restore", settings.segment_timeout_s, lambda rank: (checkpoint,))

    def _join(self) -> None:
        settings, meeting = self._settings, (self._rendezvous.host, self._rendezvous.port, self._generation)
        world, patience = settings.n_actors, settings.segment_timeout_s
        self._all("join", settings.start_timeout_s, lambda rank: (*meeting, rank, world, patience))
        self._joined = True

    def advance(self, n_steps: int) -> dict[str, Any]:
        """One segment on all ranks; the progress of rank 0."""
        progress = self._all("advance", self._settings.segment_timeout_s, lambda rank: (n_steps,))
        for key in ("done", "digest"):
            if any(other.get(key) != progress[0].get(key) for other in progress):
                raise ShardError(f"the ranks of a fit disagree on {key!r}: {[one.get(key) for one in progress]}")
        return progress[0]

    def save(self, path: Path) -> None:
        """Rank 0 writes the checkpoint."""
        self._wait({0: self._actors[0].save.remote(path)}, self._settings.segment_timeout_s, "save")

    def result(self) -> Any:
        """What rank 0's worker comes to."""
        return self._wait({0: self._actors[0].result.remote()}, self._settings.segment_timeout_s, "result")[0]

    def _all(self, method: str, timeout_s: float, arguments: Callable[[int], tuple[Any, ...]]) -> list[Any]:
        calls = {rank: getattr(actor, method).remote(*arguments(rank)) for rank, actor in enumerate(self._actors)}
        values = self._wait(calls, timeout_s, method)
        return [values[rank] for rank in range(len(self._actors))]

    def _wait(self, calls: dict[int, Any], timeout_s: float, method: str) -> dict[int, Any]:
        """Values of all calls. A refusal is raised at once; any other failure, or silence, loses the generation."""
        deadline = time.monotonic() + timeout_s
        pending, outcomes = dict(calls), dict[int, Outcome]()
        while pending and time.monotonic() < deadline:
            ready, _ = ray.wait(list(pending.values()), num_returns=1, timeout=_POLL_S)
            for rank in [rank for rank, reference in pending.items() if reference in set(ready)]:
                outcomes[rank] = outcome = fetch(pending.pop(rank))
                if outcome.refusal is not None:
                    raise outcome.refusal
                if outcome.failure:
                    deadline = min(deadline, time.monotonic() + _GRACE_S)
            if self._stop.is_set():
                raise Stopped
        failed = {rank: outcome for rank, outcome in outcomes.items() if outcome.failure}
        if failed or pending:
            raise GenerationLost(_reason(failed, pending, timeout_s, method))
        return {rank: outcome.value for rank, outcome in outcomes.items()}


def _cpus_each(settings: GroupSettings) -> float:
    """Cores of an actor: a group works only if all of it fits, so on a small machine its actors share the cores."""
    offered = resources()
    if offered.joined or settings.n_actors * settings.num_cpus <= offered.cpus:
        return settings.num_cpus
    return int(1000 * offered.cpus / settings.n_actors) / 1000


def _refuse_unfitting(settings: GroupSettings) -> None:
    offered = resources()
    if settings.n_actors * settings.num_gpus > offered.gpus and not offered.joined:
        raise BudgetError(
            f"a fit group of {settings.n_actors} actors needs {settings.n_actors * settings.num_gpus:g} GPUs and Ray "
            f"offers {offered.gpus}: lower runtime.fit_actors (fit.word_slices, if that is above 1) or set "
            "runtime.device to 'cpu'"
        )


def _reason(failed: dict[int, Outcome], silent: dict[int, Any], timeout_s: float, method: str) -> str:
    """The failure that explains the others: a dead process, then a worker's own words, then a lost connection."""
    if not failed:
        limit = "" if method in _STARTING else " (runtime.hung_after_s: raise it if the rank was at work)"
        return f"rank {min(silent)} did not answer {method} within {timeout_s:g} s{limit}"

    def weight(rank: int) -> tuple[int, int]:
        outcome = failed[rank]
        return (0 if outcome.process_died else 2 if outcome.failure.startswith("CollectiveLost") else 1, rank)

    rank = min(failed, key=weight)
    return f"rank {rank}: {failed[rank].failure}"
