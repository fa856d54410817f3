"""Hosts that are not alike, and what a driver makes of them; run as a process of its own, which writes what it saw.

A host is a raylet in a mount namespace: what is mounted over there, nobody else sees. Needs root, and ``unshare``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "disabled"

import workflows.runtime  # noqa: F401, I001 - it sets what Ray reads while it is imported
import ray
from ray.cluster_utils import Cluster

from tests.network_hosts import places_of_the_project
from tests.workflows.runtime.host_workers import Looker, LookingFit, look, together
from workflows.runtime import nodes
from workflows.runtime.cluster import connect, resources
from workflows.runtime.dispatcher import map_shards
from workflows.runtime.pool_settings import PoolSettings
from workflows.runtime.fit_group import FitJob, run_fits
from workflows.runtime.generation import GroupSettings
from workflows.runtime.reductions import tree_reduce

PROJECT = Path(__file__).resolve().parents[3]
# Dead raylets are noticed within seconds; slow ones of a busy machine are not taken for dead.
QUICK = {"health_check_period_ms": 500, "health_check_timeout_ms": 10000, "health_check_failure_threshold": 3}
STORE = 80_000_000
PATIENCE_S = 120.0
TRIES = 4
"""A raylet gives up where the machine is so busy that its agents take a quarter of a minute to start."""
START = (
    "exec {python} -m ray.scripts.scripts start --address {address} --num-cpus 1 --object-store-memory {store} --block"
)
# Given, for a raylet waits for its agents to choose theirs, half a minute and no longer.
PORTS = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port")


class Hosts:
    """Those of one cluster."""

    def __init__(self, address: str, log: Path) -> None:
        self.address, self._log, self._started = address, log, list[subprocess.Popen[bytes]]()

    def start(self, mounts: str = "true") -> tuple[subprocess.Popen[bytes], str]:
        """One more, of one core, which sees what the shell commands mount; its process and Ray's id of it."""
        told = START.format(python=sys.executable, address=self.address, store=STORE)
        for _ in range(TRIES):
            ports = "".join(f" --{name} {port}" for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True))
            before = {node["NodeID"] for node in ray.nodes()}
            with self._log.open("ab") as log:
                process = subprocess.Popen(
                    ["unshare", "-m", "sh", "-e", "-c", f"{mounts}; {told}{ports}"],
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "RAY_raylet_start_wait_time_s": "30"},
                    start_new_session=True,
                )
            self._started.append(process)
            until(lambda: process.poll() is not None or bool({node["NodeID"] for node in ray.nodes()} - before))  # noqa: B023
            joined_now = {node["NodeID"] for node in ray.nodes()} - before
            if joined_now:
                return process, joined_now.pop()
        raise AssertionError(f"no host could be started, see {self._log}")

    def end(self) -> None:
        """Of all."""
        for process in self._started:
            lose(process)


