"""A Ray cluster on one machine whose hosts have networks of their own: lost, cut off, started anew, pinned to a core.

A host is a raylet in a network namespace, joined to a bridge, and in a mount namespace. What is mounted there nobody
else sees, what listens there nobody reaches whose link is cut, and its actors meet over addresses, as on two machines.
The head and the driver are on the machine itself. Needs root, ``ip`` and ``unshare``.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parents[1]
QUICK = {"health_check_period_ms": 500, "health_check_timeout_ms": 10000, "health_check_failure_threshold": 3}
"""A link that is cut is noticed within a quarter of a minute; slow raylets of a busy machine are not taken for dead."""
STORE = 80_000_000
"""Bytes of an object store."""
PATIENCE_S = 120.0
TRIES = 4
"""A raylet gives up where the machine is so busy that its agents take half a minute to start."""
PORTS = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port")
"""Given, for a raylet waits for its agents to choose theirs, half a minute and no longer."""
_RAY = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--object-store-memory", str(STORE))


def may_make_hosts() -> bool:
    """Whether this user may make network and mount namespaces, and links between them."""
    if os.geteuid() or shutil.which("ip") is None or shutil.which("unshare") is None:
        return False
    probe = subprocess.run(["unshare", "-n", "-m", "ip", "link", "add", "probe", "type", "bridge"], check=False)
    return probe.returncode == 0


def free_ports(number: int) -> list[int]:
    """TCP ports that nobody listens at just now."""
    with contextlib.ExitStack() as opened:
        bound = [opened.enter_context(socket.create_server(("", 0))) for _ in range(number)]
        return [one.getsockname()[1] for one in bound]


def places_of_the_project() -> list[Path]:
    """Where ``workflows`` lies: in the tests' folder, and where it is installed, if that is another."""
    ask = (
        "import importlib.util as i; s = i.find_spec('workflows'); print(*(s.submodule_search_locations if s else ()))"
    )
    bare = {"PATH": os.environ["PATH"]}  # without this folder in PYTHONPATH
    told = subprocess.run([sys.executable, "-c", ask], cwd="/", env=bare, capture_output=True, text=True, check=True)
    return sorted({PROJECT / "workflows", *map(Path, told.stdout.split())})


class Host:
    """One raylet with a network of its own."""

    def __init__(self, space: str, address: str, process: subprocess.Popen[bytes]) -> None:
        self.space, self.address, self.process = space, address, process

    def actors(self, doing: str = "") -> list[psutil.Process]:
        """Its processes that carry an actor, or one in a call, by the title that Ray gives them."""
        found = []
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if " ".join(process.cmdline()).startswith(f"ray::ActorProcess{doing}"):
                        found.append(process)
        return found

    def cut(self) -> None:
        """Its link carries nothing any more; everything there goes on."""
        _ip("link", "set", _link(self.space), "down")

    def mend(self) -> None:
        """The link carries again."""
        _ip("link", "set", _link(self.space), "up")

    def lose(self) -> None:
        """The machine is gone: everything there dies at once."""
        _kill(self.process)
        _ip("netns", "del", self.space, check=False)


