"""Map and merge as a Dask graph, on the threads of this process or on Ray, with few results alive at a time."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import ray
from dask.callbacks import Callback
from dask.core import flatten
from dask.delayed import delayed
from dask.local import nested_get
from dask.order import order
from dask.threaded import get as threaded_get
from ray.exceptions import RayError

from workflows.errors import BudgetError, ShardError
from workflows.runtime import kept_actors
from workflows.runtime.actor_process import Outcome, attempt
from workflows.runtime.cluster import resources

Item = TypeVar("Item")
Part = TypeVar("Part")

_MAP_PREFIX = "map-item-"


def tree_reduce(
    items: Sequence[Item],
    map_fn: Callable[[Item], Part],
    merge_fn: Callable[[Part, Part], Part],
    *,
    scheduler: Literal["threads", "ray"] = "threads",
    n_workers: int = 1,
    split_every: int = 4,
    on_done: Callable[[int], None] | None = None,
) -> Part:
    """Merge ``map_fn(item)`` over all items: a tree of ``split_every`` branches, always in the order of the items.

    Args:
        items: at least one work item, small: ``map_fn`` reads what it names. About 3 ms of overhead each.
        map_fn: from an item to a part of the reduction.
        merge_fn: from two parts to one; associative. It must not change its arguments (on Ray they are read-only).
        scheduler: ``threads`` of this process, or tasks of the connected Ray.
        n_workers: tasks at work at once.
        split_every: parts that one task merges.
        on_done: called, one call at a time, with the number of mapped items so far.

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
        return tree.compute(scheduler=ray_get, num_workers=n_workers, on_task=counter.finished, optimize_graph=False)
    with Callback(posttask=lambda key, *_: counter.finished(key)):
        return tree.compute(scheduler=threaded_get, num_workers=n_workers, optimize_graph=False)


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


_RETRIES = 3
"""Times Ray runs a task again whose process or node died."""

_POLL_S = 1.0

OnTask = Callable[[Hashable], None]


def ray_get(
    graph: Any,
    keys: Any,
    *,
    num_workers: int = 1,
    on_task: OnTask | None = None,
    patience_s: float = 300.0,
    **_unused: Any,
) -> Any:
    """Compute ``keys`` of a Dask graph: ``collection.compute(scheduler=ray_get, num_workers=4)``.

    At most ``num_workers`` tasks are at work and as many wait. Results stay in Ray's object store and are freed when
    the last task that needs them is done. Ray runs a task again, 3 times at most, whose process or node died. After a
    failure the few submitted tasks run to their end unobserved: ``ray.cancel`` of a task whose arguments are just
    being resolved can abort the driver's process (Ray 2.60, "submitted_task_ref_count > 0").

    Args:
        graph: a mapping from keys to Dask's task objects (not the tuples of old), or Dask's expression of one.
        keys: whose values are wanted; lists may be nested.
        num_workers: tasks at work at once, one core each.
        on_task: called in the driver with the key of each finished task.
        patience_s: seconds that the cluster may be without any core.

    Raises:
        RunError, RefusedInput: raised by a task, with its own words.
        BudgetError: the cluster has lost all its nodes.
        ShardError: a task failed in another way, or kept losing its process.
    """
    kept_actors.release()
    tasks = graph if isinstance(graph, Mapping) else graph.__dask_graph__()
    run = _GraphRun(dict(tasks), set(flatten([keys])), num_workers, on_task, patience_s)
    return nested_get(keys, run.values())


class _GraphRun:
    def __init__(
        self,
        tasks: dict[Hashable, Any],
        wanted: set[Hashable],
        num_workers: int,
        on_task: OnTask | None,
        patience_s: float,
    ) -> None:
        self._tasks, self._wanted, self._on_task, self._patience_s = tasks, wanted, on_task, patience_s
        self._limit = 2 * num_workers
        self._priority = order(tasks)
        self._missing = {key: len(task.dependencies) for key, task in tasks.items()}
        self._users = Counter(dependency for task in tasks.values() for dependency in task.dependencies)
        self._dependents: dict[Hashable, list[Hashable]] = {key: [] for key in tasks}
        for key, task in tasks.items():
            for dependency in task.dependencies:
                self._dependents[dependency].append(key)
        self._ready = [(self._priority[key], key) for key, count in self._missing.items() if count == 0]
        heapq.heapify(self._ready)
        self._running: dict[Any, Hashable] = {}
        self._results: dict[Hashable, Any] = {}

    def values(self) -> dict[Hashable, Any]:
        while self._ready or self._running:
            while self._ready and len(self._running) < self._limit:
                self._submit(heapq.heappop(self._ready)[1])
            for status in self._finished():
                self._finish(self._running.pop(status), status)
        return {key: ray.get(self._results[key]) for key in self._wanted}

    def _finished(self) -> list[Any]:
        """Tasks that have ended, one or more. The cluster may lose its nodes, and gain others, meanwhile."""
        manned = time.monotonic()
        while not (finished := ray.wait(list(self._running), num_returns=1, timeout=_POLL_S)[0]):
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
        status, value = _run_task.remote(task, names, *(self._results[name] for name in names))
        self._running[status] = key
        self._results[key] = value

    def _finish(self, key: Hashable, status: Any) -> None:
        try:
            outcome: Outcome = ray.get(status)
        except RayError as error:
            raise ShardError(f"task {key} lost its process {_RETRIES + 1} times: {type(error).__name__}") from error
        if outcome.refusal is not None:
            raise outcome.refusal
        if outcome.failure:
            raise ShardError(f"task {key} failed: {outcome.failure}")
        self._release(key)
        for dependent in self._dependents[key]:
            self._missing[dependent] -= 1
            if self._missing[dependent] == 0:
                heapq.heappush(self._ready, (self._priority[dependent], dependent))
        if self._on_task is not None:
            self._on_task(key)

    def _release(self, key: Hashable) -> None:
        for dependency in self._tasks[key].dependencies:
            self._users[dependency] -= 1
            if self._users[dependency] == 0 and dependency not in self._wanted:
                del self._results[dependency]


@ray.remote(num_cpus=1, num_returns=2, max_retries=_RETRIES)
def _run_task(task: Any, names: list[Hashable], *values: Any) -> tuple[Outcome, Any]:
    outcome = attempt(task, dict(zip(names, values, strict=True)))
    return Outcome(refusal=outcome.refusal, failure=outcome.failure), outcome.value
