"""What must not depend on how wide, in what shards or on which scheduler the run works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.end_to_end.small_digits import (
    FIRST_LAYER,
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
from workflows.fits.columns import sampled_positions
from workflows.plan.run_plan import Plan
from workflows.storage.pair_counts import read_pair_counts
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state
from workflows.storage.tables import read_table

pytestmark = pytest.mark.usefixtures("local_ray")


def assert_same_arrays(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=str(key))


@pytest.mark.slow  # the same for the chain and for training is among the fast tests of workflows.fits
def test_two_fit_actors_come_to_the_mixture_of_one(digits_run: Path, fitted_by_two: Path) -> None:
    assert_same_mixture(digits_run, fitted_by_two)


@pytest.mark.slow
def test_three_fit_actors_come_to_the_mixture_of_one(digits_run: Path, digits_weights: Path, tmp_path: Path) -> None:
    by_three = fit_left_open(digits_run, tmp_path / "three", FIRST_LAYER)
    assert command(run_arguments(by_three, digits_weights, "runtime.fit_actors=3", until="fit")) == 0
    assert_same_mixture(digits_run, by_three)


def assert_same_mixture(left: Path, right: Path) -> None:
    alone, together = (load_state(RunFolder.open(root).mixture(SCOPE, FIRST_LAYER)) for root in (left, right))
    largest = 0.0
    for name, values in together.items():
        np.testing.assert_allclose(values, alone[name], rtol=1e-6, atol=0, err_msg=name)
        difference = np.abs(values - alone[name]) / np.maximum(np.abs(alone[name]), 1e-300)
        largest = max(largest, float(difference.max()))
    print(f"largest relative difference of the mixtures: {largest:.2g}")


@pytest.mark.slow
def test_counts_are_the_same_bits_on_ray_and_on_threads(
    digits_run: Path, digits_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_ray = copy_until(digits_run, tmp_path / "ray", "words")
    asked = spy_on_schedulers(monkeypatch)
    assert command(run_arguments(on_ray, digits_weights, "count.scheduler=ray", until="mine")) == 0
    assert asked == {"ray"}
    left, right = RunFolder.open(digits_run), RunFolder.open(on_ray)
    for pair in Plan.read(left).pairs():
        ours, theirs = (
            read_pair_counts(folder.cooccurrence(SCOPE, pair.lower, pair.upper)) for folder in (left, right)
        )
        assert ours == theirs
    for table in ("words", "exemplars", "nodes", "edges", "heatmaps"):
        assert read_table(left.table(table)).equals(read_table(right.table(table))), table


def spy_on_schedulers(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Which scheduler each reduction is really given to."""
    from workflows.runtime import reductions

    asked: set[str] = set()
    original = reductions.tree_reduce

    def noting(*args: Any, scheduler: str, **options: Any) -> Any:
        asked.add(scheduler)
        return original(*args, scheduler=scheduler, **options)

    monkeypatch.setattr(reductions, "tree_reduce", noting)
    return asked


@pytest.mark.slow
def test_another_shard_and_batch_change_hardly_a_word(digits_run: Path, digits_weights: Path, tmp_path: Path) -> None:
    # One image a batch takes other convolution kernels; between larger batches not a bit changes.
    other = tmp_path / "other"
    sizes = ("extract.images_per_shard=125", "extract.batch=1", "runtime.actors=1")
    arguments = run_arguments(other, digits_weights, *sizes, until="extract")
    assert command(arguments) == 0
    adopt_mixtures(digits_run, other)  # dictionaries fitted anew: see test_cifar10
    assert command([*arguments[:-1], "words"]) == 0
    columns = changed_share(activations(other), activations(digits_run))
    words = changed_share(word_maps(other), word_maps(digits_run))
    print(f"shards of 125 instead of 25, batches of 1: numbers changed {columns:.2g}, words changed {words:.2g}")
    assert columns > 0, "the two runs are meant to differ in the last bits"
    assert words < 1e-3


@pytest.mark.slow
def test_words_of_stored_columns_are_those_of_columns_made_again(
    digits_run: Path, digits_weights: Path, tmp_path: Path
) -> None:
    sampled = tmp_path / "sampled"
    arguments = run_arguments(
        sampled, digits_weights, "extract.columns_per_image=20", "runtime.actors=1", until="extract"
    )
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
