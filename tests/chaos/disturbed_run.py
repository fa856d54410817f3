"""One run on a cluster of hosts, disturbed as drawn: the same command is given again until it comes to its end."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from tests.chaos.disturbances import STAGES, Disturbance
from tests.end_to_end.killing import Driver, ledger
from tests.network_hosts import Host, Hosts
from workflows.errors import RunError

AWAY_S = 2.5
"""Storage is away for so long."""
BUSY_S = 25.0
"""So long an actor at work is waited for; then the disturbance comes all the same, or later if there is none."""
MOST_DRIVERS = 25


@dataclass(frozen=True)
class Event:
    """What happened, for the table."""

    seconds: float
    run: str
    stage: str
    what: str


@dataclass
class Chaos:
    """What all runs share."""

    hosts: Hosts
    pictures: Path
    deadline: float
    """By ``time.monotonic``."""
    tell: Callable[[Event], None]
    began: float = field(default_factory=time.monotonic)
    kills: int = 0
    starting: list[threading.Thread] = field(default_factory=list)


class DisturbedRun:
    """Gives the command, disturbs what it starts, and gives it again.

    Attributes:
        quarantined: (stage, item) of everything that any of its drivers gave up.
        left: disturbances whose moment has not come, at the end of a run that never came.
        drivers: exit statuses.
        faults: what should never happen.
    """

    def __init__(self, name: str, root: Path, arguments: list[str], disturbances: list[Disturbance]) -> None:
        self.name, self.root, self._arguments = name, root, arguments
        self.left, self.quarantined, self.drivers = disturbances, set[tuple[str, int]](), list[int]()
        self.overdue, self.faults = 0, list[str]()
        self._log, self._from = root.with_suffix(".log"), 0
        self._started = self._since = 0.0

    def go(self, chaos: Chaos, poison: Path | None) -> None:
        """To its end. poison: the file that poisons the run, removed once nothing but the poison shard is left."""
        while (status := self._one_driver(chaos)) != 0:
            assert len(self.drivers) < MOST_DRIVERS, f"{self.name} does not come to its end: {self._told()}"
            if status == 1:
                self._note_quarantine()
                if poison is not None and self._stands_at(poison):
                    chaos.tell(self._event(chaos, "ended with 1: only the poison shard is left; the poison is removed"))
                    poison.unlink()
                else:
                    chaos.tell(self._event(chaos, f"ended with 1: {self._told()[:300]}"))
            elif status != -signal.SIGKILL:
                self.faults.append(f"a driver ended with {status}: {self._told()[:500]}")
        if "Traceback (most" in self._log.read_text():
            self.faults.append(f"a traceback, see {self._log}")

    def _stands_at(self, poison: Path) -> bool:
        content = ledger(self.root, "extract")
        return poison.exists() and len(content.failed) == 1 and len(content.items) == (content.total or 0) - 1

    def _one_driver(self, chaos: Chaos) -> int:
        self._from = self._log.stat().st_size if self._log.exists() else 0
        self._started = time.time()
        driver = Driver([*self._arguments, "--address", chaos.hosts.address], self._log)
        self._since = time.monotonic()
        try:
            while driver.process.poll() is None:
                assert time.monotonic() < chaos.deadline, f"{self.name}: out of time: {self._told()}"
                due = next((one for one in self.left if self._is_due(one)), None)
                if due is not None and self._disturb(chaos, driver, due):
                    self.left.remove(due)
                    self._since = time.monotonic()
                time.sleep(0.05)
            self.drivers.append(int(driver.process.wait()))
            return self.drivers[-1]
        finally:
            driver.reap()
            self.overdue = self._log.read_text().count(" is overdue: ")

    def _is_due(self, one: Disturbance) -> bool:
        """This driver is at work, at the stage or behind it, and it is late enough."""
        stage, _ = self._where()
        late = STAGES.index(stage) >= STAGES.index(one.stage) if one.is_kill else stage == one.stage
        if not self._at_work():
            self._since = time.monotonic()
        return late and time.monotonic() - self._since > one.delay_s

    def _at_work(self) -> bool:
        """Whether the present driver has written to a ledger: before that it only starts."""
        ledgers = (self.root / "ledgers").glob("*.jsonl")
        return any(path.stat().st_mtime > self._started for path in ledgers)

    def _where(self) -> tuple[str, str]:
        """The last stage that has begun, and how far it is."""
        for stage in reversed(STAGES):
            with contextlib.suppress(RunError):
                content = ledger(self.root, stage)
                if content.fingerprint is not None:
                    return stage, f"{len(content.items)}/{content.total}"
        return "index", ""

    def _disturb(self, chaos: Chaos, driver: Driver, one: Disturbance) -> bool:
        """False: not now, for nothing that it wants is there."""
        if one.kind == "driver":
            event = self._event(chaos, "driver killed")
            driver.kill()
        else:
            host, actor = self._busy(chaos, driver, one)
            event = self._event(chaos, "")
            storage = not one.is_kill and one.kind != "hang"
            if host is None or actor is None or (storage and self._where()[0] != one.stage):
                return False
            event = replace(event, what=self._strike(chaos, one, host, actor))
        chaos.kills += one.is_kill
        chaos.tell(event)
        return True

    def _busy(self, chaos: Chaos, driver: Driver, one: Disturbance) -> tuple[Host | None, psutil.Process | None]:
        """An actor at work, and its host."""
        deadline = time.monotonic() + BUSY_S
        while driver.process.poll() is None and time.monotonic() < deadline:
            found = [
                (host, actor)
                for host in list(chaos.hosts.hosts)
                for doing in (".work", ".advance")
                for actor in host.actors(doing)
                if actor.status() != psutil.STATUS_STOPPED
            ]
            if found:
                return found[int(one.victim * len(found))]
            time.sleep(0.05)
        return None, None

    def _strike(self, chaos: Chaos, one: Disturbance, host: Host, actor: psutil.Process) -> str:
        if one.kind == "actor":
            actor.kill()
            return f"actor {actor.pid} on {host.address} killed"
        if one.kind == "hang":
            actor.suspend()
            return f"actor {actor.pid} on {host.address} stopped (SIGSTOP)"
        if one.kind == "host":
            chaos.hosts.lose(host)
            chaos.starting.append(threading.Thread(target=chaos.hosts.start))
            chaos.starting[-1].start()
            return f"host {host.address} killed, another joins"
        away = chaos.pictures if one.kind == "pictures" else self.root / "activations"
        hidden = away.with_name(f"{away.name}-away")
        away.rename(hidden)
        time.sleep(AWAY_S)
        hidden.rename(away)
        return f"{one.kind} away for {AWAY_S:g} s"

    def _note_quarantine(self) -> None:
        for stage in STAGES:
            with contextlib.suppress(RunError):
                self.quarantined |= {(stage, int(item)) for item in ledger(self.root, stage).failed}

    def _event(self, chaos: Chaos, what: str) -> Event:
        return Event(time.monotonic() - chaos.began, self.name, " ".join(self._where()), what)

    def _told(self) -> str:
        """The last driver's error, or its last words."""
        with self._log.open(errors="replace") as log:
            log.seek(self._from)
            said = log.read()
        return said[said.find("error ") :] if "error " in said else said[-500:] or "nothing"
