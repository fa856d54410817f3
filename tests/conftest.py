"""What all tests share: the real data next to the project, a small local Ray a process, and runs built once a suite."""

from __future__ import annotations

import fcntl
import gc
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

# Before anything imports ray: a local cluster asks for tokens otherwise, and the suite starts several.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ.pop("RAY_ADDRESS", None)
# Ray's workers are nice by default; beside tests that compute, those that wait for them would wait for minutes.
os.environ.setdefault("RAY_worker_niceness", "0")
# Before anything imports torch: the suite's processes share the cores, and threads that wait for each other burn them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.local_store import claim_address, running_store

claim_address()

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; a test that asks for it is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real data in ../shared/data, seen from the project's root")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def flushed_denormals() -> None:
    """As in every actor: tiny responsibilities are denormal, and a fit in the tests' own process several times slower.

    Before each test: the setting is the thread's, and in a whole suite it did not last from the first test on.
    """
    import torch

    torch.set_flush_denormal(True)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[object]:
    """A quiet local Ray of 2 cores, started once; gives its resources."""
    from workflows.runtime.cluster import connect

    with connect(num_cpus=2, num_gpus=0) as offered:
        yield offered


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI of an empty bucket in a local store that speaks S3: a process of its own, on a port of this one."""
    with running_store(tmp_path_factory.mktemp("store") / "log") as uri:
        yield uri


BuildOnce = Callable[[str, Callable[[Path], object]], Path]
"""Gives the folder of a name, made by whichever process of the suite asks for it first, and for reading only."""


@pytest.fixture(scope="session")
def build_once(tmp_path_factory: pytest.TempPathFactory) -> BuildOnce:
    """Share a made folder between the processes of pytest-xdist, each of which has session fixtures of its own."""
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place

    def built(name: str, build: Callable[[Path], object]) -> Path:
        root, whole = place / name / "run", place / f"{name}.whole"
        with (place / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole.exists():
                shutil.rmtree(root.parent, ignore_errors=True)
                root.parent.mkdir()
                build(root)
                whole.touch()
        return root

    return built


def pytest_collection_finish() -> None:
    """What was imported and collected stays: looking for garbage in it took a tenth of the suite's time."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that wait (for Ray, for processes that are killed) take turns with files that compute."""
    by_file: dict[Path, list[pytest.Item]] = {}
    for item in items:
        by_file.setdefault(item.path, []).append(item)
    waiting, computing = [], []
    for group in by_file.values():
        (waiting if any("local_ray" in _fixtures(item) for item in group) else computing).append(group)
    turns = itertools.zip_longest(waiting, computing, fillvalue=[])
    items[:] = [item for pair in turns for group in pair for item in group]


def _fixtures(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])


@pytest.fixture(scope="session")
def digits_weights(build_once: BuildOnce) -> Path:
    """State dict of the small network for digits, trained once by the run's own train stage (3 epochs)."""
    from tests.end_to_end.small_digits import TRAINING, command

    def train(root: Path) -> None:
        fields = [part for field in TRAINING for part in ("--set", field)]
        assert command(["run", "digits", "--out", str(root), "--until", "train", *fields]) == 0

    return build_once("digits-training", train) / "weights.pt"


@pytest.fixture(scope="session")
def digits_run(build_once: BuildOnce, digits_weights: Path, local_ray: object) -> Path:
    """Folder of the whole small run on digits, undisturbed; for reading only."""
    from tests.end_to_end.small_digits import command, run_arguments

    def run(root: Path) -> None:
        assert command(run_arguments(root, digits_weights, "runtime.actors=2")) == 0

    return build_once("digits", run)


@pytest.fixture(scope="session")
def chain_weights(build_once: BuildOnce) -> Path:
    """State dict of three dense layers for digits, trained once by the run's own train stage."""
    from tests.end_to_end.small_chain import TRAINING
    from tests.end_to_end.small_digits import command

    def train(root: Path) -> None:
        fields = [part for field in TRAINING for part in ("--set", field)]
        assert command(["run", "digits_mlp", "--out", str(root), "--until", "train", *fields]) == 0

    return build_once("chain-training", train) / "weights.pt"


@pytest.fixture(scope="session")
def chain_run(build_once: BuildOnce, chain_weights: Path, local_ray: object) -> Path:
    """Folder of a whole small run with a hidden Markov model, undisturbed; for reading only."""
    from tests.end_to_end.small_chain import chain_arguments
    from tests.end_to_end.small_digits import command

    def run(root: Path) -> None:
        assert command(chain_arguments(root, chain_weights, "runtime.actors=2")) == 0

    return build_once("chain", run)
