"""Batch EM never lowers the (penalised) likelihood, online EM finds a known model, and no split matters."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from gmm_ops.errors import RefusedInput
from gmm_ops.hmm.chain_statistics import ChainStatistics
from gmm_ops.hmm.fitting import HMMFit, fit_chain, initial_model
from gmm_ops.hmm.learning import HMMSettings, HMMState, advance, fit_batch_em, maximise, start
from gmm_ops.hmm.model import HiddenMarkovModel
from gmm_ops.hmm.word_splits import split_dead_words
from tests.gmm_ops.hmm.drawn_chains import drawn_activations, random_model
from tests.references import hmm as reference

LAYERS = {"n_words": (4, 3, 4), "n_units": (12, 10, 8), "rectified": (True, True, False)}


@pytest.fixture(scope="module")
def truth() -> HiddenMarkovModel:
    return random_model(**LAYERS, n_classes=3)


@pytest.fixture(scope="module")
def images(truth) -> tuple[list[torch.Tensor], torch.Tensor]:
    columns, words = drawn_activations(truth, 4_000)
    return columns, words[-1]


def begin(images, seed: int = 0, words: tuple[int, ...] = LAYERS["n_words"]) -> HiddenMarkovModel:
    return initial_model(images[0], words, seed, LAYERS["rectified"], n_classes=3)


def rise(history: list[float]) -> float:
    """The smallest step of a likelihood, relative."""
    return min(b - a for a, b in pairwise(history)) / abs(history[-1])


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("prior", [0.0, 0.5, 20.0])
def test_batch_em_never_lowers_the_penalised_likelihood(images, seed, prior):
    start_model = begin(images, seed, (6, 5, 6))
    fitted, history = fit_batch_em(start_model, images[0], 25, images[1], transition_prior=prior)
    assert rise(history) > -1e-12
    assert history[-1] > history[0] + 100.0
    if prior:
        assert float(min(table.min() for table in fitted.chain.transitions)) > 0.0


def test_nor_with_clamp_and_floor_on(images):
    """The bounded M-step is the maximum within the bounds, so the law holds with them, too."""
    columns = [images[0][0].clone(), *images[0][1:]]
    columns[0][:, 4] = 0.0
    columns[0][:, 5] *= torch.rand(4_000, generator=torch.Generator().manual_seed(0)) < 1e-3
    fitted, history = fit_batch_em(begin((columns, images[1])), columns, 30, images[1], 0.3, 2.0, 0.1)
    assert rise(history) > -1e-12
    layer = fitted.layers[0]
    assert float((layer.mean / layer.variance.sqrt()).min()) == pytest.approx(-2.0)
    assert float(layer.variance.min()) == pytest.approx(0.3)


def test_a_unit_that_is_always_zero_does_not_diverge(images):
    columns = [images[0][0].clone(), *images[0][1:]]
    columns[0][:, 2] = 0.0
    fitted, _ = fit_batch_em(begin((columns, images[1])), columns, 60, images[1], 1e-4, 5.0, 0.1)
    mean, deviation = fitted.layers[0].mean[:, 2], fitted.layers[0].variance[:, 2].sqrt()
    assert bool((mean >= -5.0 * deviation * (1 + 1e-12)).all())
    assert bool((mean < 0).all())
    assert bool(torch.isfinite(fitted.log_likelihood(columns, images[1])).all())
    online = fit_chain(
        columns, (4, 3, 4), 0, HMMSettings(minibatch=500, epochs=4, restarts=1, warmup=2), LAYERS["rectified"]
    )
    ratio = online.model.layers[0].mean[:, 2] / online.model.layers[0].variance[:, 2].sqrt()
    assert bool((ratio >= -5.0 * (1 + 1e-12)).all())
    assert bool(torch.isfinite(torch.tensor(online.held_out)).all())


def matched(fit: HiddenMarkovModel, truth: HiddenMarkovModel) -> HiddenMarkovModel:
    """``fit`` with its words renumbered as those of ``truth`` that they are nearest to."""
    orders = []
    for ours, theirs in zip(fit.layers, truth.layers, strict=True):
        rows, columns = linear_sum_assignment(torch.cdist(theirs.mean, ours.mean).numpy())
        assert rows.tolist() == list(range(len(rows)))
        orders.append(torch.from_numpy(columns))
    return fit.relabelled(orders)


@pytest.fixture(scope="module")
def fit(images) -> HMMFit:
    # Most starts end in a model a nat or more worse; of this seed the second one finds the true model.
    settings = HMMSettings(
        minibatch=250, epochs=12, restarts=2, warmup=2, polyak=True, tolerance=0.0, transition_prior=0.1
    )
    return fit_chain(images[0], LAYERS["n_words"], 9, settings, LAYERS["rectified"], images[1], 3)


@pytest.mark.slow
def test_a_known_model_is_found_again(fit, truth):
    columns, words = drawn_activations(truth, 4_000, seed=77)
    ours, theirs = (float(m.log_likelihood(columns, words[-1]).mean()) for m in (fit.model, truth))
    assert abs(ours - theirs) < 0.01 * abs(theirs)
    found = matched(fit.model, truth)
    for got, true in zip(found.chain.transitions, truth.chain.transitions, strict=True):
        # Columns of words with few of the 3,600 images: a probability is good to about 1 / sqrt(their number).
        assert float((got - true).abs().max()) < 0.12
        assert float((got - true).abs().mean()) < 0.02
    for got, true in zip(found.layers, truth.layers, strict=True):
        seen = true.mean > (-true.variance.sqrt() if true.rectified else -torch.inf)
        assert float((got.mean - true.mean)[seen].abs().mean()) < 0.05
        assert float((got.variance / true.variance).log()[seen].abs().mean()) < 0.12


@pytest.mark.slow
def test_the_best_restart_is_kept(fit):
    last = [curve[-1] for curve in fit.held_out]
    assert len(last) == 2
    assert last[fit.restart] == max(last) == last[1]
    assert all(curve[-1] > curve[0] for curve in fit.held_out)


def test_a_seed_gives_the_same_fit_and_another_seed_another(images):
    settings = HMMSettings(minibatch=500, epochs=1, restarts=1, warmup=2)
    fits = [fit_chain(images[0], 3, seed, settings, LAYERS["rectified"], images[1], 3) for seed in (5, 5, 6)]
    assert torch.equal(fits[0].model.layers[0].mean, fits[1].model.layers[0].mean)
    assert not torch.equal(fits[0].model.layers[0].mean, fits[2].model.layers[0].mean)


def take_steps(state: HMMState, images, settings: HMMSettings, first: int, last: int, parts: int = 1) -> HMMState:
    for n in range(first, last):
        rows = torch.arange(400 * n, 400 * (n + 1)) % 4_000
        batches = [
            ChainStatistics.from_batch(state.model, [x[part] for x in images[0]], images[1][part])
            for part in rows.tensor_split(parts)
        ]
        packed = sum(batch.pack() for batch in batches)
        state = advance(state, ChainStatistics.unpack(packed, state.model.shape), settings)
    return state


def assert_equal_states(one: HMMState, two: HMMState, relative: float) -> None:
    arrays = two.to_arrays()
    for name, array in one.to_arrays().items():
        torch.testing.assert_close(
            torch.as_tensor(array), torch.as_tensor(arrays[name]), rtol=relative, atol=relative, msg=name
        )


@pytest.mark.parametrize("parts", [2, 3])
def test_the_number_of_actors_changes_no_parameter(images, parts):
    settings = HMMSettings(minibatch=400, polyak=True, warmup=2)
    state = start(begin(images), settings, 4_000)
    one = take_steps(state, images, settings, 0, 15)
    assert one.step == 15
    assert_equal_states(take_steps(state, images, settings, 0, 15, parts), one, 1e-9)


def test_a_resumed_fit_goes_on_bit_for_bit(images):
    settings = HMMSettings(minibatch=400, polyak=True, warmup=2)
    half = take_steps(start(begin(images), settings, 4_000), images, settings, 0, 6)
    resumed = HMMState.from_arrays({name: array.copy() for name, array in half.to_arrays().items()})
    assert_equal_states(take_steps(resumed, images, settings, 6, 11), take_steps(half, images, settings, 6, 11), 0.0)


def test_warm_up_gathers_and_step_size_one_is_batch_em(images):
    settings = HMMSettings(exponent=0.0, warmup=1, var_floor=0.0, clamp=torch.inf, transition_prior=0.0)
    model = begin(images)
    state = start(model, settings, 4_000)
    batch = ChainStatistics.from_batch(model, *images)
    waiting = advance(state, batch, settings)
    assert waiting.model is model
    moved = advance(waiting, batch, settings).model
    expected, _ = fit_batch_em(model, images[0], 1, images[1])
    for one, two in zip(moved.layers, expected.layers, strict=True):
        torch.testing.assert_close(one.mean, two.mean, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(one.variance, two.variance, rtol=1e-10, atol=1e-12)


def test_polyak_is_the_mean_of_the_later_half(images):
    settings = HMMSettings(minibatch=400, polyak=True, warmup=0, average_after=3)
    state = start(begin(images), settings, 4_000)
    assert state.result(settings) is state.model
    means = []
    for n in range(7):
        state = take_steps(state, images, settings, n, n + 1)
        means.append(state.model.layers[1].mean)
    averaged = state.result(settings)
    torch.testing.assert_close(averaged.layers[1].mean, torch.stack(means[3:]).mean(dim=0))
    assert averaged.chain.transitions[0].sum(dim=0).tolist() == pytest.approx([1.0] * 4)


def test_the_floor_may_be_each_units_own(images):
    columns = [images[0][0], images[0][1] * torch.logspace(0, 3, 10), images[0][2]]
    settings = HMMSettings(minibatch=400, warmup=0, var_floor=1e-2, floor_of="unit")
    model = initial_model(columns, LAYERS["n_words"], 0, LAYERS["rectified"], 3, "random", 1e-2, "unit")
    state = start(model, settings, 4_000)
    for layer, floor in zip(model.layers, state.var_floors, strict=True):
        spread = layer.variance[0]
        torch.testing.assert_close(floor, 1e-2 * torch.maximum(spread, 1e-2 * spread.mean()))
    state = take_steps(state, (columns, images[1]), settings, 0, 8)
    shared = start(model, HMMSettings(var_floor=1e-2), 4_000).var_floors
    for layer, floor in zip(state.model.layers, state.var_floors, strict=True):
        assert bool((layer.variance >= floor).all())
    assert float(state.model.layers[1].variance[:, 0].max()) < float(shared[1][0]), "a small unit keeps its variance"


def test_a_prior_spreads_and_empty_words_keep_their_columns(images):
    model = begin(images)
    statistics = ChainStatistics.from_batch(model, *images)
    none = statistics.s3[0].clone()
    none[:, 1] = 0.0
    empty = replace(statistics, s3=(none, *statistics.s3[1:]))
    kept = maximise(empty, model).chain.transitions[0]
    assert torch.equal(kept[:, 1], model.chain.transitions[0][:, 1])
    with_prior = maximise(empty, model, transition_prior=2.0).chain.transitions[0]
    assert with_prior[:, 1].tolist() == pytest.approx([1 / 3] * 3)
    expected = (none[:, 0] + 2.0) / (none[:, 0].sum() + 6.0)
    torch.testing.assert_close(with_prior[:, 0], expected)


def test_an_empty_word_stays_where_it_is(images):
    model = begin(images)
    far = replace(model.layers[0], mean=model.layers[0].mean.clone())
    far.mean[2] += 1e3
    lost = HiddenMarkovModel(model.chain, (far, *model.layers[1:]))
    fitted, history = fit_batch_em(lost, images[0], 3, images[1])
    assert torch.equal(fitted.layers[0].mean[2], far.mean[2])
    assert float(fitted.chain.initial[2]) == 0.0
    assert rise(history) > 0.0


# --- words that lost their images ---


def lost(images, words: list[int]) -> HiddenMarkovModel:
    """A model of 6, 5 and 6 words, some of whose first layer are far from every image."""
    model = fit_batch_em(begin(images, 0, (6, 5, 6)), images[0], 5, images[1])[0]
    far = replace(model.layers[0], mean=model.layers[0].mean.clone())
    far.mean[words] += 1e3
    return HiddenMarkovModel(model.chain, (far, *model.layers[1:]))


@pytest.mark.parametrize("dead", [[2], [0, 1, 5]])
def test_splits_equal_the_loop(images, dead):
    model = lost(images, dead)
    statistics = ChainStatistics.from_batch(model, *images).scaled(1 / 4_000)
    found = split_dead_words(statistics, model, [1e-4] * 3, 0.05)
    for name, expected in zip(("s0", "s1", "s2", "s3"), reference.split(statistics, model, 0.05, 1e-4), strict=True):
        for got, slow in zip(getattr(found, name), expected, strict=True):
            torch.testing.assert_close(got, torch.tensor(slow, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_a_dead_word_gets_the_transitions_of_the_heaviest(images):
    model = lost(images, [2])
    statistics = ChainStatistics.from_batch(model, *images).scaled(1 / 4_000)
    heaviest = int(statistics.s0[0].argmax())
    after = maximise(split_dead_words(statistics, model, [1e-4] * 3, 0.05), model)
    table = after.chain.transitions[0]
    assert torch.equal(table[:, 2], table[:, heaviest])
    assert float(after.chain.initial[2]) == float(after.chain.initial[heaviest])
    before = maximise(statistics, model)
    torch.testing.assert_close(table[:, 2], before.chain.transitions[0][:, heaviest])


def test_a_lost_word_of_any_layer_comes_back_into_use(images):
    settings = HMMSettings(minibatch=400, warmup=0)
    model = lost(images, [2, 4])
    middle = replace(model.layers[1], mean=model.layers[1].mean.clone())
    middle.mean[3] += 1e3
    state = start(HiddenMarkovModel(model.chain, (model.layers[0], middle, model.layers[2])), settings, 4_000)
    state = take_steps(state, images, settings, 0, 8)
    assert all(float((s0 / s0.sum()).min()) > 0.05 / len(s0) for s0 in state.statistics.s0)
    off = replace(settings, min_share=0.0)
    stays = take_steps(start(lost(images, [2]), off, 4_000), images, off, 0, 8)
    assert float(stays.model.chain.initial[2]) < 1e-6


def test_default_settings_suit_few_images(images):
    settings = HMMSettings().for_images(300, 4)
    assert (settings.minibatch, settings.warmup) == (100, 2)
    few = ([x[:300] for x in images[0]], images[1][:300])
    found = fit_chain(few[0], 4, 0, rectified=LAYERS["rectified"])
    assert found.model.shape.n_classes is None
    assert all(curve[-1] > curve[0] for curve in found.held_out)


@pytest.mark.parametrize("n_images", [60, 300, 5_000, 100_000])
@pytest.mark.parametrize("warmup", [0, 2, 1_000])
def test_the_warm_up_ends_within_the_first_epoch(n_images, warmup):
    settings = HMMSettings(warmup=warmup).for_images(n_images, 4)
    steps = max(1, round(n_images / settings.minibatch))
    assert settings.warmup == min(warmup, steps - 1)


def test_bad_input_is_refused(images):
    columns, predicted = images
    with pytest.raises(RefusedInput, match="n_words must not be larger than the number of columns; got 5000 words"):
        initial_model(columns, 5_000, 0, LAYERS["rectified"])
    with pytest.raises(RefusedInput, match="rectified layer must be 0 or more"):
        fit_chain(columns, 4, 0)
    with pytest.raises(RefusedInput, match="n_words must be one value, or one for each of the 3 layers; got 2"):
        fit_chain(columns, (4, 3), 0)
    with pytest.raises(RefusedInput, match="predicted and n_classes must be given together; got no n_classes"):
        fit_chain(columns, 4, 0, predicted=predicted)
    with pytest.raises(RefusedInput, match=r"observed must lie in 0 \.\.\. 1; row"):
        fit_chain(columns, 4, 0, predicted=predicted, n_classes=2)
    with pytest.raises(RefusedInput, match="all of the same 2 images or more; got rows"):
        fit_chain([columns[0], columns[1][:9]], 4, 0)
    with pytest.raises(RefusedInput, match="statistics must hold at least one image"):
        maximise(ChainStatistics.zero(begin(images).shape), begin(images))
    state = start(begin(images), HMMSettings(), 10)
    with pytest.raises(RefusedInput, match="batch must hold at least one image"):
        advance(state, ChainStatistics.zero(state.model.shape), HMMSettings())
    with pytest.raises(RefusedInput, match="variance_of must be 'word', for a chain's words share no variance; got un"):
        HMMSettings(variance_of="unit")
    with pytest.raises(RefusedInput, match="n_images must be at least 1"):
        start(begin(images), HMMSettings(), 0)
    with pytest.raises(RefusedInput, match="iterations must be at least 1; got 0"):
        fit_batch_em(begin(images), columns, 0, predicted)
    constant = [columns[0], columns[1], columns[2].clone()]
    constant[2][:, 3] = 1.0
    with pytest.raises(RefusedInput, match=r"var_floor must be positive.*constant in unit 3"):
        fit_batch_em(initial_model(constant, 3, 0, LAYERS["rectified"]), constant, 2)


@pytest.mark.parametrize(
    ("name", "value"), [("clamp", 0.0), ("transition_prior", -1.0), ("restarts", 0), ("epochs", 0)]
)
def test_settings_refuse_what_makes_no_sense(name, value):
    with pytest.raises(RefusedInput, match=rf"{name} must be .*; got {value}"):
        HMMSettings(**{name: value})
