"""A run folder on storage whose locks do not reach other hosts: the owner's heart is listened to."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workflows.errors import RunFolderError
from workflows.storage import folder_lock
from workflows.storage.folder_lock import OWNER_FILE, Owner, held, is_held


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "BEAT_S", 0.1)
    monkeypatch.setattr(folder_lock, "STALE_S", 1.0)


def write_owner(root: Path, host: str, age_s: float = 0.0, process: int = 7) -> None:
    (root / OWNER_FILE).write_text(json.dumps({"host": host, "process": process, "since": 0.0}))
    at = time.time() - age_s
    os.utime(root / OWNER_FILE, (at, at))


@contextmanager
def beating(root: Path) -> Iterator[None]:
    """As a driver on another host does it."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.1):
            os.utime(root / OWNER_FILE)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        yield
    finally:
        over.set()
        heart.join()


def test_a_living_owner_on_another_host_is_refused_with_its_name(tmp_path: Path) -> None:
    write_owner(tmp_path, "node-3")
    with beating(tmp_path):
        with (
            pytest.raises(RunFolderError, match=r"in use by another driver \(process 7 on node-3\): wait for it"),
            held(tmp_path),
        ):
            pass
        assert is_held(tmp_path)
    assert Owner.of(tmp_path) == Owner("node-3", 7, 0.0)


def test_a_dead_owner_on_another_host_is_taken_over(tmp_path: Path) -> None:
    write_owner(tmp_path, "node-3", age_s=3600)
    assert not is_held(tmp_path)
    started = time.monotonic()
    with held(tmp_path):
        assert time.monotonic() - started < 0.8, "nobody waits for one that is dead for long"
        owner = Owner.of(tmp_path)
        assert owner is not None
        assert owner.process == os.getpid()
    assert not (tmp_path / OWNER_FILE).exists()
    write_owner(tmp_path, "node-3")  # died just now: its silence is waited for
    started = time.monotonic()
    with held(tmp_path):
        assert time.monotonic() - started > 0.5


def test_where_locks_are_not_known_the_owner_alone_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unknown)
    write_owner(tmp_path, os.uname().nodename, process=os.getppid())
    with beating(tmp_path), pytest.raises(RunFolderError, match=f"process {os.getppid()} on "), held(tmp_path):
        pass
    with held(tmp_path):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)


def hold_until_taken_over(root: Path) -> None:
    with held(root):
        first = (root / OWNER_FILE).stat().st_mtime_ns
        deadline = time.monotonic() + 20
        while (root / OWNER_FILE).stat().st_mtime_ns == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        write_owner(root, "node-3")
        while time.monotonic() < deadline:  # a single long sleep would end before the interruption is seen
            time.sleep(0.02)


def test_the_heart_beats_and_a_driver_that_was_taken_over_stops(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # processes of a parallel suite ignore it
    try:
        with pytest.raises(RunFolderError, match=r"was taken over by another driver \(process 7 on node-3\)"):
            hold_until_taken_over(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert Owner.of(tmp_path) == Owner("node-3", 7, 0.0), "it is the other's"
