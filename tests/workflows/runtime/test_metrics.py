"""Metrics as Prometheus scrapes them from a real Ray, and the dashboard that shows them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workflows.runtime.metrics import METRICS, OUTCOMES, RunMetrics, by_phase, exported
from workflows.runtime.progress import Heartbeat

DASHBOARD = Path(__file__).resolve().parents[3] / "infra" / "cluster" / "grafana.json"
RECORD: dict[str, Any] = {
    "images": 20,
    "columns": 300,
    "seconds": 5.0,
    "peak_memory": 10**9,
    "profile": {"decode": 2.5, "forward": 2.0, "write": 1.0, "wait": 0.5, "cpu": 4.0},
}


def told(run: str) -> None:
    """Everything a run tells."""
    metrics = RunMetrics(run)
    metrics.stage("extract", True)
    metrics.done("extract", RECORD)
    metrics.failed("extract", last=False)
    metrics.failed("extract", last=True)
    metrics.beat("extract", Heartbeat(2, 1, 7, "shard 3", 1.0))


def test_seconds_are_told_by_phase_and_what_is_left_computes() -> None:
    assert by_phase(RECORD) == {"decode": 2.5, "forward": 2.0, "write": 1.0, "wait": 0.5, "compute": 1.5}
    assert by_phase({"seconds": 5.0}) == {}


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = [target["expr"] for panel in panels for target in panel["targets"]]
    names = {name for expression in shown for name in re.findall(r"ray_\w+", expression)}
    assert {name.removesuffix("_bucket") for name in names} == {exported(name) for name in METRICS}
    for name, spec in METRICS.items():
        for expression in (one for one in shown if exported(name) in one):
            used = set(re.findall(r"by \(([\w, ]+)\)", expression)[0].split(", ")) - {"le"}
            assert used <= {"run", *spec.tags}, expression


def test_without_ray_nothing_is_told() -> None:
    code = "from tests.workflows.runtime.test_metrics import told; told('a run')"
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True).stderr == b""


@pytest.mark.slow
def test_prometheus_reads_what_a_run_tells() -> None:
    """From the port of a real local Ray: names, tags and values."""
    root = Path(__file__).resolve().parents[3]
    code = "from tests.workflows.runtime.scraped_metrics import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=280, check=False
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])

    def value(name: str, **tags: str) -> float:
        (only,) = [
            read
            for line, read in found.items()
            if line.startswith(f"{exported(name)}{{") and all(f'{tag}="{one}"' in line for tag, one in tags.items())
        ]
        return only

    assert value("images_total", stage="extract") == 20
    assert value("columns_total", stage="extract") == 300
    assert [value("items_total", outcome=outcome) for outcome in OUTCOMES] == [1, 1, 1]
    assert value("phase_seconds_total", phase="forward") == 2.0
    assert value("phase_seconds_total", phase="compute") == 1.5
    assert value("actors", state="at work") == 2
    assert value("items_left") == 7
    assert value("stage_running") == 1
    assert value("peak_memory_bytes") == 10**9
    assert value("item_seconds_count") == value("item_seconds_bucket", le="10.0") == 1
    assert value("item_seconds_bucket", le="3.0") == 0, "Ray keeps the classes alone: its sum is of their middles"
