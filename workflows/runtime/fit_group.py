"""Fits shared by a group of W actors, in generations: when a rank is lost, a new one goes on from the checkpoint.

A fit advances in segments. A segment counts only when every rank has acknowledged it; then rank 0 may write the
checkpoint, and all ranks hold the same state. After a loss nothing of the old generation is kept; while there is none,
the same actors do one fit after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from workflows.errors import ShardError
from workflows.runtime.cluster import Resources
from workflows.runtime.collective import Collective
from workflows.runtime.generation import FitGroup, GenerationLost, GroupSettings, Stopped

Progress = dict[str, Any]


class FitWorker(Protocol):
    """One rank's share of a fit; built as ``factory(rank=, world=, **kwargs)`` in its actor.

    All ranks hold the same state between segments. The state must depend on the checkpoint and the data alone, never
    on what an earlier generation did, or the fit that the process did before.
    """

    def restore(self, checkpoint: Path | None) -> None:
        """Take the state of a checkpoint, or the beginning."""

    def advance(self, n_steps: int, collective: Collective) -> Progress:
        """Do up to ``n_steps`` steps. The progress holds ``done``, the same on all ranks, and what callers show.

        If it holds ``digest``, all ranks must agree on it: a fit whose ranks drift apart is stopped. A fit that was
        done already is done again at once.
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
    stop: threading.Event | None = None,
) -> Any:
    """Run one fit to its end and return rank 0's ``result()``.

    Args:
        job: what to fit.
        settings: of the group.
        on_progress: called in the driver with the job's name and rank 0's progress after every acknowledged segment.
        on_restart: called with the job's name and the reason when a group was lost and a new one starts.
        stop: ends the fit between polls.

    Raises:
        RunError, RefusedInput: raised by a rank; nothing is retried.
        ShardError: groups were lost ``max_attempts`` times without a new checkpoint, or the ranks disagree.
    """
    with FitGroup(settings, stop) as group:
        return _fitted(job, group, settings, on_progress, on_restart)


def _fitted(
    job: FitJob,
    group: FitGroup,
    settings: GroupSettings,
    on_progress: Callable[[str, Progress], None] | None,
    on_restart: Callable[[str, str], None] | None,
) -> Any:
    lost = 0
    while True:
        try:
            group.start(job.factory, job.kwargs, job.checkpoint if job.checkpoint.exists() else None)
            for progress, saved in _segments(group, job, settings):
                lost = 0 if saved else lost
                if on_progress is not None:
                    on_progress(job.name, progress)
            return group.result()
        except GenerationLost as error:
            group.end()
            lost += 1
            if lost >= settings.max_attempts:
                raise ShardError(
                    f"fit {job.name} lost its actors {lost} times in a row without getting further: {error}; "
                    "run the same command again to continue from its checkpoint"
                ) from error
            if on_restart is not None:
                on_restart(job.name, str(error))


def _segments(group: FitGroup, job: FitJob, settings: GroupSettings) -> Any:
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
    slots: int,
    *,
    on_progress: Callable[[str, Progress], None] | None = None,
    on_result: Callable[[str, Any], None] | None = None,
    on_restart: Callable[[str, str], None] | None = None,
) -> dict[str, Any]:
    """Run several fits, ``slots`` groups at once, started in the order given; results by name.

    A group that is free takes the next fit, in the same actors unless they were lost. Callbacks come from several
    threads, one call at a time. The first error stops the other fits (their checkpoints stay) and is raised; see
    ``run_fit``.
    """
    stop, lock = threading.Event(), threading.Lock()
    results: dict[str, Any] = {}
    waiting = iter(jobs)

    def locked(callback: Callable[[str, Any], None] | None) -> Callable[[str, Any], None]:
        def call(name: str, value: Any) -> None:
            with lock:
                if callback is not None:
                    callback(name, value)

        return call

    def next_job() -> FitJob | None:
        with lock:
            return None if stop.is_set() else next(waiting, None)

    def slot() -> None:
        with FitGroup(settings, stop) as group:
            for job in iter(next_job, None):
                results[job.name] = _fitted(job, group, settings, locked(on_progress), locked(on_restart))
                locked(on_result)(job.name, results[job.name])

    width = max(1, min(slots, len(jobs)))
    with ThreadPoolExecutor(width, thread_name_prefix="fit") as threads:
        futures = [threads.submit(slot) for _ in range(width)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # Also on an interrupt: leaving the block waits for the threads.
            if any(not future.done() or future.exception() is not None for future in futures):
                stop.set()
    errors = [future.exception() for future in futures if future.exception() is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
        assert error is not None
        raise error
    return {job.name: results[job.name] for job in jobs}


def fit_slots(settings: GroupSettings, offered: Resources) -> int:
    """How many groups of these settings fit the cluster at once, at least 1."""
    by_cpu = int(offered.cpus // (settings.n_actors * settings.num_cpus)) if settings.num_cpus else offered.cpus
    by_gpu = int(offered.gpus // (settings.n_actors * settings.num_gpus)) if settings.num_gpus else by_cpu
    return max(1, min(by_cpu, by_gpu))
