"""Discriminative steps over slices: Adam is that of the unsliced dictionary, and all slices stop together."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gmm_ops.discriminative.loss import batch_gradient, own_words
from gmm_ops.discriminative.training import TrainingState, training_start, training_step
from gmm_ops.errors import Diverged, RefusedInput
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.slices import WordSlice, joined
from tests.gmm_ops.discriminative.half_way import EXACT, LABELS, WORDS, begun_fit, cut, digit_images
from tests.gmm_ops.drawn_columns import warm_mixture
from tests.gmm_ops.word_slices.thread_slices import ThreadReduce, on_slices


@pytest.fixture(scope="module")
def columns() -> torch.Tensor:
    return digit_images()[0]


@pytest.fixture(scope="module")
def labels() -> torch.Tensor:
    return digit_images()[1]


@pytest.fixture(scope="module")
def state(columns) -> TrainingState:
    return begun_fit(columns)


# --- steps ---


def trained(columns, labels, settings, world, mixture, steps=30) -> list[tuple[TrainingState, list[float]]]:
    variance = columns.flatten(0, 1).double().var(dim=0)

    def work(reduce: ThreadReduce) -> tuple[TrainingState, list[float]]:
        words = WordSlice.of(mixture, reduce.rank, world)
        training = training_start(words, LABELS, steps, variance, settings, reduce)
        losses = []
        for step in range(steps):
            row = torch.arange(40) + 40 * (step % 5)
            found = batch_gradient(training.parameters, columns[row], labels[row], settings.dtype, collective=reduce)
            losses.append(found.loss / found.count)
            training = training_step(training, found, settings, reduce)
        return training, losses

    return on_slices(world, work)


@pytest.mark.parametrize(("precision", "relative"), [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize("world", [2, 3])
def test_thirty_steps_equal_the_unsliced_fit(columns, labels, precision, relative, world):
    settings = replace(EXACT, precision=precision)
    mixture = warm_mixture(columns.flatten(0, 1), WORDS, floor=1e-2)
    log_pi = mixture.log_pi.clone()
    log_pi[[2, 40]] = -torch.inf  # words that the start revives
    mixture = Mixture(log_pi, mixture.mean, mixture.variance, mixture.center)
    one = training_start(mixture, LABELS, 30, columns.flatten(0, 1).double().var(dim=0), settings)
    for step in range(30):
        row = torch.arange(40) + 40 * (step % 5)
        one = training_step(one, batch_gradient(one.parameters, columns[row], labels[row], settings.dtype), settings)
    parts = trained(columns, labels, settings, world, mixture)
    for name, expected in one.parameters.trained().items():
        own = [getattr(training.parameters, name) for training, _ in parts]
        got = own[0] if name == "bias" else torch.cat(own, dim=1 if name == "weight" else 0)
        assert float((got - expected).norm()) <= relative * float(expected.norm()), name
    assert all(torch.equal(training.parameters.bias, parts[0][0].parameters.bias) for training, _ in parts)
    assert parts[0][1][-1] < 0.8 * parts[0][1][0]  # it learns


def test_words_of_a_fit_sum_to_one_over_slices(columns, labels):
    mixture = warm_mixture(columns.flatten(0, 1), WORDS, floor=1e-2)
    parts = trained(columns, labels, EXACT, 2, mixture, steps=5)
    words = on_slices(2, lambda r: own_words(parts[r.rank][0].result(), r))
    found = joined(words)
    assert float(found.log_pi.exp().sum()) == pytest.approx(1.0, abs=1e-12)
    assert not torch.equal(found.mean, mixture.mean)


def test_a_fit_resumed_from_its_slices_is_the_same_bit_for_bit(columns, labels, state):
    def work(reduce: ThreadReduce) -> None:
        begun = cut(state, reduce.rank, 2)

        def step(training: TrainingState) -> TrainingState:
            found = batch_gradient(training.parameters, columns, labels, collective=reduce)
            return training_step(training, found, EXACT, reduce)

        stopped = step(begun).judged(1.5)
        file = io.BytesIO()
        np.savez(file, **stopped.to_arrays())
        file.seek(0)
        with np.load(file) as arrays:
            back = TrainingState.from_arrays(arrays)
        left, right = step(back).to_arrays(), step(stopped).to_arrays()
        assert left.keys() == right.keys()
        assert all(left[name].tobytes() == right[name].tobytes() for name in left)

    on_slices(2, work)


def test_the_best_parameters_are_kept(columns, labels, state):
    begun = cut(state, 1, 2)
    judged = begun.judged(1.0)
    assert judged.result() is begun.parameters
    moved = replace(judged, parameters=judged.parameters.moved({})).judged(2.0)
    assert moved.result() is begun.parameters
    assert moved.stale == 1
    with pytest.raises(Diverged, match="held-out loss is nan"):
        begun.judged(math.nan)


# --- bad input ---


def test_a_slice_that_diverges_stops_all(columns, labels, state):
    def work(reduce: ThreadReduce) -> None:
        training = cut(state, reduce.rank, 2)
        found = batch_gradient(training.parameters, columns, labels, collective=reduce)
        if reduce.rank == 1:
            found.scores[3, 2] = torch.nan
        words = "the gradient of log_sd holds NaN" if reduce.rank == 1 else "words of another slice.*Lower mixture_rate"
        with pytest.raises(Diverged, match=words):
            training_step(training, found, EXACT, reduce)

    on_slices(2, work)


def test_slices_that_do_not_tile_are_refused_by_all(state):
    first_twice = WordSlice.of(state.parameters.to_mixture(), 0, 2)

    def work(reduce: ThreadReduce) -> None:
        with pytest.raises(RefusedInput, match="slices must cover every word"):
            training_start(first_twice, LABELS, 10, torch.ones(16), EXACT, reduce)

    on_slices(2, work)
