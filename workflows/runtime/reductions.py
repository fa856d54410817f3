"""Map and merge as a Dask graph, on the threads of this process or on Ray, with few results alive at a time."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import ray
from dask.callbacks import Callback
from dask.core import flatten
from dask.delayed import delayed
from dask.local import nested_get
from dask.order import order
from dask.threaded import get as threaded_get
from ray.exceptions import RayError, WorkerCrashedError

from workflows.errors import BudgetError, ShardError
from workflows.runtime import kept_actors, nodes
from workflows.runtime.actor_process import Outcome, attempt
from workflows.runtime.blame import ItemAttempts, hang_limit
from workflows.runtime.cluster import resources
from workflows.runtime.nodes import root_cause
from workflows.runtime.patience import wait_before

Item = TypeVar("Item")
Part = TypeVar("Part")

_MAP_PREFIX = "map-item-"


def tree_reduce(
    items: Sequence[Item],
    map_fn: Callable[[Item], Part],
    merge_fn: Callable[[Part, Part], Part],
    *,
    scheduler: Literal["threads", "ray"] = "threads",
    n_workers: int | None = 1,
    split_every: int = 4,
    on_done: Callable[[int], None] | None = None,
    hang_floor_s: float = 300.0,
    retry_wait_s: float = 15.0,
) -> Part:
    """Merge ``map_fn(item)`` over all items: a tree of ``split_every`` branches, always in the order of the items.

    Args:
        items: at least one work item, small: ``map_fn`` reads what it names. About 3 ms of overhead each.
        map_fn: from an item to a part of the reduction.
        merge_fn: from two parts to one; associative. It must not change its arguments (on Ray they are read-only).
        scheduler: ``threads`` of this process, or tasks of the connected Ray.
        n_workers: tasks at work at once; None: as many as Ray has cores, also while that changes.
        split_every: parts that one task merges.
        on_done: called, one call at a time, with the number of mapped items so far.
        hang_floor_s, retry_wait_s: of ``ray_get``.

    Raises:
        ValueError: no items, or ``split_every`` below 2.
        RunError, RefusedInput: raised by ``map_fn`` or ``merge_fn``, with its own words.
        ShardError: on Ray, a task failed in another way or kept losing its process.
    """
    if not items:
        raise ValueError("tree_reduce needs at least one item")
    if split_every < 2:
        raise ValueError(f"split_every must be at least 2, not {split_every}")
    counter = _MapCounter(on_done)
    tree = _tree(items, map_fn, merge_fn, split_every)
    if scheduler == "ray":
        told = {"on_task": counter.finished, "hang_floor_s": hang_floor_s, "retry_wait_s": retry_wait_s}
        return tree.compute(scheduler=ray_get, num_workers=n_workers, **told, optimize_graph=False)
    with Callback(posttask=lambda key, *_: counter.finished(key)):
        return tree.compute(scheduler=threaded_get, num_workers=n_workers or resources().cpus, optimize_graph=False)


class _MapCounter:
    """Dask reports every task; users count items."""

    def __init__(self, on_done: Callable[[int], None] | None) -> None:
        self._on_done = on_done
        self._count = 0

    def finished(self, key: Hashable) -> None:
        if str(key).startswith(_MAP_PREFIX):
            self._count += 1
            if self._on_done is not None:
                self._on_done(self._count)


def _tree(items: Sequence[Any], map_fn: Callable[..., Any], merge_fn: Callable[..., Any], split_every: int) -> Any:
    mapped = delayed(map_fn, pure=False, traverse=False)
    merged = delayed(_MergeParts(merge_fn), pure=False, traverse=False)
    level = [mapped(delayed(item, traverse=False), dask_key_name=f"{_MAP_PREFIX}{i}") for i, item in enumerate(items)]
    depth = 0
    while len(level) > 1:
        depth += 1
        groups = [level[start : start + split_every] for start in range(0, len(level), split_every)]
        level = [merged(*group, dask_key_name=f"merge-{depth}-{i}") for i, group in enumerate(groups)]
    return level[0]


class _MergeParts:
    def __init__(self, merge_fn: Callable[[Any, Any], Any]) -> None:
        self._merge_fn = merge_fn

    def __call__(self, first: Any, *others: Any) -> Any:
        for other in others:
            first = self._merge_fn(first, other)
        return first


_RETRIES = 10
"""Times Ray runs a task again whose process died. Ray does not tell that from a lost node, which is nobody's fault."""

