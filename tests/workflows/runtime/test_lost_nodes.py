"""A cluster that loses all its working nodes: nothing waits for ever, and the words say what to do."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

LOSE_NODES = """
import json, os, sys, time
os.environ["RAY_AUTH_MODE"] = "disabled"
import ray
from ray.cluster_utils import Cluster
from workflows.errors import BudgetError
from workflows.runtime.dispatcher import map_shards
from workflows.runtime.pool_settings import PoolSettings
from workflows.runtime.reductions import ray_get

quick = {"health_check_period_ms": 300, "health_check_timeout_ms": 600, "health_check_failure_threshold": 2}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": quick})
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
done, told = [], {}

def node():
    return cluster.add_node(num_cpus=1)

def worker():
    return lambda item: time.sleep(0.2) or {"item": item}

def lose(name, run):
    done.clear()
    lost = node()
    cluster.wait_for_nodes()

    def after_two(item, *_):
        done.append(item)
        if len(done) == 2:
            cluster.remove_node(lost, allow_graceful=False)
    try:
        run(after_two)
    except BudgetError as error:
        told[name] = [len(done), str(error)]

settings = PoolSettings(n_actors=1, threads=None, start_timeout_s=12)
lose("pool", lambda after: map_shards(worker, {}, range(50), settings, on_done=after))
slow = lambda: time.sleep(0.2)
graph = {f"task-{i}": (slow,) for i in range(50)}
lose("graph", lambda after: ray_get(graph, list(graph), on_task=after, patience_s=3))
open(sys.argv[1], "w").write(json.dumps(told))
ray.shutdown()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Items done before the node was lost, and the words of the refusal, by what was at work."""
    answer = tmp_path_factory.mktemp("lost") / "told.json"
    subprocess.run([sys.executable, "-c", LOSE_NODES, answer], capture_output=True, timeout=240, check=True)
    return json.loads(answer.read_text())


def test_a_pool_whose_nodes_are_lost_ends_in_words(told: dict[str, tuple[int, str]]) -> None:
    done, words = told["pool"]
    assert 2 <= done < 50
    assert words.startswith("an actor needs 1 cores and 0 GPUs, none started within 12 s (Ray offers 0 cores")
    assert words.endswith("set runtime.device to 'cpu', or add nodes and run the same command again")


def test_a_reduction_whose_nodes_are_lost_ends_in_words(told: dict[str, tuple[int, str]]) -> None:
    done, words = told["graph"]
    assert 2 <= done < 50
    assert words.startswith("the cluster has had no core for 3 s and 2 tasks wait: add nodes and run the same command")
