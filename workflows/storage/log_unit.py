"""The unit of log ratios: one place for how they are computed, stored, labelled and drawn.

Log ratios in nats: ``LOG_UNIT = NATS``, and mine and draw a run again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LogUnit:
    """A unit of logarithms: its name in the plural, the base, and how the logarithm is written."""

    name: str
    base: float
    logarithm: str

    @property
    def doubling(self) -> str:
        """The log ratio of what is twice as frequent, above which an edge is strong: `1 bit`."""
        value = math.log(2) / math.log(self.base)
        return f"1 {self.name.removesuffix('s')}" if value == 1 else f"{value:.2f} {self.name}"


BITS = LogUnit("bits", 2, "log2")
NATS = LogUnit("nats", math.e, "ln")

LOG_UNIT = BITS
