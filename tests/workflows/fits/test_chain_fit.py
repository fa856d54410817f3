"""The distributed fit of a hidden Markov model: same result for any number of actors, whatever interrupts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from gmm_ops.fitting.collective import LONE
from gmm_ops.hmm.chain_statistics import ChainStatistics
from gmm_ops.hmm.fitting import initial_model
from gmm_ops.hmm.learning import advance, start
from gmm_ops.hmm.model import HiddenMarkovModel
from tests.workflows.made_chain import CLASSES, chain_settings_of, dense_activations, made_run
from workflows.fits.chain_fit import ChainFit
from workflows.fits.fit_history import history_path
from workflows.plan.run_plan import Plan
from workflows.runtime.fit_group import FitJob, run_fit
from workflows.runtime.generation import GroupSettings
from workflows.settings import Settings
from workflows.storage.chains import load_chain
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state
from workflows.storage.tables import read_table

Made = tuple[Settings, Plan, RunFolder]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made") / "run")


def make(root: Path, hmm: dict[str, Any] | None = None, **fit: Any) -> Made:
    settings = chain_settings_of(hmm, **fit)
    folder, plan = made_run(root, settings, *dense_activations())
    return settings, plan, folder


def worker(made: Made, restart: int = 0) -> ChainFit:
    settings, plan, folder = made
    return ChainFit(rank=0, world=1, settings=settings, plan=plan, folder=folder, restart=restart)


def fitted(made: Made, restart: int = 0) -> ChainFit:
    fit = worker(made, restart)
    fit.restore(None)
    assert fit.advance(10**6, LONE)["done"]
    return fit


def numbers(model: HiddenMarkovModel) -> dict[str, np.ndarray]:
    return model.to_arrays()


def test_the_fit_is_online_em_over_the_schedule(made: Made) -> None:
    """By hand: the whole global minibatch in one E-step, rows straight from the arrays that were stored."""
    settings, plan, _ = made
    fit = fitted(made)
    layers, predicted = dense_activations()
    columns = [torch.from_numpy(values.astype(np.float32)) for values in layers]
    chunks = [
        np.flatnonzero(fit.source.images.fitted[first : first + 20]) + first
        for first in range(0, plan.train_images, 20)
    ]
    sample = fit.source.start_sample(2_000, fit.seed)
    assert len(sample) == fit.source.images.fitted.sum(), "fewer images than the start would take: it takes all"
    model = initial_model(sample.columns, [6, 5, 4], fit.seed, True, CLASSES)
    state = start(model, fit.em, int(fit.source.images.fitted.sum()))
    for step in fit.schedule.walk(settings.fit.epochs):
        rows = np.concatenate([chunks[chunk][fit.schedule.rows(step, chunk)] for chunk in step.buffer.chunks])
        batch = ChainStatistics.from_batch(
            state.model, [layer[rows] for layer in columns], torch.from_numpy(predicted[rows])
        )
        state = advance(state, batch, fit.em)
    assert state.step == fit.state.step > 12
    for name, values in numbers(state.model).items():
        np.testing.assert_allclose(numbers(fit.state.model)[name], values, rtol=1e-9, atol=1e-12)
    judged = np.flatnonzero(fit.source.images.held_out)
    by_hand = state.model.log_likelihood([layer[judged] for layer in columns], torch.from_numpy(predicted[judged]))
    assert fit.history.full[-1] == pytest.approx(float(by_hand.mean()), rel=1e-12)
    assert fit.history.columns == settings.fit.epochs * fit.source.images.fitted.sum()


@pytest.mark.slow  # a made fit says so among the fast tests
def test_the_model_does_not_depend_on_the_number_of_actors(tmp_path: Path, local_ray: object) -> None:
    models, curves = [], []
    for world in (1, 3):
        settings, plan, folder = make(tmp_path / str(world))
        inputs = {"settings": settings, "plan": plan, "folder": folder, "restart": 0}
        job = FitJob("restart 0", ChainFit, folder.fit_state("joint", "chain-0"), inputs)
        group = GroupSettings(n_actors=world, num_cpus=0.3, segment_steps=10, checkpoint_steps=10)
        result = run_fit(job, group)
        models.append(numbers(load_chain(folder.mixture("joint", "chain-0"))))
        curves.append(read_table(history_path(folder, "joint", "chain-0"))["held_out_log_likelihood"].to_numpy())
        assert result["held_out"] is not None
        assert result["steps"] == len(curves[-1])
    for other, curve in zip(models[1:], curves[1:], strict=True):
        np.testing.assert_allclose(curve, curves[0], rtol=1e-10)
        for name, values in models[0].items():
            np.testing.assert_allclose(other[name], values, rtol=1e-6, atol=1e-12)


# Within the warm-up, behind it, and (None) at the end of an epoch.
@pytest.mark.parametrize(
    ("polyak", "steps"),
    [(False, 5), (True, None)]
    + [pytest.param(*one, marks=pytest.mark.slow) for one in ((False, 1), (False, None), (True, 1), (True, 5))],
)
def test_a_fit_resumed_from_its_checkpoint_goes_on_bit_for_bit(tmp_path: Path, polyak: bool, steps: int | None) -> None:
    made = make(tmp_path / "run", polyak=polyak)
    whole = fitted(made)
    first = worker(made)
    first.restore(None)
    first.advance(steps or whole.schedule.steps_in(0), LONE)
    first.save(tmp_path / "state.npz")
    second = worker(made)
    second.restore(tmp_path / "state.npz")
    second.advance(10**6, LONE)
    np.testing.assert_array_equal(np.array(second.history.rows), np.array(whole.history.rows))
    for name, values in whole.state.to_arrays().items():
        assert second.state.to_arrays()[name].tobytes() == values.tobytes(), name


def test_a_fit_that_is_done_stays_done(made: Made, tmp_path: Path) -> None:
    whole = fitted(made)
    whole.save(tmp_path / "state.npz")
    again = worker(made)
    again.restore(tmp_path / "state.npz")
    progress = again.advance(10, LONE)
    assert progress["done"]
    assert progress["step"] == whole.state.step
    assert progress["digest"] == whole.advance(1, LONE)["digest"]


def test_a_fit_stops_at_an_epoch_that_gains_too_little(tmp_path: Path) -> None:
    made = make(tmp_path / "run", epochs=30, tolerance=0.05)
    fit = fitted(made)
    gains = np.diff(fit.history.full) / np.abs(fit.history.full[:-1])
    assert fit.history.stopped
    assert len(gains) < 29
    assert (gains[:-1] >= 0.05).all()
    assert gains[-1] < 0.05
    fit.save(tmp_path / "state.npz")
    assert bool(load_state(tmp_path / "state.npz")["stopped"])


def test_restarts_differ_and_are_judged_on_the_same_images(made: Made) -> None:
    one, two = fitted(made, 0), fitted(made, 1)
    assert not np.array_equal(one.state.model.layers[0].mean, two.state.model.layers[0].mean)
    assert one.history.full[-1] != two.history.full[-1]
    for left, right in zip(one.held_out.columns, two.held_out.columns, strict=True):
        assert torch.equal(left, right)


def test_the_result_is_a_model_and_its_rows_of_the_history(made: Made) -> None:
    _, _, folder = made
    fit = fitted(made, 1)
    record = fit.result()
    model = load_chain(folder.mixture("joint", "chain-1"))
    for name, values in numbers(fit.state.model).items():
        assert numbers(model)[name].tobytes() == values.tobytes()
    rows = read_table(history_path(folder, "joint", "chain-1"))
    assert set(rows["layer"].to_pylist()) == {"chain"}
    assert set(rows["restart"].to_pylist()) == {1}
    assert rows["step"].to_pylist() == list(range(1, fit.state.step + 1))
    assert rows["held_out_full"].null_count == rows.num_rows - 3
    assert record["held_out"] == pc.filter(rows["held_out_full"], pc.is_valid(rows["held_out_full"])).to_pylist()[-1]
    assert rows["held_out_log_likelihood"].to_pylist()[-1] > rows["held_out_log_likelihood"].to_pylist()[0]


def test_the_logits_model_is_fitted_without_a_prediction(tmp_path: Path) -> None:
    fit = fitted(make(tmp_path / "run", {"output": "gaussian"}))
    assert fit.state.model.shape.n_classes is None
    assert fit.history.full[-1] > fit.history.full[0]


@pytest.mark.parametrize(
    "minibatch", [40, *(pytest.param(size, marks=pytest.mark.slow) for size in (60, 130)), 357, 10_000]
)
def test_a_fit_of_one_epoch_learns_whatever_the_warm_up(tmp_path: Path, minibatch: int) -> None:
    fit = worker(make(tmp_path / "run", epochs=1, warmup=1_000, minibatch=minibatch))
    fit.restore(None)
    before = fit.state.model
    fit.advance(10**6, LONE)
    assert fit.state.step == fit.schedule.steps_in(0)
    assert fit.em.warmup < fit.state.step
    assert not torch.equal(fit.state.model.layers[0].mean, before.layers[0].mean)
