"""Numbers as figures and terminal tables write them."""

from __future__ import annotations

import math

MINUS = "−"


def percent(share: float) -> str:
    """A share as "62 %", with one decimal below ten percent; a dash for an unknown one."""
    if not math.isfinite(share):
        return "–"
    hundredths = 100 * share
    return f"{hundredths:.1f} %" if 0 < hundredths < 9.95 else f"{hundredths:.0f} %"


def frequency(share: float, long: bool = True) -> str:
    """A relative frequency as "0.31", short ".31"."""
    text = f"{share:.2f}"
    if long:
        return "<.01" if 0 < share < 0.005 else text
    return "1.0" if text == "1.00" else text.removeprefix("0")


def log_ratio(value: float, long: bool = True) -> str:
    """A log ratio as "2.13", short "2.1"."""
    if math.isinf(value):
        return "∞" if value > 0 else MINUS + "∞"
    digits = 2 if long and abs(value) < 9.995 else 1 if long or abs(value) < 9.95 else 0
    text = f"{abs(value):.{digits}f}"
    return MINUS + text if value < 0 and float(text) > 0 else text


def duration(seconds: float) -> str:
    """A time as "4.2 s", "3 min 05 s" or "2 h 07 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: int) -> str:
    """Bytes as "812 B", "4.1 MB", "1.3 GB" (powers of 1000)."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
