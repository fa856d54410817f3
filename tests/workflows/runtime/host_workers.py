"""Work that reads an image, for hosts that may not see it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import ray

from gmm_ops.fitting.collective import Collective


class Looker:
    """Reads the image and tells where; item 5 stops its process, the first time."""

    def __init__(self, image: Path, pause_s: float = 0.0, stop: Path | None = None) -> None:
        self.image, self.pause_s, self.stop = image, pause_s, stop

    def __call__(self, item: int) -> dict[str, Any]:
        if item == 5 and self.stop is not None and not self.stop.exists():
            self.stop.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(self.pause_s)
        return {"value": int(self.image.read_text()), "node": ray.get_runtime_context().get_node_id()}


def look(asked: tuple[Path, int]) -> int:
    """A task of a reduction."""
    time.sleep(0.2)
    return int(asked[0].read_text())


def together(left: int, right: int) -> int:
    return left + right


class LookingFit:
    """A fit of one rank that reads the image at every step."""

    def __init__(self, image: Path, rank: int, world: int) -> None:
        self.image, self.taken = image, 0

    def restore(self, checkpoint: Path | None) -> None:
        self.taken = 0

    def advance(self, n_steps: int, collective: Collective) -> dict[str, Any]:
        self.taken += int(self.image.read_text())
        return {"done": self.taken == 3, "taken": self.taken}

    def save(self, path: Path) -> None:
        path.touch()

    def result(self) -> int:
        return self.taken
