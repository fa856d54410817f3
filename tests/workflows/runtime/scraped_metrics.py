"""A process that tells metrics to a real local Ray and reads them back from its port for Prometheus."""

from __future__ import annotations

import json
import time
import urllib.request

import ray

from tests.workflows.runtime.test_metrics import told
from workflows.runtime.cluster import connect
from workflows.runtime.metrics import METRICS, exported

PATIENCE_S = 150.0


def main() -> None:
    with connect(num_cpus=1, num_gpus=0):
        told("a run")
        (node,) = ray.nodes()
        place = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        deadline, found = time.monotonic() + PATIENCE_S, dict[str, float]()
        while time.monotonic() < deadline:
            text = _read(place)
            lines = [line for line in text.splitlines() if line.startswith("ray_inference_graphs_")]
            found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
            if all(any(line.startswith(exported(name)) for line in found) for name in METRICS):
                break
            time.sleep(1.0)
    print(json.dumps(found))


def _read(place: str) -> str:
    try:
        with urllib.request.urlopen(place, timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""
