"""Parts of the rows on several threads, each part with one thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

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
