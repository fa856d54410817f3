"""Every node of a cluster asked what a run would need of it, before there is one."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from workflows.runtime import nodes
from workflows.runtime.budget import free_memory, readable
from workflows.runtime.handshake import Terms, prove
from workflows.versions import versions

CHECKS = ("code", "folder", "images", "cores", "GPUs", "memory", "disk", "network")
"""What a node is asked, in the order of the table."""

ANSWER_S = 60.0
"""A node that has not answered by then is told as silent."""

_CONNECT_S = 5.0
_THREADS = 16
_COUNT_GPUS = "import torch; print(torch.cuda.device_count())"


@dataclass(frozen=True)
class Wanted:
    """What every node must have.

    Attributes:
        terms: versions, and a file in the run folder's place that all must see, and be able to write beside.
        inputs: files that must be readable, and their bytes. size_of: reads of one, and gives its bytes.
        disk: bytes that must be free where the run folder is; memory: of a node; 0: nobody knows.
        threads: cores of an actor.
        cuda: whether an actor must have a GPU.
    """

    terms: Terms
    inputs: tuple[tuple[str, int], ...]
    size_of: Callable[[str], int]
    disk: int = 0
    memory: int = 0
    threads: int = 1
    cuda: bool = False


@dataclass(frozen=True)
class NodeReport:
    """What a node said.

    Attributes:
        name: for people: host, address, beginning of Ray's id.
        cores, gpus: that Ray offers there.
        disk, memory: free bytes; None where it did not say.
        problems: by check, one of ``CHECKS``: what must be, what is, and what to do.
        unanswered: checks that could not be made.
    """

    name: str
    cores: int
    gpus: int
    disk: int | None
    memory: int | None
    problems: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unanswered: tuple[str, ...] = ()


def preflight(wanted: Wanted) -> list[NodeReport]:
    """Ask every node that is alive; the driver's own is one of them. Needs a connected Ray, and no cores of it."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    asked = {node["NodeID"]: _inspect.options(scheduling_strategy=_there(node)).remote(wanted) for node in alive}
    answers = _fetched(asked)
    able = [node for node in alive if isinstance(answers[node["NodeID"]], dict)]
    links = _links(able)
    return [_report(node, answers[node["NodeID"]], links.get(node["NodeID"], []), wanted, len(alive)) for node in alive]


def _there(node: Mapping[str, Any]) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)


