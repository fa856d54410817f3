"""A driver in a process of its own, watched through its run folder, that can be killed with everything it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from workflows.storage.ledger import Ledger, LedgerContent

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0
POLL_S = 0.003
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
        status = self.process.wait(timeout=PATIENCE_S)
        return status

    def actors(self, kind: str) -> list[psutil.Process]:
        """Processes of the driver's Ray that carry an actor of this class, by the title Ray gives them."""
        found = []
        for process in self.remember_started():
            try:
                title = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if title.startswith(f"ray::{kind}"):
                found.append(process)
        return found

    def remember_started(self) -> list[psutil.Process]:
        """Everything that the driver has started and that is alive, children of children too."""
        try:
            alive = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            alive = []
        self.started.update(alive)
        return alive

    def reap(self) -> int:
        """End what is left of the driver and of what it started, by process; gives how many had to be ended."""
        if self.process.poll() is None:
            self.kill()
        _, left = psutil.wait_procs(self.started, timeout=EXIT_S)
        for process in left:
            process.kill()  # psutil checks that the id still is the same process
        psutil.wait_procs(left, timeout=EXIT_S)
        return len(left)

    def output(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


def ledger(root: Path, stage: str) -> LedgerContent:
    """What a run's ledger says now."""
    return Ledger(root / "ledgers" / f"{stage}.jsonl").content()


def ledger_lines(root: Path, stage: str) -> list[str]:
    """Raw lines."""
    return (root / "ledgers" / f"{stage}.jsonl").read_text().splitlines()
