"""Waiting for storage that went away: how long before the next try, and tries in the process itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from workflows.errors import StorageFault

Result = TypeVar("Result")

Patience = tuple[int, float]
"""Tries, and seconds before the second of them; see ``patiently``."""

_LONGER = 4
"""Each wait is so many times the one before."""


def wait_before(tries: int, first_s: float) -> float:
    """Seconds to wait after so many failed tries."""
    return first_s * _LONGER ** (tries - 1)


def patiently(call: Callable[[], Result], tries: int, first_s: float) -> Result:
    """What a call gives that reads files; it is made again where storage fails, the last time without mercy.

    Raises:
        StorageFault: of the last of so many tries.
    """
    for failed in range(1, tries):
        try:
            return call()
        except StorageFault:
            time.sleep(wait_before(failed, first_s))
    return call()
