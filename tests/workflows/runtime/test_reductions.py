from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest

from gmm_ops.errors import RefusedInput
from workflows.errors import DataError, ShardError
from workflows.runtime.reductions import _GraphRun, ray_get, tree_reduce
from workflows.storage.arrays import create_array, write_shard

SCHEDULERS = ["threads", "ray"]


@pytest.fixture(params=SCHEDULERS)
def scheduler(request: pytest.FixtureRequest, local_ray: object) -> str:
    return request.param


def spell(number: int) -> str:
    return f"{number} "


def join(one: str, other: str) -> str:
    return one + other


@pytest.mark.parametrize("n_items", [1, 2, 3, 9, 40])
def test_parts_are_merged_in_the_order_of_the_items(scheduler: Any, n_items: int) -> None:
    items = list(range(n_items))
    seen: list[int] = []
    text = tree_reduce(items, spell, join, scheduler=scheduler, n_workers=2, split_every=3, on_done=seen.append)
    assert text == "".join(map(spell, items))
    assert seen == list(range(1, n_items + 1))


@pytest.mark.parametrize(("n_workers", "split_every"), [(1, 2), (2, 5), (3, 100)])
def test_counts_do_not_depend_on_workers_or_branches(scheduler: Any, n_workers: int, split_every: int) -> None:
    def histogram(seed: int) -> np.ndarray:
        return np.bincount(np.random.default_rng(seed).integers(0, 50, 1000), minlength=50)

    total = tree_reduce(
        list(range(12)), histogram, np.add, scheduler=scheduler, n_workers=n_workers, split_every=split_every
    )
    assert np.array_equal(total, sum(histogram(seed) for seed in range(12)))


@dataclass(frozen=True)
class Block:
    first: int
    stop: int

    def total(self) -> int:
        return sum(range(self.first, self.stop))


def test_items_may_be_records_and_map_a_method(scheduler: Any) -> None:
    blocks = [Block(first, first + 10) for first in range(0, 100, 10)]
    assert tree_reduce(blocks, Block.total, int.__add__, scheduler=scheduler, n_workers=2) == sum(range(100))


def test_a_refusal_keeps_its_class_and_words(scheduler: Any) -> None:
    def refuse(item: int) -> int:
        if item == 5:
            raise DataError("image 5: label 11 is not below 10 classes")
        return item

    with pytest.raises(DataError, match=r"^image 5: label 11 is not below 10 classes$"):
        tree_reduce(list(range(9)), refuse, int.__add__, scheduler=scheduler, n_workers=2)

    def refuse_merge(one: int, other: int) -> int:
        raise RefusedInput("counts of different words")

    with pytest.raises(RefusedInput, match="counts of different words"):
        tree_reduce([1, 2], int, refuse_merge, scheduler=scheduler)


@pytest.mark.slow
def test_refusals_in_a_row_leave_the_driver_alive(local_ray: object) -> None:
    """Cancelling submitted tasks could abort this process: a race inside Ray, met once in some hundred refusals."""

    def refuse(item: int) -> int:
        raise RefusedInput(f"item {item} is out of range")

    def refuse_merge(one: int, other: int) -> int:
        raise RefusedInput("counts of different words")

    for _ in range(100):
        for map_fn, merge_fn in ((refuse, int.__add__), (int, refuse_merge)):
            with pytest.raises(RefusedInput, match=r"out of range|different words"):
                tree_reduce(list(range(9)), map_fn, merge_fn, scheduler="ray", n_workers=2)


def test_arguments_that_break_a_rule() -> None:
    with pytest.raises(ValueError, match="needs at least one item"):
        tree_reduce([], spell, join)
    with pytest.raises(ValueError, match="split_every must be at least 2, not 1"):
        tree_reduce([1], spell, join, split_every=1)


def test_any_other_failure_on_ray_names_the_task(local_ray: object) -> None:
    def fail(item: int) -> int:
        return 1 // (item - 3)

    with pytest.raises(ShardError, match=r"task map-item-3 failed 3 times: ZeroDivisionError: .*\(test_reductions.py:"):
        tree_reduce(list(range(6)), fail, int.__add__, scheduler="ray", n_workers=2)


def test_a_task_that_storage_failed_is_tried_after_a_wait(local_ray: object, tmp_path: Path) -> None:
    def away(item: int) -> int:
        if item != 2:
            return item
        with (tmp_path / "tries").open("a") as file:
            file.write(f"{time.time()}\n")
        if len((tmp_path / "tries").read_text().split()) < 3:
            raise OSError(errno.ESTALE, "Stale file handle")
        return item

    assert tree_reduce(list(range(4)), away, int.__add__, scheduler="ray", n_workers=2, retry_wait_s=0.3) == 6
    first, second, third = map(float, (tmp_path / "tries").read_text().split())
    assert second - first >= 0.3
    assert third - second >= 1.2


