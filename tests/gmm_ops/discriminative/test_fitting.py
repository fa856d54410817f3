"""A whole fit learns what the generative words do not carry, stops early, and depends on its seed alone."""

from __future__ import annotations

import pytest
import torch

from gmm_ops.discriminative.classifier import LinearClassifier, fit_classifier, paired_difference
from gmm_ops.discriminative.fitting import fit_discriminative, layer_variance
from gmm_ops.discriminative.histogram import soft_histograms
from gmm_ops.discriminative.training import DiscriminativeSettings
from gmm_ops.em import fit_batch_em
from gmm_ops.errors import RefusedInput
from gmm_ops.seeding import initial_mixture
from tests.gmm_ops.discriminative.drawn_images import distracting_images


@pytest.fixture(scope="module")
def crowded():
    """More to tell apart than there are words, so that they must choose."""
    return distracting_images(1500, 20, 3)


@pytest.fixture(scope="module")
def generative(crowded):
    flat = crowded[0][:1000].reshape(-1, 5)
    return fit_batch_em(initial_mixture(flat, 4, 0), flat, 30, 1e-3)[0]


SETTINGS = DiscriminativeSettings(epochs=20, minibatch=50, mixture_rate=0.05, patience=5)


def test_trained_words_carry_more_of_the_decision(crowded, generative):
    columns, labels = crowded
    fit = fit_discriminative(columns[:1000], labels[:1000], generative, 3, 0, SETTINGS)
    frozen = fit_classifier(soft_histograms(generative, columns[:1000]), labels[:1000], 3, 0, SETTINGS)
    test, truth = columns[1000:], labels[1000:]
    trained = LinearClassifier.of(fit.parameters).wrong(soft_histograms(fit.parameters.to_mixture(), test), truth)
    plain = frozen.wrong(soft_histograms(generative, test), truth)
    found = paired_difference(trained, plain)
    assert found.high < -0.2, found
    assert found.only_second > 5 * found.only_first
    assert fit.epochs[-1].loss < 0.8 * fit.epochs[0].loss
    assert [record.step for record in fit.steps] == list(range(len(fit.steps)))
    assert len(fit.steps) == 18 * len(fit.epochs)


def test_the_seed_alone_decides(crowded, generative):
    settings = DiscriminativeSettings(epochs=1)
    fits = [fit_discriminative(crowded[0][:300], crowded[1][:300], generative, 3, seed, settings) for seed in (1, 1, 2)]
    means = [fit.parameters.mean for fit in fits]
    assert torch.equal(means[0], means[1])
    assert not torch.equal(means[0], means[2])


def test_labels_drawn_at_random_stop_the_fit_early(crowded, generative):
    """Nothing to learn: the held-out loss turns while the training loss still falls."""
    labels = torch.randint(3, (200,), generator=torch.Generator().manual_seed(0))
    settings = DiscriminativeSettings(epochs=60, minibatch=20, mixture_rate=0.05, patience=2)
    fit = fit_discriminative(crowded[0][:200], labels, generative, 3, 0, settings)
    assert len(fit.epochs) < 60
    best = min(record.held_out_loss for record in fit.epochs)
    assert [record.held_out_loss for record in fit.epochs].index(best) == len(fit.epochs) - 3


def test_half_precision_columns_train_alike(crowded, generative):
    columns, labels = crowded[0][:200].half(), crowded[1][:200]
    settings = DiscriminativeSettings(epochs=1)
    first, second = (fit_discriminative(x, labels, generative, 3, 0, settings) for x in (columns, columns.float()))
    torch.testing.assert_close(first.parameters.weight, second.parameters.weight, rtol=1e-6, atol=1e-9)


def test_the_layers_variance_is_that_of_its_columns(crowded):
    flat = crowded[0].reshape(-1, 5).double()
    torch.testing.assert_close(layer_variance(crowded[0]), flat.var(dim=0, unbiased=False))


def test_one_image_is_refused(crowded, generative):
    with pytest.raises(RefusedInput, match="at least 2 images, one to hold out; got 1"):
        fit_discriminative(crowded[0][:1], crowded[1][:1], generative, 3, 0)
