from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmm_ops.errors import NonFiniteActivations
from tests.workflows.runtime.shard_workers import (
    Faulty,
    Introspective,
    Pinned,
    Refusing,
    ShardWriter,
    failing_factory,
    late_factory,
    refusing_factory,
)
from workflows.errors import BudgetError, NetworkError, ShardError
from workflows.runtime import kept_actors, nodes
from workflows.runtime.dispatcher import map_shards
from workflows.runtime.pool_settings import PoolSettings
from workflows.storage.arrays import create_array, missing_shards, read_rows

pytestmark = pytest.mark.usefixtures("local_ray")

SHARD = 4


def settings(**changes: Any) -> PoolSettings:
    return PoolSettings(**{"n_actors": 2, "num_cpus": 1, "threads": None, **changes})


def test_every_item_is_done_once_and_reported_in_the_driver(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    create_array(path, (30, 3), "int32", chunk_rows=2, shard_rows=SHARD, codec="none")
    seen: dict[int, dict[str, Any]] = {}
    starts = range(0, 28, SHARD)

    def on_done(item: int, record: dict[str, Any]) -> None:
        assert os.getpid() == driver
        assert item not in seen
        seen[item] = record

    driver = os.getpid()
    report = map_shards(ShardWriter, {"path": path, "shard_rows": SHARD}, starts, settings(), on_done=on_done)
    assert seen == report.records
    assert set(seen) == set(starts)
    assert all(record["attempts"] == 1 for record in seen.values())
    assert all(record["peak_memory"] > 20e6 for record in seen.values())
    assert all(record["pid"] != driver for record in seen.values())
    assert report.replaced_actors == 0
    assert np.array_equal(read_rows(path, 0, 28)[:, 1], np.arange(28))
    assert missing_shards(path) == [7]


@pytest.mark.parametrize("n_actors", [1, 2])
def test_a_killed_actor_is_replaced_and_nothing_is_lost(tmp_path: Path, n_actors: int) -> None:
    path = tmp_path / "a.zarr"
    n = 40 * SHARD
    create_array(path, (n, 3), "int32", chunk_rows=2, shard_rows=SHARD)
    killed: list[int] = []
    order: list[int] = []

    def kill_one(item: int, record: dict[str, Any]) -> None:
        order.append(item)
        if len(order) == 5:
            # Items are still in flight at this actor: it dies with them.
            os.kill(record["pid"], signal.SIGKILL)
            killed.append(record["pid"])

    arguments = {"path": path, "shard_rows": SHARD, "pause_s": 0.02}
    pool = settings(n_actors=n_actors)
    report = map_shards(ShardWriter, arguments, range(0, n, SHARD), pool, on_done=kill_one)
    assert killed
    assert report.replaced_actors == 1
    assert sorted(order) == list(range(0, n, SHARD))
    assert np.array_equal(read_rows(path, 0, n)[:, 2], np.arange(n))
    after = {record["pid"] for item, record in report.records.items() if order.index(item) > 10}
    assert killed[0] not in after
    assert after, "with one actor, only the replacement can have done these"
    assert all(record["attempts"] == 1 for record in report.records.values()), "nobody is blamed for it"


def test_a_poison_item_is_quarantined_while_the_others_finish(tmp_path: Path) -> None:
    good = [f"good-{i}" for i in range(20)]
    items = [*good[:4], "kill-5", "raise-6", "oncekill-7", "onceraise-8", *good[4:]]
    failures: list[tuple[str, bool]] = []
    done: list[str] = []
    with pytest.raises(ShardError) as caught:
        map_shards(
            Faulty,
            {"folder": tmp_path},
            items,
            settings(max_attempts=3, name="shard"),
            on_done=lambda item, record: done.append(f"{item} after {record['attempts']}"),
            on_failure=lambda item, reason, last: failures.append((item, last)),
        )
    words = str(caught.value)
    assert "2 shard(s) failed 3 times each and are left out, 22 are done" in words
    assert "shard raise-6: ValueError: cannot read raise-6 (shard_workers.py:" in words
    assert "shard kill-5: its worker process died" in words
    assert "run the same command again" in words
    assert [last for item, last in failures if item == "kill-5"] == [False, False, True]
    assert [last for item, last in failures if item == "raise-6"] == [False, False, True]
    # A death with another item waiting at the same actor blames neither.
    once = ["onceraise-8 after 2", next(line for line in done if line.startswith("oncekill-7"))]
    assert sorted(done) == sorted([*(f"{item} after 1" for item in good), *once])


def test_storage_that_failed_is_tried_after_longer_waits(tmp_path: Path) -> None:
    items = ["storage-1", "storage-raw", "oncestorage-2", *(f"good-{i}" for i in range(4))]
    done: list[str] = []
    with pytest.raises(
        ShardError, match=r"2 shard\(s\) failed 3 times each(.|\n)*shard storage-1: storage-1: away"
    ) as told:
        map_shards(
            Faulty, {"folder": tmp_path}, items, settings(retry_wait_s=0.4), on_done=lambda item, _: done.append(item)
        )
    assert "shard storage-raw: OSError: [Errno 116]" in str(told.value)
    assert sorted(done) == sorted(items[2:])
    for item in items[:2]:
        first, second, third = (float(at) for at in (tmp_path / f"{item}.tries").read_text().split())
        assert second - first >= 0.4
        assert third - second >= 1.6


@pytest.mark.parametrize(
    ("item", "limit"),
    [
        ("oncestop-1", {"hang_floor_s": 1.5}),  # by default: told from the items that are done
        pytest.param("oncehang-1", {"item_timeout_s": 1.5}, marks=pytest.mark.slow),
    ],
)
def test_a_hung_item_is_stopped_and_tried_again(tmp_path: Path, item: str, limit: dict[str, float]) -> None:
    items, warnings, beats = [item, *(f"good-{i}" for i in range(6))], list[str](), list[Any]()
    nodes.begin(None, warnings.append, joined=False)
    report = map_shards(Faulty, {"folder": tmp_path}, items, settings(**limit, beat=beats.append))
    assert report.records[item]["attempts"] == 2
    assert len(report.records) == 7
    assert report.replaced_actors == 1
    assert warnings == [f"shard {item} is overdue: it was still at work after 1.5 s and was stopped"]
    assert beats[-1] is None
    assert item in [beat.oldest.removeprefix("shard ") for beat in beats[:-1]]


def test_a_deterministic_error_stops_at_once_with_its_words() -> None:
    done: list[int] = []
    with pytest.raises(NetworkError) as caught:
        map_shards(Refusing, {}, range(200), settings(), on_done=lambda item, record: done.append(item))
    assert str(caught.value) == "network.layers: no layer 'add99'; near ones: add9"
    assert len(done) < 20
    with pytest.raises(NonFiniteActivations, match="layer add2 of image 7 holds NaN"):
        map_shards(Refusing, {}, [-1], settings())


def test_a_factory_that_refuses_or_fails() -> None:
    with pytest.raises(NetworkError, match=r"^network.weights: keys are missing: conv1.weight$"):
        map_shards(refusing_factory, {}, [1, 2], settings())
    with pytest.raises(ShardError, match="could not be started 2 times in a row: OSError: cannot open the library"):
        map_shards(failing_factory, {}, [1], settings(n_actors=1, max_attempts=2, retry_wait_s=0.1))


def test_an_actor_that_storage_stops_at_its_start_comes_later(tmp_path: Path) -> None:
    """Two of them, and another item finds the pool as wide as before."""
    tries = tmp_path / "tries"
    report = map_shards(late_factory, {"tries": tries}, range(4, 10), settings(n_actors=2, retry_wait_s=0.3))
    assert sorted(report.records) == list(range(4, 10))
    moments = [float(moment) for moment in tries.read_text().split()]
    assert moments[-1] - moments[0] >= 0.3
    assert report.replaced_actors == 2


def test_an_actor_that_fits_no_node_is_refused_with_both_numbers() -> None:
    with pytest.raises(
        BudgetError, match=r"needs 3 cores and 0 GPUs, .*Ray offers 2 cores and 0 GPUs.*runtime.threads"
    ):
        map_shards(Refusing, {}, [1], settings(num_cpus=3))


def test_no_items_is_no_work() -> None:
    assert map_shards(failing_factory, {}, [], settings()).records == {}


def test_threads_are_set_and_denormals_flushed_in_the_actor() -> None:
    report = map_shards(Introspective, {}, [0], settings(n_actors=1, threads=2, num_cpus=0.5))
    assert report.records[0]["threads"] == 2
    assert report.records[0]["omp"] == "2"
    assert report.records[0]["denormal"] == 0.0


PINNED = """
from tests.workflows.runtime.shard_workers import Pinned
from workflows.runtime.cluster import connect, plan_actors
from workflows.runtime import kept_actors
from workflows.runtime.dispatcher import map_shards
from workflows.runtime.pool_settings import PoolSettings
from workflows.settings import RuntimeSettings
with connect(num_cpus=2, num_gpus=2) as offered:
    plan = plan_actors(RuntimeSettings(), offered)
    assert (plan.n_actors, plan.num_gpus, plan.device) == (2, 1, "cuda"), plan
    pool = PoolSettings(plan.n_actors, plan.num_cpus, plan.num_gpus, threads=None)
    records = map_shards(Pinned, {}, range(6), pool).records.values()
    seen = {record["pid"]: record["visible"] for record in records}
    print("VISIBLE", sorted(seen.values()))
"""


@pytest.mark.slow  # a Ray of its own
def test_every_actor_sees_its_own_gpu_alone() -> None:
    """With GPUs that Ray only believes in: CUDA_VISIBLE_DEVICES is what pins a process."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    finished = subprocess.run(
        [sys.executable, "-c", PINNED], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert "VISIBLE ['0', '1']" in finished.stdout, finished.stderr
    assert finished.stderr.strip() == "", "the local Ray must be quiet"


@pytest.mark.slow
def test_actors_serve_the_next_pool_unless_it_claims_other_cores() -> None:
    """A process that has imported torch is kept; it begins the next pool without its worker and its peak."""
    pools = [settings(), settings(), settings(num_cpus=2, n_actors=1), settings()]
    reports = [map_shards(Pinned, {}, range(6), pool) for pool in pools]
    first, second, wide, last = ({record["pid"] for record in report.records.values()} for report in reports)
    assert second <= first
    assert not wide & first, "it needs the cores that the two hold, so they were let go"
    assert not last & (first | wide)
    kept_actors.release()
    kept_actors.release()


def test_a_kept_actor_that_died_is_replaced_without_blame() -> None:
    report = map_shards(Pinned, {}, range(6), settings())
    pids = {record["pid"] for record in report.records.values()}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    again = map_shards(Pinned, {}, range(6), settings(max_attempts=1))
    assert len(again.records) == 6
    assert not pids & {record["pid"] for record in again.records.values()}
