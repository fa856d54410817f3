"""Refuse before running: what the plan needs against what there is, both numbers in the message."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from workflows.errors import BudgetError


@dataclass(frozen=True)
class Budget:
    """A plan that fits, in bytes."""

    needed: int
    """Of the plan, with its margin."""
    available: int
    """Free disk or memory."""

    def __str__(self) -> str:
        return f"{readable(self.needed)} of {readable(self.available)}"


def check_disk(
    folder: Path,
    needed: Mapping[str, int],
    *,
    margin: float = 1.1,
    written: int = 0,
    change: str = "",
    free: int | None = None,
) -> Budget:
    """Refuse a plan that does not fit on the disk of ``folder`` (which need not exist yet).

    Args:
        folder: the run folder.
        needed: bytes of each artefact the whole run writes.
        margin: free disk must be the plan's size times this (``runtime.disk_margin``).
        written: bytes of the plan that an interrupted run has already written there.
        change: settings that make the plan smaller, for the message.
        free: bytes of another disk that is meant; None: what is free there now.

    Raises:
        BudgetError: it does not fit.
    """
    free = shutil.disk_usage(_existing(folder)).free if free is None else free
    wanted = int(max(0, sum(needed.values()) - written) * margin)
    if wanted > free:
        raise BudgetError(
            f"the run needs {readable(wanted)} more disk in {str(folder)!r} and {readable(free)} are free "
            f"({_items(needed)}; {readable(written)} written, margin {margin:g}): "
            f"{change or 'lower data.max_train or extract.columns_per_image'}, or give an --out on a larger disk"
        )
    return Budget(wanted, free)


def check_memory(needed: Mapping[str, int], *, limit_gb: float | None = None, change: str = "") -> Budget:
    """Refuse a plan whose processes, all at work at once, do not fit into this machine's memory.

    Args:
        needed: bytes of each part of the plan on this machine, times the actors that hold it.
        limit_gb: ``runtime.memory_gb``, in 10^9 bytes; None takes what is free now.
        change: settings that make the plan smaller, for the message.

    Raises:
        BudgetError: it does not fit.
    """
    available = free_memory() if limit_gb is None else int(limit_gb * 1e9)
    wanted = sum(needed.values())
    if wanted > available:
        source = "are free" if limit_gb is None else "are allowed by runtime.memory_gb"
        raise BudgetError(
            f"the plan needs {readable(wanted)} of memory and {readable(available)} {source} ({_items(needed)}): "
            f"{change or 'lower runtime.actors, extract.batch or fit.minibatch'}"
        )
    return Budget(wanted, available)


def free_memory() -> int:
    """Bytes this process and its children can still take: the machine's, or less where a container limits it."""
    available = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # Pages of files that nobody has touched lately count as used, and are given back when asked for.
        return min(available, limit - used + int(counts["inactive_file"]))
    except (OSError, ValueError, KeyError):
        return available


def readable(n_bytes: int) -> str:
    """Bytes for people: 1.5 GB is 1.5e9 bytes."""
    size = float(n_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _existing(folder: Path) -> Path:
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder


def _items(needed: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {readable(size)}" for name, size in needed.items())
