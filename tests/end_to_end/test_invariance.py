"""What must not depend on how wide, in what shards or on which scheduler the run works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.end_to_end.small_digits import (
    SCOPE,
    activations,
    adopt_mixtures,
    changed_share,
    command,
    copy_until,
    fit_left_open,
    run_arguments,
    stored_maps,
    word_maps,
)
from workflows.plan import Plan
from workflows.runtime.cluster import Resources, plan_actors
from workflows.stages.extract import sampled_positions
from workflows.storage.arrays import read_arrays
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state
from workflows.storage.tables import read_table

LAYER = "layer1.0.add"
"""Refitted by several actors; the other layers keep their dictionaries, to save the time."""
pytestmark = pytest.mark.usefixtures("local_ray")


def assert_same_arrays(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=str(key))


def test_one_actor_gives_the_bits_of_two(
    digits_run: Path, digits_weights: Path, local_ray: Resources, tmp_path: Path
) -> None:
    settings = RunFolder.open(digits_run).settings().runtime
    assert plan_actors(settings, local_ray, 30).n_actors == 2, "the undisturbed run is meant to have two actors"
    alone = tmp_path / "alone"
    assert command(run_arguments(alone, digits_weights, "runtime.actors=1", until="words")) == 0
    assert_same_arrays(activations(alone), activations(digits_run))
    assert_same_arrays(stored_maps(alone), stored_maps(digits_run))
    for table in ("images", "history"):
        assert read_table(alone / f"{table}.parquet").equals(read_table(digits_run / f"{table}.parquet"))


@pytest.mark.parametrize("actors", [2, 3])
def test_mixtures_do_not_depend_on_the_fit_actors(
    digits_run: Path, digits_weights: Path, tmp_path: Path, actors: int
) -> None:
    shared = fit_left_open(digits_run, tmp_path / "shared", LAYER)
    assert command(run_arguments(shared, digits_weights, f"runtime.fit_actors={actors}", until="fit")) == 0
    alone, together = (load_state(RunFolder.open(root).mixture(SCOPE, LAYER)) for root in (digits_run, shared))
    largest = 0.0
    for name, values in together.items():
        np.testing.assert_allclose(values, alone[name], rtol=1e-6, atol=0, err_msg=name)
        difference = np.abs(values - alone[name]) / np.maximum(np.abs(alone[name]), 1e-300)
        largest = max(largest, float(difference.max()))
    print(f"{actors} fit actors: largest relative difference to one, {largest:.2g}")


def test_counts_are_the_same_bits_on_ray_and_on_threads(
    digits_run: Path, digits_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_ray = copy_until(digits_run, tmp_path / "ray", "words")
    asked = spy_on_schedulers(monkeypatch)
    assert command(run_arguments(on_ray, digits_weights, "count.scheduler=ray", until="mine")) == 0
    assert asked == {"ray"}
    left, right = RunFolder.open(digits_run), RunFolder.open(on_ray)
    for pair in Plan.read(left).pairs():
        stored = [read_arrays(folder.cooccurrence(SCOPE, pair.lower, pair.upper)) for folder in (left, right)]
        assert_same_arrays(*stored)
    for table in ("words", "exemplars", "nodes", "edges", "heatmaps"):
        assert read_table(left.table(table)).equals(read_table(right.table(table))), table


def spy_on_schedulers(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Which scheduler each reduction is really given to."""
    from workflows.stages import context

    asked: set[str] = set()
    original = context.tree_reduce

    def noting(*args: Any, scheduler: str, **options: Any) -> Any:
        asked.add(scheduler)
        return original(*args, scheduler=scheduler, **options)

    monkeypatch.setattr(context, "tree_reduce", noting)
    return asked


def test_another_shard_and_batch_change_hardly_a_word(digits_run: Path, digits_weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    # One image a batch takes other convolution kernels; between larger batches not a bit may change.
    sizes = ("extract.images_per_shard=150", "extract.batch=1")
    assert command(run_arguments(other, digits_weights, *sizes, until="words")) == 0
    columns = changed_share(activations(other), activations(digits_run))
    words = changed_share(word_maps(other), word_maps(digits_run))
    print(f"shards of 150 instead of 25, batches of 1: numbers changed {columns:.2g}, words changed {words:.2g}")
    assert columns > 0, "the two runs are meant to differ in the last bits"
    assert words < 1e-3


def test_words_from_stored_columns_are_those_of_columns_made_again(
    digits_run: Path, digits_weights: Path, tmp_path: Path
) -> None:
    sampled = tmp_path / "sampled"
    arguments = run_arguments(sampled, digits_weights, "extract.columns_per_image=20", until="extract")
    assert command(arguments) == 0
    assert Plan.read(RunFolder.open(digits_run)).stores_everything
    plan = Plan.read(RunFolder.open(sampled))
    assert not plan.stores_everything
    assert [layer.stored for layer in plan.layers] == [20, 20, 16]
    assert_sample_of(activations(sampled), activations(digits_run), plan)
    adopt_mixtures(digits_run, sampled)
    assert command([*arguments[:-1], "words"]) == 0
    assert_same_arrays(stored_maps(sampled), stored_maps(digits_run))


def assert_sample_of(sampled: dict[str, np.ndarray], every: dict[str, np.ndarray], plan: Plan) -> None:
    for layer in plan.layers:
        for image in (0, 17, plan.train_images - 1):
            positions = sampled_positions(0, layer, image)
            assert len(set(positions)) == layer.stored
            np.testing.assert_array_equal(sampled[layer.name][image], every[layer.name][image, positions])
