from __future__ import annotations

import os
import subprocess
import sys

import pytest
import ray

from tests.end_to_end.killing import address_of_local_ray
from workflows.errors import BudgetError
from workflows.runtime.cluster import Resources, connect, plan_actors
from workflows.settings import RuntimeSettings


def offered(cpus: int, gpus: int = 0) -> Resources:
    return Resources(cpus=cpus, gpus=gpus, nodes=1, node_cpus=cpus, node_memory=10**9, joined=False)


def test_a_local_ray_tells_what_it_offers(local_ray: Resources) -> None:
    assert (local_ray.cpus, local_ray.gpus, local_ray.nodes, local_ray.joined) == (2, 0, 1, False)
    assert local_ray.node_memory > 10**8


def test_a_ray_that_is_there_is_used_and_kept(local_ray: Resources) -> None:
    with connect() as found:
        assert found == local_ray
    assert ray.is_initialized()


JOIN = """
import os, sys
import ray
from workflows.runtime.cluster import connect
for variable in (False, True):
    address = sys.argv[1]
    if variable:
        os.environ["RAY_ADDRESS"] = address
    with connect(None if variable else address) as offered:
        assert offered.joined, offered
        assert offered.cpus == 2, offered
        print("nodes", offered.nodes, ray.get(ray.remote(lambda: 6 * 7).remote()))
    assert not ray.is_initialized()
"""


def test_a_joined_cluster_is_left_running(local_ray: Resources) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", JOIN, address_of_local_ray()], capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.stdout.splitlines() == ["nodes 1 42"] * 2, finished.stderr
    assert finished.stderr == "", "joining must be quiet"
    assert ray.get(ray.remote(lambda: os.getppid()).remote()) > 0


NOWHERE = """
import sys
from workflows.errors import RunError
from workflows.runtime.cluster import connect
for address in sys.argv[1:]:
    try:
        with connect(address):
            pass
    except RunError as error:
        print(error)
import os
for name, value in (("RAY_ADDRESS", "127.0.0.1:1"), ("RAY_ADDRESS", ""), ("RAY_TMPDIR", "/tmp/" + "y" * 99)):
    os.environ[name] = value
    os.environ["TMPDIR"] = "/tmp/" + "x" * 99
    try:
        with connect():
            pass
    except RunError as error:
        print(error)
"""


def test_an_address_where_nobody_answers_is_refused_soon() -> None:
    addresses = ["127.0.0.1:1", "nonsense", "ray://127.0.0.1:10001"]
    finished = subprocess.run(
        [sys.executable, "-c", NOWHERE, *addresses], capture_output=True, text=True, timeout=60, check=True
    )
    refused, nonsense, client, variable, long_folder, own_folder = finished.stdout.splitlines()
    assert refused.startswith("--address '127.0.0.1:1': no Ray cluster answers there")
    assert "Connection refused" in refused
    assert "ray start --head" in refused
    assert "an address is host:port or auto" in nonsense
    assert "the driver must run inside the cluster" in client
    assert variable.startswith("RAY_ADDRESS '127.0.0.1:1': no Ray cluster answers there")
    assert "unset RAY_ADDRESS to start a local Ray" in variable
    assert "--address" not in variable
    assert long_folder.startswith("TMPDIR: must have at most ")
    assert "got 104 ('/tmp/xxx" in long_folder
    assert long_folder.endswith("set RAY_TMPDIR=/tmp or another short folder")
    assert own_folder.startswith("RAY_TMPDIR: must have")


@pytest.mark.parametrize(
    ("fields", "cpus", "gpus", "n_items", "expected"),
    [
        ({}, 8, 0, None, (8, 1, 0, "cpu")),
        ({"threads": 3}, 8, 0, None, (2, 3, 0, "cpu")),
        ({"actors": 3}, 8, 0, None, (3, 1, 0, "cpu")),
        ({"actors": 30}, 8, 0, None, (8, 1, 0, "cpu")),
        ({}, 8, 0, 2, (2, 1, 0, "cpu")),
        ({}, 8, 0, 0, (1, 1, 0, "cpu")),
        ({}, 8, 2, None, (2, 1, 1, "cuda")),
        ({"threads": 8}, 8, 2, None, (1, 8, 1, "cuda")),
        ({"device": "cpu"}, 8, 2, None, (8, 1, 0, "cpu")),
        ({"device": "cuda", "actors": 1}, 8, 2, None, (1, 1, 1, "cuda")),
    ],
)
def test_actors_fill_the_gpus_or_the_cores(
    fields: dict[str, int], cpus: int, gpus: int, n_items: int | None, expected: tuple[int, int, int, str]
) -> None:
    plan = plan_actors(RuntimeSettings(**fields), offered(cpus, gpus), n_items)
    assert (plan.n_actors, plan.num_cpus, plan.num_gpus, plan.device) == expected
    assert plan.threads == plan.num_cpus


def test_what_the_cluster_has_not_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"runtime.device is 'cuda' but Ray offers 0 GPUs: set runtime.device"):
        plan_actors(RuntimeSettings(device="cuda"), offered(8))
    with pytest.raises(BudgetError, match=r"runtime.threads is 4 but Ray offers 2 cores: lower runtime.threads"):
        plan_actors(RuntimeSettings(threads=4), offered(2))
