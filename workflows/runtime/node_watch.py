"""Ends a driver whose Ray has died, with words: Ray itself ends the process seconds later, without any that explain."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading

from workflows.errors import FAILED

_LOOK_S = 0.25


class NodeWatch:
    """Holds a line to a process of Ray and ends this one, unless the watch has ended before, when nobody listens there.

    What was finished stays finished, as for any driver that is killed.

    Args:
        host, port: where the process listens.
        words: what to print.
    """

    def __init__(self, host: str, port: int, words: str) -> None:
        self._place, self._words, self._ended = (host, port), words, threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ray-watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Ray may end from now on."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.is_set():
            try:
                with socket.create_connection(self._place, timeout=10 * _LOOK_S) as line:
                    self._hold(line)
            except ConnectionRefusedError:
                if not self._ended.is_set():
                    end_process(self._words)
            except OSError:  # busy, or no more files: that says nothing
                self._ended.wait(_LOOK_S)

    def _hold(self, line: socket.socket) -> None:
        """Until the other side closes it: when it dies, and now and then because nothing was said."""
        while not self._ended.is_set():
            if select.select([line], [], [], _LOOK_S)[0] and not line.recv(4096):
                self._ended.wait(_LOOK_S)
                return


def end_process(words: str) -> None:
    """Say what happened and leave at once: whatever calls Ray now would wait, or crash."""
    shown_again = "\x1b[?25h\n" if sys.stderr.isatty() else ""  # the cursor, which a progress bar hides
    os.write(2, f"{shown_again}error {words}\n".encode())
    os._exit(FAILED)
