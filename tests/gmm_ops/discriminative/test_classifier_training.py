"""The linear layer on histograms, a minibatch at a time: what ``fit_classifier`` repeats, as mergeable steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gmm_ops.discriminative.classifier import LinearClassifier
from gmm_ops.discriminative.classifier_training import ClassifierGradient, ClassifierState
from gmm_ops.discriminative.image_fit import fit_classifier
from gmm_ops.discriminative.settings import DiscriminativeSettings
from gmm_ops.discriminative.training import image_minibatches
from gmm_ops.errors import Diverged, RefusedInput

N, K, M = 240, 7, 4
SETTINGS = DiscriminativeSettings(minibatch=30, epochs=3)


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(3)
    labels = torch.randint(M, (N,), generator=source)
    shares = torch.rand(N, K, generator=source).double() + torch.eye(K)[labels]
    return shares / shares.sum(dim=1, keepdim=True), labels


def trained(parts: int = 1) -> ClassifierState:
    histograms, labels = drawn()
    state = ClassifierState.start(K, M, SETTINGS.epochs * len(image_minibatches(N, 30, 5, 0)))
    for epoch in range(SETTINGS.epochs):
        for rows in image_minibatches(N, 30, 5, epoch):
            total = ClassifierGradient.zero(K, M)
            for part in rows.tensor_split(parts):
                total += ClassifierGradient.of(state.classifier, histograms[part], labels[part])
            state = state.advanced(total, SETTINGS)
    return state


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_steps_are_those_of_the_whole_training_for_any_parts(parts: int) -> None:
    histograms, labels = drawn()
    whole = fit_classifier(histograms, labels, M, seed=5, settings=SETTINGS)
    state = trained(parts)
    assert state.step == state.total_steps == 24
    torch.testing.assert_close(state.classifier.weight, whole.weight, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(state.classifier.bias, whole.bias, rtol=1e-11, atol=1e-13)
    assert whole.wrong(histograms, labels).double().mean() < 0.5


def test_the_gradient_is_that_of_autograd() -> None:
    histograms, labels = drawn()
    source = torch.Generator().manual_seed(9)
    weight = torch.randn(M, K, generator=source, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(M, generator=source, dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(histograms @ weight.T + bias, labels, reduction="sum")
    loss.backward()
    found = ClassifierGradient.of(LinearClassifier(weight.detach(), bias.detach()), histograms, labels)
    assert found.loss == pytest.approx(float(loss.detach()), rel=1e-12)
    assert weight.grad is not None
    assert bias.grad is not None
    torch.testing.assert_close(found.weight, weight.grad)
    torch.testing.assert_close(found.bias, bias.grad)
    assert found.count == N
    best = (histograms @ weight.T + bias).argmax(dim=1)
    assert found.wrong == float((best != labels).sum())


def test_packing_keeps_every_bit() -> None:
    histograms, labels = drawn()
    found = ClassifierGradient.of(trained().classifier, histograms, labels)
    again = ClassifierGradient.unpack(found.pack(), K, M)
    assert torch.equal(again.pack(), found.pack())
    assert torch.equal((found + ClassifierGradient.zero(K, M)).pack(), found.pack())


def test_a_state_goes_on_from_its_arrays_bit_for_bit() -> None:
    histograms, labels = drawn()
    state = trained().judged(0.5).judged(0.7)
    again = ClassifierState.from_arrays(state.to_arrays())
    assert (again.step, again.total_steps, again.best_loss, again.stale) == (24, 24, 0.5, 1)
    for one, other in ((again.classifier, state.classifier), (again.result(), state.best)):
        assert torch.equal(one.weight, other.weight)
        assert torch.equal(one.bias, other.bias)
    fresh = ClassifierState.start(K, M, 10)
    resumed = ClassifierState.from_arrays(fresh.to_arrays())
    gradient = ClassifierGradient.of(fresh.classifier, histograms, labels)
    left, right = fresh.advanced(gradient, SETTINGS), resumed.advanced(gradient, SETTINGS)
    for name, values in left.to_arrays().items():
        assert values.tobytes() == right.to_arrays()[name].tobytes(), name


def test_a_state_moves_to_another_device_whole() -> None:
    moved = trained().judged(0.5).to("meta")
    layers = [values for layer in (moved.classifier, moved.best) for values in (layer.weight, layer.bias)]
    moments = [*moved.moments.first.values(), *moved.moments.second.values()]
    assert {values.device.type for values in (*layers, *moments)} == {"meta"}
    assert (moved.step, moved.best_loss) == (24, 0.5)


def test_the_best_judged_layer_is_kept_and_patience_ends_it() -> None:
    state = trained()
    earlier = ClassifierState.start(K, M, 100).judged(0.9)
    assert torch.equal(earlier.result().weight, torch.zeros(M, K, dtype=torch.float64))
    assert not earlier.judged(1.0).should_stop(SETTINGS)
    assert earlier.judged(1.0).judged(0.95).should_stop(SETTINGS)
    assert state.should_stop(SETTINGS), "the schedule is done"
    assert torch.equal(state.result().weight, state.classifier.weight), "nothing was judged: the last one counts"


def test_refusals_name_the_rule() -> None:
    histograms, labels = drawn()
    state = ClassifierState.start(K, M, 10)
    with pytest.raises(RefusedInput, match="n_labels must be at least 2 and total_steps at least 1; got 1 and 10"):
        ClassifierState.start(K, 1, 10)
    with pytest.raises(RefusedInput, match="gradient must hold at least one image"):
        state.advanced(ClassifierGradient.zero(K, M), SETTINGS)
    with pytest.raises(RefusedInput, match="labels must lie between 0 and 3; got 0 to 4"):
        ClassifierGradient.of(state.classifier, histograms, labels + (labels == 3).long())
    with pytest.raises(Diverged, match="the held-out loss is nan"):
        state.judged(float("nan"))
    steep = LinearClassifier(1e6 * torch.eye(M, K).flip(0).double(), state.classifier.bias)
    wild = replace(state, classifier=steep)
    with pytest.raises(Diverged, match=r"the loss of the minibatch is .*Lower mixture_rate or classifier_rate"):
        wild.advanced(ClassifierGradient.of(wild.classifier, histograms, labels), SETTINGS)
