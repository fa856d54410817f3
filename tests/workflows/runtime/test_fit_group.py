from __future__ import annotations

import os
import re
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray

from tests.workflows.runtime.fit_workers import CountedFit, Holder, SummingFit, UnfinishedFit
from tests.workflows.runtime.shard_workers import Pinned
from workflows.errors import BudgetError, DataError, ShardError
from workflows.runtime import kept_actors
from workflows.runtime.cluster import Resources
from workflows.runtime.dispatcher import map_shards
from workflows.runtime.fit_group import FitJob, GroupSettings, fit_slots, run_fit, run_fits
from workflows.runtime.pool_settings import PoolSettings
from workflows.storage.states import load_state

pytestmark = pytest.mark.usefixtures("local_ray")


def job(folder: Path, name: str = "fit", **kwargs: Any) -> FitJob:
    folder.mkdir(exist_ok=True)
    kwargs = {"n_steps": 20, "folder": folder, **kwargs}
    return FitJob(name=name, factory=SummingFit, checkpoint=folder / f"{name}.npz", kwargs=kwargs)


def group(n_actors: int, **changes: Any) -> GroupSettings:
    # A third of a core each: the groups of these tests are wider than the small local Ray.
    return GroupSettings(
        **{"n_actors": n_actors, "num_cpus": 0.3, "segment_steps": 5, "checkpoint_steps": 5, **changes}
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, local_ray: object) -> bytes:
    """Result of two ranks on numbers whose sum depends on the order of additions."""
    return run_fit(job(tmp_path_factory.mktemp("undisturbed"), whole=False), group(2))


def test_the_result_does_not_depend_on_the_number_of_actors(tmp_path: Path) -> None:
    by_hand = np.zeros(5)
    for step in range(20):
        by_hand += sum(np.floor(1e6 * np.random.default_rng([step, i]).standard_normal(5)) for i in range(7))
    for world in (1, 3):
        steps: list[int] = []
        result = run_fit(
            job(tmp_path / str(world)),
            group(world),
            on_progress=lambda name, progress, seen=steps: seen.append(progress["step"]),
        )
        assert result == by_hand.tobytes(), f"{world} actors"
        assert steps == [5, 10, 15, 20]


def test_a_rank_killed_when_progress_is_seen_is_replaced(tmp_path: Path, undisturbed: bytes) -> None:
    steps: list[int] = []

    def kill(name: str, progress: dict[str, Any]) -> None:
        steps.append(progress["step"])
        if len(steps) == 2:
            os.kill(progress["pids"][0], signal.SIGKILL)

    assert run_fit(job(tmp_path, whole=False), group(2, checkpoint_steps=10), on_progress=kill) == undisturbed
    assert steps == [5, 10, 15, 20]


@pytest.mark.slow
def test_a_hung_rank_is_replaced(tmp_path: Path, undisturbed: bytes) -> None:
    restarts: list[str] = []
    result = run_fit(
        job(tmp_path, whole=False, fault="hang", at=7),
        group(2, segment_timeout_s=2.5),
        on_restart=lambda name, reason: restarts.append(reason),
    )
    assert result == undisturbed
    assert (tmp_path / "misbehaved").exists()
    # Whichever is seen first: the silence, or the other rank's lost connection.
    told = r"rank [01](: CollectiveLost| did not answer advance within 2\.5 s \(runtime\.hung_after_s: raise it if)"
    assert re.match(told, restarts[0]), restarts


def test_a_refusal_stops_at_once_with_its_words(tmp_path: Path) -> None:
    restarts: list[str] = []
    with pytest.raises(DataError, match=r"^layer add2: image 17 holds NaN$"):
        run_fit(job(tmp_path, fault="refuse", at=3), group(2), on_restart=lambda name, reason: restarts.append(reason))
    assert restarts == []


