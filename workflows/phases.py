"""Where the seconds of a work item go. Each process counts its own, between two calls of ``taken``."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PHASES = ("read", "decode", "forward", "write", "wait")
"""Reading arrays and files; decoding pictures, in threads beside the rest; the network; writing and syncing; waiting
for pictures, or in a fit for the other actors. What is left of an item's seconds is computing."""

_lock = threading.Lock()
_seconds = dict.fromkeys(PHASES, 0.0)
_cpu_before = [0.0]


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count what happens in the block, in seconds of the clock."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - started
        with _lock:
            _seconds[name] += seconds


def taken() -> dict[str, float]:
    """Seconds by phase since the last call, those of the processor (all threads) as ``cpu``; 0 is left out."""
    with _lock:
        found = {name: seconds for name, seconds in _seconds.items() if seconds}
        _seconds.update(dict.fromkeys(PHASES, 0.0))
        now = time.process_time()
        found["cpu"], _cpu_before[0] = now - _cpu_before[0], now
    return {name: round(seconds, 4) for name, seconds in found.items()}
