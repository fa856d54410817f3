"""Slices in processes of their own, over torch.distributed: what actors do, without the actors."""

from __future__ import annotations

import multiprocessing
import os
import re
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(seconds=120)


class ProcessReduce:
    """One slice's end of the reductions, on gloo."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    def all_reduce_max(self, tensor: Tensor) -> Tensor:
        most = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return most


def on_processes(world: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """``work(reduce, *arguments)`` in one process of one thread per slice; results in rank order."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        with ProcessPoolExecutor(world, mp_context=multiprocessing.get_context("spawn")) as pool:
            futures = [pool.submit(_joined, rank, world, str(meeting), work, arguments) for rank in range(world)]
            return [future.result() for future in futures]


def peak_bytes() -> int:
    """Most memory this process ever held, the libraries included."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def _joined(rank: int, world: int, meeting: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=world, timeout=PATIENCE)
    try:
        return work(ProcessReduce(rank, world), *arguments)
    finally:
        dist.destroy_process_group()