class Hosts:
    """A head without cores on this machine, and hosts; a context that ends all of them."""

    def __init__(self, log: Path, environment: dict[str, str] | None = None) -> None:
        """environment: further variables of all raylets, and so of all actors."""
        self._log = log
        self._environment = {
            **os.environ,
            "RAY_AUTH_MODE": "disabled",
            "RAY_raylet_start_wait_time_s": "60",
            "RAY_worker_niceness": "0",
            # The workers' folder is another.
            "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            **(environment or {}),
        }
        self._environment.pop("RAY_ADDRESS", None)
        self._name = f"ig{os.getpid()}"
        self._subnet = f"10.{64 + os.getpid() % 128}.{os.getpid() // 128 % 256}"
        self._numbers = itertools.count(2)
        self.hosts: list[Host] = []
        """All that are there."""

    def __enter__(self) -> Hosts:
        try:
            _ip("link", "add", self._name, "type", "bridge")
            _ip("addr", "add", f"{self._subnet}.1/24", "dev", self._name)
            _ip("link", "set", self._name, "up")
            self._start_head()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in list(self.hosts):
            self.lose(host)
        if hasattr(self, "_head"):
            _kill(self._head)
        _ip("link", "del", self._name, check=False)

    def _start_head(self) -> None:
        for _ in range(TRIES):
            (port,) = free_ports(1)
            self.address = f"{self._subnet}.1:{port}"
            own = ["--head", "--port", str(port), "--node-ip-address", f"{self._subnet}.1", "--num-cpus", "0"]
            own += ["--include-dashboard", "false", "--system-config", json.dumps(QUICK)]
            self._head = self._popen([*_RAY, *own, *_agent_ports()])
            if self._joins(self._head, f"{self._subnet}.1"):
                return
            _kill(self._head)
        raise AssertionError(f"no head could be started, see {self._log}")

    def start(self, mounts: str = "true", cores: str = "", environment: Sequence[str] = ()) -> Host:
        """One more host, of one core, which sees what the shell commands mount.

        Args:
            mounts: run in its mount namespace before Ray.
            cores: of the machine that its processes may use, as ``taskset`` takes them; empty: all.
            environment: further ``NAME=value``.
        """
        for _ in range(TRIES):
            number = next(self._numbers)  # several threads may start hosts
            space, address = f"{self._name}-{number}", f"{self._subnet}.{number}"
            _make_space(space, address, self._name)
            own = [*_RAY, "--address", self.address, "--node-ip-address", address, "--num-cpus", "1", *_agent_ports()]
            pinned = ["taskset", "-c", cores] if cores else []
            within = ["sh", "-e", "-c", f'{mounts}; exec "$@"', "sh", "env", *environment, *pinned, *own]
            host = Host(space, address, self._popen(["ip", "netns", "exec", space, "unshare", "-m", *within]))
            self.hosts.append(host)
            if self._joins(host.process, address):
                return host
            self.lose(host)
        raise AssertionError(f"no host could be started, see {self._log}")

    def lose(self, host: Host) -> None:
        """One is gone."""
        host.lose()
        if host in self.hosts:
            self.hosts.remove(host)

    def alive(self) -> dict[str, str]:
        """Ray's ids of the nodes that it takes for alive, by address."""
        from ray._raylet import GcsClient

        nodes = GcsClient(address=self.address).get_all_node_info(timeout=10).values()
        return {node.node_manager_address: node.node_id.hex() for node in nodes if node.state == 0}

    def _joins(self, process: subprocess.Popen[bytes], address: str) -> bool:
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(Exception):  # before the head answers
                if address in self.alive():
                    return True
            time.sleep(0.2)
        return False

    def _popen(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self._log.parent,  # Ray would show the project's folder to every worker
                start_new_session=True,
            )


def _agent_ports() -> list[str]:
    ports = free_ports(len(PORTS))
    return [part for name, port in zip(PORTS, ports, strict=True) for part in (f"--{name}", str(port))]


def _link(space: str) -> str:
    """The bridge's end; names of links have at most 15 characters."""
    return f"v{space[2:]}"


def _make_space(space: str, address: str, bridge: str) -> None:
    _ip("netns", "add", space)
    _ip("link", "add", _link(space), "type", "veth", "peer", "name", "eth0", "netns", space)
    _ip("link", "set", _link(space), "master", bridge, "up")
    for change in (("addr", "add", f"{address}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
        _ip("-n", space, *change)
    _ip("-n", space, "link", "set", "lo", "up")


def _ip(*arguments: str, check: bool = True) -> None:
    told = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert not check or told.returncode == 0, f"ip {' '.join(arguments)}: {told.stderr}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With everything of its session, and all that it has started elsewhere."""
    started = []
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()
    psutil.wait_procs(started, timeout=10)
