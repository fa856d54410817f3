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

from workflows.runtime import nodes
from workflows.runtime.actor_process import ActorProcess
from workflows.runtime.nodes import Claim


@dataclass(frozen=True, eq=False)
class Crew:
    """Actors that were hired together, are kept and ended together, and the room that was reserved for them."""

    claim: Claim
    actors: tuple[Any, ...]
    room: Any = None
    """Their placement group, if any: it is given back when they end, and no sooner."""

    @property
    def actor(self) -> Any:
        """Of a crew of one."""
        (actor,) = self.actors
        return actor

    def end(self) -> None:
        """Kill them and give their room back."""
        for actor in self.actors:
            ray.kill(actor)
        if self.room is not None:
            remove_placement_group(self.room)


_kept: list[Crew] = []
"""Of the Ray of this process, which has one at most."""
_lock = threading.RLock()


def hire(claim: Claim, number: int = 1, room: Any = None) -> Crew:
    """New actors with so many cores and GPUs each, one in each bundle of a placement group if given.

    Without one they keep off nodes that are not used, or avoided.
    """
    num_cpus, num_gpus = claim
    actors = []
    for bundle in range(number):
        place: dict[str, Any] = {}
        if room is None:
            place["label_selector"] = nodes.current().place()
        else:
            place["scheduling_strategy"] = PlacementGroupSchedulingStrategy(room, placement_group_bundle_index=bundle)
        remote = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=0, **place)(ActorProcess)
        actors.append(remote.remote())
    return Crew(claim, tuple(actors), room)


def keep(crew: Crew) -> None:
    """Take back actors that rest."""
    with _lock:
        _kept.append(crew)


def take(claim: Claim, number: int = 1) -> Crew | None:
    """A crew of so many actors with exactly these cores and GPUs, or None. Those that cannot serve are let go."""
    with _lock:
        if any((crew.claim, len(crew.actors)) != (claim, number) for crew in _kept):
            release()
        return _kept.pop() if _kept else None


def release(all_but: int = 0) -> None:
    """End all crews, or all but so many."""
    with _lock:
        while len(_kept) > all_but:
            _kept.pop().end()
