"""Starting a local Ray or joining a cluster, and how wide the stages may run on it."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError, RayError

from workflows.errors import BudgetError, ClusterError, RunError
from workflows.runtime import kept_actors, nodes
from workflows.runtime.node_watch import NodeWatch
from workflows.settings import RuntimeSettings

_OBJECT_STORE = 512 * 1024**2
"""Bytes of a local object store: only small records and count matrices pass through it."""

_KNOCK_S = 10.0

_LONGEST_FOLDER = 107 - len("/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store")
"""Characters that the name of a Unix socket leaves for the temporary folder."""

_connection = {"joined": False}
"""Whether the Ray of this process is a cluster that others started. A process has one Ray at most."""


@dataclass(frozen=True)
class Resources:
    """What a connected Ray offers."""

    cpus: int
    """Logical cores of all nodes that may work."""
    gpus: int
    """GPUs of them."""
    nodes: int
    """How many they are: alive, with what a run needs, and not avoided (``workflows.runtime.nodes``)."""
    node_cpus: int
    """Logical cores of the smallest node that has any."""
    node_memory: int
    """Bytes that Ray plans with on the smallest node."""
    joined: bool
    """A cluster that others started: it may grow, and is never shut down from here."""
    alone: bool = False
    """There is no Ray: this process does everything itself, as in a trial."""


@dataclass(frozen=True)
class ActorPlan:
    """How many actors a stage starts, and what each of them takes."""

    n_actors: int
    num_cpus: float
    num_gpus: float
    threads: int
    device: str
    """``cuda`` (Ray shows the actor its GPU alone, so the index is 0) or ``cpu``."""


@contextmanager
def connect(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    seen: Path | None = None,
    warn: Callable[[str], None] | None = None,
    greet: bool = True,
) -> Iterator[Resources]:
    """Start a quiet local Ray, or join a cluster, for the length of the block.

    A local Ray ends with the block. A joined cluster is only left, and a Ray this process already has is kept as it
    is. Without an address, ``RAY_ADDRESS`` is joined if set (``ray job submit`` sets it for its driver).

    Args:
        address: ``auto``, ``host:port``; None starts a local Ray.
        num_cpus: logical cores of a local Ray; None counts them.
        num_gpus: GPUs of a local Ray; None finds them.
        seen: a file that every node of a cluster must see, in a folder that it must be able to write.
        warn: told of nodes that are not used, and of work that hangs.
        greet: False asks no node what it must prove, for who asks each of them more (``workflows.runtime.preflight``).

    Raises:
        RunError: ``address`` is none, the cluster there refuses the token, none of its nodes may work, or the temporary
            folder's name is too long for sockets. ClusterError: no cluster answers at ``address``, a local Ray does
            not start, or Ray fails.
    """
    if ray.is_initialized():
        _begin(seen, warn, greet)
        yield resources()
        return
    asked_by = "--address" if address else "RAY_ADDRESS"
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    with _own_handler_of_sigterm():
        if address == "local":
            _start(num_cpus, num_gpus)
        else:
            _join(address, asked_by)
    _connection["joined"] = address != "local"
    try:
        with ExitStack() as watches:
            _watch_node(watches)
            _begin(seen, warn, greet)
            yield resources()
    except RayError as error:
        raise ClusterError(
            f"Ray failed ({_first_line(error)}); give the same command again, which goes on where it was"
        ) from error
    finally:
        _connection["joined"] = False
        kept_actors.release()
        ray.shutdown()
        nodes.begin(None, None, joined=False)


def _begin(seen: Path | None, warn: Callable[[str], None] | None, greet: bool) -> None:
    known = nodes.begin(seen, warn, joined=_connection["joined"])
    if greet:
        known.greet_all()


@contextmanager
def _own_handler_of_sigterm() -> Iterator[None]:
    """Ray puts its own handler in place, which ends the process from within C++; ours comes back."""
    handler: Any = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:  # what Ray's handler makes of the signal: while it starts, nothing else ends the process
        if not callable(handler):
            raise
        handler(signal.SIGTERM, None)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _watch_node(watches: ExitStack) -> None:
    """Without this node's Ray, or without the head of a local one, nothing goes on."""
    own = ray.get_runtime_context()
    places = {}
    for node in ray.nodes():
        if node["NodeID"] == own.get_node_id():
            places["raylet"] = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    if not _connection["joined"]:
        places["gcs_server"] = own.gcs_address  # that of a cluster may come back
    for process, place in places.items():
        host, _, port = place.rpartition(":")
        words = (
            f"Ray's process {process} at {place} ended, often because the memory or the disk of this machine is full; "
            f"Ray's logs are in {os.path.join(_temporary_folder(), 'ray')!r}; give the same command again, which goes "
            "on where it was"
        )
        watches.callback(NodeWatch(host.strip("[]"), int(port), words).end)


def _start(num_cpus: int | None, num_gpus: int | None) -> None:
    _refuse_long_temporary_folder()
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            object_store_memory=_OBJECT_STORE,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except AuthenticationError as error:
        raise _without_token(error) from error
    except Exception as error:  # Ray raises Exception itself where its node does not start in time
        raise ClusterError(
            f"a local Ray did not start ({_first_line(error)}); on a busy machine give the same command again, or set "
            f"RAY_raylet_start_wait_time_s=300; Ray's logs are in {os.path.join(_temporary_folder(), 'ray')!r}"
        ) from error


