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


class Room:
    """A placement group, given back when the last of the actors in it is ended."""

    def __init__(self, group: Any) -> None:
        self.group, self._actors = group, 0

    def enter(self, bundle: int) -> PlacementGroupSchedulingStrategy:
        """One more actor, in this bundle."""
        self._actors += 1
        return PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=bundle)

    def leave(self) -> None:
        """One actor less."""
        self._actors -= 1
        if self._actors <= 0:
            remove_placement_group(self.group)


@dataclass(frozen=True, eq=False)
class Hired:
    """An actor, and the room on the cluster that was reserved for it."""

    claim: Claim
    actor: Any
    room: Room | None = None

    def end(self) -> None:
        """Kill it and give its room back."""
        ray.kill(self.actor)
        if self.room is not None:
            self.room.leave()


_kept: list[Hired] = []
"""Of the Ray of this process, which has one at most."""
_lock = threading.RLock()


def hire(claim: Claim, room: Room | None = None, bundle: int = 0) -> Hired:
    """A new actor with so many cores and GPUs, in a bundle of reserved room if given."""
    num_cpus, num_gpus = claim
    place = {} if room is None else {"scheduling_strategy": room.enter(bundle)}
    actor = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=0, **place)(ActorProcess).remote()
    return Hired(claim, actor, room)


def keep(hired: Hired) -> None:
    """Take back an actor whose worker is done; it drops what that held."""
    hired.actor.rest.remote()
    with _lock:
        _kept.append(hired)


def take(claim: Claim, number: int = 1) -> list[Hired]:
    """So many actors with exactly these cores and GPUs, or none. Those that cannot serve are let go."""
    with _lock:
        if len(_kept) < number or any(hired.claim != claim for hired in _kept):
            release()
            return []
        return [_kept.pop() for _ in range(number)]


def release(all_but: int = 0) -> None:
    """End all of them, or all but so many."""
    with _lock:
        while len(_kept) > all_but:
            _kept.pop().end()
