"""What a run tells Prometheus, through Ray: whoever scrapes the nodes of the cluster has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import ray
from ray.util import metrics

PREFIX = "inference_graphs_"
SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Upper bounds of the histogram's classes."""


@dataclass(frozen=True)
class MetricSpec:
    """A metric: its kind, ``counter``, ``gauge`` or ``histogram``, what it says, and its tags beside ``run``."""

    kind: str
    words: str
    tags: tuple[str, ...] = ("stage",)


METRICS: dict[str, MetricSpec] = {
    "images_total": MetricSpec("counter", "images that went through a stage"),
    "columns_total": MetricSpec("counter", "activation columns that a stage stored, fitted or gave a word"),
    "items_total": MetricSpec("counter", "work items (shards, fits, figures) by outcome", ("stage", "outcome")),
    "phase_seconds_total": MetricSpec(
        "counter", "seconds of actors by phase: read, decode, forward, write, wait, compute", ("stage", "phase")
    ),
    "item_seconds": MetricSpec("histogram", "seconds of a finished work item"),
    "items_left": MetricSpec("gauge", "work items that are not done yet"),
    "actors": MetricSpec("gauge", "actors by state: at work (or idle), starting", ("stage", "state")),
    "stage_running": MetricSpec("gauge", "1 while a stage is at work"),
    "peak_memory_bytes": MetricSpec("gauge", "largest resident size of the actor that was last heard of"),
}
"""By name, without ``PREFIX``. Ray puts ``ray_`` before it; see infra/cluster/grafana.json."""

OUTCOMES = ("done", "retried", "failed")


def exported(name: str) -> str:
    """As Prometheus sees it."""
    return f"ray_{PREFIX}{name}"


@cache
def _metric(name: str) -> Any:
    spec = METRICS[name]
    tags = ("run", *spec.tags)
    if spec.kind == "histogram":
        return metrics.Histogram(PREFIX + name, spec.words, boundaries=list(SECONDS), tag_keys=tags)
    kind = metrics.Counter if spec.kind == "counter" else metrics.Gauge
    return kind(PREFIX + name, spec.words, tag_keys=tags)


class RunMetrics:
    """Of one run; silent where there is no Ray, which carries them.

    Args:
        run: its name, a tag of every value.
    """

    def __init__(self, run: str) -> None:
        self._run = run

    def _add(self, name: str, value: float, **tags: str) -> None:
        if not ray.is_initialized() or (value <= 0 and METRICS[name].kind == "counter"):
            return
        metric, tags = _metric(name), {"run": self._run, **tags}
        kind = METRICS[name].kind
        act = metric.inc if kind == "counter" else metric.set if kind == "gauge" else metric.observe
        act(value, tags=tags)

    def stage(self, stage: str, running: bool) -> None:
        """A stage begins or ends."""
        self._add("stage_running", float(running), stage=stage)

    def done(self, stage: str, record: Mapping[str, Any]) -> None:
        """A work item is finished; its record is that of the ledger."""
        self._add("items_total", 1, stage=stage, outcome="done")
        self._add("images_total", record.get("images", 0), stage=stage)
        self._add("columns_total", record.get("columns", 0), stage=stage)
        if "seconds" in record:
            self._add("item_seconds", record["seconds"], stage=stage)
        for phase, seconds in by_phase(record).items():
            self._add("phase_seconds_total", seconds, stage=stage, phase=phase)
        if "peak_memory" in record:
            self._add("peak_memory_bytes", record["peak_memory"], stage=stage)

    def failed(self, stage: str, last: bool) -> None:
        """A try of a work item failed; ``last``: and there is no other."""
        self._add("items_total", 1, stage=stage, outcome="failed" if last else "retried")

    def beat(self, stage: str, told: Any) -> None:
        """What is at work, a ``Heartbeat``; None: nothing."""
        at_work, starting, left = (0, 0, 0) if told is None else (told.actors, told.starting, told.waiting)
        self._add("actors", at_work, stage=stage, state="at work")
        self._add("actors", starting, stage=stage, state="starting")
        self._add("items_left", left, stage=stage)


def by_phase(record: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of an item by phase, ``compute`` being what is left; decoding goes on beside the others."""
    profile = {name: seconds for name, seconds in record.get("profile", {}).items() if name != "cpu"}
    if "seconds" not in record or not record.get("profile"):
        return {}
    told = sum(seconds for name, seconds in profile.items() if name != "decode")
    return {**profile, "compute": max(0.0, record["seconds"] - told)}
