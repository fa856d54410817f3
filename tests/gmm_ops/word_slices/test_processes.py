"""Slices in real processes: the unsliced results, and a dictionary of 16,384 words below 2 GiB each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from gmm_ops.discriminative.loss import batch_gradient
from gmm_ops.discriminative.settings import DiscriminativeSettings
from gmm_ops.discriminative.training import training_start, training_step
from gmm_ops.mixtures.assignment import assign
from gmm_ops.mixtures.estep import Engine
from gmm_ops.mixtures.memory import training_bytes
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.online_step import OnlineEMSettings, advance, start
from gmm_ops.mixtures.seeding import initial_mixture, initial_slice
from gmm_ops.mixtures.slices import joined
from gmm_ops.mixtures.statistics import em_pass
from tests.gmm_ops.drawn_columns import clustered
from tests.gmm_ops.word_slices.process_slices import ProcessReduce, on_processes, peak_bytes

EM = OnlineEMSettings(minibatch=1_500, epochs=1, warmup=1, min_share=0.3)
TRAINING = DiscriminativeSettings(minibatch=50)
GIB = 2**30


# The loop adds in one order whatever the cut; the products' float32 rounding alone moves these words by 1e-5.
ENGINE: Engine = "sparse"


def small_columns() -> torch.Tensor:
    return clustered(6_000, 24, 30, seed=2)


def small_job(reduce: ProcessReduce) -> dict[str, Any]:
    """Online EM, hard words and a few discriminative steps of one slice; plain tensors to send back."""
    columns = small_columns()
    state = start(initial_slice(columns, 70, 3, reduce.rank, reduce.world), EM, reduce)
    for batch in columns.split(EM.minibatch):
        state = advance(state, em_pass(state.words, batch, reduce, engine=ENGINE), EM, reduce)
    words = state.words
    found = assign(words, columns, reduce)
    images, labels, variance = images_of(columns)
    training = training_start(words, 3, 20, variance, TRAINING, reduce)
    for _ in range(5):
        gradient = batch_gradient(training.parameters, images, labels, collective=reduce)
        training = training_step(training, gradient, TRAINING, reduce)
    return {
        "words": words,
        "reseeded": state.reseeded,
        "word": found.word,
        "mean": training.parameters.mean,
        "bias": training.parameters.bias,
    }


def images_of(columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return columns[:800].view(50, 16, -1), torch.arange(50) % 3, columns.double().var(dim=0)


@pytest.mark.slow
def test_two_processes_equal_one():
    columns = small_columns()
    parts = on_processes(2, small_job)
    state = start(initial_mixture(columns, 70, 3), EM)
    for batch in columns.split(EM.minibatch):
        state = advance(state, em_pass(state.mixture, batch, engine=ENGINE), EM)
    assert int(state.reseeded.sum()) > 0
    assert torch.equal(torch.cat([part["reseeded"] for part in parts]), state.reseeded)
    found: Mixture = joined([part["words"] for part in parts])
    for name in ("log_pi", "mean", "variance"):
        one, two = getattr(found, name), getattr(state.mixture, name)
        assert float((one - two).abs().max()) <= 1e-9 * float(two.abs().max()), name
    word = assign(found, columns).word
    assert all(torch.equal(part["word"], word) for part in parts)
    images, labels, variance = images_of(columns)
    training = training_start(found, 3, 20, variance, TRAINING)
    for _ in range(5):
        training = training_step(training, batch_gradient(training.parameters, images, labels), TRAINING)
    mean = torch.cat([part["mean"] for part in parts])
    expected = training.parameters.mean
    assert float((mean - expected).norm()) <= 1e-5 * float(expected.norm())
    assert torch.equal(parts[0]["bias"], parts[1]["bias"])


def large_job(reduce: ProcessReduce) -> tuple[list[float], list[float], int, int, int]:
    """K = 16,384, D = 512: (log-likelihoods of EM steps, losses, peak bytes, words held, peak bytes before)."""
    small_job(reduce)  # libraries and compiled loops
    before = peak_bytes()
    columns = clustered(17_000, 512, 400, seed=5).half()
    # Batch EM: a smaller minibatch than the dictionary has words says little about any of them.
    settings = OnlineEMSettings(warmup=0, exponent=0.0, min_share=0.0)
    words = initial_slice(columns, 16_384, 0, reduce.rank, reduce.world)
    state = start(words, settings, reduce)
    likelihoods = []
    for _ in range(3):
        found = em_pass(state.words, columns, reduce)
        likelihoods.append(found.log_likelihood / found.count)
        state = advance(state, found, settings, reduce)
    held = state.words.own.n_words
    words = state.words
    del state, found
    images = columns[:3_200].view(50, 64, 512)
    labels, training_settings = torch.arange(50) % 5, replace(TRAINING, epochs=1)
    training = training_start(words, 5, 3, columns.double().var(dim=0), training_settings, reduce)
    losses = []
    for _ in range(3):
        gradient = batch_gradient(training.parameters, images, labels, collective=reduce)
        losses.append(gradient.loss / gradient.count)
        training = training_step(training, gradient, training_settings, reduce)
    return likelihoods, losses, peak_bytes(), held, before


@pytest.mark.slow
def test_sixteen_thousand_words_stay_below_two_gib_per_process():
    one, two = on_processes(2, large_job)
    assert one[3] == two[3] == 8_192
    assert one[:2] == two[:2]
    likelihoods, losses = one[:2]
    assert likelihoods[0] < likelihoods[1] < likelihoods[2]
    assert losses[-1] < losses[0]
    for _, _, peak, _, before in (one, two):
        assert peak < 2 * GIB
        projected = training_bytes(16_384, 2, 512, 5, images=50)
        assert 0.5 * projected < peak - before < projected + 64 * 2**20  # the columns are 17 MiB, twice