def _fetched(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Values by name; words where a node failed or said nothing."""
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_S)
    found: dict[str, Any] = {}
    for name, reference in asked.items():
        try:
            found[name] = ray.get(reference, timeout=0)
        except TimeoutError:
            found[name] = f"must answer within {ANSWER_S:g} s, got nothing; see Ray's logs there, or its load"
        except RayError as error:
            words = nodes.root_cause(error)
            found[name] = f"must have this project, got {words}; install it and Ray there as on the driver"
    return found


def _report(node: Mapping[str, Any], answer: Any, links: Sequence[str], wanted: Wanted, of: int) -> NodeReport:
    offered = node["Resources"]
    cores, gpus = int(offered.get("CPU", 0)), int(offered.get("GPU", 0))
    name = nodes.current().name(node["NodeID"])
    if not isinstance(answer, dict):
        return NodeReport(name, cores, gpus, None, None, {"code": [answer]}, CHECKS[1:])
    problems = {**answer["problems"], "network": [*_of_address(node["NodeManagerAddress"], of), *links]}
    if cores and cores < wanted.threads:
        problems["cores"] = [
            f"must have those of an actor (runtime.threads = {wanted.threads}), got {cores}; lower runtime.threads"
        ]
    if wanted.cuda and cores and not gpus:
        problems["GPUs"] = ["must have a GPU for runtime.device = 'cuda', got none that Ray knows; set it to 'auto'"]
    return NodeReport(name, cores, gpus, answer["disk"], answer["memory"], {k: v for k, v in problems.items() if v})


def _of_address(address: str, of: int) -> list[str]:
    if of == 1 or not address.startswith("127."):
        return []
    return [
        f"must have an address that other nodes reach, got {address}; start Ray there with --node-ip-address ADDRESS"
    ]


@ray.remote(num_cpus=0, max_retries=0)
def _inspect(wanted: Wanted) -> dict[str, Any]:
    return inspect(wanted)


def inspect(wanted: Wanted) -> dict[str, Any]:
    """What this process sees: free ``disk`` and ``memory`` in bytes, and ``problems`` by check."""
    terms, disk, memory = wanted.terms, None, free_memory()
    folder = None if terms.seen is None else terms.seen.parent
    problems = {
        "code": _words(prove(replace(terms, seen=None))),
        "folder": _words(prove(replace(terms, versions=versions()))),
        "images": _unreadable(wanted),
        "memory": [],
        "disk": [],
        "GPUs": _hidden_gpus(),
    }
    if folder is not None and folder.is_dir():
        disk = shutil.disk_usage(folder).free
        if disk < wanted.disk:
            problems["disk"] = [
                f"must have {readable(wanted.disk)} free at {str(folder)!r}, got {readable(disk)}; free some, or give "
                "an --out on a larger disk"
            ]
    if memory < wanted.memory:
        problems["memory"] = [
            f"must have {readable(wanted.memory)} of free memory, got {readable(memory)}; lower runtime.actors, "
            "extract.batch or fit.minibatch"
        ]
    return {"disk": disk, "memory": memory, "problems": problems}


def _words(said: str) -> list[str]:
    return [said] if said else []


def _unreadable(wanted: Wanted) -> list[str]:
    """The first file that cannot be read as the driver reads it, and how many there are."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = [words for words in pool.map(partial(_look, wanted.size_of), wanted.inputs) if words]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return [f"{found[0]}{more}; mount the images and weights under the same path"] if found else []


def _look(size_of: Callable[[str], int], named: tuple[str, int]) -> str:
    path, expected = named
    try:
        size = size_of(path)
    except OSError as error:
        return f"must read {path!r}, got {type(error).__name__} ({error.strerror})"
    return "" if size == expected else f"must read {path!r} with {expected} bytes, got {size}"


def _hidden_gpus() -> list[str]:
    """GPUs that Ray offers here and torch does not see. In another process: this one may have been shown none."""
    offered = int(_offered_here().get("GPU", 0))
    if not offered:
        return []
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    asked = [sys.executable, "-c", _COUNT_GPUS]
    told = subprocess.run(  # noqa: S603 - our own words
        asked, env=environment, capture_output=True, text=True, timeout=ANSWER_S / 2, check=False
    )
    seen = int(told.stdout) if told.stdout.strip().isdigit() else 0
    if seen >= offered:
        return []
    return [f"must see the {offered} GPUs that Ray offers, got {seen} in torch; install its CUDA build and the driver"]


def _offered_here() -> dict[str, float]:
    own = ray.get_runtime_context().get_node_id()
    return next((dict(node["Resources"]) for node in ray.nodes() if node["NodeID"] == own), {})


class Post:
    """Listens at this node's address in the cluster, at a port that the system chooses, and calls at others'."""

    def __init__(self) -> None:
        self._server: socket.socket | None = None

    def open(self) -> tuple[str, int]:
        """Address and port; whoever connects is let in and dismissed."""
        host = ray.util.get_node_ip_address()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = socket.create_server((host, 0), family=family, backlog=1024)
        threading.Thread(target=_serve, args=[self._server], daemon=True).start()
        return host, int(self._server.getsockname()[1])

    def call(self, others: Sequence[tuple[str, str, int]]) -> list[str]:
        """Names, hosts and ports to call at; words for each that does not answer."""
        with ThreadPoolExecutor(_THREADS) as pool:
            return [words for words in pool.map(_called, others) if words]

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()


_RemotePost: Callable[..., Any] = ray.remote(num_cpus=0, max_restarts=0)(Post)


def _serve(server: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed
        while True:
            server.accept()[0].close()


def _called(other: tuple[str, str, int]) -> str:
    name, host, port = other
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return (
            f"must reach {name} at port {port}, one of those that the system gives, got {reason}; open all ports "
            "between the nodes"
        )
    return ""


def _links(able: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Which other nodes, and the driver, each cannot connect to, as fits of several actors must; or words of itself."""
    own, names = Post(), {node["NodeID"]: nodes.current().name(node["NodeID"]) for node in able}
    posts = {node["NodeID"]: _RemotePost.options(scheduling_strategy=_there(node)).remote() for node in able}  # type: ignore[attr-defined]
    try:
        opened = _fetched({name: post.open.remote() for name, post in posts.items()})
        places = {name: place for name, place in opened.items() if isinstance(place, tuple)}
        driver = ("the driver", *own.open())
        asked = {
            name: posts[name].call.remote(
                [driver, *((names[other], *place) for other, place in places.items() if other != name)]
            )
            for name in places
        }
        called = _fetched(asked) if asked else {}
        return {name: _as_list(called.get(name, opened[name])) for name in posts}
    finally:
        own.close()
        for post in posts.values():
            ray.kill(post)


def _as_list(said: Any) -> list[str]:
    return [said] if isinstance(said, str) else list(said)


def probe(folder: Path) -> Path:
    """Write a file of one's own into the nearest folder that is there of a run folder's path; to be removed."""
    place = folder
    while not place.is_dir():
        place = place.parent
    path = place / f".check-{os.getpid()}-{os.urandom(4).hex()}"
    path.write_bytes(os.urandom(16))
    return path
