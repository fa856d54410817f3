"""The nodes of a joined cluster: each is greeted before it works for this driver, and avoided where it is at fault.

The Ray of this process is one at most, and so is what is known of its nodes (``current``). On a local Ray, whose
processes are this machine's and this installation's, nothing is asked.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from workflows.errors import ClusterError, RunError
from workflows.runtime.blame import NodeTrust
from workflows.runtime.handshake import Terms, may_pass, prove
from workflows.runtime.patience import wait_before

Claim = tuple[float, float]
"""Cores and GPUs of an actor."""

_LOOK_S = 1.0
"""Between two looks at which nodes there are."""
_GREETING_S = 60.0
"""A driver that joins waits so long for the nodes that are there; one that is slower is used once it has answered."""
_POLL_S = 0.2
_AGAIN_S, _LONGEST_S = 5.0, 60.0
"""A node whose storage is away is greeted again after so long, four times as long the next time, and so on."""
_WITNESSES = 3
"""Nodes that refuse something before that is taken for the run's own fault."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LABEL = "ray.io/node-id"


class Nodes:
    """What is known of the nodes.

    Args:
        terms: what every node must prove; None asks nothing, and no node is told from another.
        warn: told of a node that is not used, and why.
    """

    def __init__(self, terms: Terms | None = None, warn: Callable[[str], None] | None = None) -> None:
        self.terms, self._tell = terms, warn
        self._trust = NodeTrust()
        self._refused: dict[str, str] = {}
        self._again: dict[str, tuple[float, int]] = {}
        """Of refused nodes, those that may pass: when they are greeted again, and how often they have failed."""
        self._proved: set[str] = set()
        self._greetings: dict[str, Any] = {}
        self._told: set[str] = set()
        self._refusers: set[str] = set()
        self._listed: list[dict[str, Any]] = []
        self._looked = float("-inf")
        self._lock = threading.RLock()  # fits work in threads

    @property
    def joined(self) -> bool:
        """Whether they are a cluster's, that others started."""
        return self.terms is not None

    def warn(self, text: str) -> None:
        """Tell the user."""
        if self._tell is not None:
            self._tell(text)

    def listed(self, *, now: bool = False) -> list[dict[str, Any]]:
        """All nodes as Ray describes them, dead ones too; at most a second old, or of ``now``."""
        with self._lock:
            if now or not self.joined or time.monotonic() - self._looked > _LOOK_S:
                self._listed, self._looked = ray.nodes(), time.monotonic()
            return self._listed

    def usable(self, claim: Claim = (0, 0)) -> list[dict[str, Any]]:
        """Nodes that are alive, have proved what they must, are not avoided, and offer so much to an actor."""
        fitting = self._fitting(claim)
        avoided = self.avoided(claim)
        return [node for node in fitting if node["NodeID"] not in avoided]

    def _fitting(self, claim: Claim) -> list[dict[str, Any]]:
        with self._lock:
            alive = [node for node in self.listed() if node["Alive"]]
            if self.joined:
                alive = [node for node in alive if node["NodeID"] in self._proved]
        return [node for node in alive if _offers(node, claim)]

    def avoided(self, claim: Claim = (1, 0)) -> set[str]:
        """Nodes that get no more work though they have proved what they must; never all that could do it."""
        if not self.joined:
            return set()
        with self._lock:
            return self._trust.avoided({node["NodeID"] for node in self._fitting(claim)})

    def place(self) -> dict[str, str]:
        """Ray's label selector that keeps off nodes that are refused or avoided; empty: off none."""
        with self._lock:
            shunned = sorted(self._refused.keys() | self.avoided())
        return {_LABEL: f"!in({','.join(shunned)})"} if shunned else {}

    def done(self, node: str) -> None:
        """Something was done on a node."""
        if self.joined and node:
            with self._lock:
                self._trust.done(node)

    def failed(self, node: str, thing: Hashable, reason: str) -> None:
        """A thing failed on a node, for a reason that may be the node's. The user hears when it is avoided."""
        if not self.joined or not node:
            return
        with self._lock:
            self._trust.failed(node, thing, reason)
            avoided = self.avoided() - self._told
            self._told |= avoided
            evidence = {one: list(self._trust.evidence(one).values()) for one in avoided}
        for one, reasons in evidence.items():
            self.warn(
                f"{self.name(one)} gets no more work: {len(reasons)} failures in a row there, last: {reasons[-1]}"
            )

    def repeats(self, node: str, claim: Claim, error: Exception) -> bool:
        """Whether others would refuse what a node has refused: it has worked before, is alone, or is not the first.

        Else it is taken for that node's own fault, and the node is avoided: images may be missing there alone.
        """
        if not self.joined or not node:
            return True
        with self._lock:
            self._refusers.add(node)
            others = {one["NodeID"] for one in self.usable(claim)} - self._refusers
            if node in self._trust.proven or not others or len(self._refusers) >= _WITNESSES:
                return True
            self._trust.condemn(node)
            self._told.add(node)
        self.warn(f"{self.name(node)} gets no more work: {error}")
        return False

    def refuse(self, node: str, reason: str) -> None:
        """A node has not proved what it must: nothing runs there, unless it proves it later (``may_return``)."""
        with self._lock:
            known = node in self._refused
            due, failed = self._again.get(node, (0.0, 0))
            if not node or (known and time.monotonic() < due):
                return
            self._refused[node] = reason
            self._proved.discard(node)
            self._again.pop(node, None)
            if may_pass(reason):
                wait_s = min(wait_before(failed + 1, _AGAIN_S), _LONGEST_S)
                self._again[node] = (time.monotonic() + wait_s, failed + 1)
        if not known:
            self.warn(f"{self.name(node)} is not used: {reason}")

    @property
    def may_return(self) -> bool:
        """Whether a node is refused for what may pass: storage that is away."""
        with self._lock:
            return bool(self._again)

    def is_dead(self, *nodes: str) -> bool:
        """Whether Ray knows that one of these nodes is gone."""
        return any(one["NodeID"] in nodes and not one["Alive"] for one in self.listed(now=True))

    def name(self, node: str) -> str:
        """Of a node, for people: its host, its address and the beginning of Ray's id."""
        for one in self.listed():
            if one["NodeID"] == node:
                return f"node {one['NodeManagerHostname']} ({one['NodeManagerAddress']}, {node[:8]})"
        return f"node {node[:8]}"

    def where(self, node: str) -> str:
        """`` on node ...`` for messages; empty where there is one machine only."""
        return f" on {self.name(node)}" if self.joined and node else ""

    def greet(self) -> None:
        """Ask nodes that have joined since, or whose storage may be back; take the answers so far. Does not wait."""
        if not self.joined:
            return
        with self._lock:
            for node in self.listed():
                name = node["NodeID"]
                if node["Alive"] and name not in self._settled() and name not in self._greetings:
                    there = NodeAffinitySchedulingStrategy(name, soft=False)
                    self._greetings[name] = _greet.options(scheduling_strategy=there).remote(self.terms)
            pending = list(self._greetings.values())
            answered = set(ray.wait(pending, num_returns=len(pending), timeout=0)[0]) if pending else set()
            names = [name for name, reference in self._greetings.items() if reference in answered]
            answers = {name: _answer(self._greetings.pop(name)) for name in names}
            proved = [name for name, words in answers.items() if not words]
            self._proved.update(proved)
            back = [name for name in proved if self._refused.pop(name, "")]
            for name in back:
                del self._again[name]
        for name in back:
            self.warn(f"{self.name(name)} is used again: its storage is back")
        for name, words in answers.items():
            if words and not self.is_dead(name):
                self.refuse(name, words)

    def _settled(self) -> set[str]:
        """Nodes that need not be asked, at least for a while."""
        now = time.monotonic()
        waiting = {name for name in self._refused if self._again.get(name, (now + 1, 0))[0] > now}
        return self._proved | waiting

    def greet_all(self) -> None:
        """The same, waiting for the nodes that are there.

        Raises:
            RunError: none of them may work, for all have other versions. ClusterError: or for what may pass, such as
                storage that is away.
        """
        if not self.joined:
            return
        deadline = time.monotonic() + _GREETING_S
        self.greet()
        while self._greetings and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            self.greet()
        if self._refused and not self._greetings and not self.usable((1, 0)):
            lasting = all(reason.startswith("must have the driver's versions") for reason in self._refused.values())
            raise (RunError if lasting else ClusterError)(self.refusals())

    def refusals(self) -> str:
        """Which nodes are not used, and why, for a message."""
        lines = [f"  {self.name(node)}: {reason}" for node, reason in self._refused.items()]
        return "\n".join(["no node of the cluster may work for this run:", *lines])


def _offers(node: dict[str, Any], claim: Claim) -> bool:
    offered = node["Resources"]
    return offered.get("CPU", 0) >= claim[0] and offered.get("GPU", 0) >= claim[1]


@ray.remote(num_cpus=0, max_retries=0)
def _greet(terms: Terms) -> str:
    return prove(terms)


def _answer(reference: Any) -> str:
    try:
        return str(ray.get(reference))
    except RayError as error:
        return f"{root_cause(error)}; see that Ray and this project are installed there as on the driver"


def root_cause(error: BaseException) -> str:
    """The last words of Ray's account of an error, without the colours that it puts there."""
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit|Interrupt)\b", line)]
    return (named or lines or [type(error).__name__])[-1]


_now = Nodes()


def current() -> Nodes:
    """Of the Ray of this process."""
    return _now


def begin(seen: Path | None, warn: Callable[[str], None] | None, *, joined: bool) -> Nodes:
    """Another Ray: forget what was known. Nodes of a joined one must see the file and be able to write beside it."""
    global _now
    _now = Nodes(Terms.of(seen) if joined else None, warn)
    return _now
