"""What of a driver listens, and to whom; and the words with which a driver ends when its Ray refuses or dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from workflows.runtime.node_watch import NodeWatch
from workflows.runtime.rendezvous import Rendezvous

SURROUNDINGS = {**os.environ, "RAY_AUTH_MODE": "disabled"}


def listening(port: int) -> set[str]:
    found = psutil.Process().net_connections("inet")
    return {one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN and one.laddr.port == port}


def test_the_store_listens_in_the_cluster_alone() -> None:
    with Rendezvous(2, 60.0) as one, Rendezvous(2, 60.0) as other:
        assert listening(one.port) == {one.host}
        assert one.host not in ("0.0.0.0", "::", "")
        assert one.secret != other.secret
        assert len(one.secret) == 32
    alone = Rendezvous(1, 60.0)
    with alone:
        assert alone.port == 0, "a rank that is alone meets nobody"


RANK = """
import sys
import psutil, torch
from workflows.runtime.collective import GroupCollective
port, rank = int(sys.argv[1]), int(sys.argv[2])
group = GroupCollective("127.0.0.1", port, "secret/gen1", rank, 2, 60.0, "127.0.0.1")
print(group.all_reduce_sum(torch.ones(1)).item())
print({one.laddr.ip for one in psutil.Process().net_connections("inet") if one.status == psutil.CONN_LISTEN})
"""


def test_ranks_listen_at_the_address_of_their_node_alone() -> None:
    from torch.distributed import TCPStore

    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
        store = TCPStore("127.0.0.1", port, None, True, wait_for_workers=False, master_listen_fd=os.dup(place.fileno()))
        ranks = [
            subprocess.Popen([sys.executable, "-c", RANK, str(port), str(rank)], stdout=subprocess.PIPE, text=True)
            for rank in range(2)
        ]
        told = [rank.communicate(timeout=120)[0].splitlines() for rank in ranks]
    assert told == [["2.0", "{'127.0.0.1'}"]] * 2
    del store


WATCHED = """
import sys, time
from workflows.runtime.node_watch import NodeWatch
host, port = sys.argv[1], int(sys.argv[2])
NodeWatch(host, port, "ended by its server").end()
print("may end", flush=True)
NodeWatch(host, port, "Ray's process ended; give the same command again")
time.sleep(60)
"""


def test_a_driver_ends_in_words_when_its_ray_dies() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        driver = subprocess.Popen(
            [sys.executable, "-c", WATCHED, host, str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert driver.stdout is not None
        assert driver.stdout.readline() == "may end\n"
        server.accept()[0].close()
        second, _ = server.accept()
        second.close()  # as a server does that was told nothing: the driver looks again
        third, _ = server.accept()
        assert driver.poll() is None
    third.close()
    _, errors = driver.communicate(timeout=60)
    assert errors == "error Ray's process ended; give the same command again\n"
    assert driver.returncode == 1


def test_a_watch_that_ended_lets_ray_end() -> None:
    before = set(threading.enumerate())  # the Ray of other tests is watched too
    server = socket.create_server(("127.0.0.1", 0))
    watch = NodeWatch(*server.getsockname(), "never said")
    watch.end()
    server.close()
    assert "ray-watch" not in {thread.name for thread in set(threading.enumerate()) - before}, "nobody looks any more"


LOST_RAY = """
import sys, time
import psutil
from workflows.runtime.cluster import connect

def lose() -> None:
    with connect(num_cpus=1):
        (process,) = [one for one in psutil.Process().children(True) if one.name() == sys.argv[1]]
        process.kill()
        time.sleep(60)

lose()
"""


@pytest.mark.slow
@pytest.mark.parametrize("process", ["raylet", "gcs_server"])
def test_a_dead_ray_is_one_line(process: str) -> None:
    driver = subprocess.run(
        [sys.executable, "-c", LOST_RAY, process],
        capture_output=True,
        text=True,
        timeout=240,
        env=SURROUNDINGS,
        check=False,
    )
    assert driver.returncode == 1
    words = driver.stderr.splitlines()
    assert len(words) == 1, driver.stderr
    assert words[0].startswith(f"error Ray's process {process} at ")
    assert "give the same command again, which goes on where it was" in words[0]


HEAD = """
import sys
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_wrong_token_is_told_from_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    tokens = {name: {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": name * 64} for name in ("a", "b")}
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD],
        env={**os.environ, **tokens["a"]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert head.stdout is not None
        address = head.stdout.readline().strip()
        missing = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "", "HOME": str(tmp_path)}
        for token, words in (
            (tokens["b"], "a Ray cluster answers there, but refuses the token of this command; copy ~/.ray/auth_token"),
            ({"RAY_AUTH_MODE": "disabled"}, "a Ray cluster answers there, but refuses the token"),
            (missing, "RAY_AUTH_MODE: Ray asks for a token and finds none"),
        ):
            command = [sys.executable, "-m", "workflows", "run", "digits", "--address", address]
            finished = subprocess.run(
                [*command, "--out", str(tmp_path / "run"), "--until", "extract", "--set", "data.max_train=100"],
                env={**os.environ, **token},
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
            assert finished.returncode == 2
            assert words in finished.stderr
            assert len(finished.stderr.splitlines()) == 1, finished.stderr
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(30)
