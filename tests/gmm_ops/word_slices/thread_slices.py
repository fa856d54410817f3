"""Slices in threads of this process: the real reductions, in rank order, so that all get the same bits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

PATIENCE_S = 60.0
"""A slice that makes another call than the others must fail the test, not hang it."""


class ThreadReduce:
    """One slice's end of the reductions. calls, numbers: how many were made, of how many numbers in all."""

    def __init__(self, rank: int, board: list[Tensor | None], barrier: threading.Barrier) -> None:
        self.rank, self.world = rank, len(board)
        self._board, self._barrier = board, barrier
        self.calls = 0
        self.numbers = 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        return self._reduced(tensor, lambda parts: torch.stack(parts).sum(dim=0))

    def all_reduce_max(self, tensor: Tensor) -> Tensor:
        return self._reduced(tensor, lambda parts: torch.stack(parts).amax(dim=0))

    def _reduced(self, tensor: Tensor, reduction: Callable[[list[Tensor]], Tensor]) -> Tensor:
        self.calls += 1
        self.numbers += tensor.numel()
        self._board[self.rank] = tensor.clone()
        self._barrier.wait(PATIENCE_S)
        parts = [part for part in self._board if part is not None]
        assert len({(part.shape, part.dtype) for part in parts}) == 1, "slices reduce different tensors"
        result = reduction(parts)
        self._barrier.wait(PATIENCE_S)
        return result


def on_slices(world: int, work: Callable[[ThreadReduce], Result]) -> list[Result]:
    """``work`` on every slice at once; results in rank order. A failing slice frees the others."""
    barrier = threading.Barrier(world)
    board: list[Tensor | None] = [None] * world

    def run(rank: int) -> Result:
        try:
            return work(ThreadReduce(rank, board, barrier))
        except threading.BrokenBarrierError:
            raise
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(world) as pool:
        futures = [pool.submit(run, rank) for rank in range(world)]
    failures = [error for future in futures if (error := future.exception()) is not None]
    for failure in sorted(failures, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise failure
    return [future.result() for future in futures]
