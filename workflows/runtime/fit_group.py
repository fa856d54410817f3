"""Fits shared by a group of W actors, in generations: when a rank is lost, a new one goes on from the checkpoint.

A fit advances in segments. A segment counts only when every rank has acknowledged it; then rank 0 may write the
checkpoint, and all ranks hold the same state. After a loss nothing of the old generation is kept; while there is none,
the same actors do one fit after the other.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gmm_ops.fitting.collective import Collective
from workflows.errors import ShardError
from workflows.phases import taken
from workflows.runtime import kept_actors, nodes
from workflows.runtime.alone import fit_here
from workflows.runtime.cluster import Resources, resources
from workflows.runtime.generation import FitGroup, GenerationLost, GroupSettings, Rooms, Stopped
from workflows.runtime.patience import wait_before
from workflows.runtime.progress import Heartbeat

Progress = dict[str, Any]

_LOOK_S = 1.0
"""Between two looks at how many groups the cluster has room for."""


class FitWorker(Protocol):
    """One rank's share of a fit; built as ``factory(rank=, world=, **kwargs)`` in its actor.

    All ranks hold the same state between segments. The state must depend on the checkpoint and the data alone, never
    on what an earlier generation did, or the fit that the process did before.
    """

    def restore(self, checkpoint: Path | None) -> None:
        """Take the state of a checkpoint, or the beginning."""

    def advance(self, n_steps: int, collective: Collective) -> Progress:
        """Do up to ``n_steps`` steps.

        The progress holds, the same on all ranks, ``done`` and ``taken``: the steps behind the fit in all, by which it
        is known to get further. If it holds ``digest``, all ranks must agree on it: a fit whose ranks drift apart is
        stopped. The rest is what callers show. A fit that was done already is done again at once.
        """

    def save(self, path: Path) -> None:
        """Write the state whole or not at all; called on rank 0 only."""

    def result(self) -> Any:
        """What the fit comes to, small; called on rank 0 when it is done."""


@dataclass(frozen=True)
class FitJob:
    """One fit."""

    name: str
    factory: Callable[..., FitWorker]
    checkpoint: Path
    """On a disk that every node sees. A checkpoint that is there already is continued."""
    kwargs: dict[str, Any] = field(default_factory=dict)


def run_fit(
    job: FitJob,
    settings: GroupSettings,
    *,
    on_progress: Callable[[str, Progress], None] | None = None,
    on_restart: Callable[[str, str], None] | None = None,
) -> Any:
    """Run one fit to its end and return rank 0's ``result()``; see ``run_fits``."""
    return run_fits([job], settings, 1, on_progress=on_progress, on_restart=on_restart)[job.name]


class _Waiting:
    """The fits that wait, in the order given; one that lost its actors comes back first, for whoever is free."""

    def __init__(self, jobs: Sequence[FitJob], settings: GroupSettings, stop: threading.Event) -> None:
        self._jobs, self._settings, self._stop = deque(jobs), settings, stop
        self._lost, self._furthest, self._lock = Counter[tuple[str, bool]](), dict[str, int](), threading.Lock()

    def some(self) -> bool:
        """Whether a group is wanted."""
        return bool(self._jobs) and not self._stop.is_set()

    def take(self) -> FitJob | None:
        """The next fit."""
        with self._lock:
            return self._jobs.popleft() if self.some() else None

    def saved(self, job: FitJob, taken: int) -> None:
        """A checkpoint behind so many steps; if the fit never got as far, earlier losses do not count."""
        if taken > self._furthest.get(job.name, -1):
            self._lost[job.name, True] = self._lost[job.name, False] = 0
            self._furthest[job.name] = taken

    def lose(self, job: FitJob, error: GenerationLost) -> float:
        """Seconds that a fit should wait for its next try.

        Raises:
            ShardError: so many losses in a row; of nodes there may be more.
        """
        self._lost[job.name, error.node_lost] += 1
        lost = self._lost[job.name, error.node_lost]
        if lost >= (self._settings.max_node_losses if error.node_lost else self._settings.max_attempts):
            raise ShardError(
                f"fit {job.name} lost its actors {lost} times in a row without getting further: "
                f"{error}; run the same command again to continue from its checkpoint"
            ) from error
        return wait_before(lost, self._settings.retry_wait_s) if error.passing else 0.0

    def take_back(self, job: FitJob) -> None:
        """It comes first."""
        with self._lock:
            self._jobs.appendleft(job)


