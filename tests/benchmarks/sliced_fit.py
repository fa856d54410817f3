"""The fit stage with 16,384 words on ResNet-50 columns (D = 512), sliced over two actors of one thread each.

    python -m tests.benchmarks.sliced_fit [run folder]

The preset's photos (zebra, tiger, rest), columns before the ReLU of layer2.3.add, 256 of each photo: one epoch of
online EM, then at least 100 steps of the discriminative loss, then the errors. Columns are counted once, though both
actors see them; memory is the most that an actor's process ever held, libraries and network included.
"""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.extract import animal_folders
from tests.end_to_end.killing import actor_processes
from tests.end_to_end.small_digits import command
from workflows.errors import RunFolderError
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state
from workflows.storage.tables import read_table

LAYER, SCOPE = "layer2.3.add", "list-animals"
SETTINGS = (
    'network.layers=["add7"]',
    "extract.images_per_chunk=5",
    "fit.words=16384",
    "fit.word_slices=2",
    "fit.minibatch=16384",
    "fit.epochs=1",
    "fit.checkpoint_steps=5",
    "discriminative.epochs=3",
)
TINY = (
    'fit.lists=[{name="animals",classes=["zebra","tiger"]}]',
    "preprocessing.resize=96",
    "preprocessing.crop=96",
    "data.max_train=12",
    "data.max_validation=4",
    "extract.images_per_shard=5",
    "extract.batch=5",
    "mine.images=[]",
    "fit.words=64",
    "fit.min_images=1",
    "fit.minibatch=256",
    "fit.checkpoint_steps=1",
    "discriminative.batch=4",
)
"""Further settings of a fit of seconds, on the folders of ``animal_folders``."""


@dataclass(frozen=True)
class SlicedFitRow:
    """One phase. first, last: held-out nats a column, or held-out nats an image after the first and last epoch."""

    phase: str
    steps: int
    columns: int
    columns_per_second: float
    first: float
    last: float
    peak_gib: float


def measure(out: Path | None = None, tiny: bool = False) -> list[SlicedFitRow]:
    """A row a phase. out: run folder, which is kept, and gone on from; default: a temporary one. tiny: few photos."""
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryDirectory() as photos:
        root = out or Path(temporary) / "run"
        further = (*TINY, f'data.folders=["{animal_folders(Path(photos))}"]') if tiny else ()
        arguments = ["run", "animals_resnet50", "--out", str(root)]
        arguments += [part for one in (*SETTINGS, *further) for part in ("--set", one)]
        assert command([*arguments, "--until", "extract"]) == 0
        with Watch(RunFolder(root).fit_state(SCOPE, LAYER)) as watch:
            assert command([*arguments, "--until", "errors"]) == 0
        return _rows(root, watch)


@dataclass
class Watch:
    """Looks at the checkpoint and at the actors' memory while a fit goes on.

    Attributes:
        seen: (seconds, EM steps, loss steps) of every checkpoint.
        peaks: bytes by process.
    """

    checkpoint: Path
    seen: list[tuple[float, int, int]] = field(default_factory=list)
    peaks: dict[int, int] = field(default_factory=dict)

    def __enter__(self) -> Watch:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            for process in actor_processes(doing=".advance"):
                with contextlib.suppress(OSError):
                    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
                    self.peaks[process.pid] = 1024 * int(found[1]) if found else 0
            with contextlib.suppress(RunFolderError):
                arrays = load_state(self.checkpoint)
                steps = len(arrays["history"]), len(arrays.get("loss_history", ()))
                if not self.seen or self.seen[-1][1:] != steps:
                    self.seen.append((time.monotonic(), *steps))


def _rows(root: Path, watch: Watch) -> list[SlicedFitRow]:
    table = read_table(RunFolder(root).table("history"))
    peak = max(watch.peaks.values()) / 2**30
    rows: list[SlicedFitRow] = []
    for place, (phase, judged) in enumerate(
        (("generative", "held_out_log_likelihood"), ("discriminative", "held_out_loss"))
    ):
        seen: list[dict[str, Any]] = [row for row in table.to_pylist() if row["phase"] == phase]
        before = rows[-1].columns if rows else 0
        columns = [row["columns"] - before for row in seen]
        values = [row[judged] for row in seen if row[judged] is not None]
        marks = [(at, steps[place]) for at, *steps in watch.seen if steps[place] and (place or not steps[1])]
        (begin, first), (end, last) = marks[0], marks[-1]
        speed = (columns[last - 1] - columns[first - 1]) / (end - begin) if last > first else np.nan
        rows.append(SlicedFitRow(phase, len(seen), columns[-1], float(speed), values[0], values[-1], peak))
    return rows


if __name__ == "__main__":
    for row in measure(Path(sys.argv[1]) if len(sys.argv) > 1 else None):
        print(row)
