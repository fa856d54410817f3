"""Names in error messages: the nearest known ones, and long lists cut short."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 6


def nearest_names(wanted: str, known: Iterable[str]) -> str:
    """The known names that resemble ``wanted``, ready for an error message."""
    names = list(known)
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    near += [name for name in names if name.startswith(f"{wanted}.") and name not in near][-2:]
    return f"the nearest are {', '.join(near)}" if near else f"there are {shortened(names)}"


def shortened(names: Iterable[str]) -> str:
    """At most six names, and how many more there are."""
    shown = list(names)
    more = len(shown) - _SHOWN
    return ", ".join(shown[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