def _segments(group: FitGroup, job: FitJob, settings: GroupSettings) -> Iterator[tuple[Progress, bool]]:
    """A fit from its checkpoint, or its beginning: progress after every segment, and whether it was saved."""
    group.start(job.factory, job.kwargs, job.checkpoint if job.checkpoint.exists() else None)
    unsaved = 0
    done = False
    while not done:
        progress = group.advance(settings.segment_steps)
        done = bool(progress["done"])
        unsaved += settings.segment_steps
        saved = done or unsaved >= settings.checkpoint_steps
        if saved:
            group.save(job.checkpoint)
            unsaved = 0
        yield progress, saved


def run_fits(
    jobs: Sequence[FitJob],
    settings: GroupSettings,
    slots: int | Callable[[], int],
    *,
    on_progress: Callable[[str, Progress], None] | None = None,
    on_result: Callable[[str, Any], None] | None = None,
    on_restart: Callable[[str, str], None] | None = None,
) -> dict[str, Any]:
    """Run several fits, ``slots`` groups at once, started in the order given; results by name.

    A group that is free takes the next fit, in the same actors unless they were lost; one that finds no room on the
    cluster waits as long as others work. The first error stops the other fits, whose checkpoints stay.

    Args:
        jobs: what to fit.
        settings: of every group.
        slots: groups at once; or what tells how many fit the cluster now, which is asked again and again.
        on_progress: called with the job's name and rank 0's progress after every acknowledged segment.
        on_result: called with the job's name and its result.
        on_restart: called with the job's name and the reason when its group was lost and a new one will go on.

    Callbacks are called in the driver from several threads, one at a time.

    Raises:
        RunError, RefusedInput: raised by a rank; nothing is retried.
        ShardError: groups were lost ``max_attempts`` times without a new checkpoint, could not be started as often,
            or the ranks disagree.
    """
    if settings.alone:
        return _fits_here(jobs, settings, on_result)
    fits = _Fits(jobs, settings, slots, on_progress, on_result, on_restart)
    # Whoever is kept beyond those that may serve would hold memory that the fits were promised.
    kept_actors.release(all_but=fits.width())
    try:
        _run_threads(fits.slot, fits.look, len(jobs), fits.stop)
    finally:
        if settings.beat is not None:
            settings.beat(None)
    return {job.name: fits.results[job.name] for job in jobs}


class _Fits:
    """The fits of one call of ``run_fits``, and what its threads share."""

    def __init__(
        self,
        jobs: Sequence[FitJob],
        settings: GroupSettings,
        slots: int | Callable[[], int],
        on_progress: Callable[[str, Progress], None] | None,
        on_result: Callable[[str, Any], None] | None,
        on_restart: Callable[[str, str], None] | None,
    ) -> None:
        self._jobs, self._settings, self._slots = jobs, settings, slots
        self._on_progress, self._on_result, self._on_restart = on_progress, on_result, on_restart
        self.stop, self._rooms, self.results = threading.Event(), Rooms(), dict[str, Any]()
        self._waiting, self._lock = _Waiting(jobs, settings, self.stop), threading.Lock()
        self._heard: dict[str, float] = {}
        """When a fit at work was last heard of."""

    def width(self) -> int:
        """Groups that may be at work at once."""
        slots = self._slots if isinstance(self._slots, int) else self._slots()
        return max(1, min(slots, len(self._jobs)))

    def look(self) -> int:
        """The same, after a look at the cluster; what is at work is told."""
        nodes.current().greet()
        if self._settings.beat is not None:
            left = len(self._jobs) - len(self.results)
            self._settings.beat(_heartbeat(dict(self._heard), left, self._rooms.taken))
        return self.width()

    def slot(self) -> None:
        """A group, for as long as there are fits for it."""
        with FitGroup(self._settings, self.stop, self._rooms) as group:
            while _placed(group, self._waiting, self._settings) and (job := self._waiting.take()) is not None:
                try:
                    self._run(group, job)
                except GenerationLost as error:
                    group.end()
                    wait_s = self._waiting.lose(job, error)
                    self._tell(self._on_restart, job.name, str(error))
                    self.stop.wait(wait_s)
                    self._waiting.take_back(job)
                else:
                    self._tell(self._on_result, job.name, self.results[job.name])

    def _run(self, group: FitGroup, job: FitJob) -> None:
        self._heard[job.name] = time.monotonic()
        try:
            for progress, saved in _segments(group, job, self._settings):
                self._heard[job.name] = time.monotonic()
                if saved:
                    self._waiting.saved(job, progress["taken"])
                self._tell(self._on_progress, job.name, progress)
            self.results[job.name] = group.result()
        finally:
            del self._heard[job.name]

    def _tell(self, callback: Callable[[str, Any], None] | None, name: str, value: Any) -> None:
        with self._lock:
            if callback is not None:
                callback(name, value)


