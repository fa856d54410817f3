"""Work items and fits in this very process, without Ray: for trials, whose answer is their own time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import psutil
import torch

from gmm_ops.fitting.collective import LONE
from workflows.phases import taken
from workflows.runtime.actor_process import forget_peak_memory, peak_memory, set_threads
from workflows.runtime.cluster import Resources
from workflows.settings import RuntimeSettings

Record = dict[str, Any]


def this_process(settings: RuntimeSettings) -> Resources:
    """What one actor has, as if it were a cluster: its threads, and a GPU if there is one."""
    set_threads(settings.threads)
    return Resources(
        cpus=settings.threads,
        gpus=min(1, torch.cuda.device_count()),
        nodes=1,
        node_cpus=settings.threads,
        node_memory=int(psutil.virtual_memory().available),
        joined=False,
        alone=True,
    )


def map_here(
    factory: Callable[..., Callable[[Any], Record]],
    kwargs: dict[str, Any],
    items: Iterable[Any],
    on_done: Callable[[Any, Record], None] | None,
) -> dict[Any, Record]:
    """As ``map_shards``, but nothing is tried again: the first error of an item is raised."""
    forget_peak_memory()
    worker, records = factory(**kwargs), {}
    for item in items:
        started, _ = time.perf_counter(), taken()
        record = dict(worker(item) or {}) | {"seconds": time.perf_counter() - started, "profile": taken()}
        records[item] = record | {"peak_memory": peak_memory(), "attempts": 1}
        if on_done is not None:
            on_done(item, records[item])
    return records


def fit_here(factory: Callable[..., Any], kwargs: dict[str, Any], segment_steps: int) -> Any:
    """One fit from its beginning to its end, and what it comes to; no checkpoint is written."""
    worker = factory(rank=0, world=1, **kwargs)
    worker.restore(None)
    while not worker.advance(segment_steps, LONE)["done"]:
        pass
    return worker.result()
