"""SIGKILL of an actor in mid-run: it is replaced, and the result is the same to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.killing import LATE_STEP, ActorKiller, checkpoint_step, ledger
from tests.end_to_end.small_digits import (
    FIRST_LAYER,
    SCOPE,
    activations,
    adopt_mixtures,
    command,
    fit_left_open,
    run_arguments,
    stored_maps,
)
from tests.end_to_end.test_invariance import assert_same_arrays
from workflows.runtime.cluster import Resources, plan_actors
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state
from workflows.storage.tables import read_table

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.mark.slow
def test_one_actor_killed_and_replaced_gives_the_bits_of_two(
    digits_run: Path, digits_weights: Path, local_ray: Resources, tmp_path: Path
) -> None:
    shards = 25
    runtime = RunFolder.open(digits_run).settings().runtime
    assert plan_actors(runtime, local_ray, shards).n_actors == 2, "the undisturbed run is meant to have two actors"
    root = tmp_path / "run"
    arguments = run_arguments(root, digits_weights, "runtime.actors=1", until="extract")
    done_when_killed: list[int] = []

    def in_the_middle() -> bool:
        done_when_killed[:] = [len(ledger(root, "extract").items)]
        return done_when_killed[0] >= 3

    with ActorKiller(in_the_middle) as killer:
        assert command(arguments) == 0
    assert killer.killed
    assert 3 <= done_when_killed[0] < shards, "the actor is meant to be killed in the middle"
    assert len(killer.seen) == 2, "one actor, and the one that took its place"
    content = ledger(root, "extract")
    assert (len(content.items), content.failed) == (shards, {})
    assert_same_arrays(activations(root), activations(digits_run))
    assert read_table(root / "images.parquet").equals(read_table(digits_run / "images.parquet"))
    adopt_mixtures(digits_run, root)  # the fits read nothing else
    assert command([*arguments[:-1], "words"]) == 0
    assert_same_arrays(stored_maps(root), stored_maps(digits_run))


@pytest.mark.slow  # a killed rank of every kind of fit is among the fast tests of workflows.fits and workflows.runtime
def test_a_killed_fit_actor_is_replaced(
    digits_run: Path,
    digits_weights: Path,
    fitted_by_two: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = fit_left_open(digits_run, tmp_path / "run", FIRST_LAYER)
    folder = RunFolder.open(root)
    steps: list[int] = []

    def late() -> bool:
        steps[:] = [checkpoint_step(root)]
        return steps[0] >= LATE_STEP

    with ActorKiller(late, afterwards=lambda: steps.append(checkpoint_step(root))) as killer:
        assert command(run_arguments(root, digits_weights, "runtime.fit_actors=2", until="fit")) == 0
    assert killer.killed
    assert len(killer.seen) == 4, "a group of two, and the group that went on from its checkpoint"
    assert max(steps) > steps[0], "no checkpoint of the second group was seen"
    assert min(step for step in steps if step) == steps[0], "the second group began again"
    told = " ".join(capsys.readouterr().out.split())
    assert f"warning fit {FIRST_LAYER} goes on from its checkpoint: rank" in told
    assert "its worker process died" in told
    undisturbed = RunFolder.open(fitted_by_two).mixture(SCOPE, FIRST_LAYER)
    assert_same_arrays(load_state(folder.mixture(SCOPE, FIRST_LAYER)), load_state(undisturbed))
    assert read_table(root / "history.parquet").equals(read_table(fitted_by_two / "history.parquet"))
