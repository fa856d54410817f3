"""The closed-form gradient is the derivative of Eq. 8, whatever the tiling, and its sums merge."""

from __future__ import annotations

import pytest
import torch

from gmm_ops.discriminative.histogram import soft_histograms
from gmm_ops.discriminative.loss import (
    Gradient,
    batch_gradient,
    cross_entropy,
    first_best,
    own_words,
    parameter_gradient,
)
from gmm_ops.discriminative.parameters import TRAINED, Parameters
from gmm_ops.discriminative.tile_scorer import TileScorer
from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.fitting.collective import LONE, Collective
from gmm_ops.mixtures.slices import WordSlice
from tests.gmm_ops.discriminative.drawn_images import as_model, automatic_loss, drawn_images, drawn_parameters
from tests.gmm_ops.drawn_columns import cifar_columns, warm_mixture
from tests.gmm_ops.word_slices.thread_slices import on_slices
from tests.references import discriminative as reference

N, POSITIONS, UNITS, WORDS, LABELS = 9, 30, 5, 7, 4


@pytest.fixture(scope="module")
def batch():
    return drawn_images(N, POSITIONS, UNITS, LABELS)


@pytest.fixture(scope="module")
def parameters(batch):
    return drawn_parameters(batch[0], WORDS, LABELS)


class ClosedForm(torch.autograd.Function):
    """The closed form dressed as an operation, so that autograd's own checker can judge it."""

    @staticmethod
    def forward(ctx, parameters, columns, labels, *fields):
        at = parameters.moved(dict(zip(TRAINED, fields, strict=True)))
        gradient = batch_gradient(at, columns, labels, torch.float64, tile_rows=50)
        ctx.slopes = parameter_gradient(at, gradient)
        return torch.tensor(gradient.loss / gradient.count, dtype=torch.float64)

    @staticmethod
    def backward(ctx, outer):
        return (None, None, None, *(outer * ctx.slopes[name] for name in TRAINED))


def test_gradcheck_in_float64(batch, parameters):
    columns, labels = batch[0].double(), batch[1]
    fields = [value.clone().requires_grad_() for value in parameters.trained().values()]
    assert torch.autograd.gradcheck(
        lambda *given: ClosedForm.apply(parameters, columns, labels, *given), fields, eps=1e-6, atol=1e-8, rtol=1e-6
    )


@pytest.mark.parametrize("tile_rows", [None, 64, 30, 7])
def test_equals_autograd_whatever_the_tile(batch, parameters, tile_rows):
    """7 rows cut an image into five tiles, which are scored twice."""
    columns, labels = batch[0].double(), batch[1]
    fields = {name: value.clone().requires_grad_() for name, value in parameters.trained().items()}
    loss = automatic_loss(fields, columns, labels)
    loss.backward()
    found = batch_gradient(parameters, columns, labels, torch.float64, tile_rows)
    assert found.count == N
    assert found.loss == pytest.approx(loss.item(), rel=1e-12)
    for name, slope in parameter_gradient(parameters, found).items():
        torch.testing.assert_close(slope, fields[name].grad / N, rtol=1e-10, atol=1e-14)


def test_equals_the_loop(batch, parameters):
    columns, labels = batch[0].double(), batch[1]
    model, images = as_model(parameters), columns.tolist()
    found = batch_gradient(parameters, columns, labels, torch.float64)
    assert found.loss / N == pytest.approx(reference.loss(model, images, labels.tolist()), rel=1e-12)
    shares = [reference.label_shares(model, reference.soft_histogram(model, x)) for x in images]
    assert found.wrong == sum(p.index(max(p)) != label for p, label in zip(shares, labels.tolist(), strict=True))
    expected = reference.gradient(model, images, labels.tolist())
    for name, slope in parameter_gradient(parameters, found).items():
        loop = torch.tensor(getattr(expected, name), dtype=torch.float64)
        torch.testing.assert_close(slope, loop, rtol=1e-9, atol=1e-13)