def lose(process: subprocess.Popen[bytes]) -> None:
    """The machine is gone: everything there dies at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as opened:
        bound = [opened.enter_context(socket.create_server(("", 0))) for _ in range(number)]
        return [one.getsockname()[1] for one in bound]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


@contextlib.contextmanager
def joined(folder: Path, warnings: list[str]) -> Iterator[Hosts]:
    """A driver on a head without cores, and its hosts."""
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE, "_system_config": QUICK}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        with connect(cluster.address, seen=folder / "run" / "run.json", warn=warnings.append):
            hosts = Hosts(cluster.address, folder / "hosts.log")
            try:
                yield hosts
            finally:
                hosts.end()
    finally:
        cluster.shutdown()


def settings(**changes: Any) -> PoolSettings:
    fields = {"n_actors": 1, "threads": None, "width": lambda: max(1, resources().cpus), **changes}
    return PoolSettings(**fields)


def checked(folder: Path, hosts: Hosts) -> dict[str, Any]:
    """What ``inference-graphs check`` says of the hosts that there are, from a driver of its own."""
    fields = ("data.source=folders", f"data.folders={[str(folder / 'images')]}")
    options = [part for field in fields for part in ("--set", field)]
    asked = [sys.executable, "-m", "workflows", "check", "digits", *options, "--out", str(folder / "run")]
    told = subprocess.run([*asked, "--address", hosts.address, "--json"], capture_output=True, text=True, check=False)
    assert told.returncode in (0, 2), told.stdout + told.stderr
    return {"code": told.returncode, **json.loads(told.stdout), "left": sorted(os.listdir(folder / "run"))}


def strange_hosts(folder: Path, hosts: Hosts) -> dict[str, Any]:
    """Other code, no project, no run folder, a run folder that cannot be written; and one that is as it should be."""
    copy = folder / "errors.py"
    copy.write_text((PROJECT / "workflows" / "errors.py").read_text() + "# another\n")
    started = {
        "code": f"mount --bind {copy} {PROJECT / 'workflows' / 'errors.py'}",
        "project": "; ".join(f"mount -t tmpfs none {place}" for place in places_of_the_project()),
        "folder": f"mount -t tmpfs none {folder / 'run'}",
        "write": f"mount --bind {folder / 'run'} {folder / 'run'}; mount -o remount,ro,bind {folder / 'run'}",
        "good": "true",
    }
    running = {kind: hosts.start(mounts) for kind, mounts in started.items()}
    names = {name: kind for kind, (_, name) in running.items()}
    nodes.current().greet_all()
    items = map_shards(Looker, {"image": folder / "images" / "1"}, range(8), settings()).records
    seen = checked(folder, hosts)
    for kind in started.keys() - {"good"}:
        lose(running[kind][0])
    used = sorted({names[record["node"]] for record in items.values()})
    return {"used": used, "names": names, "items": len(items), "check": seen}


def late_host(folder: Path, hosts: Hosts) -> dict[str, Any]:
    """One joins when the first items are done, and is lost as soon as it has done some."""
    late: dict[str, Any] = {"done": 0}

    def watch(item: int, record: dict[str, Any]) -> None:
        if len(order) == 0:
            late["process"], late["name"] = hosts.start()
        order.append(item)
        late["done"] += record["node"] == late["name"]
        if late["done"] == 2 and "lost" not in late:
            late["lost"] = len(order)
            threading.Thread(target=lose, args=[late["process"]]).start()

    order: list[int] = []
    inputs = {"image": folder / "images" / "1", "pause_s": 0.3}
    report = map_shards(Looker, inputs, range(120), settings(max_attempts=1), on_done=watch)
    attempts = {record["attempts"] for record in report.records.values()}
    return {"items": sorted(order) == list(range(120)), "attempts": sorted(attempts), "lost_after": late.get("lost")}


def blind_host(folder: Path, hosts: Hosts) -> dict[str, Any]:
    """One that does not see the images: pools, reductions and fits go on without it."""
    process, name = hosts.start(f"mount -t tmpfs none {folder / 'images'}")
    until(lambda: nodes.current().greet() or resources().cpus == 2)
    image = folder / "images" / "1"
    seen = checked(folder, hosts)
    report = map_shards(Looker, {"image": image, "pause_s": 0.2}, range(20), settings(n_actors=2))
    told: dict[str, Any] = {"items": len(report.records), "blind": name, "check": seen}
    told["avoided"] = sorted(nodes.current().avoided())
    nodes.begin(folder / "run" / "run.json", None, joined=True).greet_all()  # as a driver that knows of nothing
    told["sum"] = tree_reduce([(image, i) for i in range(20)], look, together, scheduler="ray", n_workers=None)
    told["avoided by reduction"] = sorted(nodes.current().avoided())
    nodes.begin(folder / "run" / "run.json", None, joined=True).greet_all()
    jobs = [FitJob(f"fit {i}", LookingFit, folder / f"state-{i}", {"image": image}) for i in range(4)]
    told["fits"] = len(run_fits(jobs, GroupSettings(threads=1), 2))
    lose(process)
    return told


def stopped_actor(folder: Path, hosts: Hosts) -> dict[str, Any]:
    """A process that is stopped answers nobody, and does not die."""
    inputs = {"image": folder / "images" / "1", "stop": folder / "stopped"}
    report = map_shards(Looker, inputs, range(8), settings(hang_floor_s=3.0, width=None))
    return {"items": len(report.records), "attempts": report.records[5]["attempts"]}


TRIALS = (strange_hosts, late_host, blind_host, stopped_actor)


def main(folder: Path) -> None:
    for name in ("run", "images"):
        (folder / name).mkdir()
    (folder / "run" / "run.json").write_text("{}")
    (folder / "images" / "1").write_text("1")
    warnings: list[str] = []
    told: dict[str, Any] = {"warnings": {}}
    with joined(folder, warnings) as hosts:
        for trial in TRIALS:
            warnings.clear()
            began = time.monotonic()
            told[trial.__name__] = {**trial(folder, hosts), "seconds": time.monotonic() - began}
            told["warnings"][trial.__name__] = list(warnings)
            (folder / "told.json").write_text(json.dumps(told))
            print(trial.__name__, told[trial.__name__], warnings, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
