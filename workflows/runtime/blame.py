"""Whose fault a failure is, a node's or an item's, and when an item hangs. Pure: it knows neither Ray nor the clock.

A node that cannot see the images fails whatever it is given; a poison item fails wherever it goes. Both look alike at
first, so a node is suspect after two *different* things failed there with nothing done in between, and things that also
failed on a node that has done others are no evidence against anybody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable
from typing import Any

FAILURES = 2
"""Different things that fail on a node, one after the other, before it is suspect."""

PATIENCE = 20.0
"""An item may take so many medians of those that are done."""

FINISHED_TO_TELL = 3
"""Items that make a median."""


class NodeTrust:
    """What was done and what failed, by node."""

    def __init__(self) -> None:
        self._since: dict[str, dict[Hashable, str]] = defaultdict(dict)
        """By node, what failed there since something was done there last, and the reason."""
        self._failed_on: dict[Hashable, set[str]] = defaultdict(set)
        self._condemned: set[str] = set()
        self.proven: set[str] = set()
        """Nodes on which something was done."""

    def done(self, node: str) -> None:
        """Something was done there: whatever failed there before was not the node's fault.

        Of a node that was suspect this says more: what failed was passing, such as storage that is back, and no node's.
        """
        if len(self.evidence(node)) >= FAILURES:
            self._since.clear()
        self._since.pop(node, None)
        self.proven.add(node)

    def failed(self, node: str, thing: Hashable, reason: str) -> None:
        """A thing (an item of one pool, a start of an actor) failed there."""
        self._since[node][thing] = reason
        self._failed_on[thing].add(node)

    def condemn(self, node: str) -> None:
        """No further evidence is needed."""
        self._condemned.add(node)

    def evidence(self, node: str) -> dict[Hashable, str]:
        """What speaks against a node, with the reasons."""
        others = self.proven - {node}
        return {
            thing: reason for thing, reason in self._since.get(node, {}).items() if not self._failed_on[thing] & others
        }

    def suspects(self) -> set[str]:
        """Nodes with so much evidence that they should be avoided."""
        return self._condemned | {node for node in self._since if len(self.evidence(node)) >= FAILURES}

    def avoided(self, nodes: Collection[str]) -> set[str]:
        """Suspects among these nodes, all that are there; none if there is no other: the last one is not avoided."""
        suspects = self.suspects() & set(nodes)
        return suspects if set(nodes) - suspects else set()


class ItemAttempts:
    """How often the items of a pool failed, where, and which are given up.

    Args:
        most: tries of an item.
        most_losses: nodes that may be lost while an item is there; none of these is a try.
    """

    def __init__(self, most: int, most_losses: int) -> None:
        self._most, self._most_losses = most, most_losses
        self._failures: dict[Hashable, list[str]] = defaultdict(list)
        self._losses: dict[Hashable, int] = defaultdict(int)
        self.given_up: dict[Hashable, str] = {}
        """Items that are not tried again, and the last reason."""

    def failed(self, item: Hashable, node: str, reason: str, avoided: Collection[str]) -> bool:
        """An item failed on a node; whether it is given up."""
        self._failures[item].append(node)
        if self.tries(item, avoided) >= self._most:
            self.given_up[item] = reason
        return item in self.given_up

    def lost_node(self, item: Hashable, reason: str) -> bool:
        """A node was lost while it had the item; whether it is given up."""
        self._losses[item] += 1
        if self._losses[item] >= self._most_losses:
            self.given_up[item] = f"{reason} ({self._losses[item]} nodes were lost while they had it)"
        return item in self.given_up

    def tries(self, item: Hashable, avoided: Collection[str] = ()) -> int:
        """Failures that count against an item.

        Those on avoided nodes were the nodes' fault, unless it failed on as many nodes as it may be tried.
        """
        failures = self._failures.get(item, [])
        everywhere = len(set(failures))
        own = sum(node not in avoided for node in failures)
        return max(own, everywhere) if everywhere >= self._most else own

    def forgive(self, avoided: Collection[str]) -> list[Any]:
        """Items that were given up for what is the fault of nodes, as is known by now: they are tried again."""
        lost = [item for item, count in self._losses.items() if count >= self._most_losses]
        again = [item for item in self.given_up if item not in lost and self.tries(item, avoided) < self._most]
        for item in again:
            del self.given_up[item]
        return again


def hang_limit(seconds: Collection[float], floor: float, attempts: int = 0) -> float | None:
    """Seconds after which an item counts as hung: 20 times the median of finished ones, and at least ``floor``.

    Doubled with every attempt, for an item that only takes long. None: too few are finished to tell.
    """
    if len(seconds) < FINISHED_TO_TELL:
        return None
    middle = sorted(seconds)[len(seconds) // 2]
    return float(max(floor, PATIENCE * middle)) * 2**attempts