def test_a_step_against_the_gradient_lowers_the_loss(batch, parameters):
    columns, labels = batch[0].double(), batch[1]
    before = batch_gradient(parameters, columns, labels, torch.float64)
    slopes = parameter_gradient(parameters, before)
    squares = sum(float((slope**2).sum()) for slope in slopes.values())
    moved = parameters.moved({n: v - 1e-6 * slopes[n] for n, v in parameters.trained().items()})
    after = batch_gradient(moved, columns, labels, torch.float64)
    assert (before.loss - after.loss) / N == pytest.approx(1e-6 * squares, rel=1e-3)


def test_float32_products_stay_close_even_far_from_the_origin(batch, parameters):
    """Centred columns: a mean of 1,000 costs no digit."""
    columns, labels = batch
    exact = parameter_gradient(parameters, batch_gradient(parameters, columns.double(), labels, torch.float64))
    far = parameters.moved({"mean": parameters.mean + 1000.0})
    far = type(far)(*far.trained().values(), far.center + 1000.0)
    for at, x in ((parameters, columns), (far, columns.double() + 1000.0)):
        for name, slope in parameter_gradient(at, batch_gradient(at, x, labels)).items():
            assert float((slope - exact[name]).norm() / exact[name].norm()) < 5e-6, name


@pytest.mark.parametrize("tile_rows", [None, 100, 17])
def test_the_loop_over_few_words_gives_the_same_gradient(tile_rows):
    """Real columns of many units have 1 to 2 words each; here the drawn kinds lie that far apart."""
    columns, labels = drawn_images(40, 30, 64, 40, noise=0.3)
    parameters = drawn_parameters(columns, 300, 40)
    parameters = parameters.moved({"log_sd": parameters.log_sd - 0.7})
    chosen = TileScorer(own_words(parameters, LONE), LONE, torch.float32)
    chosen(columns)
    assert chosen.engine == "sparse"
    exact = batch_gradient(parameters, columns, labels, torch.float64)
    for engine in ("dense", "sparse", "auto"):
        found = batch_gradient(parameters, columns, labels, tile_rows=tile_rows, engine=engine)
        assert found.loss == pytest.approx(exact.loss, rel=1e-5)
        for name, slope in parameter_gradient(parameters, found).items():
            expected = parameter_gradient(parameters, exact)[name]
            assert float((slope - expected).norm() / expected.norm()) < 2e-4, (engine, name)
    mixture = parameters.to_mixture()
    looped, whole = (soft_histograms(mixture, columns, engine=e) for e in ("sparse", "dense"))
    torch.testing.assert_close(looped, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("stage", "words"), [(1, 30), (3, 40)])
def test_real_columns_in_float32(shared_data, stage, words):
    """ResNet-20 columns under words two EM steps from their start; one label per image."""
    flat = cifar_columns(shared_data, 24, stage)
    parameters = Parameters.from_mixture(warm_mixture(flat, words), 4)
    weight = 10.0 * torch.randn(4, words, generator=torch.Generator().manual_seed(0)).double()
    parameters = parameters.moved({"weight": weight})
    columns, labels = flat.view(24, -1, flat.shape[1]), torch.arange(24) % 4
    exact = parameter_gradient(parameters, batch_gradient(parameters, columns, labels, torch.float64))
    for tile_rows in (None, 500):
        found = parameter_gradient(parameters, batch_gradient(parameters, columns, labels, tile_rows=tile_rows))
        for name, slope in found.items():
            assert float((slope - exact[name]).norm() / exact[name].norm()) < 1e-4, name


