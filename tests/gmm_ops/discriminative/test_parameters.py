"""Parameters go to a mixture and back, to a file and back, and a dead word can be revived."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from gmm_ops.discriminative.loss import batch_gradient
from gmm_ops.discriminative.parameters import TRAINED, Parameters
from gmm_ops.errors import RefusedInput
from gmm_ops.mixtures.assignment import assign
from gmm_ops.mixtures.seeding import initial_mixture
from tests.gmm_ops.discriminative.drawn_images import drawn_images, drawn_parameters
from tests.gmm_ops.drawn_columns import clustered, warm_mixture


def test_a_mixture_comes_back():
    mixture = warm_mixture(clustered(400, 6, 5), 8)
    back = Parameters.from_mixture(mixture, 3).to_mixture()
    for name in ("log_pi", "mean", "variance", "center"):
        torch.testing.assert_close(getattr(back, name), getattr(mixture, name), rtol=1e-12, atol=1e-12)
    columns = clustered(400, 6, 5)
    assert torch.equal(assign(back, columns).word, assign(mixture, columns).word)


def test_the_linear_layer_starts_at_guessing():
    columns, labels = drawn_images(12, 20, 4, 5)
    start = Parameters.from_mixture(initial_mixture(columns.reshape(-1, 4), 6, 0), 5)
    assert batch_gradient(start, columns, labels).loss / 12 == pytest.approx(math.log(5), rel=1e-12)
    assert (start.n_words, start.n_units, start.n_labels) == (6, 4, 5)


def test_a_word_without_columns_gets_a_share_that_can_move():
    columns, labels = drawn_images(12, 20, 4, 3)
    mixture = initial_mixture(columns.reshape(-1, 4), 6, 0)
    log_pi = mixture.log_pi.clone()
    log_pi[2] = -torch.inf
    start = Parameters.from_mixture(replace(mixture, log_pi=log_pi), 3)
    share = start.to_mixture().log_pi.exp()
    assert float(share.sum()) == pytest.approx(1.0)
    assert 0 < float(share[2]) < 1e-3
    weight = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).double()
    found = batch_gradient(start.moved({"weight": weight}), columns, labels)
    assert float(found.scores[2].abs().max()) > 0


def test_arrays_keep_every_bit():
    parameters = drawn_parameters(drawn_images(8, 10, 4, 3)[0], 5, 3)
    back = Parameters.from_arrays(parameters.to_arrays("best_"), "best_")
    for name in (*TRAINED, "center"):
        assert torch.equal(getattr(back, name), getattr(parameters, name))


@pytest.mark.parametrize("name", TRAINED)
def test_one_broken_number_is_seen(name):
    parameters = drawn_parameters(drawn_images(8, 10, 4, 3)[0], 5, 3)
    assert parameters.is_finite()
    broken = getattr(parameters, name).clone()
    broken.view(-1)[-1] = torch.inf
    assert not parameters.moved({name: broken}).is_finite()


def test_one_label_is_refused():
    mixture = warm_mixture(clustered(100, 3, 2), 4)
    with pytest.raises(RefusedInput, match=r"n_labels must be at least 2.*got 1.*label rest, or the generative loss"):
        Parameters.from_mixture(mixture, 1)
