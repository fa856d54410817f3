"""Actors hired for pools and fits, and kept from one to the next: a process that imported torch need not do so again.

An actor that carries no worker holds its cores and GPUs all the same, so whoever wants other ones of the cluster first
lets these go (``release``).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import ray
from ray.util import remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from workflows.runtime.actor_process import ActorProcess

Claim = tuple[float, float]
"""Cores and GPUs of an actor."""


@dataclass(frozen=True, eq=False)
class Hired:
    """An actor, and the room on the cluster that was reserved for it alone."""

    claim: Claim
    actor: Any
    room: Any = None

    def end(self) -> None:
        """Kill it and give its room back."""
        ray.kill(self.actor)
        if self.room is not None:
            remove_placement_group(self.room)


_kept: list[Hired] = []
"""Of the Ray of this process, which has one at most."""
_lock = threading.Lock()


def hire(claim: Claim, room: Any = None, bundle: int = 0, *, owns_room: bool = False) -> Hired:
    """A new actor with so many cores and GPUs, in a bundle of reserved ``room`` if given."""
    num_cpus, num_gpus = claim
    place = {}
    if room is not None:
        place["scheduling_strategy"] = PlacementGroupSchedulingStrategy(room, placement_group_bundle_index=bundle)
    actor = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=0, **place)(ActorProcess).remote()
    return Hired(claim, actor, room if owns_room else None)


def keep(hired: Hired) -> None:
    """Take back an actor whose worker is done; it drops what that held."""
    hired.actor.rest.remote()
    with _lock:
        _kept.append(hired)


def take(claim: Claim) -> Hired | None:
    """An actor with exactly these cores and GPUs, or None; those that hold others are let go."""
    with _lock:
        if any(hired.claim != claim for hired in _kept):
            _end_all()
        return _kept.pop() if _kept else None


def release(all_but: int = 0) -> None:
    """End all of them, or all but so many."""
    with _lock:
        _end_all(all_but)


def _end_all(all_but: int = 0) -> None:
    while len(_kept) > all_but:
        _kept.pop().end()
