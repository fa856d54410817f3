"""SIGKILL of the driver in the middle of every stage: the same command goes on, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.killing import (
    EXIT_S,
    LATE_STEP,
    POLL_S,
    Driver,
    address_of_local_ray,
    checkpoint_step,
    ledger,
    ledger_lines,
)
from tests.end_to_end.small_digits import TABLES, activations, copy_until, run_arguments, stored_maps
from tests.end_to_end.test_invariance import assert_same_arrays
from workflows.pipeline import STAGES
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table

KILLED_IN = ("extract", "fit", "words", "count", "mine", "draw")
SOONER = ("extract", "fit")
"""One of each kind: items on actors, a fit with its checkpoint."""
OF_DRAW = ("figures/", "pictures/", "ledgers/draw")
SHARDED = {"extract": "activations/*.zarr", "words": "words/joint/*.zarr"}


@dataclass
class Chain:
    """One run that was killed in every stage, and what was seen on the way."""

    root: Path
    killed_in: tuple[str, ...]
    done_when_killed: dict[str, int] = field(default_factory=dict)
    total: dict[str, int] = field(default_factory=dict)
    written: dict[Path, int] = field(default_factory=dict)
    """Files of shards that were finished when their stage was killed, and when they had been written."""
    checkpoint_step: int = 0
    steps_after: list[int] = field(default_factory=list)


@pytest.fixture(scope="module", params=[pytest.param(one, marks=pytest.mark.slow) for one in ("joined", "local")])
def chain(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    digits_weights: Path,
    digits_run: Path,
    local_ray: object,
) -> Chain:
    """Every driver starts a Ray of its own, as users do; or, to save half of the time, all join a running one.

    Those have the index and the weights of the undisturbed run, and draw nothing.
    """
    folder = tmp_path_factory.mktemp("killed")
    if request.param == "joined":
        copy_until(digits_run, folder / "run", "train")
        return killed_in(SOONER, folder, digits_weights, ["--address", address_of_local_ray(), "--until", "mine"])
    return killed_in(KILLED_IN, folder, digits_weights, [])


def killed_in(stages: tuple[str, ...], folder: Path, weights: Path, options: list[str]) -> Chain:
    """Give the same command until it comes to its end, killed once in each stage."""
    seen = Chain(folder / "run", stages)
    arguments = [*run_arguments(seen.root, weights, "count.scheduler=threads"), *options]
    drivers: list[Driver] = []
    try:
        for stage in stages:
            drivers.append(Driver(arguments, folder / "log.txt"))
            drivers[-1].wait_until(_in_the_middle(seen, stage), f"the middle of {stage}")
            drivers[-1].kill()
            _look(seen, stage)
        drivers.append(Driver(arguments, folder / "log.txt"))
        while drivers[-1].process.poll() is None and not ledger(seen.root, "fit").done:
            _watch_resumed_fit(seen)
            time.sleep(POLL_S)
        assert drivers[-1].finish() == 0, drivers[-1].output()
    finally:
        for driver in drivers:
            driver.reap()
    return seen


def _in_the_middle(seen: Chain, stage: str) -> Callable[[], bool]:
    wanted = {"extract": 3, "words": 3, "count": 2, "mine": 0, "draw": 3}

    def middle() -> bool:
        if seen.checkpoint_step:
            _watch_resumed_fit(seen)
        if stage == "fit":
            return checkpoint_step(seen.root) >= LATE_STEP
        content = ledger(seen.root, stage)
        return content.fingerprint is not None and len(content.items) >= wanted[stage]

    return middle


def _watch_resumed_fit(seen: Chain) -> None:
    step = checkpoint_step(seen.root)
    if step and (not seen.steps_after or step != seen.steps_after[-1]):
        seen.steps_after.append(step)


def _look(seen: Chain, stage: str) -> None:
    content = ledger(seen.root, stage)
    assert not content.done, f"{stage} had ended before it was killed"
    seen.done_when_killed[stage], seen.total[stage] = len(content.items), content.total or 0
    if stage == "fit":
        seen.checkpoint_step = checkpoint_step(seen.root)
    if stage in SHARDED:
        for array in seen.root.glob(SHARDED[stage]):
            for item in content.items:
                shard = array / "c" / str(item) / "0" / "0"
                seen.written[shard] = shard.stat().st_mtime_ns


def drawn(chain: Chain) -> bool:
    return "draw" in chain.killed_in


def test_every_stage_was_killed_in_its_middle(chain: Chain) -> None:
    for stage in {"extract", "words", "count", "draw"} & set(chain.killed_in):
        assert 0 < chain.done_when_killed[stage] < chain.total[stage], stage
    assert chain.done_when_killed["fit"] < chain.total["fit"] == 3
    print(f"items done when killed: {chain.done_when_killed} of {chain.total}")


def test_no_finished_item_is_done_again(chain: Chain) -> None:
    for stage in chain.killed_in:
        lines = [json.loads(line) for line in ledger_lines(chain.root, stage)]
        items = Counter(line["item"] for line in lines if "item" in line)
        assert set(items.values()) <= {1}, (stage, items)
        assert [line["mark"] for line in lines if "mark" in line] == ["begin", "begin", "end"], stage
        expected = 0 if stage == "mine" else chain.total[stage]
        assert len(items) == expected, stage
    assert len(chain.written) >= 3
    for shard, moment in chain.written.items():
        assert shard.stat().st_mtime_ns == moment, f"{shard} was written again"


def test_the_killed_fit_went_on_from_its_checkpoint(chain: Chain) -> None:
    assert chain.checkpoint_step >= LATE_STEP
    assert max(chain.steps_after) > chain.checkpoint_step, "no checkpoint of the resumed fit was seen"
    assert min(chain.steps_after) >= chain.checkpoint_step, "the resumed fit began again"
    assert not list(chain.root.glob("mixtures/joint/*state*")), "a checkpoint was left behind"


def test_the_tables_are_those_of_an_undisturbed_run(chain: Chain, digits_run: Path) -> None:
    for table in TABLES:
        left, right = (read_table(root / f"{table}.parquet") for root in (chain.root, digits_run))
        assert left.equals(right, check_metadata=True), table
    assert_same_arrays(activations(chain.root), activations(digits_run))
    assert_same_arrays(stored_maps(chain.root), stored_maps(digits_run))


def test_the_figures_are_those_of_an_undisturbed_run(chain: Chain, digits_run: Path) -> None:
    if not drawn(chain):
        pytest.skip("this chain ends before the figures")
    names = sorted(path.name for path in (digits_run / "figures").iterdir())
    assert sorted(path.name for path in (chain.root / "figures").iterdir()) == names
    for name in names:
        if name.endswith(".png"):
            assert (chain.root / "figures" / name).read_bytes() == (digits_run / "figures" / name).read_bytes(), name


def test_nothing_half_written_is_left(chain: Chain, digits_run: Path) -> None:
    def files(root: Path) -> set[str]:
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}

    undrawn = set() if drawn(chain) else {name for name in files(digits_run) if name.startswith(OF_DRAW)}
    assert files(chain.root) == files(digits_run) - undrawn
    assert all(ledger(chain.root, stage).done for stage in STAGES if stage != "draw" or drawn(chain))


@pytest.mark.slow  # a Ray of its own
@pytest.mark.parametrize("whole_group", [False, True])
def test_sigterm_ends_a_run_as_ctrl_c_does(
    digits_run: Path, digits_weights: Path, tmp_path: Path, whole_group: bool
) -> None:
    """From Kubernetes to the driver alone, from Slurm to every process of the job."""
    root = copy_until(digits_run, tmp_path / "run", "train")
    driver = Driver(run_arguments(root, digits_weights, until="extract"), tmp_path / "log.txt")
    try:
        driver.wait_until(lambda: len(ledger(root, "extract").items) >= 3, "the middle of extract")
        driver.remember_started()
        if whole_group:
            os.killpg(driver.process.pid, signal.SIGTERM)
        else:
            driver.process.terminate()
        assert driver.finish() == 143, driver.output()
        told = driver.output()
        assert "stopped; the same command goes on where it was" in told
        assert "Traceback" not in told
        assert "***" not in told, "no stack of C++"
        gone, alive = psutil.wait_procs(driver.started, timeout=EXIT_S)
        assert gone
        assert not alive, "the local Ray has ended"
        assert not list(root.rglob("*.tmp"))
        assert not (root / ".heartbeat").exists()
        assert not RunFolder(root).is_locked()
    finally:
        driver.reap()
