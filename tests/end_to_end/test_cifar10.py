"""The paper's first network example on real photographs: CIFAR-10 and ResNet-20, at the size of the preset."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.end_to_end.killing import PROJECT, actor_processes, ledger
from tests.end_to_end.small_digits import activations, adopt_mixtures, changed_share, command, word_maps
from workflows.plan.run_plan import OUTPUT, Plan
from workflows.storage.graphs import graph_names, load_graph
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]
WORST_MINUTES = 8


@dataclass
class Peaks:
    """Largest resident sizes, in bytes, of the actors of a run."""

    fit: int = 0
    over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def watching_fit_actors() -> Iterator[Peaks]:
    """Fit actors leave no record, so their peak is read from the kernel while they live."""
    peaks = Peaks()

    def watch() -> None:
        while not peaks.over.wait(0.2):
            for process in actor_processes(doing=".advance"):
                peaks.fit = max(peaks.fit, high_water(process))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        peaks.over.set()
        thread.join()


def high_water(process: psutil.Process) -> int:
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def arguments(out: Path, *overrides: str, until: str | None = None) -> list[str]:
    fields = [part for override in overrides for part in ("--set", override)]
    return ["run", "cifar10_resnet20", "--out", str(out), *fields, *(["--until", until] if until else [])]


@dataclass(frozen=True)
class WatchedRun:
    root: Path
    seconds: float
    fit_peak: int

    def peak(self, stage: str) -> int:
        """Largest resident size of an actor of this stage."""
        return max(record["peak_memory"] for record in ledger(self.root, stage).items.values())


def watched(root: Path, *overrides: str, until: str | None = None) -> WatchedRun:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)  # the preset's paths are relative to the project
        started = time.perf_counter()
        with watching_fit_actors() as peaks:
            assert command(arguments(root, *overrides, until=until)) == 0
        return WatchedRun(root, time.perf_counter() - started, peaks.fit)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, shared_data: Path, local_ray: object) -> WatchedRun:
    """The preset as it is shipped: 20,000 training and 1,000 test images."""
    return watched(tmp_path_factory.mktemp("cifar") / "run")


@pytest.fixture(scope="module")
def quarter(tmp_path_factory: pytest.TempPathFactory, shared_data: Path, local_ray: object) -> WatchedRun:
    """5,000 images in all, until the word maps."""
    return watched(tmp_path_factory.mktemp("quarter") / "run", "data.max_train=4000", until="words")


def test_the_preset_runs_in_time(whole: WatchedRun) -> None:
    print(f"the whole preset took {whole.seconds:.0f} s")
    assert whole.seconds < WORST_MINUTES * 60


def test_the_network_is_right_on_91_5_percent(whole: WatchedRun) -> None:
    images = read_table(whole.root / "images.parquet", filters=[("split", "=", "validation")])
    assert images.num_rows == 1000
    right = np.mean(np.array(images["predicted"]) == np.array(images["label"]))
    print(f"network accuracy {right:.1%}")
    assert right == pytest.approx(0.915, abs=0.0005)


def test_every_class_and_every_misclassified_image_has_a_graph(whole: WatchedRun) -> None:
    images = read_table(whole.root / "images.parquet", filters=[("split", "=", "validation")]).to_pylist()
    wrong = [row["image"] for row in images if row["predicted"] != row["label"]]
    assert len(wrong) == 85
    expected = {f"class:{label}" for label in range(10)} | {f"image:{image}" for image in wrong}
    assert set(graph_names(whole.root)) == expected
    layers = [OUTPUT, *(layer.name for layer in reversed(Plan.read(RunFolder.open(whole.root)).layers))]
    for name in expected:
        graph = load_graph(whole.root, name)
        assert graph.graph["layers"].split(",") == layers
        assert [sum(node[0] == layer for node in graph) for layer in layers] == [1, 3, 3, 3, 3]
        for ending in ("png", "svg"):
            assert (whole.root / "figures" / f"{name.replace(':', '-')}.{ending}").stat().st_size > 10_000


def test_every_word_of_a_class_graph_has_six_exemplars(whole: WatchedRun) -> None:
    exemplars = read_table(whole.root / "exemplars.parquet").to_pylist()
    count: dict[tuple[str, int], set[int]] = {}
    for row in exemplars:
        count.setdefault((row["layer"], row["word"]), set()).add(row["image"])
    for label in range(10):
        for layer, word in load_graph(whole.root, f"class:{label}"):
            assert len(count[layer, word]) == 6, (label, layer, word)


def test_memory_does_not_grow_with_the_images(whole: WatchedRun, quarter: WatchedRun) -> None:
    few, many = Plan.read(RunFolder.open(quarter.root)).images, Plan.read(RunFolder.open(whole.root)).images
    assert (few, many) == (5000, 21000)
    for stage in ("extract", "words"):
        small, large = quarter.peak(stage), whole.peak(stage)
        print(f"{stage} actor: {small / 1e6:.0f} MB for {few} images, {large / 1e6:.0f} MB for {many}")
        assert abs(large / small - 1) < 0.1, stage
    print(f"fit actor: {quarter.fit_peak / 1e6:.0f} MB for {few} images, {whole.fit_peak / 1e6:.0f} MB for {many}")
    assert quarter.fit_peak > 0
    assert abs(whole.fit_peak / quarter.fit_peak - 1) < 0.1


def test_another_shard_and_batch_change_hardly_a_word(
    quarter: WatchedRun, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # One image a batch takes other convolution kernels; between larger batches not a bit may change.
    sizes = ("data.max_train=4000", "extract.images_per_shard=250", "extract.batch=1")
    other = watched(tmp_path_factory.mktemp("other") / "run", *sizes, until="extract")
    # Training by gradient grows last bits: dictionaries fitted anew give another word at 4 % of the positions.
    adopt_mixtures(quarter.root, other.root)
    assert command(arguments(other.root, *sizes, until="words")) == 0
    columns = changed_share(activations(other.root), activations(quarter.root))
    words = changed_share(word_maps(other.root), word_maps(quarter.root))
    print(f"shards of 250 instead of 500, batches of 1: numbers changed {columns:.2g}, words changed {words:.2g}")
    assert columns > 0, "the two runs are meant to differ in the last bits"
    assert words < 1e-3
