"""The one kind of actor, and what it does around the worker it carries: threads, exceptions as values, memory."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import re
import resource
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import ActorUnavailableError, RayError

from gmm_ops.errors import RefusedInput
from workflows.errors import LostFile, RunError, StorageFault, full_disk, is_full
from workflows.phases import taken
from workflows.runtime.handshake import Terms, prove
from workflows.runtime.nodes import root_cause

DETERMINISTIC: tuple[type[Exception], ...] = (RunError, RefusedInput)
"""Errors that another attempt would only repeat: the run stops at once with their words."""


@dataclass(frozen=True)
class Outcome:
    """What a call in an actor came to. Exceptions travel as values, so that Ray adds nothing to their words."""

    value: Any = None
    refusal: Exception | None = None
    """A deterministic error."""
    failure: str = ""
    """Last words of any other exception, and where it was raised; empty on success."""
    process_died: bool = False
    passing: bool = False
    """The failure is one of storage, which may be back after a while."""
    silent: bool = False
    """It died, or cannot be reached; Ray does not know yet."""
    node: str = ""
    """Ray's id of the node of the process, where that is asked for."""
    unfit: str = ""
    """Of a start: what speaks against this node or installation."""
    place: str = ""
    """Of a start: host and process."""


def attempt(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
    """Run a call and catch what it raises."""
    try:
        return Outcome(value=call(*args, **kwargs))
    except (StorageFault, LostFile) as error:
        return Outcome(failure=str(error), passing=True)
    except DETERMINISTIC as error:
        return Outcome(refusal=_sendable(error))
    except (Exception, SystemExit) as error:  # a network's module may end the process, too
        if is_full(error):
            return Outcome(refusal=full_disk(error))
        place = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{type(error).__name__}: {error}"
        words = f"{words} ({os.path.basename(place.filename)}:{place.lineno})"
        return Outcome(failure=words, passing=isinstance(error, OSError))


def fetch(reference: Any) -> Outcome:
    """Wait for the outcome of an actor's call; a dead process is an outcome too."""
    try:
        return ray.get(reference)
    except RayError as error:
        words = f"its worker process died: {type(error).__name__}: {root_cause(error)}"
        return Outcome(failure=words, process_died=True, silent=isinstance(error, ActorUnavailableError))


class ActorProcess:
    """Carries one worker after the other: of a pool that hands out items, or of a fit.

    A factory arrives pickled so that threads are set before anything imports torch.
    """

    _worker: Any = None
    _begun = 0.0
    _collective: Any = None
    _imported = False

    def ready(self) -> Outcome:
        """Answers once the process is there, and where."""
        return Outcome(node=ray.get_runtime_context().get_node_id())

    def start(self, pickled: bytes, threads: int | None, terms: Terms | None = None, **kwargs: Any) -> Outcome:
        """Prove the terms, then build a worker from a pickled (factory, its arguments); tells the node.

        ``kwargs`` are further arguments, of this actor alone.
        """
        unfit = prove(terms)
        built = Outcome(failure=unfit, unfit=unfit) if unfit else self._started(pickled, threads, kwargs)
        return replace(built, node=ray.get_runtime_context().get_node_id(), place=here())

    def _started(self, pickled: bytes, threads: int | None, kwargs: dict[str, Any]) -> Outcome:
        with contextlib.nullcontext() if self._imported else importing():
            set_threads(threads)
            unpickled = attempt(cloudpickle.loads, pickled)
        if unpickled.value is None:
            return unpickled
        self._imported = True
        forget_peak_memory()
        return attempt(self._build, *unpickled.value, kwargs)

    def _build(self, factory: Callable[..., Any], kwargs: dict[str, Any], more: dict[str, Any]) -> None:
        # Before the next one is built, so that a process never holds two.
        self._drop()
        self._worker, self._begun, _ = factory(**kwargs, **more), time.perf_counter(), taken()

    def _drop(self) -> None:
        self._worker = None
        gc.collect()  # a worker may refer to itself, and a GPU's memory is free only when nothing holds it

    def rest(self) -> Outcome:
        """Drop the worker, and leave the other ranks."""
        self._drop()
        return attempt(self._leave)

    def _leave(self) -> None:
        leave = getattr(self._collective, "leave", None)  # a rank that is alone has nobody to leave
        self._collective = None
        if leave is not None:
            leave()

    def work(self, item: Any) -> Outcome:
        """What the worker, a callable, says of an item; and peak of memory, seconds, where they went, which process."""
        started, _ = time.perf_counter(), taken()
        outcome = attempt(lambda: dict(self._worker(item) or {}))
        if outcome.value is None:
            return outcome
        spent = {"seconds": time.perf_counter() - started, "profile": taken(), "place": here()}
        return Outcome({**outcome.value, "peak_memory": peak_memory(), **spent})

    def join(self, pickled: bytes) -> Outcome:
        """Meet the other ranks of a fit, at a collective that a pickled callable makes here; it outlives the worker."""
        self._leave()
        outcome = attempt(lambda: cloudpickle.loads(pickled)())
        self._collective = outcome.value
        return outcome if outcome.failure or outcome.refusal else Outcome(None)

    def advance(self, n_steps: int) -> Outcome:
        """Steps of a fit, together with the other ranks."""
        return attempt(self._worker.advance, n_steps, self._collective)

    def result(self) -> Outcome:
        """What a fit comes to; if that is a record, with the same as of an item, since this worker was built."""
        outcome = attempt(lambda: self._worker.result())
        if not isinstance(outcome.value, dict):
            return outcome
        spent = {"seconds": time.perf_counter() - self._begun, "profile": taken(), "place": here()}
        return Outcome({**outcome.value, "peak_memory": peak_memory(), **spent})

    def call(self, method: str, *args: Any) -> Outcome:
        """Any other method of the worker."""
        return attempt(getattr(self._worker, method), *args)


def here() -> str:
    """Host and number of this process, for people."""
    return f"{socket.gethostname()}:{os.getpid()}"


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """What is imported here stays; looking for garbage in it takes a sixth of its time, and as much later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def set_threads(threads: int | None) -> None:
    """Give this process so many compute threads; None leaves torch alone (and does not import it).

    Ray itself sets OMP_NUM_THREADS to the actor's cores, with 1 for anything below 1. Denormals are flushed: tiny
    responsibilities are denormal and slow an E-step down 8 times.
    """
    if threads is None:
        return
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    import torch

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


def forget_peak_memory() -> None:
    """Let ``peak_memory`` begin anew, where the system can: a kept process must not report an earlier worker's peak."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Largest resident size of this process in bytes, since ``forget_peak_memory`` where the system can."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own exception, back and forth
        return error.with_traceback(None)
    except Exception:
        return RunError(f"{type(error).__name__}: {error}")