def test_a_task_killed_on_ray_is_run_again(local_ray: object, tmp_path: Path) -> None:
    def once_deadly(item: int) -> int:
        marker = tmp_path / "killed"
        if item == 4 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    assert tree_reduce(list(range(10)), once_deadly, int.__add__, scheduler="ray", n_workers=2) == 45
    assert (tmp_path / "killed").exists()


SPLIT_EVERY = 4
LEVELS = 4
N_ITEMS = SPLIT_EVERY**LEVELS


def most_parts_alive(tasks_at_work: int) -> int:
    """Each task at work keeps up to three finished neighbours waiting on every level above it, its inputs and result.

    It does not matter how slow a task is: what others finish meanwhile is merged, but for those neighbours.
    """
    return tasks_at_work * (LEVELS * (SPLIT_EVERY - 1) + 2)


class Alive:
    """Counts how many parts of a reduction exist at once."""

    lock = threading.Lock()
    now = 0
    most = 0
    made = 0

    def __init__(self, value: int) -> None:
        self.value = value
        with Alive.lock:
            Alive.made += 1
            Alive.now += 1
            Alive.most = max(Alive.most, Alive.now)

    def __del__(self) -> None:
        with Alive.lock:
            Alive.now -= 1


@pytest.mark.parametrize("slow_item", [None, 0, 21])
def test_threads_keep_few_parts_alive(slow_item: int | None) -> None:
    Alive.most = Alive.made = 0

    def make(item: int) -> Alive:
        if item == slow_item:
            wait_until(lambda: Alive.made >= N_ITEMS - SPLIT_EVERY)
        time.sleep(0.0005)
        return Alive(item)

    total = tree_reduce(
        list(range(N_ITEMS)),
        make,
        lambda one, other: Alive(one.value + other.value),
        n_workers=2,
        split_every=SPLIT_EVERY,
    )
    assert total.value == sum(range(N_ITEMS))
    # A merge makes its result part by part: one more at each of the two.
    assert Alive.most <= most_parts_alive(tasks_at_work=2) + 2


@pytest.mark.parametrize("slow_item", [None, 0, 21])
def test_ray_keeps_few_parts_alive(
    local_ray: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, slow_item: int | None
) -> None:
    held: list[int] = []
    done: list[str] = []
    all_but_a_few = tmp_path / "all_but_a_few"
    finish = _GraphRun._finish

    def watched(self: _GraphRun, one: Any, status: Any) -> None:
        finish(self, one, status)
        held.append(sum(1 for name in self._results if "item" in str(name) or "merge" in str(name)))
        done.append(str(one.key))
        if sum(name.startswith("map-item") for name in done) >= N_ITEMS - SPLIT_EVERY:
            all_but_a_few.touch()

    def make(item: int) -> int:
        if item == slow_item:
            wait_until(all_but_a_few.exists)
        return item

    monkeypatch.setattr(_GraphRun, "_finish", watched)
    total = tree_reduce(list(range(N_ITEMS)), make, int.__add__, scheduler="ray", n_workers=1, split_every=SPLIT_EVERY)
    assert total == sum(range(N_ITEMS))
    assert slow_item is None or done.index(f"map-item-{slow_item}") >= N_ITEMS - SPLIT_EVERY
    # One worker has one task at work and one that waits for it.
    assert max(held) <= most_parts_alive(tasks_at_work=2)
    assert held[-1] == 1


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, "the others are not done"
        time.sleep(0.002)


def test_the_ray_scheduler_computes_any_dask_graph(local_ray: object, tmp_path: Path) -> None:
    values = np.arange(24 * 6, dtype=np.int64).reshape(24, 6)
    path = tmp_path / "a.zarr"
    array = create_array(path, values.shape, values.dtype, chunk_rows=2, shard_rows=8)
    for first in range(0, 24, 8):
        write_shard(array, first, values[first : first + 8])
    lazy = da.from_zarr(str(path), chunks=array.shards, inline_array=True)
    assert lazy.numblocks == (3, 1)
    keys: Counter[str] = Counter()
    sums = (lazy * 2).sum(axis=0)
    result = sums.compute(scheduler=ray_get, num_workers=2, on_task=lambda key: keys.update([str(key)]))
    assert np.array_equal(result, 2 * values.sum(axis=0))
    assert set(keys.values()) == {1}
    one, other = dask.compute(lazy.max(), lazy[5, 5], scheduler=ray_get)
    assert (one, other) == (143, values[5, 5])
