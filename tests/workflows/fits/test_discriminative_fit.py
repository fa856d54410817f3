"""The fit with the discriminative loss: the core's steps in order, for any number of actors, whatever interrupts it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmm_ops.discriminative.classifier import LinearClassifier
from gmm_ops.discriminative.evaluation import evaluate
from gmm_ops.discriminative.loss import batch_gradient
from gmm_ops.discriminative.training import training_start, training_step
from gmm_ops.fitting.collective import LONE
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.seeding import initial_mixture
from tests.workflows.made_labelled import (
    JOINT,
    TRAIN,
    Made,
    labels,
    make,
    patch_activations,
    readable,
    settings_of,
)
from workflows.errors import DataError
from workflows.fits.discriminative_fit import DiscriminativeFit
from workflows.fits.discriminative_training import global_batch
from workflows.fits.fit_history import history_path
from workflows.fits.training_images import held_out_images
from workflows.plan.scope import Scope
from workflows.storage.mixtures import load_mixture
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state
from workflows.storage.tables import read_table
from workflows.words.dictionaries import classifier_path, generative_path

LIST = Scope("list-some", (2, 5), True, (2, 5))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made") / "run", settings_of())


@pytest.fixture(scope="module")
def whole(made: Made) -> DiscriminativeFit:
    """The whole fit of ``made``, whose results are written."""
    fit = fitted(made)
    fit.result()
    return fit


def worker(made: Made, scope: Scope = JOINT, **changed: Any) -> DiscriminativeFit:
    settings, plan, folder = made
    settings = settings.model_copy(update={"discriminative": settings.discriminative.model_copy(update=changed)})
    return DiscriminativeFit(
        rank=0, world=1, settings=settings, plan=plan, folder=folder, layer=plan.layers[0], scope=scope
    )


def fitted(made: Made, scope: Scope = JOINT, **changed: Any) -> DiscriminativeFit:
    fit = worker(made, scope, **changed)
    fit.restore(None)
    assert fit.advance(10**6, LONE)["done"]
    return fit


def training_of(fit: DiscriminativeFit) -> Any:
    assert fit._training is not None
    return fit._training


def all_arrays(fit: DiscriminativeFit, path: Path) -> dict[str, np.ndarray]:
    fit.save(path)
    return load_state(path)


def assert_same_bits(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, values in left.items():
        assert values.tobytes() == right[name].tobytes(), name


def test_the_fit_is_adam_on_the_loss_over_the_schedule(tmp_path: Path) -> None:
    """By hand: whole global minibatches, rows straight from the array that was stored, the core's own step."""
    fit = fitted(make(tmp_path / "run", settings_of(precision="float64")))
    training, columns, label = training_of(fit), torch.from_numpy(patch_activations()), torch.from_numpy(labels())
    apart = held_out_images(fit.settings, fit.plan)
    chunks = [
        np.array([image for image in readable(range(first, first + 20)) if not apart[image]])
        for first in range(0, TRAIN, 20)
    ]
    variance = fit.generative.start_sample().double().var(dim=0, unbiased=False)
    lowest = fit.generative.state.var_floor
    state = training_start(
        fit.generative.words(), 10, training.steps, variance, training.limits, lowest_variance=lowest
    )
    held_out, losses = readable(np.flatnonzero(apart)), []
    for step in training.schedule.walk(fit.settings.discriminative.epochs):
        rows = np.concatenate([chunks[chunk][training.schedule.rows(step, chunk)] for chunk in step.buffer.chunks])
        gradient = batch_gradient(state.parameters, columns[rows], label[rows], torch.float64)
        losses.append(gradient.loss / gradient.count)
        state = training_step(state, gradient, training.limits)
        if (step.index + 1) % (training.steps // 3) == 0:
            now = state.parameters
            judged = evaluate(
                now.to_mixture(),
                LinearClassifier.of(now),
                columns[held_out],
                label[held_out],
                hard=True,
                dtype=torch.float64,
            )
            state = state.judged(judged.mean_loss)
    assert state.step == training.state["words"].step == training.steps > 60
    for name, values in state.result().trained().items():
        np.testing.assert_allclose(
            getattr(training.state["words"].result(), name), values, rtol=1e-8, atol=1e-10, err_msg=name
        )
    np.testing.assert_allclose([row.loss for row in training.rows], losses, rtol=1e-9)
    last = training.rows[-1]
    assert last.held_out_loss == pytest.approx(judged.mean_loss, rel=1e-9)
    assert (last.held_out_error_soft, last.held_out_error_hard) == (judged.soft_error, judged.hard_error)
    assert last.columns == 3 * 16 * len(np.concatenate(chunks))
    assert losses[-1] < 0.8 * losses[0]


def test_words_that_may_not_move_are_the_generative_ones(made: Made) -> None:
    """With mixture_rate 0 both linear layers see the same histograms: the discriminative one is the other."""
    fit = fitted(made, mixture_rate=0.0, precision="float64")
    training = training_of(fit)
    words, frozen = training.state["words"].result(), training.state["frozen"].result()
    np.testing.assert_allclose(words.mean, fit.generative.words().mean, rtol=1e-12)
    np.testing.assert_allclose(words.weight, frozen.weight, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(words.bias, frozen.bias, rtol=1e-6, atol=1e-8)
    for row in training.rows:
        assert row.loss == pytest.approx(row.generative_loss, rel=1e-7)
    assert frozen.weight.abs().max() > 0.5


def test_the_papers_start_is_the_generative_fits_own_start(made: Made) -> None:
    fit = worker(made, start="paper")
    fit.restore(None)
    first = fit.generative.first_words()
    while fit._training is None:
        fit.advance(1, LONE)
    sample = fit.generative.start_sample()
    expected = initial_mixture(sample, 24, fit.generative.seed)
    torch.testing.assert_close(first.mean, expected.mean, rtol=0, atol=0)
    assert training_of(fit).rows[0].loss == pytest.approx(np.log(10), rel=1e-6)
    now = training_of(fit).state["words"].parameters.mean
    assert torch.equal(now, first.mean), "behind a linear layer of zeros the first step moves no word"
    fit.advance(1, LONE)
    moved = (training_of(fit).state["words"].parameters.mean - now).abs().max() / sample.std()
    assert 0 < moved < 0.01, "the second one does, a little"


# Next to 36 and to 72 the same phase is met again.
@pytest.mark.parametrize(
    "steps", [pytest.param(1, marks=pytest.mark.slow), 36, 72, pytest.param(73, marks=pytest.mark.slow), 90, 10**6]
)
def test_a_fit_resumed_from_its_checkpoint_goes_on_bit_for_bit(
    made: Made, whole: DiscriminativeFit, tmp_path: Path, steps: int
) -> None:
    first = worker(made)
    first.restore(None)
    first.advance(steps, LONE)
    first.save(tmp_path / "state.npz")
    second = worker(made)
    second.restore(tmp_path / "state.npz")
    progress = second.advance(10**6, LONE)
    assert progress["done"]
    assert progress["digest"] == whole.advance(1, LONE)["digest"]
    assert_same_bits(all_arrays(second, tmp_path / "second.npz"), all_arrays(whole, tmp_path / "whole.npz"))


def test_every_phase_is_met_by_the_resumed_fits(whole: DiscriminativeFit) -> None:
    """The steps of the test above: within the generative fit, at its end, in training, at the end."""
    assert whole.generative.state.step == 72
    assert whole.generative.state.step + len(training_of(whole).rows) == 195


@pytest.mark.slow
def test_words_and_linear_layer_stop_and_the_best_is_kept(tmp_path: Path) -> None:
    made = make(tmp_path / "run", settings_of(epochs=25, patience=2, mixture_rate=0.2, classifier_rate=0.5))
    fit = fitted(made)
    training = training_of(fit)
    judged = [row.held_out_loss for row in training.rows if np.isfinite(row.held_out_loss)]
    assert len(judged) < 25, "it stopped early"
    assert np.argmin(judged) == len(judged) - 3
    assert training.state["words"].best_loss == min(judged)
    assert len(training.rows) > training.state["words"].step, "the linear layer on the generative words went on"
    assert np.isnan(training.rows[-1].loss)
    mixture, layer = training.models()["discriminative"]
    held_out = readable(np.flatnonzero(held_out_images(fit.settings, fit.plan)))
    columns, label = torch.from_numpy(patch_activations()[held_out]), torch.from_numpy(labels()[held_out])
    again = evaluate(mixture, layer, columns, label)
    assert again.mean_loss == pytest.approx(min(judged), rel=1e-5)


def test_the_results_are_read_back_as_they_were(made: Made, whole: DiscriminativeFit) -> None:
    _, _, folder = made
    models = training_of(whole).models()
    paths = {"discriminative": folder.mixture("joint", "made"), "generative": generative_path(folder, "joint", "made")}
    stored = load_state(classifier_path(folder, "joint", "made"))
    for loss, (mixture, layer) in models.items():
        for name, values in mixture.to_arrays().items():
            assert load_mixture(paths[loss]).to_arrays()[name].tobytes() == values.tobytes()
        for name, values in layer.to_arrays().items():
            assert stored[f"{loss}_{name}"].tobytes() == values.tobytes()
    assert not np.array_equal(models["discriminative"][0].mean, models["generative"][0].mean)


def test_the_history_goes_through_both_phases(made: Made, whole: DiscriminativeFit) -> None:
    rows = read_table(history_path(made[2], "joint", "made")).to_pylist()
    generative = [row for row in rows if row["phase"] == "generative"]
    trained = [row for row in rows if row["phase"] == "discriminative"]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(generative) == whole.generative.state.step
    assert all(row["loss"] is None and row["held_out_log_likelihood"] is not None for row in generative)
    assert all(row["loss"] > 0 and row["held_out_log_likelihood"] is None for row in trained)
    assert sum(row["held_out_loss"] is not None for row in trained) == 3
    assert trained[0]["columns"] > generative[-1]["columns"]


def test_a_scope_sees_its_own_images_alone(made: Made, tmp_path: Path) -> None:
    """Images of other classes may hold anything; in a list with `rest` they are one label."""
    pair = Scope("class-2", (2, 5), False, (2,))
    fit = fitted(made, pair, epochs=1)
    spoiled = patch_activations()
    spoiled[~np.isin(labels(), pair.labels)] = np.nan
    other = fitted(make(tmp_path / "spoiled", made[0], spoiled), pair, epochs=1)
    assert_same_bits(all_arrays(fit, tmp_path / "one.npz"), all_arrays(other, tmp_path / "two.npz"))
    assert training_of(fit).state["words"].parameters.n_labels == 2
    rest = worker(made, LIST)
    rest.restore(None)
    while rest._training is None:
        rest.advance(1, LONE)
    assert training_of(rest).state["words"].parameters.n_labels == 3


def test_a_scope_of_few_images_takes_smaller_minibatches() -> None:
    assert global_batch(100, 20_000) == 100
    assert global_batch(100, 1_200) == 30
    assert global_batch(100, 30) == 10, "single images would decide"
    assert global_batch(5, 30) == 5


def test_more_words_than_columns_are_refused(made: Made) -> None:
    settings, plan, folder = made
    many = replace(plan.layers[0], words=10_000)
    with pytest.raises(DataError, match=r"scope joint, layer made: fit.words asks for 10000 words.*fewer words"):
        DiscriminativeFit(rank=0, world=1, settings=settings, plan=plan, folder=folder, layer=many, scope=JOINT)


def test_another_folder_takes_what_a_fit_comes_to(made: Made, tmp_path: Path) -> None:
    """As a sweep over K needs it: columns from the run, results elsewhere."""
    settings, plan, folder = made
    settings = settings.model_copy(update={"discriminative": settings.discriminative.model_copy(update={"epochs": 1})})
    layer, out = replace(plan.layers[0], words=4), RunFolder(tmp_path / "elsewhere")
    fit = DiscriminativeFit(
        rank=0, world=1, settings=settings, plan=plan, folder=folder, layer=layer, scope=JOINT, out=out
    )
    fit.restore(None)
    fit.advance(10**6, LONE)
    fit.result()
    assert load_mixture(out.mixture("joint", "made")).n_words == 4
    assert isinstance(load_mixture(generative_path(out, "joint", "made")), Mixture)
