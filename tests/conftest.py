"""What all tests share: the real data next to the project, and one small local Ray for the whole session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Before anything imports ray: a local cluster asks for tokens otherwise, and the suite starts several.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ.pop("RAY_ADDRESS", None)
# Before anything imports torch: the suite's processes share the cores, and threads that wait for each other burn them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; a test that asks for it is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real data in ../shared/data, seen from the project's root")
    return SHARED_DATA


@pytest.fixture(scope="session")
def local_ray() -> Iterator[object]:
    """A quiet local Ray of 2 cores, started once; gives its resources."""
    from workflows.runtime.cluster import connect

    with connect(num_cpus=2, num_gpus=0) as offered:
        yield offered


@pytest.fixture(scope="session")
def digits_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State dict of the small network for digits, trained once by the run's own train stage (3 epochs)."""
    from tests.end_to_end.small_digits import TRAINING, command

    root = tmp_path_factory.mktemp("training") / "run"
    fields = [part for field in TRAINING for part in ("--set", field)]
    assert command(["run", "digits", "--out", str(root), "--until", "train", *fields]) == 0
    return root / "weights.pt"


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory, digits_weights: Path, local_ray: object) -> Path:
    """Folder of the whole small run on digits, undisturbed; for reading only."""
    from tests.end_to_end.small_digits import command, run_arguments

    root = tmp_path_factory.mktemp("undisturbed") / "run"
    assert command(run_arguments(root, digits_weights)) == 0
    return root


@pytest.fixture(scope="session")
def chain_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State dict of three dense layers for digits, trained once by the run's own train stage."""
    from tests.end_to_end.small_chain import TRAINING
    from tests.end_to_end.small_digits import command

    root = tmp_path_factory.mktemp("dense") / "run"
    fields = [part for field in TRAINING for part in ("--set", field)]
    assert command(["run", "digits_mlp", "--out", str(root), "--until", "train", *fields]) == 0
    return root / "weights.pt"


@pytest.fixture(scope="session")
def chain_run(tmp_path_factory: pytest.TempPathFactory, chain_weights: Path, local_ray: object) -> Path:
    """Folder of a whole small run with a hidden Markov model, undisturbed; for reading only."""
    from tests.end_to_end.small_chain import chain_arguments
    from tests.end_to_end.small_digits import command

    root = tmp_path_factory.mktemp("chain") / "run"
    assert command(chain_arguments(root, chain_weights)) == 0
    return root