_ATTEMPTS = 3
"""Of a task that fails in another way, or hangs."""

_CORE = (1.0, 0.0)
"""What a task claims."""

_POLL_S = 1.0

OnTask = Callable[[Hashable], None]


def ray_get(
    graph: Any,
    keys: Any,
    *,
    num_workers: int | None = 1,
    on_task: OnTask | None = None,
    patience_s: float = 300.0,
    hang_floor_s: float = 300.0,
    retry_wait_s: float = 15.0,
    **_unused: Any,
) -> Any:
    """Compute ``keys`` of a Dask graph: ``collection.compute(scheduler=ray_get, num_workers=4)``.

    At most ``num_workers`` tasks are at work and as many wait. Results stay in Ray's object store and are freed when
    the last task that needs them is done. Ray runs a task again, 10 times at most, whose process or node died. One that
    fails otherwise, or hangs, is tried 3 times, and not on nodes that are at fault; the hung one is left alone. After a
    refusal the few submitted tasks run to their end unobserved: ``ray.cancel`` of a task whose arguments are just
    being resolved can abort the driver's process (Ray 2.60, "submitted_task_ref_count > 0").

    Args:
        graph: a mapping from keys to Dask's task objects (not the tuples of old), or Dask's expression of one.
        keys: whose values are wanted; lists may be nested.
        num_workers: tasks at work at once, one core each; None: as many as there are cores.
        on_task: called in the driver with the key of each finished task.
        patience_s: seconds that the cluster may be without any core.
        hang_floor_s: no task is taken for hung sooner (``blame.hang_limit``).
        retry_wait_s: before the second try of a task that storage failed; see ``patience.wait_before``.

    Raises:
        RunError, RefusedInput: raised by a task, with its own words.
        BudgetError: the cluster has lost all its nodes.
        ShardError: a task kept failing in another way, or losing its process.
    """
    kept_actors.release()
    tasks = graph if isinstance(graph, Mapping) else graph.__dask_graph__()
    wanted = set(flatten([keys]))
    run = _GraphRun(dict(tasks), wanted, num_workers, on_task, patience_s, hang_floor_s, retry_wait_s)
    return nested_get(keys, run.values())


@dataclass(frozen=True)
class _Try:
    """A task that was submitted, and when."""

    key: Hashable
    value: Any
    """Reference of what it comes to."""
    since: float


