"""What a pool of actors is told, what it tells, and the words of what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray

from workflows.errors import BudgetError
from workflows.runtime.cluster import resources
from workflows.runtime.progress import Heartbeat

Record = dict[str, Any]


@dataclass(frozen=True)
class PoolSettings:
    """How wide and how patient a pool is."""

    n_actors: int
    num_cpus: float = 1
    num_gpus: float = 0
    threads: int | None = 1
    """Compute threads of an actor; None does not import torch."""
    max_attempts: int = 3
    """Tries of an item before it is quarantined, and of starting an actor before the run stops."""
    start_timeout_s: float = 300.0
    """How long the pool may be without any actor that has started: at first, or after its nodes were lost."""
    item_timeout_s: float | None = None
    """An item at work for longer is taken for hung: its actor is killed, the try counts. None: ``blame.hang_limit``."""
    retry_wait_s: float = 15.0
    """How long an item waits for its second try where storage failed; four times as long before each further one."""
    hang_floor_s: float = 300.0
    """No item is taken for hung sooner, unless ``item_timeout_s`` says so."""
    max_node_losses: int = 10
    """Nodes that may be lost while they have an item, before it is quarantined; none is a try."""
    width: Callable[[], int] | None = None
    """How many actors have room on the cluster now; None: always ``n_actors``."""
    beat: Callable[[Heartbeat | None], None] | None = None
    """Told every few seconds what is at work, and None at the end."""
    tell: Callable[..., None] | None = None
    """Told of actors that start, are lost or fail: the event, ``place`` (host and process) and fields."""
    name: str = "shard"
    """What an item is called in messages."""
    alone: bool = False
    """Without Ray, in this process."""


@dataclass
class DispatchReport:
    """What a pool did."""

    records: dict[Any, Record] = field(default_factory=dict)
    """Record of every finished item; ``peak_memory`` (bytes, of its worker so far), ``seconds`` and ``attempts``
    are added."""
    quarantined: dict[Any, str] = field(default_factory=dict)
    """Items given up, and the last reason."""
    replaced_actors: int = 0


def refuse_unfitting(settings: PoolSettings) -> None:
    """Raises BudgetError: no node has room for an actor."""
    if resources().joined:
        return  # A cluster may grow when it sees what is asked for; start_timeout_s is its limit.
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = any(node.get("CPU", 0) >= settings.num_cpus and node.get("GPU", 0) >= settings.num_gpus for node in nodes)
    if not fits:
        raise BudgetError(no_actor_words(settings, "no node has as many"))


def no_actor_words(settings: PoolSettings, why: str) -> str:
    """That no actor can be had, and what to do."""
    offered = ray.cluster_resources()
    return (
        f"an actor needs {settings.num_cpus} cores and {settings.num_gpus} GPUs, {why} (Ray offers "
        f"{offered.get('CPU', 0):g} cores and {offered.get('GPU', 0):g} GPUs in all): "
        "lower runtime.threads or set runtime.device to 'cpu'"
    )


def quarantine_words(report: DispatchReport, settings: PoolSettings) -> str:
    """Which items were given up, and why."""
    lines = [f"  {settings.name} {item}: {reason}" for item, reason in report.quarantined.items()]
    return (
        f"{len(report.quarantined)} {settings.name}(s) failed {settings.max_attempts} times each and are left out, "
        f"{len(report.records)} are done:\n" + "\n".join(lines[:20]) + "\nrun the same command again to try only these"
    )
