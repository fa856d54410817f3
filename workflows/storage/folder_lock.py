"""Who works in a run folder: a lock of the kernel, and beside it an owner with a heartbeat.

Locks of the kernel end with their process, but on some shared file systems they do not reach other hosts (NFS mounted
with ``nolock``, many FUSE). An owner is a small file that is touched again and again: one that has not been touched for
several beats is dead. Times are compared as the file system gives them, so clocks of hosts may differ.
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from workflows.errors import FAILED, DiskFull, FolderInUse
from workflows.storage.atomic import TEMPORARY_SUFFIX, write_bytes

LOCK_FILE, OWNER_FILE = ".lock", ".owner.json"

BEAT_S = 5.0
"""Between two touches of the owner's file."""
STALE_S = 30.0
"""An owner that was not touched for so long may be taken over."""

_UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems without locks say."""


@dataclass(frozen=True)
class Owner:
    """A driver: its host and process, and when it began (seconds since 1970, by its own clock)."""

    host: str
    process: int
    since: float

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

    @classmethod
    def of(cls, root: Path) -> Owner | None:
        """Whose name stands in a folder; None where nobody's does, or nobody's that can be read."""
        try:
            return cls(**json.loads((root / OWNER_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


@contextmanager
def held(root: Path) -> Iterator[None]:
    """Hold a folder for one driver; released when the block ends.

    Raises:
        FolderInUse: another driver holds it, or took it over when this one had not been heard of for ``STALE_S``.
    """
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    me = Owner(socket.gethostname(), os.getpid(), time.time())
    try:
        locked = _lock(descriptor, root)
        _refuse_living(root, me, locked)
        write_bytes(root / OWNER_FILE, json.dumps(asdict(me)).encode())
        with _Heart(root, me):
            yield
    finally:
        if Owner.of(root) == me:
            with suppress(OSError):
                (root / OWNER_FILE).unlink()
        os.close(descriptor)


def is_held(root: Path) -> bool:
    """Whether a driver works in the folder now, here or, as far as its heart is heard, on another host."""
    owner = Owner.of(root)
    with suppress(OSError):
        descriptor = os.open(root / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if owner is None or owner.host == socket.gethostname():
                return False
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    with suppress(OSError):
        return owner is not None and time.time() - (root / OWNER_FILE).stat().st_mtime < STALE_S
    return False


def _lock(descriptor: int, root: Path) -> bool:
    """Whether the file system knows locks. Raises FolderInUse: somebody has this one."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FolderInUse(_held_by(root, Owner.of(root))) from None
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
        return False
    return True


def _refuse_living(root: Path, me: Owner, locked: bool) -> None:
    """Watch an owner that the lock says nothing about until it is touched, or has been still for long enough.

    Raises:
        FolderInUse: it was touched.
    """
    owner = Owner.of(root)
    if owner is None or (owner.host == me.host and (locked or not _runs(owner.process))):
        return
    first, left = _touched(root), STALE_S - _age(root)
    deadline = time.monotonic() + left
    while time.monotonic() < deadline:
        time.sleep(min(BEAT_S / 10, max(0.0, deadline - time.monotonic())))
        last = _touched(root)
        if last is None:
            return
        if last != first:
            raise FolderInUse(_held_by(root, Owner.of(root)))


def _touched(root: Path) -> int | None:
    try:
        return (root / OWNER_FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _age(root: Path) -> float:
    """Seconds since the owner was touched, by the clock of the file system."""
    now = root / f"{OWNER_FILE}.{uuid4().hex[:12]}{TEMPORARY_SUFFIX}"
    try:
        now.write_bytes(b"now")
        return (now.stat().st_mtime_ns - (_touched(root) or 0)) / 1e9
    finally:
        now.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def _held_by(root: Path, owner: Owner | None) -> str:
    holder = "" if owner is None else f" ({owner})"
    return f"{str(root)!r} is in use by another driver{holder}: wait for it, stop it, or give another --out"


class _Heart:
    """Touches the owner's file; stops the driver when the file is another's."""

    def __init__(self, root: Path, me: Owner) -> None:
        self._root, self._me = root, me
        self._over, self._lost = threading.Event(), False
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._lost and kind is not None and issubclass(kind, KeyboardInterrupt):
            raise FolderInUse(
                f"{str(self._root)!r} was taken over by another driver ({Owner.of(self._root)}) while this one was not "
                "heard of: see to the storage, and let the other go on"
            ) from None

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            owner = Owner.of(self._root)
            if owner is not None and owner != self._me:
                self._lost = True
                _interrupt()
                return
            with suppress(OSError, DiskFull):  # storage that is away; if it stays away, the work finds out
                if owner is None and _touched(self._root) is None:
                    write_bytes(self._root / OWNER_FILE, json.dumps(asdict(self._me)).encode())
                else:
                    os.utime(self._root / OWNER_FILE)


def _interrupt() -> None:
    """End the main thread as Ctrl-C does. What runs in the background may ignore that: then as SIGTERM, or at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if callable(signal.getsignal(number)):
            _thread.interrupt_main(number)
            return
    os._exit(FAILED)