class _GraphRun:
    def __init__(
        self,
        tasks: dict[Hashable, Any],
        wanted: set[Hashable],
        num_workers: int | None,
        on_task: OnTask | None,
        patience_s: float,
        hang_floor_s: float = 300.0,
        retry_wait_s: float = 15.0,
    ) -> None:
        self._retry_wait_s = retry_wait_s
        self._tasks, self._wanted, self._on_task = tasks, wanted, on_task
        self._workers, self._patience_s, self._hang_floor_s = num_workers, patience_s, hang_floor_s
        self._nodes, self._attempts = nodes.current(), ItemAttempts(_ATTEMPTS, _RETRIES)
        self._priority = order(tasks)
        self._missing = {key: len(task.dependencies) for key, task in tasks.items()}
        self._users = Counter(dependency for task in tasks.values() for dependency in task.dependencies)
        self._dependents: dict[Hashable, list[Hashable]] = {key: [] for key in tasks}
        for key, task in tasks.items():
            for dependency in task.dependencies:
                self._dependents[dependency].append(key)
        self._ready = [(self._priority[key], key) for key, count in self._missing.items() if count == 0]
        heapq.heapify(self._ready)
        self._running: dict[Any, _Try] = {}
        self._results: dict[Hashable, Any] = {}
        self._seconds: list[float] = []
        """Of finished tasks, those that waited for a core with their wait."""

    def values(self) -> dict[Hashable, Any]:
        while self._ready or self._running:
            while self._ready and len(self._running) < 2 * self._width():
                self._submit(heapq.heappop(self._ready)[1])
            for status in self._finished():
                if (one := self._running.pop(status, None)) is not None:  # else another try of it was faster
                    self._finish(one, status)
        return {key: ray.get(self._results[key]) for key in self._wanted}

    def _width(self) -> int:
        return self._workers if self._workers is not None else max(1, resources().cpus)

    def _finished(self) -> list[Any]:
        """Tasks that have ended, one or more. The cluster may lose its nodes, and gain others, meanwhile."""
        manned = time.monotonic()
        while not (finished := ray.wait(list(self._running), num_returns=1, timeout=_POLL_S)[0]):
            self._nodes.greet()
            self._try_hung_again()
            if resources().cpus:
                manned = time.monotonic()
            elif time.monotonic() - manned > self._patience_s:
                raise BudgetError(
                    f"the cluster has had no core for {self._patience_s:g} s and {len(self._running)} tasks wait: add "
                    "nodes and run the same command again"
                )
        return finished

    def _submit(self, key: Hashable) -> None:
        task = self._tasks[key]
        names = list(task.dependencies)
        run = _run_task.options(label_selector=place) if (place := self._nodes.place()) else _run_task
        status, value = run.remote(task, names, *(self._results[name] for name in names))
        self._running[status] = _Try(key, value, time.monotonic())

    def _finish(self, one: _Try, status: Any) -> None:
        key = one.key
        try:
            outcome: Outcome = ray.get(status)
        except WorkerCrashedError as error:
            raise ShardError(f"task {key} lost its process {_RETRIES + 1} times: {type(error).__name__}") from error
        except RayError as error:
            self._nodes.greet_all()  # a node that has just joined may be why
            outcome = Outcome(failure=root_cause(error))
        if outcome.refusal is not None and self._nodes.repeats(outcome.node, _CORE, outcome.refusal):
            raise outcome.refusal
        if outcome.failure or outcome.refusal is not None:
            self._try_again(key, outcome.failure or str(outcome.refusal), outcome.node, outcome.passing)
            return
        self._nodes.done(outcome.node)
        self._seconds.append(time.monotonic() - one.since)
        self._running = {status: other for status, other in self._running.items() if other.key != key}
        self._results[key] = one.value
        self._release(key)
        for dependent in self._dependents[key]:
            self._missing[dependent] -= 1
            if self._missing[dependent] == 0:
                heapq.heappush(self._ready, (self._priority[dependent], dependent))
        if self._on_task is not None:
            self._on_task(key)

    def _try_again(self, key: Hashable, reason: str, node: str, passing: bool = False) -> None:
        self._nodes.failed(node, (self, key), reason)
        words = f"{reason}{self._nodes.where(node)}"
        if self._attempts.failed(key, node, words, self._nodes.avoided(_CORE)):
            raise ShardError(f"task {key} failed {_ATTEMPTS} times: {words}")
        if passing:  # tasks at work go on; storage that is away will not give to others what it does not give to one
            time.sleep(wait_before(self._attempts.tries(key), self._retry_wait_s))
        self._submit(key)

    def _try_hung_again(self) -> None:
        """Nothing is cancelled (see ``ray_get``): whichever try ends first counts."""
        for key in {one.key for one in self._running.values()}:
            latest = max(one.since for one in self._running.values() if one.key == key)
            limit = hang_limit(self._seconds, self._hang_floor_s, self._attempts.tries(key))
            if limit is not None and time.monotonic() - latest > limit:
                self._nodes.warn(f"task {key} is overdue: it has not ended within {limit:g} s and is tried again")
                self._try_again(key, f"it had not ended after {limit:g} s", "")

    def _release(self, key: Hashable) -> None:
        for dependency in self._tasks[key].dependencies:
            self._users[dependency] -= 1
            if self._users[dependency] == 0 and dependency not in self._wanted:
                del self._results[dependency]


@ray.remote(num_cpus=1, num_returns=2, max_retries=_RETRIES)
def _run_task(task: Any, names: list[Hashable], *values: Any) -> tuple[Outcome, Any]:
    outcome, node = attempt(task, dict(zip(names, values, strict=True))), ray.get_runtime_context().get_node_id()
    return replace(outcome, value=None, node=node), outcome.value
