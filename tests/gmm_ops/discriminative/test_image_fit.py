"""A whole fit learns what the generative words do not carry and stops early; a linear layer alone; the seed decides."""

from __future__ import annotations

import itertools

import pytest
import torch

from gmm_ops.discriminative.classifier import LinearClassifier, paired_difference
from gmm_ops.discriminative.histogram import soft_histograms
from gmm_ops.discriminative.image_fit import fit_classifier, fit_discriminative, layer_variance
from gmm_ops.discriminative.loss import batch_gradient
from gmm_ops.discriminative.settings import DiscriminativeSettings
from gmm_ops.discriminative.training import image_minibatches, training_start, training_step
from gmm_ops.errors import Diverged, RefusedInput
from gmm_ops.mixtures.em import fit_batch_em
from gmm_ops.mixtures.seeding import initial_mixture
from tests.gmm_ops.discriminative.drawn_images import distracting_images, drawn_images
from tests.references import discriminative as reference


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


@pytest.fixture(scope="module")
def images():
    return drawn_images(300, 20, 5, 3)


@pytest.fixture(scope="module")
def mixture(images):
    return initial_mixture(images[0].reshape(-1, 5), 12, 0)


def plain_layer(histograms, labels, n_labels, seed, settings):
    """(weight, bias) of the loops: slopes of the mean cross entropy, each number moved by Adam on its own."""
    shares, truth, n_words = histograms.tolist(), labels.tolist(), histograms.shape[1]
    batches = [
        rows for e in range(settings.epochs) for rows in image_minibatches(len(truth), settings.minibatch, seed, e)
    ]
    slopes = [[[] for _ in range(n_words + 1)] for _ in range(n_labels)]
    layer = [[0.0] * (n_words + 1) for _ in range(n_labels)]
    for rows in batches:
        model = reference.Model([], [], [], [row[:-1] for row in layer], [row[-1] for row in layer])
        found = [(reference.label_shares(model, shares[i]), truth[i], [*shares[i], 1.0]) for i in rows.tolist()]
        for m, k in itertools.product(range(n_labels), range(n_words + 1)):
            slopes[m][k].append(sum((p[m] - (m == label)) * x[k] for p, label, x in found) / len(found))
            layer[m][k] = reference.adam(0.0, slopes[m][k], settings.classifier_rate, len(batches))
    weight, bias = torch.tensor(layer, dtype=torch.float64).split([n_words, 1], dim=1)
    return weight, bias[:, 0]


def test_the_linear_layer_alone_equals_the_loops():
    columns, labels = drawn_images(200, 20, 5, 3)
    histograms = soft_histograms(initial_mixture(columns.reshape(-1, 5), 6, 0), columns)
    settings = DiscriminativeSettings(minibatch=23, epochs=3)
    weight, bias = plain_layer(histograms, labels, 3, 8, settings)
    found = fit_classifier(histograms, labels, 3, 8, settings)
    torch.testing.assert_close(found.weight, weight, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.bias, bias, rtol=1e-10, atol=1e-12)
    assert found.wrong(histograms, labels).double().mean() < 0.5, "a layer near 0 would prove little"


def test_the_linear_layer_alone_equals_training_with_words_still(images, mixture):
    columns, labels = images
    settings = DiscriminativeSettings(mixture_rate=0.0, precision="float64", epochs=2, minibatch=50)
    variance = columns.reshape(-1, 5).double().var(dim=0)
    state = training_start(mixture, 3, 12, variance, settings)
    for epoch in range(2):
        for rows in image_minibatches(300, 50, 9, epoch):
            gradient = batch_gradient(state.parameters, columns[rows], labels[rows], torch.float64)
            state = training_step(state, gradient, settings)
    frozen = fit_classifier(soft_histograms(mixture, columns, torch.float64), labels, 3, 9, settings)
    torch.testing.assert_close(frozen.weight, state.parameters.weight, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(frozen.bias, state.parameters.bias, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(state.parameters.mean, mixture.mean, rtol=0, atol=0)


def test_histograms_that_tell_labels_apart_are_learned():
    histograms = torch.eye(4, dtype=torch.float64).repeat(50, 1)
    labels = torch.tensor([2, 0, 1, 0]).repeat(50)
    classifier = fit_classifier(histograms, labels, 3, 0)
    assert not bool(classifier.wrong(histograms, labels).any())


def test_the_seed_alone_decides_the_linear_layer(images, mixture):
    histograms = soft_histograms(mixture, images[0])
    first, second, other = (fit_classifier(histograms, images[1], 3, seed).weight for seed in (4, 4, 5))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_no_images_no_labels_or_an_insane_rate_is_refused(images, mixture):
    histograms, labels = soft_histograms(mixture, images[0]), images[1]
    with pytest.raises(RefusedInput, match="labels must lie between 0 and 1; got 0 to 2"):
        fit_classifier(histograms, labels, 2, 0)
    with pytest.raises(RefusedInput, match="at least 1 image and 2 labels; got 0 and 3"):
        fit_classifier(histograms[:0], labels[:0], 3, 0)
    with pytest.raises(RefusedInput, match="at least 1 image and 2 labels; got 300 and 1"):
        fit_classifier(histograms, torch.zeros_like(labels), 1, 0)
    with pytest.raises(Diverged, match=r"the loss of the minibatch is .*Lower mixture_rate or classifier_rate"):
        fit_classifier(histograms, labels, 3, 0, DiscriminativeSettings(classifier_rate=1e6))