@pytest.mark.slow
def test_a_repeated_failure_stops_and_the_checkpoint_stays(tmp_path: Path) -> None:
    with pytest.raises(ShardError) as caught:
        run_fit(job(tmp_path, fault="raise", at=12), group(1, max_attempts=2))
    words = str(caught.value)
    assert "fit fit lost its actors 2 times in a row without getting further" in words
    assert "rank 0: ValueError: no chunk 3 (fit_workers.py:" in words
    assert int(load_state(tmp_path / "fit.npz")["step"]) == 10


@pytest.mark.slow
def test_a_fit_waits_for_storage_that_is_away(tmp_path: Path) -> None:
    lost: list[float] = []

    def later(name: str, reason: str) -> None:
        assert "'columns' cannot be read" in reason
        lost.append(time.monotonic())
        if len(lost) == 2:
            (tmp_path / "back").touch()

    away = run_fit(job(tmp_path, fault="storage", at=12), group(1, retry_wait_s=0.4), on_restart=later)
    assert away == run_fit(job(tmp_path / "calm"), group(1))
    assert len(lost) == 2
    assert lost[1] - lost[0] >= 0.4


@pytest.mark.slow
def test_ranks_that_drift_apart_are_stopped(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="the ranks of a fit disagree on 'digest'"):
        run_fit(job(tmp_path, fault="drift"), group(2))


@pytest.mark.slow
def test_several_fits_at_once_give_what_each_gives_alone(tmp_path: Path) -> None:
    jobs = [job(tmp_path, name=f"layer{i}", n_steps=5 * (i + 1)) for i in range(3)]
    active, peak, finished = set[str](), [0], list[str]()

    def progress(name: str, progress: dict[str, Any]) -> None:
        active.add(name)
        peak[0] = max(peak[0], len(active))

    def result(name: str, value: bytes) -> None:
        active.discard(name)
        finished.append(name)

    results = run_fits(jobs, group(1), 2, on_progress=progress, on_result=result)
    assert list(results) == ["layer0", "layer1", "layer2"]
    assert sorted(finished) == ["layer0", "layer1", "layer2"]
    assert peak[0] <= 2
    # A fit that is done is read back from its checkpoint.
    assert run_fit(jobs[1], group(1)) == results["layer1"]
    assert len(set(results.values())) == 3


