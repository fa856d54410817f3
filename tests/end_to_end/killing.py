"""A driver in a process of its own, watched through its run folder, that can be killed with everything it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import psutil

from tests.end_to_end.small_digits import FIRST_LAYER, SCOPE
from workflows.errors import RunFolderError
from workflows.runtime import kept_actors
from workflows.storage.ledger import Ledger, LedgerContent
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0
POLL_S = 0.01
_LISTING_S = 0.1
LATE_STEP = 80
"""A fit is killed at a checkpoint of this step or a later one; one that began again would come past earlier ones."""
EXIT_S = 20.0


class Driver:
    """``python -m workflows`` in a session of its own."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "PYTHONUNBUFFERED": "1"}
        surroundings.pop("RAY_ADDRESS", None)
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workflows", *arguments],
                cwd=PROJECT,
                env=surroundings,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started: set[psutil.Process] = set()

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Poll until the condition holds; fails when the driver ends before."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if self.process.poll() is not None:
                raise AssertionError(f"the driver ended with {self.process.returncode} before {what}:\n{self.output()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: did not happen within {PATIENCE_S:g} s:\n{self.output()}")
            time.sleep(POLL_S)

    def kill(self) -> None:
        """SIGKILL of the driver alone, as when memory runs out; what it had started is remembered for ``reap``."""
        self.remember_started()
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self) -> int:
        """Wait for the end; gives the exit status."""
        return self.process.wait(timeout=PATIENCE_S)

    def remember_started(self) -> list[psutil.Process]:
        """Everything that the driver has started and that is alive, children of children too."""
        try:
            alive = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            alive = []
        self.started.update(alive)
        return alive

    def reap(self) -> None:
        """End what is left of the driver and of what it started, by process: Ray's agents take half a minute."""
        if self.process.poll() is None:
            self.kill()
        for process in self.started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()  # psutil checks that the id still is the same process
        psutil.wait_procs(self.started, timeout=EXIT_S)

    def output(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


def ledger(root: Path, stage: str) -> LedgerContent:
    """What a run's ledger says now."""
    return Ledger(root / "ledgers" / f"{stage}.jsonl").content()


def ledger_lines(root: Path, stage: str) -> list[str]:
    """Raw lines."""
    return (root / "ledgers" / f"{stage}.jsonl").read_text().splitlines()


def actor_processes(known: Collection[int] = (), doing: str = "") -> list[psutil.Process]:
    """Processes of this process's Ray that carry an actor, or one in a call, by the title that Ray gives them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.pid not in known and " ".join(process.cmdline()).startswith(f"ray::ActorProcess{doing}"):
                found.append(process)
    return found


class ActorKiller:
    """Kills one actor of this process's Ray, as soon as a condition holds; a context for one run.

    ``afterwards`` is called again and again from then on.

    Attributes:
        killed: whether it came to that.
        seen: ids of all processes that carried an actor, the replacements among them.
    """

    def __init__(self, condition: Callable[[], bool], afterwards: Callable[[], object] = lambda: None) -> None:
        self.condition, self.afterwards = condition, afterwards
        self.killed, self.seen = False, set[int]()
        kept_actors.release()  # an actor of an earlier command that worked on would be none of this run's
        self._earlier = {process.pid for process in actor_processes()}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> ActorKiller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        # Listing processes is slow, so the victim is chosen before its moment comes.
        victims: list[psutil.Process] = []
        while not self._over.is_set():
            if not self.killed and victims and self.condition():
                victims[0].kill()
                self.killed = True
            if self.killed:
                self.afterwards()
            if self.killed or not victims:
                victims = actor_processes(known=self._earlier)
                self.seen.update(process.pid for process in victims)
                time.sleep(_LISTING_S)  # listing all processes again and again takes a core from what is watched
            time.sleep(POLL_S)


def checkpoint_step(root: Path) -> int:
    """Step of the checkpoint of the lowest layer's fit; 0 while there is none."""
    path = RunFolder(root).fit_state(SCOPE, FIRST_LAYER)
    try:
        return int(load_state(path)["step"])
    except RunFolderError:
        return 0


def address_of_local_ray() -> str:
    """host:port at which another driver joins the Ray of this process."""
    import ray

    kept_actors.release()  # they would hold the cores that the other driver's actors need
    return ray.get_runtime_context().gcs_address
