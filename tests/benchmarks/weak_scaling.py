"""Twice the images on two hosts of one core each, over one host: the same time is an efficiency of 1.

Hosts are network namespaces of this machine, each pinned to a core of its own (``tests.network_hosts``); head and
driver share these cores. The start of actors is not counted. Needs root; on a busy machine the ratio says nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from rich.console import Console

from tests.benchmarks.em_pass import SHARED
from tests.benchmarks.extract import PRESETS
from tests.network_hosts import Hosts
from workflows.context import StageContext
from workflows.pipeline import STAGES, run_pipeline
from workflows.runtime.cluster import connect
from workflows.settings import Settings, load_settings
from workflows.storage.run_folder import RunFolder

IMAGES, SHARD, MINIBATCH, REPEATS = 1500, 50, 20_000, 3
"""For one worker; two have twice as many images, and minibatches of twice as many columns."""
TARGETS = {"extract": 0.9, "fit": 0.8}
FIELDS = (
    "network.layers=['add4']",
    "extract.columns_per_image=all",
    "fit.loss=generative",
    "fit.words=[1000]",  # a step of a tenth of a second: with K = 100 it is 5 ms, and the hosts wait for each other
    "fit.epochs=1",
    "fit.warmup=1",
    "data.max_validation=50",
    "mine.images=[]",
)


def measure(tiny: bool = False) -> list[dict[str, object]]:
    """A row for extract and one for fit. tiny: few images, once."""
    images, repeats = (400, 1) if tiny else (IMAGES, REPEATS)
    cores = sorted(os.sched_getaffinity(0))
    rates: dict[tuple[str, int], list[float]] = {(stage, workers): [] for stage in TARGETS for workers in (1, 2)}
    with tempfile.TemporaryDirectory() as place, Hosts(Path(place) / "hosts.log") as hosts:
        hosts.start(cores=str(cores[0]))
        second = None
        for repeat in range(repeats):
            for workers in (1, 2) if second is None else (2, 1):
                if workers == 2 and second is None:
                    second = hosts.start(cores=str(cores[-1]))
                if workers == 1 and second is not None:
                    hosts.lose(second)
                    second = None
                root = Path(place) / f"{repeat}-{workers}"
                for stage, rate in _run(root, images, workers, hosts.address).items():
                    rates[stage, workers].append(rate)
    return [_row(stage, rates[stage, 1], rates[stage, 2]) for stage in TARGETS]


def _row(stage: str, one: list[float], two: list[float]) -> dict[str, object]:
    return {
        "stage": stage,
        "efficiency ratio": median(two) / (2 * median(one)),
        "target": TARGETS[stage],
        "one worker, 1/s": median(one),
        "two workers, 1/s": median(two),
        "single runs": " ".join(f"{b / (2 * a):.2f}" for a, b in zip(one, two, strict=True)),
        "load": f"{os.getloadavg()[1]:.1f}",
    }


def _settings(images: int, workers: int) -> Settings:
    data = SHARED.resolve()
    own = [
        f"data.train=['{data}/cifar10/train-*.parquet']",
        f"data.validation=['{data}/cifar10/test-*.parquet']",
        f"data.class_names={data}/cifar10/classes.json",
        f"network.weights={data}/weights/resnet20_cifar10.pt",
        f"data.max_train={images * workers}",
        f"fit.minibatch={MINIBATCH * workers}",
        f"runtime.fit_actors={workers}",
        *(f"extract.{name}={SHARD}" for name in ("images_per_shard", "images_per_chunk", "batch")),
    ]
    return load_settings(PRESETS / "cifar10_resnet20.toml", [*FIELDS, *own])


def _run(root: Path, images: int, workers: int, address: str) -> dict[str, float]:
    """Rates by stage, of a driver in a process of its own: a process has one Ray, and may have another one."""
    command = [sys.executable, "-m", __spec__.name, str(root), str(images), str(workers), address]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return dict(json.loads(told.stdout))


def drive(root: Path, settings: Settings, address: str) -> dict[str, float]:
    """Images/s of the extract stage, columns/s of the fit."""
    folder = run_pipeline(settings, root, Console(quiet=True), until="extract", address=address)
    clock = _Clock()
    with connect(address, seen=folder.run_file) as offered:
        STAGES["fit"].run(StageContext(settings, folder, STAGES["fit"], clock, lambda _: None, offered))
    return {"extract": _image_rate(folder, settings), "fit": clock.steps_per_second() * settings.fit.minibatch}


def _image_rate(folder: RunFolder, settings: Settings) -> float:
    """From the first item of the last worker on."""
    lines = [json.loads(line) for line in folder.ledger("extract").path.read_text().splitlines()]
    finished = [(line["time"], line["fields"]["images"]) for line in lines if "item" in line]
    skipped = 2 * settings.runtime.fit_actors
    return sum(images for _, images in finished[skipped:]) / (finished[-1][0] - finished[skipped - 1][0])


class _Clock:
    """Takes the place of a bar, and the time of every note of the fit."""

    def __init__(self) -> None:
        self.notes: list[tuple[float, int]] = []

    def start(self, total: int, done: int = 0) -> None:
        """Nothing to show."""

    def advance(self, items: int = 1, **of: object) -> None:
        """Nothing to show."""

    def at_work(self, item: str, share: float, columns: int = 0) -> None:
        """Nothing to show."""

    def note(self, text: str) -> None:
        """``<fit> step 20 of 150, held-out ...``."""
        words = text.replace(",", "").split()
        if "step" in words:
            self.notes.append((time.perf_counter(), int(words[words.index("step") + 1])))

    def steps_per_second(self) -> float:
        """Behind the first segment, in which actors still warm up."""
        (began, first), (ended, last) = self.notes[0], self.notes[-1]
        return (last - first) / (ended - began)


if __name__ == "__main__":
    out, number, width, head = sys.argv[1:]
    print(json.dumps(drive(Path(out), _settings(int(number), int(width)), head)))