def test_the_first_error_stops_the_other_fits(tmp_path: Path) -> None:
    endless = job(tmp_path, name="endless", n_steps=10**9)
    refused = job(tmp_path, name="refused", fault="refuse", at=3)
    with pytest.raises(DataError, match="image 17 holds NaN"):
        run_fits([endless, refused], group(1), 2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fit")]


@pytest.mark.slow
def test_fits_of_a_slot_share_processes_until_a_rank_is_killed(tmp_path: Path, undisturbed: bytes) -> None:
    names = ["first", "second", "dies", "last"]
    faults = {"dies": {"fault": "die", "at": 12}}
    jobs = [job(tmp_path / name, name=name, whole=False, **faults.get(name, {})) for name in names]
    seen: list[tuple[str, tuple[int, ...]]] = []
    restarts: list[tuple[str, str]] = []
    results = run_fits(
        jobs,
        group(2),
        1,
        on_progress=lambda name, progress: seen.append((name, tuple(progress["pids"]))),
        on_restart=lambda name, reason: restarts.append((name, reason)),
    )
    assert results == dict.fromkeys(names, undisturbed), "bit for bit what actors of their own give"
    before, after = seen[0][1], seen[-1][1]
    assert len({*before, *after}) == 4, "nothing of the lost group is kept"
    assert seen == [
        *[("first", before)] * 4,
        *[("second", before)] * 4,
        *[("dies", before)] * 2,
        *[("dies", after)] * 2,
        *[("last", after)] * 4,
    ]
    assert [name for name, _ in restarts] == ["dies"]
    assert restarts[0][1].startswith("rank 1: its worker process died"), restarts
    assert sorted(path.name for path in tmp_path.glob("*/restored-*")) == ["restored-0-at-10", "restored-1-at-10"], (
        "both ranks took the last acknowledged checkpoint"
    )


def test_a_worker_is_gone_before_the_next_is_built(tmp_path: Path) -> None:
    jobs = [replace(job(tmp_path, name=f"layer{i}"), factory=CountedFit) for i in range(3)]
    pids: set[int] = set()
    results = run_fits(jobs, group(1), 1, on_progress=lambda name, progress: pids.update(progress["pids"]))
    assert len(pids) == 1
    assert results == {f"layer{i}": (0, 1) for i in range(3)}


@pytest.mark.slow
def test_actors_lost_between_two_fits_are_replaced(tmp_path: Path) -> None:
    pids: list[int] = []
    restarts: list[tuple[str, str]] = []

    def kill(name: str, value: bytes) -> None:
        if name == "first":
            os.kill(pids[-1], signal.SIGKILL)
            _wait_for_end(pids[-1])

    results = run_fits(
        [job(tmp_path, name="first"), job(tmp_path, name="second")],
        group(1),
        1,
        on_progress=lambda name, progress: pids.extend(progress["pids"]),
        on_result=kill,
        on_restart=lambda name, reason: restarts.append((name, reason)),
    )
    assert results["first"] == results["second"]
    assert len(set(pids)) == 2
    assert [name for name, _ in restarts] == ["second"]
    assert restarts[0][1].startswith("rank 0: its worker process died")


def test_a_refusal_ends_the_actors_and_the_fits_that_wait(tmp_path: Path) -> None:
    pids: set[int] = set()
    finished: list[str] = []
    jobs = [
        job(tmp_path, name="first"),
        job(tmp_path, name="refused", fault="refuse", at=3),
        job(tmp_path, name="waiting"),
    ]
    with pytest.raises(DataError, match=r"^layer add2: image 17 holds NaN$"):
        run_fits(
            jobs,
            group(1),
            1,
            on_progress=lambda name, progress: pids.update(progress["pids"]),
            on_result=lambda name, value: finished.append(name),
        )
    assert finished == ["first"]
    assert not jobs[2].checkpoint.exists()
    for pid in pids:
        _wait_for_end(pid)


@pytest.mark.slow
def test_a_group_without_room_waits_for_the_others(tmp_path: Path) -> None:
    """As after the loss of a node: slots were counted for more cores than there are, and nothing is lost by waiting."""
    every_core = int(ray.cluster_resources()["CPU"])
    pids, restarts = set[int](), list[str]()
    # Twelve pauses: the groups without room wait longer than a start may take, which even a busy machine does in time.
    jobs = [job(tmp_path / str(i), name=f"layer{i}", pause_s=0.0 if i else 1.8) for i in range(3)]
    results = run_fits(
        jobs,
        group(1, num_cpus=every_core, start_timeout_s=20.0, max_attempts=1),
        3,
        on_progress=lambda name, progress: pids.update(progress["pids"]),
        on_restart=lambda name, reason: restarts.append(reason),
    )
    assert list(results) == ["layer0", "layer1", "layer2"]
    assert len(pids) == 1, "the one group that had room did all"
    assert restarts == []


@pytest.mark.slow
def test_groups_of_several_actors_do_not_hold_each_others_room(tmp_path: Path) -> None:
    """Two groups of two on a cluster with room for one: half of each would stop both."""
    half = ray.cluster_resources()["CPU"] / 2
    restarts = list[str]()
    jobs = [job(tmp_path / str(i), name=f"layer{i}", pause_s=0.2) for i in range(3)]
    results = run_fits(
        jobs,
        group(2, num_cpus=half, start_timeout_s=60.0, max_attempts=1),
        2,
        on_restart=lambda name, reason: restarts.append(reason),
    )
    assert list(results) == ["layer0", "layer1", "layer2"]
    assert restarts == []


@pytest.mark.slow
def test_a_result_that_keeps_failing_ends_in_words(tmp_path: Path) -> None:
    """The fit is done and restored as done, which is no step further."""
    restarts = list[str]()
    unfinished = replace(job(tmp_path), factory=UnfinishedFit)
    words = r"fit fit lost its actors 3 times in a row without getting further: rank 0: OSError: .*Input/output error"
    with pytest.raises(ShardError, match=words):
        run_fit(unfinished, group(1, retry_wait_s=0), on_restart=lambda name, reason: restarts.append(reason))
    assert len(restarts) == 2
    assert int(load_state(tmp_path / "fit.npz")["step"]) == 20, "what was reached is kept"


@pytest.mark.slow
def test_processes_serve_the_next_fits_and_pools(tmp_path: Path, undisturbed: bytes) -> None:
    """Those that are as many, with as many cores; that one died meanwhile is no restart."""
    kept_actors.release()
    pids: list[set[int]] = []
    restarts: list[str] = []

    def fit(name: str, n_actors: int) -> bytes:
        seen: set[int] = set()
        pids.append(seen)
        return bytes(
            run_fit(
                job(tmp_path / name, whole=False),
                group(n_actors),
                on_progress=lambda _, progress: seen.update(progress["pids"]),
                on_restart=lambda _, reason: restarts.append(reason),
            )
        )

    assert fit("first", 2) == fit("second", 2) == undisturbed
    assert pids[1] == pids[0]
    lost = min(pids[0])
    os.kill(lost, signal.SIGKILL)
    _wait_for_end(lost)
    assert fit("third", 2) == undisturbed
    assert not pids[2] & pids[0], "those who were hired together end together"
    fit("lone", 1)
    pool = map_shards(Pinned, {}, range(6), PoolSettings(1, num_cpus=0.3))
    assert {record["pid"] for record in pool.records.values()} == pids[3]
    fit("lone again", 1)
    assert pids[4] == pids[3]
    assert restarts == []


@pytest.mark.slow
def test_room_is_given_back(tmp_path: Path) -> None:
    before = ray.cluster_resources()["CPU"]
    run_fit(job(tmp_path), group(2))
    kept_actors.release()
    holder = ray.remote(num_cpus=int(before))(Holder).remote()
    assert ray.get(holder.here.remote(), timeout=60)
    ray.kill(holder)


@pytest.mark.slow
def test_actors_that_never_find_room_are_given_up_in_words(tmp_path: Path) -> None:
    every_core = int(ray.cluster_resources()["CPU"])
    kept_actors.release()
    holder = ray.remote(num_cpus=every_core)(Holder).remote()
    try:
        ray.get(holder.here.remote())
        with pytest.raises(ShardError) as caught:
            run_fit(job(tmp_path), group(1, num_cpus=every_core, start_timeout_s=0.5, max_attempts=2))
    finally:
        ray.kill(holder)
    assert str(caught.value) == (
        "the 1 actors of a fit could not be started 2 times in a row: the cluster had no room for them within 0.5 s; "
        "lower runtime.fit_actors, free the cluster, or run the same command again later"
    )


def _wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.02)


def test_a_group_without_its_gpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"of 2 actors needs 2 GPUs and Ray offers 0: lower runtime.fit_actors"):
        run_fit(job(tmp_path), group(2, num_gpus=1))


@pytest.mark.parametrize(
    ("cpus", "gpus", "n_actors", "num_gpus", "expected"),
    [(2, 0, 1, 0, 2), (2, 0, 3, 0, 1), (16, 4, 2, 1, 2), (16, 0, 2, 0, 8)],
)
def test_slots_fill_the_cluster(cpus: int, gpus: int, n_actors: int, num_gpus: int, expected: int) -> None:
    offered = Resources(cpus=cpus, gpus=gpus, nodes=1, node_cpus=cpus, node_memory=0, joined=False)
    assert fit_slots(GroupSettings(n_actors=n_actors, num_gpus=num_gpus), offered) == expected
