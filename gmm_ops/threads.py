"""Independent work on several threads, each with products of one thread: they share no barrier and no cache line."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")

_SETTING = threading.Lock()


def in_threads(work: Callable[[slice], None], parts: Sequence[slice]) -> None:
    """``work`` of every part, each on a thread of its own; the calling thread takes the first."""
    if len(parts) == 1:
        work(parts[0])
        return
    with _one_thread_a_product(), ThreadPoolExecutor(len(parts) - 1) as pool:
        others = [pool.submit(work, part) for part in parts[1:]]
        work(parts[0])
        for other in others:
            other.result()


def in_order(work: Callable[[Part], Result], parts: Sequence[Part]) -> Iterator[Result]:
    """Results of all parts in their order, on as many threads as torch has; no more results wait than threads."""
    threads = min(torch.get_num_threads(), len(parts))
    if threads <= 1:
        yield from map(work, parts)
        return
    with _one_thread_a_product(), ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        for part in parts:
            waiting.append(pool.submit(work, part))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def _one_thread_a_product() -> Iterator[None]:
    """New threads take over torch's setting, which belongs to the process: one caller changes it at a time."""
    with _SETTING:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
