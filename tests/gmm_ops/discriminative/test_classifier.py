"""The linear layer on histograms, its errors, and the paired comparison of two classifiers."""

from __future__ import annotations

import pytest
import torch

from gmm_ops.discriminative.classifier import LinearClassifier, paired_difference
from gmm_ops.discriminative.evaluation import Evaluation, evaluate
from gmm_ops.discriminative.histogram import hard_histograms, soft_histograms
from gmm_ops.discriminative.loss import batch_gradient
from gmm_ops.errors import RefusedInput
from tests.gmm_ops.discriminative.drawn_images import drawn_images, drawn_parameters
from tests.references import discriminative as reference


@pytest.fixture(scope="module")
def images():
    return drawn_images(300, 20, 5, 3)


def test_logits_are_those_of_the_loop_and_ties_go_to_the_lowest(images):
    parameters = drawn_parameters(images[0][:30], 6, 3)
    histograms = soft_histograms(parameters.to_mixture(), images[0][:30])
    classifier = LinearClassifier.of(parameters)
    model = reference.Model([], [], [], parameters.weight.tolist(), parameters.bias.tolist())
    expected = torch.tensor([reference.label_shares(model, row) for row in histograms.tolist()], dtype=torch.float64)
    torch.testing.assert_close(classifier.logits(histograms).softmax(dim=1), expected, rtol=1e-12, atol=1e-15)
    assert torch.equal(classifier.labels(histograms), expected.argmax(dim=1))
    level = LinearClassifier(torch.zeros(3, 6).double(), torch.tensor([0.0, 1.0, 1.0]).double())
    assert level.labels(histograms).tolist() == [1] * 30


def test_a_layer_keeps_its_bits_in_a_file(images):
    classifier = LinearClassifier.of(drawn_parameters(images[0][:30], 6, 3))
    for prefix in ("", "best_"):
        arrays = classifier.to_arrays(prefix)
        assert set(arrays) == {f"{prefix}weight", f"{prefix}bias"}
        again = LinearClassifier.from_arrays(arrays, prefix)
        assert torch.equal(again.weight, classifier.weight)
        assert torch.equal(again.bias, classifier.bias)


def test_evaluation_counts_what_the_classifier_gets_wrong(images):
    columns, labels = images[0][:30], images[1][:30]
    parameters = drawn_parameters(columns, 6, 3)
    mixture, classifier = parameters.to_mixture(), LinearClassifier.of(parameters)
    whole = evaluate(mixture, classifier, columns, labels, hard=True, dtype=torch.float64)
    assert whole.soft_wrong == float(classifier.wrong(soft_histograms(mixture, columns), labels).sum())
    assert whole.hard_wrong == float(classifier.wrong(hard_histograms(mixture, columns), labels).sum())
    assert whole.hard_wrong not in (0.0, whole.soft_wrong), "a drawn model must tell the two apart"
    gradient = batch_gradient(parameters, columns, labels, torch.float64)
    assert whole.loss == pytest.approx(gradient.loss, rel=1e-12)
    assert (whole.count, whole.soft_error) == (30, gradient.wrong / 30)
    parts = [
        evaluate(mixture, classifier, columns[i : i + 8], labels[i : i + 8], hard=True, dtype=torch.float64)
        for i in range(0, 30, 8)
    ]
    merged = sum(parts, Evaluation.zero())
    torch.testing.assert_close(merged.pack(), whole.pack(), rtol=1e-12, atol=0)
    assert merged.hard_error == whole.hard_wrong / 30
    assert evaluate(mixture, classifier, columns, labels).hard_wrong == 0


def test_the_paired_interval_equals_the_loop_and_turns_around():
    source = torch.Generator().manual_seed(0)
    first, second = (torch.rand(1000, generator=source) < p for p in (0.3, 0.25))
    found = paired_difference(first, second)
    assert (found.low, found.high) == pytest.approx(reference.paired_difference(first.tolist(), second.tolist()))
    assert found.difference == pytest.approx(float(first.double().mean() - second.double().mean()))
    assert found.low < found.difference < found.high
    back = paired_difference(second, first)
    assert (back.low, back.high, back.difference) == pytest.approx((-found.high, -found.low, -found.difference))


def test_a_tie_is_called_a_tie():
    wrong = torch.arange(1000) < 90
    same = paired_difference(wrong, wrong)
    assert same.is_tie
    assert same.difference == 0
    assert same.high > 0, "no discordant image does not prove equality"
    assert not paired_difference(wrong, torch.arange(1000) < 40).is_tie
    assert paired_difference(wrong, torch.arange(1000) < 88).is_tie


def test_the_interval_holds_the_truth_in_95_of_100_draws():
    """1,000 images, errors of 9 % and 7 % that share 6 %."""
    source = torch.Generator().manual_seed(1)
    held = 0
    for _ in range(400):
        draw = torch.rand(1000, generator=source)
        found = paired_difference(draw < 0.09, (draw < 0.06) | (draw > 0.99))
        held += found.low <= 0.02 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_bad_input_is_refused_by_name(images):
    classifier = LinearClassifier.of(drawn_parameters(images[0][:30], 12, 3))
    with pytest.raises(RefusedInput, match=r"histograms must have shape \(N, 12\).*got \(300, 5\)"):
        classifier.logits(torch.zeros(300, 5))
    with pytest.raises(RefusedInput, match=r"first and second must say which of the same images.*\(5,\) and \(4,\)"):
        paired_difference(torch.ones(5, dtype=torch.bool), torch.ones(4, dtype=torch.bool))
    with pytest.raises(RefusedInput, match="an evaluation must hold at least one image"):
        _ = Evaluation.zero().soft_error