def _heartbeat(told: dict[str, float], left: int, groups: int) -> Heartbeat:
    name = min(told, key=told.__getitem__, default="")
    seconds = time.monotonic() - told[name] if name else 0.0
    return Heartbeat(groups, 0, max(0, left - len(told)), f"fit {name}" if name else "", seconds)


def _fits_here(
    jobs: Sequence[FitJob], settings: GroupSettings, on_result: Callable[[str, Any], None] | None
) -> dict[str, Any]:
    results = {}
    for job in jobs:
        started, _ = time.perf_counter(), taken()
        record = fit_here(job.factory, job.kwargs, settings.segment_steps)
        results[job.name] = {**record, "seconds": time.perf_counter() - started, "profile": taken()}
        if on_result is not None:
            on_result(job.name, results[job.name])
    return results


def _placed(group: FitGroup, waiting: _Waiting, settings: GroupSettings) -> bool:
    """Whether the group has actors; False once no fit waits for them."""
    failures = {False: 0, True: 0}
    while True:
        try:
            return group.place(waiting.some)
        except GenerationLost as error:
            group.end()
            failures[error.node_lost] += 1
            if failures[False] >= settings.max_attempts or failures[True] >= settings.max_node_losses:
                raise ShardError(
                    f"the {settings.n_actors} actors of a fit could not be started {sum(failures.values())} times in a "
                    f"row: {error}; lower runtime.fit_actors, free the cluster, or run the same command again later"
                ) from error


def _run_threads(work: Callable[[], None], width: Callable[[], int], most: int, stop: threading.Event) -> None:
    """Work in as many threads as ``width`` says, to their end; the first error stops the others and is raised.

    More are started when it grows, ``most`` at most; one that finds no room on a smaller cluster waits.
    """
    with ThreadPoolExecutor(max(1, most), thread_name_prefix="fit") as threads:
        futures: list[Future[None]] = []
        try:
            while not futures or not _ended(futures):
                futures += [threads.submit(work) for _ in range(len(futures), width())]
        finally:
            # Also on an interrupt: leaving the block waits for the threads.
            if any(not future.done() or future.exception() is not None for future in futures):
                stop.set()
    errors = [future.exception() for future in futures if future.exception() is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
        assert error is not None
        raise error


def _ended(futures: Sequence[Future[None]]) -> bool:
    """Whether all are done, or one has failed; waits a moment for that."""
    done, pending = wait(futures, timeout=_LOOK_S, return_when=FIRST_EXCEPTION)
    return not pending or any(future.exception() is not None for future in done)


def fit_slots(settings: GroupSettings, offered: Resources, actors: int | None = None) -> int:
    """How many groups of these settings fit the cluster at once, or into so many ``actors``; at least 1."""
    by_cpu = int(offered.cpus // (settings.n_actors * settings.num_cpus)) if settings.num_cpus else offered.cpus
    by_gpu = int(offered.gpus // (settings.n_actors * settings.num_gpus)) if settings.num_gpus else by_cpu
    wanted = by_cpu if actors is None else actors // settings.n_actors
    return max(1, min(by_cpu, by_gpu, wanted))


def slots_now(settings: GroupSettings, offered: Resources, actors: int | None = None) -> int | Callable[[], int]:
    """The same of a cluster that may grow and shrink: what tells it at any time."""
    return (
        (lambda: fit_slots(settings, resources(), actors)) if offered.joined else fit_slots(settings, offered, actors)
    )
