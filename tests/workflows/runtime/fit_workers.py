"""A small iterative fit for the fit group's tests: every step sums chunks that the ranks share."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import numpy as np
import torch

from gmm_ops.fitting.collective import Collective, gathered
from workflows.errors import DataError, StorageFault
from workflows.storage.states import load_state, save_state

N_CHUNKS = 7


class SummingFit:
    """State <- 0.9 state + sum over chunks; rank r of W reads the chunks i with i % W == r.

    With ``whole`` numbers every sum is exact, so that the state cannot depend on the number of ranks; otherwise the
    order of additions shows in the last bits.
    """

    def __init__(
        self,
        rank: int,
        world: int,
        n_steps: int,
        folder: Path,
        whole: bool = True,
        fault: str = "",
        at: int = -1,
        pause_s: float = 0.0,
    ) -> None:
        self.pause_s = pause_s
        self.rank, self.world, self.n_steps, self.folder = rank, world, n_steps, folder
        self.whole, self.fault, self.at = whole, fault, at
        self.step, self.state = 0, torch.zeros(5, dtype=torch.float64)

    def restore(self, checkpoint: Path | None) -> None:
        if checkpoint is not None:
            arrays = load_state(checkpoint)
            self.step, self.state = int(arrays["step"]), torch.from_numpy(arrays["state"])
            (self.folder / f"restored-{self.rank}-at-{self.step}").touch()

    def advance(self, n_steps: int, collective: Collective) -> dict[str, Any]:
        time.sleep(self.pause_s)
        for _ in range(min(n_steps, self.n_steps - self.step)):
            self._misbehave()
            total = collective.all_reduce_sum(self._part())
            self.state = total if self.whole else 0.9 * self.state + total
            self.step += 1
        pids = gathered(torch.tensor([float(os.getpid())], dtype=torch.float64), collective)
        return {
            "done": self.step >= self.n_steps,
            "step": self.step,
            "taken": self.step,
            "pids": [int(pid.item()) for pid in pids],
            "digest": self.state.numpy().tobytes() + (b"drift" * self.rank if self.fault == "drift" else b""),
        }

    def save(self, path: Path) -> None:
        save_state(path, {"step": np.asarray(self.step), "state": self.state.numpy()})

    def result(self) -> bytes:
        return self.state.numpy().tobytes()

    def _part(self) -> torch.Tensor:
        part = torch.zeros(5, dtype=torch.float64)
        for chunk in range(self.rank, N_CHUNKS, self.world):
            values = np.random.default_rng([self.step, chunk]).standard_normal(5)
            part += torch.from_numpy(np.floor(1e6 * values) if self.whole else values)
        return part + self.state * (1 if self.whole and self.rank == 0 else 0)

    def _misbehave(self) -> None:
        if self.fault in ("", "drift") or self.step != self.at or self.rank != self.world - 1:
            return
        if self.fault == "refuse":
            raise DataError("layer add2: image 17 holds NaN")
        if self.fault == "raise":
            raise ValueError("no chunk 3")
        if self.fault == "storage" and not (self.folder / "back").exists():
            raise StorageFault("'columns' cannot be read")
        if self.fault == "storage":
            return
        marker = self.folder / "misbehaved"
        if marker.exists():
            return
        marker.touch()
        if self.fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)


class CountedFit(SummingFit):
    """Refers to itself, as a worker may; its result is how many of its kind its process held when it was built."""

    held: ClassVar[WeakSet[CountedFit]] = WeakSet()

    def __init__(self, **inputs: Any) -> None:
        self.held_before = len(self.held)
        self.held.add(self)
        self.itself = self
        super().__init__(**inputs)

    def result(self) -> Any:
        return self.held_before, len(self.held)


class UnfinishedFit(SummingFit):
    """Every step succeeds, what it comes to cannot be written."""

    def result(self) -> bytes:
        raise OSError(5, "Input/output error")


class Holder:
    """An actor that only takes its cores from the cluster."""

    def here(self) -> bool:
        return True