def test_parts_merge_to_the_whole(batch, parameters):
    columns, labels = batch
    whole = batch_gradient(parameters, columns, labels, torch.float64)
    zero = Gradient.zero(WORDS, UNITS, LABELS)
    parts = [batch_gradient(parameters, columns[i : i + 2], labels[i : i + 2], torch.float64) for i in range(0, N, 2)]
    merged = sum(parts, zero)
    packed = sum((part.pack() for part in parts), zero.pack())
    for found in (merged, Gradient.unpack(packed, WORDS, UNITS, LABELS)):
        assert (found.count, found.wrong) == (whole.count, whole.wrong)
        torch.testing.assert_close(found.pack(), whole.pack(), rtol=1e-12, atol=1e-13)
    assert torch.equal(Gradient.unpack(whole.pack(), WORDS, UNITS, LABELS).pack(), whole.pack())
    assert torch.equal((whole + zero).pack(), whole.pack())


def test_relabelling_words_relabels_the_gradient(batch, parameters):
    columns, labels = batch
    order = torch.randperm(WORDS, generator=torch.Generator().manual_seed(1))
    fields = {name: value[order] for name, value in parameters.trained().items() if name in TRAINED[:3]}
    renamed = parameters.moved({**fields, "weight": parameters.weight[:, order]})
    plain = batch_gradient(parameters, columns, labels, torch.float64)
    found = batch_gradient(renamed, columns, labels, torch.float64)
    torch.testing.assert_close(found.scores, plain.scores[order], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(found.weight, plain.weight[:, order], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("world", [2, 3])
def test_words_in_slices_give_the_same_score_gradient(batch, parameters, world):
    """Each slice knows its own words; what depends on all words is a sum over slices."""
    columns, mixture = batch[0].double(), parameters.to_mixture()
    back = torch.randn(N, WORDS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def added(words: WordSlice, collective: Collective) -> torch.Tensor:
        tile = TileScorer(words, collective, torch.float64)(columns)
        own = back[:, words.first : words.last]
        sums = torch.ones(words.own.n_words, 2 * UNITS + 1, dtype=torch.float64)
        tile.add_score_gradient(own, collective.all_reduce_sum(tile.weighted_means(own)), sums)
        return sums - 1.0

    whole = added(WordSlice.whole(mixture), LONE)
    parts = on_slices(world, lambda r: added(WordSlice.of(mixture, r.rank, world), r))
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-9, atol=1e-12)


def test_cross_entropy_equals_torch_and_ties_go_to_the_lowest():
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    labels = torch.arange(20) % 5
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    expected.backward()
    found = cross_entropy(logits.detach(), labels)
    assert found.loss == pytest.approx(expected.item(), rel=1e-13)
    torch.testing.assert_close(found.logit_gradient, logits.grad)
    assert found.wrong == int((logits.argmax(dim=1) != labels).sum())
    assert first_best(torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])).tolist() == [1, 0]


def test_bad_input_is_refused_by_name(batch, parameters):
    columns, labels = batch
    with pytest.raises(RefusedInput, match=r"labels must lie between 0 and 3; got 0 to 4.*scope"):
        batch_gradient(parameters, columns, torch.where(labels == 3, 4, labels))
    with pytest.raises(RefusedInput, match="labels must lie between 0 and 3; got -1"):
        batch_gradient(parameters, columns, labels - 1)
    with pytest.raises(RefusedInput, match=r"labels must be whole numbers, one per image, shape \(9,\)"):
        batch_gradient(parameters, columns, labels[:-1])
    with pytest.raises(RefusedInput, match=r"whole numbers.*float32.*needs a label"):
        batch_gradient(parameters, columns, labels.float())
    with pytest.raises(RefusedInput, match=r"columns must have shape \(N, positions, 5\).*got \(270, 5\)"):
        batch_gradient(parameters, columns.reshape(-1, UNITS), labels)
    broken = columns.clone()
    broken[1, 1, 2] = float("nan")
    with pytest.raises(NonFiniteActivations, match="row 31"):
        batch_gradient(parameters, broken, labels)
    with pytest.raises(RefusedInput, match="at least one image; the global batch is empty"):
        parameter_gradient(parameters, Gradient.zero(WORDS, UNITS, LABELS))
