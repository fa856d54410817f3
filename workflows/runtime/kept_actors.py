"""Actors whose pool has ended, kept for the next one: a process that has imported torch need not do so again.

An actor that carries no worker holds its cores and GPUs all the same, so whoever wants other ones of the cluster first
lets these go (``release``).
"""

from __future__ import annotations

from typing import Any

import ray

Claim = tuple[float, float]
"""Cores and GPUs of an actor."""

_kept: list[tuple[Claim, Any]] = []
"""Of the Ray of this process, which has one at most; the driver's main thread alone works with it."""


def keep(claim: Claim, actor: Any) -> None:
    """Take back an actor whose worker is done; it drops what that held."""
    actor.rest.remote()
    _kept.append((claim, actor))


def take(claim: Claim) -> Any | None:
    """An actor with exactly these cores and GPUs, or None; those that hold others are let go."""
    if any(held != claim for held, _ in _kept):
        release()
    return _kept.pop()[1] if _kept else None


def release() -> None:
    """End all of them."""
    while _kept:
        ray.kill(_kept.pop()[1])