def _temporary_folder() -> str:
    """Where Ray puts its sockets, by its own rule."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108


def _refuse_long_temporary_folder() -> None:
    """Names of Unix sockets are bounded by the kernel; Ray's are long."""
    folder = _temporary_folder()
    if len(os.fsencode(folder)) > _LONGEST_FOLDER:
        name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
        raise RunError(
            f"{name}: must have at most {_LONGEST_FOLDER} characters, for Ray's sockets lie in it, got "
            f"{len(os.fsencode(folder))} ({folder!r}); set RAY_TMPDIR=/tmp or another short folder"
        )


def _join(address: str, asked_by: str) -> None:
    if "://" in address:
        raise RunError(
            f"{asked_by} {address!r}: the driver must run inside the cluster: give host:port or auto, "
            "or send the command with `ray job submit`"
        )
    try:
        if address != "auto":
            _knock(address)
        _join_silently(address, asked_by)
    except (OSError, ValueError, RuntimeError) as error:
        remedy = "leave --address out" if asked_by == "--address" else "unset RAY_ADDRESS"
        raise ClusterError(
            f"{asked_by} {address!r}: no Ray cluster answers there ({_first_line(error)}); "
            f"{remedy} to start a local Ray, or start one with `ray start --head`"
        ) from error


def _join_silently(address: str, asked_by: str) -> None:
    """Raises RunError: the cluster is there and refuses the token, which Ray tells by warnings of its own only."""
    with _kept_back() as said:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except AuthenticationError as error:
            raise _without_token(error) from error
        except (OSError, ValueError, RuntimeError) as error:
            if "InvalidAuthToken" not in said() and "Unauthenticated" not in said():
                raise
            raise RunError(
                f"{asked_by} {address!r}: a Ray cluster answers there, but refuses the token of this command; copy "
                "~/.ray/auth_token from its head, and set RAY_AUTH_MODE=token (or RAY_AUTH_TOKEN_PATH)"
            ) from error


def _without_token(error: Exception) -> RunError:
    return RunError(
        f"RAY_AUTH_MODE: Ray asks for a token and finds none ({_first_line(error).partition('. ')[0]}); make one with "
        "`ray get-auth-token --generate`, or for a cluster copy ~/.ray/auth_token from its head"
    )


@contextmanager
def _kept_back() -> Iterator[Callable[[], str]]:
    """What Ray's C++ writes to the standard error stream meanwhile, which no setting turns off; gives it as text."""
    with tempfile.TemporaryFile() as kept:
        own = os.dup(2)
        os.dup2(kept.fileno(), 2)

        def said() -> str:
            kept.seek(0)
            return kept.read().decode(errors="replace")

        try:
            yield said
        finally:
            os.dup2(own, 2)
            os.close(own)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _knock(address: str) -> None:
    """Fail within seconds where nobody listens; Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("an address is host:port or auto")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def resources() -> Resources:
    """What the connected Ray offers now."""
    offered = [node["Resources"] for node in nodes.current().usable()]
    return Resources(
        cpus=int(sum(node.get("CPU", 0) for node in offered)),
        gpus=int(sum(node.get("GPU", 0) for node in offered)),
        nodes=len(offered),
        node_cpus=int(min((node["CPU"] for node in offered if node.get("CPU", 0) >= 1), default=1)),
        node_memory=int(min((node.get("memory", 0) for node in offered), default=0)),
        joined=_connection["joined"],
    )


def actors_now(settings: RuntimeSettings, planned: ActorPlan) -> int:
    """How many such actors the cluster holds at this moment; at least 1, who waits for room."""
    offered = resources()
    if planned.num_gpus and not offered.gpus:
        return 1
    try:
        return plan_actors(settings.model_copy(update={"device": planned.device}), offered).n_actors
    except BudgetError:
        return 1


def plan_actors(settings: RuntimeSettings, offered: Resources, n_items: int | None = None) -> ActorPlan:
    """One actor per GPU if there are any, else as many actors of ``runtime.threads`` cores as fit.

    Args:
        settings: ``actors``, ``threads`` and ``device`` are read.
        offered: of the connected Ray.
        n_items: never more actors than work items.

    Raises:
        BudgetError: ``runtime.device`` is ``cuda`` and there is no GPU, or an actor needs more cores than there are.
    """
    if settings.device == "cuda" and offered.gpus == 0:
        raise BudgetError("runtime.device is 'cuda' but Ray offers 0 GPUs: set runtime.device to 'auto' or 'cpu'")
    if settings.threads > offered.cpus:
        raise BudgetError(
            f"runtime.threads is {settings.threads} but Ray offers {offered.cpus} cores: lower runtime.threads"
        )
    on_gpu = settings.device != "cpu" and offered.gpus > 0
    fitting = offered.cpus // settings.threads
    fitting = max(1, min(fitting, offered.gpus) if on_gpu else fitting)
    wanted = fitting if settings.actors is None else min(settings.actors, fitting)
    return ActorPlan(
        n_actors=wanted if n_items is None else max(1, min(wanted, n_items)),
        num_cpus=settings.threads,
        num_gpus=1 if on_gpu else 0,
        threads=settings.threads,
        device="cuda" if on_gpu else "cpu",
    )
