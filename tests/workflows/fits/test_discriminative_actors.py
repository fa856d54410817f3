"""Fits with the discriminative loss on groups of actors: the same result for 1 and 2, and after a killed one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.end_to_end.killing import ActorKiller
from tests.workflows.made_labelled import IMAGES, JOINT, TRAIN, Made, make, readable, results, settings_of
from tests.workflows.words.decided import decided, errors_of
from workflows.errors import DivergedFit, RunFolderError
from workflows.fits.discriminative_fit import DiscriminativeFit
from workflows.fits.fit_history import history_path
from workflows.runtime.fit_group import FitJob, run_fit
from workflows.runtime.generation import GroupSettings
from workflows.settings import Settings
from workflows.storage.states import load_state
from workflows.storage.tables import read_table
from workflows.words.decisions import FittedLayer

STEPS = 200
"""Steps after which actors are compared."""


def job_of(made: Made) -> FitJob:
    settings, plan, folder = made
    inputs = {"settings": settings, "plan": plan, "folder": folder, "layer": plan.layers[0], "scope": JOINT}
    return FitJob("made", DiscriminativeFit, folder.fit_state("joint", "made"), inputs)


def run_with(made: Made, world: int, **callbacks: Any) -> dict[str, Any]:
    group = GroupSettings(n_actors=world, num_cpus=0.5, segment_steps=5, checkpoint_steps=5)
    return run_fit(job_of(made), group, **callbacks)


def relative(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.linalg.norm(left - right) / np.linalg.norm(left))


def words_and_layers(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values for name, values in found.items() if values.dtype == np.float64}


def long_settings(precision: str) -> Settings:
    """From the paper's start, so that both worlds start from the same bits; more than 200 steps."""
    return settings_of({"epochs": 1}, precision=precision, start="paper", epochs=6, patience=6)


def made_pair(tmp_path: Path, precision: str) -> tuple[list[dict[str, np.ndarray]], list[pa.Table]]:
    """Results of one actor and of two, and what they decide about the validation images."""
    found, rows = [], []
    for world in (1, 2):
        made = make(tmp_path / str(world), long_settings(precision))
        record = run_with(made, world)
        assert record["loss_steps"] >= STEPS
        found.append(results(made))
        fit = FittedLayer("made", JOINT, made[1].layers[0], made[2])
        rows.append(decided(*made, [fit], made[2].decisions))
    return found, rows


@pytest.mark.slow  # gmm_ops says the same of steps, without actors
def test_two_actors_come_to_the_parameters_of_one_in_float64(tmp_path: Path, local_ray: object) -> None:
    (one, two), rows = made_pair(tmp_path, "float64")
    for name, values in words_and_layers(one).items():
        bound = 1e-9 if name.startswith(("words.", "layers.discriminative")) else 1e-6
        assert relative(values, two[name]) < bound, name
    assert not np.array_equal(one["words.mean"], one["generative.mean"])
    ways = ["image", "discriminative_soft", "discriminative_hard"]
    assert rows[0].select(ways).equals(rows[1].select(ways))
    assert len(rows[0]) == len(readable(range(TRAIN, IMAGES)))


@pytest.mark.slow
def test_two_actors_come_close_to_one_in_float32(tmp_path: Path, local_ray: object) -> None:
    (one, two), rows = made_pair(tmp_path, "float32")
    for name, values in words_and_layers(one).items():
        assert relative(values, two[name]) < 1e-4, name
    first, second = map(errors_of, rows)
    for way, errors in first.items():
        assert abs(errors - second[way]) <= 1, way


@pytest.mark.slow  # a killed rank of a made fit is among the fast tests of workflows.runtime
def test_a_killed_actor_is_replaced_with_the_same_result(tmp_path: Path, local_ray: object) -> None:
    undisturbed, disturbed = (make(tmp_path / name, settings_of(epochs=2)) for name in ("undisturbed", "disturbed"))
    run_with(undisturbed, 2)
    checkpoint = disturbed[2].fit_state("joint", "made")
    told: list[str] = []

    def trained_steps() -> int:
        try:
            return len(load_state(checkpoint).get("loss_history", ()))
        except RunFolderError:
            return 0

    with ActorKiller(lambda: trained_steps() >= 30) as killer:
        run_with(disturbed, 2, on_restart=lambda name, reason: told.append(reason))
    assert killer.killed
    assert len(killer.seen) == 4, "a group of two, and the group that went on"
    assert len(told) == 1
    assert "its worker process died" in told[0]
    expected, found = results(undisturbed), results(disturbed)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        assert values.tobytes() == found[name].tobytes(), name
    histories = [read_table(history_path(made[2], "joint", "made")) for made in (undisturbed, disturbed)]
    assert histories[0].equals(histories[1])


@pytest.mark.slow  # fits.test_diverging_fit has the same without actors
@pytest.mark.parametrize("world", [1, 2])
def test_a_diverging_fit_keeps_its_last_good_checkpoint(tmp_path: Path, local_ray: object, world: int) -> None:
    """The rate climbs from its 25th part, so the fit goes well for a while."""
    made = make(tmp_path / "run", settings_of(classifier_rate=100.0, epochs=6))
    checkpoint, seen = made[2].fit_state("joint", "made"), dict[int, bytes]()
    lock = threading.Lock()

    def remember(name: str, progress: dict[str, Any]) -> None:
        with lock:
            seen[len(seen)] = checkpoint.read_bytes()

    with pytest.raises(DivergedFit) as error:
        run_with(made, world, on_progress=remember)
    words = str(error.value)
    assert "scope joint: the discriminative fit of layer made diverged in step" in words
    assert "Lower mixture_rate or classifier_rate" in words
    assert "discriminative.classifier_rate 100" in words
    assert f"the last good state is kept in {str(checkpoint)!r}" in words
    assert "another --out" in words
    assert checkpoint.read_bytes() == seen[len(seen) - 1], "nothing was written after the last good segment"
    state = load_state(checkpoint)
    assert len(state["loss_history"]) >= 30
    assert all(np.isfinite(values).all() for name, values in state.items() if name.startswith("words.mean"))
    assert not made[2].mixture("joint", "made").exists()
