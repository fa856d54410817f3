"""Histograms and gradients over slices are those of the unsliced dictionary, and the slope of the loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gmm_ops.discriminative.classifier import LinearClassifier
from gmm_ops.discriminative.evaluation import Evaluation, evaluate
from gmm_ops.discriminative.histogram import hard_histograms, soft_histograms
from gmm_ops.discriminative.loss import Gradient, batch_gradient, own_words, parameter_gradient
from gmm_ops.discriminative.parameters import Parameters
from gmm_ops.discriminative.tile_scorer import TileScorer
from gmm_ops.discriminative.training import TrainingState, training_start
from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.mixtures.slices import WordSlice, joined
from tests.gmm_ops.discriminative.half_way import EXACT, LABELS, POSITIONS, begun_fit, cut, digit_images
from tests.gmm_ops.drawn_columns import cifar_columns, warm_mixture
from tests.gmm_ops.word_slices.thread_slices import ThreadReduce, on_slices
from tests.references import word_slices as reference


@pytest.fixture(scope="module")
def columns() -> torch.Tensor:
    return digit_images()[0]


@pytest.fixture(scope="module")
def labels() -> torch.Tensor:
    return digit_images()[1]


@pytest.fixture(scope="module")
def state(columns) -> TrainingState:
    return begun_fit(columns)


def whole(parts: list[Gradient]) -> Gradient:
    """The gradients of all slices side by side; what is not sliced must be the same bits everywhere."""
    for part in parts:
        assert (part.count, part.loss, part.wrong) == (parts[0].count, parts[0].loss, parts[0].wrong)
        assert torch.equal(part.bias, parts[0].bias)
    scores, weight = torch.cat([p.scores for p in parts]), torch.cat([p.weight for p in parts], dim=1)
    return replace(parts[0], scores=scores, weight=weight)


def assert_near(got: Gradient, expected: Gradient, relative: float) -> None:
    assert (got.count, got.wrong) == (expected.count, expected.wrong)
    assert got.loss == pytest.approx(expected.loss, rel=relative)
    for name in ("scores", "weight", "bias"):
        one, two = getattr(got, name), getattr(expected, name)
        assert float((one - two).norm()) <= relative * float(two.norm()), name


def sliced_evaluate(own: Parameters, columns, labels, reduce: ThreadReduce, **options) -> Evaluation:
    layer = LinearClassifier.of(own)
    return evaluate(own_words(own, reduce), layer, columns, labels, collective=reduce, **options)


def gradients(state, columns, labels, world, dtype=torch.float64, **options) -> Gradient:
    return whole(
        on_slices(
            world,
            lambda r: batch_gradient(
                cut(state, r.rank, world).parameters, columns, labels, dtype, collective=r, **options
            ),
        )
    )


# --- histograms ---


@pytest.mark.parametrize("world", [1, 2, 4])
def test_histograms_equal_the_loops(columns, state, world):
    mixture = state.parameters.to_mixture()
    slices = [WordSlice.of(mixture, rank, world) for rank in range(world)]
    found = on_slices(world, lambda r: soft_histograms(slices[r.rank], columns[:4], torch.float64, collective=r))
    plain = [(s.own.log_pi.tolist(), s.own.mean.tolist(), s.own.variance.tolist()) for s in slices]
    for image in range(4):
        shares = [reference.posteriors(x, plain) for x in columns[image].double().tolist()]
        for rank in range(world):
            expected = torch.tensor([row[rank] for row in shares], dtype=torch.float64).mean(dim=0)
            torch.testing.assert_close(found[rank][image], expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_histograms_equal_the_unsliced(columns, state, world):
    mixture = state.parameters.to_mixture()
    found = on_slices(world, lambda r: soft_histograms(WordSlice.of(mixture, r.rank, world), columns, collective=r))
    got = torch.cat(found, dim=1)
    torch.testing.assert_close(got, soft_histograms(mixture, columns), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.sum(dim=1), torch.ones(200, dtype=torch.float64), rtol=0, atol=1e-6)


# --- gradient ---


@pytest.mark.parametrize("world", [1, 2, 3, 9])
def test_the_gradient_equals_the_unsliced(columns, labels, state, world):
    expected = batch_gradient(state.parameters, columns, labels, torch.float64)
    assert 0 < expected.wrong < 200
    assert_near(gradients(state, columns, labels, world), expected, 1e-11)


@pytest.mark.parametrize("engine", ["dense", "sparse", "auto"])
def test_both_engines_give_the_gradient(columns, labels, state, engine):
    expected = batch_gradient(state.parameters, columns, labels, torch.float64)
    assert_near(gradients(state, columns, labels, 2, torch.float32, engine=engine), expected, 1e-4)


def test_slices_that_choose_different_engines_agree(columns, labels, state):
    def work(reduce: ThreadReduce) -> Gradient:
        own, engine = cut(state, reduce.rank, 2).parameters, ("dense", "sparse")[reduce.rank]
        return batch_gradient(own, columns, labels, engine=engine, collective=reduce)

    assert_near(whole(on_slices(2, work)), batch_gradient(state.parameters, columns, labels, torch.float64), 1e-4)


@pytest.mark.parametrize("tile_rows", [5, 16, 100])
@pytest.mark.parametrize("engine", ["dense", "sparse"])
def test_an_image_in_many_tiles_gives_the_same(columns, labels, state, tile_rows, engine):
    few, of_few = columns[:20], labels[:20]
    expected = batch_gradient(state.parameters, few, of_few, torch.float64)
    got = gradients(state, few, of_few, 2, torch.float32, engine=engine, tile_rows=tile_rows)
    assert_near(got, expected, 1e-4)


def test_real_columns_take_the_loop_and_agree(shared_data):
    maps = cifar_columns(shared_data, 60, 3).view(60, 64, 64)
    flat = maps.flatten(0, 1)
    begun = training_start(warm_mixture(flat, 200), 3, 10, flat.double().var(dim=0), EXACT)
    weight = torch.randn(3, 200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    state = replace(begun, parameters=begun.parameters.moved({"weight": weight}))
    labels = torch.arange(60) % 3

    def engine_of(reduce: ThreadReduce) -> str:
        scorer = TileScorer(own_words(cut(state, reduce.rank, 2).parameters, reduce), reduce, torch.float32)
        scorer(maps[:8])
        return scorer.engine

    assert on_slices(2, engine_of) == ["sparse", "sparse"]
    expected = batch_gradient(state.parameters, maps, labels, torch.float64)
    assert_near(gradients(state, maps, labels, 2, torch.float32), expected, 1e-4)


def test_the_gradient_is_the_slope_of_the_reduced_loss(columns, labels, state):
    """Central differences of the sliced loss along one word of each slice, the linear layer included."""
    few, of_few, step = columns[:12], labels[:12], 1e-5
    parts = on_slices(
        2, lambda r: batch_gradient(cut(state, r.rank, 2).parameters, few, of_few, torch.float64, collective=r)
    )

    def loss(name: str, at: tuple[int, ...], change: float) -> float:
        value = getattr(state.parameters, name).clone()
        value[at] += change
        moved = replace(state, parameters=state.parameters.moved({name: value}))
        found = on_slices(
            2, lambda r: sliced_evaluate(cut(moved, r.rank, 2).parameters, few, of_few, r, dtype=torch.float64)
        )
        return found[0].loss

    slopes = [parameter_gradient(cut(state, rank, 2).parameters, part) for rank, part in enumerate(parts)]
    for word in (4, 30):
        rank, own = int(word >= 22), word - 22 * int(word >= 22)
        for name, at, own_at in (
            ("mean", (word, 3), (own, 3)),
            ("log_sd", (word, 5), (own, 5)),
            ("word_logits", (word,), (own,)),
            ("weight", (1, word), (1, own)),
        ):
            numeric = (loss(name, at, step) - loss(name, at, -step)) / (2 * step) / 12
            assert float(slopes[rank][name][own_at]) == pytest.approx(numeric, rel=1e-4, abs=1e-8), (name, word)


def test_parts_of_a_minibatch_merge(columns, labels, state):
    def work(reduce: ThreadReduce) -> Gradient:
        own = cut(state, reduce.rank, 2).parameters
        total = Gradient.zero(own.n_words, 16, LABELS)
        for row in torch.arange(200).split(70):
            total += batch_gradient(own, columns[row], labels[row], torch.float64, collective=reduce)
        return total

    assert_near(whole(on_slices(2, work)), batch_gradient(state.parameters, columns, labels, torch.float64), 1e-11)


@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_equals_the_unsliced(columns, labels, state, world):
    found = on_slices(
        world, lambda r: sliced_evaluate(cut(state, r.rank, world).parameters, columns, labels, r, hard=True)
    )
    own = state.parameters
    expected = evaluate(own.to_mixture(), LinearClassifier.of(own), columns, labels, hard=True)
    assert all(other == found[0] for other in found)
    assert found[0].mean_loss == pytest.approx(expected.mean_loss, rel=1e-5)
    assert (found[0].soft_wrong, found[0].hard_wrong) == (expected.soft_wrong, expected.hard_wrong)
    assert found[0].soft_wrong != found[0].hard_wrong
    soft_only = on_slices(2, lambda r: sliced_evaluate(cut(state, r.rank, 2).parameters, columns, labels, r))
    assert soft_only[0].hard_wrong == 0.0


@pytest.mark.parametrize("world", [1, 2, 3])
def test_hard_histograms_equal_the_unsliced(columns, state, world):
    mixture = state.parameters.to_mixture()
    found = on_slices(world, lambda r: hard_histograms(WordSlice.of(mixture, r.rank, world), columns, r))
    assert torch.equal(torch.cat(found, dim=1), hard_histograms(mixture, columns))


def test_the_dictionary_never_travels(columns, labels, state):
    """Per column three numbers, per image one per label, and a few per call."""

    def work(reduce: ThreadReduce) -> int:
        batch_gradient(cut(state, reduce.rank, 2).parameters, columns, labels, collective=reduce)
        return reduce.numbers

    assert on_slices(2, work) == [3 * 200 * POSITIONS + 200 * LABELS + 6] * 2


# --- bad input ---


def test_bad_input_is_refused_by_all(columns, labels, state):
    def work(reduce: ThreadReduce) -> None:
        own = cut(state, reduce.rank, 2).parameters
        broken = columns.clone()
        broken[3, 1, 2] = torch.nan
        fewer = 100 + 10 * reduce.rank
        for given, of_given, kind, words in (
            (columns[:fewer], labels[:fewer], RefusedInput, "columns must be the same on every slice"),
            (columns, labels[:7], RefusedInput, r"labels must be whole numbers, one per image, shape \(200,\)"),
            (columns, labels + 1, RefusedInput, "labels must lie between 0 and 3; got 1 to 4"),
            (columns[:, :, :3], labels, RefusedInput, r"columns must have shape \(N, positions, 16\)"),
            (broken, labels, NonFiniteActivations, "hold NaN or infinity"),
        ):
            with pytest.raises(kind, match=words):
                batch_gradient(own, given, of_given, collective=reduce)

    on_slices(2, work)


def test_no_image_gives_nothing(columns, labels, state):
    found = gradients(state, columns[:0], labels[:0], 2)
    assert (found.count, found.loss, found.wrong) == (0.0, 0.0, 0.0)
    assert not found.scores.any()
    assert not found.weight.any()
    words = [WordSlice.of(state.parameters.to_mixture(), rank, 2) for rank in range(2)]
    assert on_slices(2, lambda r: tuple(soft_histograms(words[r.rank], columns[:0], collective=r).shape)) == [
        (0, 22),
        (0, 23),
    ]


def test_parameters_of_a_slice_say_where_they_lie(state):
    parts = [cut(state, rank, 2).parameters for rank in range(2)]
    words = on_slices(2, lambda r: own_words(parts[r.rank], r))
    assert [(w.first, w.last, w.n_words) for w in words] == [(0, 22, 45), (22, 45, 45)]
    expected = state.parameters.to_mixture()
    torch.testing.assert_close(joined(words).log_pi, expected.log_pi, rtol=1e-12, atol=1e-12)
