"""Workers that the dispatcher's tests send into actors."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from gmm_ops.errors import NonFiniteActivations
from workflows.errors import NetworkError, StorageFault
from workflows.storage.arrays import write_shard


class ShardWriter:
    """Writes the shard that starts at row ``item``: every row holds its own number."""

    def __init__(self, path: Path, shard_rows: int, pause_s: float = 0.0) -> None:
        self.path, self.shard_rows, self.pause_s = path, shard_rows, pause_s

    def __call__(self, item: int) -> dict[str, Any]:
        time.sleep(self.pause_s)
        rows = np.arange(item, item + self.shard_rows, dtype=np.int32)
        write_shard(self.path, item, np.repeat(rows[:, None], 3, axis=1))
        return {"sum": int(rows.sum()), "pid": os.getpid()}


class Faulty:
    """Fails in the way the item's name says; ``once`` failures leave a marker and succeed on the next try."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, item: str) -> dict[str, Any]:
        kind = item.split("-")[0]
        if kind.startswith("once"):
            marker = self.folder / item
            if marker.exists():
                return {"item": item}
            marker.touch()
            kind = kind.removeprefix("once")
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "storage":
            with (self.folder / f"{item}.tries").open("a") as tries:
                tries.write(f"{time.monotonic()}\n")
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) if "raw" in item else StorageFault(f"{item}: away")
        if kind == "raise":
            raise ValueError(f"cannot read {item}")
        if kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if kind == "hang":
            time.sleep(600)
        return {"item": item}


class Refusing:
    """A deterministic error, after a few good items."""

    def __call__(self, item: int) -> dict[str, Any]:
        if item == 3:
            raise NetworkError("network.layers: no layer 'add99'; near ones: add9")
        if item == -1:
            raise NonFiniteActivations("layer add2 of image 7 holds NaN")
        time.sleep(0.02)
        return {}


def refusing_factory() -> Refusing:
    raise NetworkError("network.weights: keys are missing: conv1.weight")


def failing_factory() -> Refusing:
    raise OSError("cannot open the library")


def late_factory(tries: Path) -> Refusing:
    """Storage is away when the first two actors start."""
    with tries.open("a") as file:
        file.write(f"{time.monotonic()}\n")
    if len(tries.read_text().split()) <= 2:
        raise StorageFault("'columns' cannot be read")
    return Refusing()


class Introspective:
    """Tells how torch is set up in its process."""

    def __call__(self, item: int) -> dict[str, Any]:
        import torch

        return {
            "threads": torch.get_num_threads(),
            "omp": os.environ["OMP_NUM_THREADS"],
            "denormal": float(torch.tensor([1e-39]).mul(1.0).item()),
        }


class Pinned:
    """Tells which GPUs its process can see."""

    def __call__(self, item: int) -> dict[str, Any]:
        # Long enough that both actors get some of the items.
        time.sleep(0.2)
        return {"visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "pid": os.getpid()}
