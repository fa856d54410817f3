"""The step is Adam on the mean loss, whatever the number of actors; divergence is refused, checkpoints are exact."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import pytest
import torch

from gmm_ops.discriminative.classifier import LinearClassifier
from gmm_ops.discriminative.evaluation import evaluate
from gmm_ops.discriminative.loss import Gradient, batch_gradient, parameter_gradient
from gmm_ops.discriminative.parameters import TRAINED
from gmm_ops.discriminative.settings import DiscriminativeSettings
from gmm_ops.discriminative.training import (
    TrainingState,
    image_minibatches,
    refuse_runaway_words,
    step_rates,
    training_start,
    training_step,
)
from gmm_ops.errors import Diverged, RefusedInput
from gmm_ops.mixtures.assignment import assign
from gmm_ops.mixtures.online_em import fit_online
from gmm_ops.mixtures.seeding import initial_mixture
from tests.gmm_ops.discriminative.drawn_images import automatic_loss, drawn_images

N, POSITIONS, UNITS, WORDS, LABELS = 240, 12, 6, 8, 4
PARTS = 12


@pytest.fixture(scope="module")
def images():
    return drawn_images(N, POSITIONS, UNITS, LABELS)


def begin(images, settings: DiscriminativeSettings, total_steps: int = 60) -> TrainingState:
    flat = images[0].reshape(-1, UNITS)
    words = initial_mixture(flat, WORDS, 0, var_floor=min(1e-4, settings.var_floor))
    return training_start(words, LABELS, total_steps, flat.double().var(dim=0), settings)


def distance(first: TrainingState, second: TrainingState) -> float:
    """Relative norm of the difference of all trained parameters."""
    ours, theirs = (torch.cat([v.flatten() for v in s.parameters.trained().values()]) for s in (first, second))
    return float((ours - theirs).norm() / theirs.norm())


def walk(images, settings, steps: int, actors: int) -> TrainingState:
    """``steps`` global minibatches of 48 images in 12 parts; every actor sums its own parts, then all are added."""
    columns, labels = images
    state = begin(images, settings, steps)
    shape = (WORDS, UNITS, LABELS)
    for step in range(steps):
        rows = image_minibatches(N, 48, 5, step // 5)[step % 5].tensor_split(PARTS)
        own = [Gradient.zero(*shape) for _ in range(actors)]
        for rank in range(actors):
            for part in rows[rank::actors]:
                own[rank] += batch_gradient(state.parameters, columns[part], labels[part], settings.dtype)
        reduced = sum(gradient.pack() for gradient in own)
        state = training_step(state, Gradient.unpack(reduced, *shape), settings)
    return state


@pytest.mark.parametrize(
    ("precision", "bound"), [("float64", 1e-9), pytest.param("float32", 1e-4, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_200_steps_do_not_depend_on_the_number_of_actors(images, precision, bound):
    settings = DiscriminativeSettings(precision=precision)
    alone, pair = walk(images, settings, 200, 1), walk(images, settings, 200, 2)
    assert distance(pair, alone) < bound
    wrong = [
        evaluate(s.parameters.to_mixture(), LinearClassifier.of(s.parameters), *images).soft_wrong
        for s in (alone, pair)
    ]
    assert abs(wrong[0] - wrong[1]) <= 1
    assert wrong[0] < 0.35 * N, "the fit must have learned something for the comparison to mean anything"


def test_float32_products_follow_float64(images):
    narrow, wide = (walk(images, DiscriminativeSettings(precision=p), 30, 1) for p in ("float32", "float64"))
    assert 0 < distance(narrow, wide) < 1e-4


def test_a_fit_equals_torch_autograd_adam_and_one_cycle(images):
    """The whole chain at once: closed-form gradient, rates, schedule, update."""
    columns, labels = images[0].double(), images[1]
    settings = DiscriminativeSettings(precision="float64", mixture_rate=0.02)
    state = begin(images, settings, 12)
    fields = {name: value.clone() for name, value in state.parameters.trained().items()}
    fields["mean"] /= state.scale
    fields = {name: value.requires_grad_() for name, value in fields.items()}
    highest = {"weight": 0.1, "bias": 0.1}
    rates = [highest.get(name, 0.02) for name in TRAINED]
    optimizer = torch.optim.Adam([{"params": [v], "lr": r} for v, r in zip(fields.values(), rates, strict=True)])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=12)
    for step in range(12):
        rows = image_minibatches(N, 60, 1, step // 4)[step % 4]
        state = training_step(
            state, batch_gradient(state.parameters, columns[rows], labels[rows], torch.float64), settings
        )
        optimizer.zero_grad()
        in_units = {**fields, "mean": fields["mean"] * state.scale}
        (automatic_loss(in_units, columns[rows], labels[rows]) / len(rows)).backward()
        optimizer.step()
        if step < 11:
            schedule.step()
    for name, value in {**fields, "mean": fields["mean"] * state.scale}.items():
        torch.testing.assert_close(getattr(state.parameters, name), value.detach(), rtol=1e-8, atol=1e-10)


def test_a_layer_in_other_units_trains_alike(images):
    columns, labels = images
    settings = DiscriminativeSettings(precision="float64")
    plain, scaled = begin(images, settings), begin((100.0 * columns, labels), settings)
    for rows in image_minibatches(N, 40, 0, 0):
        plain = training_step(
            plain, batch_gradient(plain.parameters, columns[rows], labels[rows], torch.float64), settings
        )
        at = 100.0 * columns[rows]
        scaled = training_step(scaled, batch_gradient(scaled.parameters, at, labels[rows], torch.float64), settings)
    # Columns times 100 are rounded to float32 anew.
    torch.testing.assert_close(scaled.parameters.mean, 100.0 * plain.parameters.mean, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(scaled.parameters.weight, plain.parameters.weight, rtol=1e-5, atol=1e-6)


def test_a_unit_in_other_units_trains_alike(images):
    """Adam's step in a unit is in proportion to that unit: one measured in thousandths changes nothing."""
    columns, labels = images[0].double(), images[1]
    settings = DiscriminativeSettings(precision="float64", var_floor=1e-12)
    units = torch.tensor([1.0, 1e-3, 1.0, 50.0, 1.0, 1.0], dtype=torch.float64)
    plain, scaled = begin((columns, labels), settings), begin((columns * units, labels), settings)
    for rows in image_minibatches(N, 40, 0, 0):
        plain = training_step(
            plain, batch_gradient(plain.parameters, columns[rows], labels[rows], torch.float64), settings
        )
        at = columns[rows] * units
        scaled = training_step(scaled, batch_gradient(scaled.parameters, at, labels[rows], torch.float64), settings)
    moved = (plain.parameters.mean - begin((columns, labels), settings).parameters.mean).abs()
    assert float(moved.mean()) > 1e-3, "the words must have moved for the comparison to mean anything"
    torch.testing.assert_close(scaled.parameters.mean / units, plain.parameters.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scaled.parameters.weight, plain.parameters.weight, rtol=1e-6, atol=1e-8)


def test_words_stay_on_their_columns_in_a_dead_unit(images):
    """One step for all units drove means a thousand standard deviations out of a unit that hardly varies."""
    noise = torch.randn(N, POSITIONS, 1, generator=torch.Generator().manual_seed(1))
    columns = torch.cat([images[0], 4e-5 * noise], dim=2)
    flat = columns.reshape(-1, UNITS + 1)
    settings = DiscriminativeSettings()
    state = training_start(fit_online(flat, 6, 0).mixture, LABELS, 60, flat.double().var(dim=0), settings)
    before, first = state.parameters, assign(state.parameters.to_mixture(), flat).word
    for step in range(60):
        rows = image_minibatches(N, 48, 5, step // 5)[step % 5]
        state = training_step(state, batch_gradient(state.parameters, columns[rows], images[1][rows]), settings)
    moved = (state.parameters.mean - before.mean).abs() / state.scale
    assert 0.0 < float(moved[:, UNITS].max()) < 60 * 1e-2, "a hundredth of its deviation a step, at most"
    assert torch.equal(assign(state.parameters.to_mixture(), flat).word.unique(), first.unique())


def test_no_standard_deviation_falls_below_the_floor(images):
    settings = DiscriminativeSettings(var_floor=0.3, mixture_rate=0.1)
    state = begin(images, settings)
    floor = 0.3 * float(images[0].reshape(-1, UNITS).double().var(dim=0).mean())
    for step in range(20):
        rows = image_minibatches(N, 48, 0, step // 5)[step % 5]
        state = training_step(state, batch_gradient(state.parameters, images[0][rows], images[1][rows]), settings)
    variance = state.parameters.to_mixture().variance
    assert float(variance.min()) == pytest.approx(floor, rel=1e-9), "the floor was reached"
    assert float(variance.max()) > 2 * floor


def test_words_on_the_floor_of_the_fit_before_stay_there(images):
    flat, settings = images[0].reshape(-1, UNITS), DiscriminativeSettings(var_floor=0.5, mixture_rate=0.0)
    mixture, variance = initial_mixture(flat, WORDS, 0), flat.double().var(dim=0)
    lowest = mixture.variance.amin(dim=0)
    given = mixture, LABELS, 5, variance, settings
    raised, kept = training_start(*given), training_start(*given, lowest_variance=lowest)
    assert not torch.equal(raised.parameters.log_sd, 0.5 * mixture.variance.log())
    kept = training_step(kept, batch_gradient(kept.parameters, *images), settings)
    torch.testing.assert_close(kept.parameters.log_sd, 0.5 * mixture.variance.log(), rtol=1e-15, atol=0)


def test_a_checkpoint_goes_on_bit_for_bit(images):
    columns, labels = images
    settings = DiscriminativeSettings()
    state, stored = begin(images, settings), {}
    for step in range(10):
        if step == 5:
            state = state.judged(1.5)
            stored = {name: array.copy() for name, array in state.to_arrays().items()}
        rows = image_minibatches(N, 24, 0, 0)[step]
        state = training_step(state, batch_gradient(state.parameters, columns[rows], labels[rows]), settings)
    resumed = TrainingState.from_arrays(stored)
    assert (resumed.step, resumed.best_loss, resumed.total_steps) == (5, 1.5, 60)
    for step in range(5, 10):
        rows = image_minibatches(N, 24, 0, 0)[step]
        resumed = training_step(resumed, batch_gradient(resumed.parameters, columns[rows], labels[rows]), settings)
    expected, found = state.to_arrays(), resumed.to_arrays()
    assert expected.keys() == found.keys()
    assert all((expected[name] == found[name]).all() for name in expected)


def test_the_best_judgement_is_given_back_and_patience_ends_it(images):
    settings = DiscriminativeSettings(patience=2)
    first = begin(images, settings)
    assert first.result() is first.parameters
    state = first.judged(2.0)
    later = replace(state, parameters=state.parameters.moved({"bias": state.parameters.bias + 1.0}))
    once = later.judged(2.0)
    assert (once.stale, once.should_stop(settings)) == (1, False)
    assert once.judged(2.5).should_stop(settings)
    assert torch.equal(once.result().bias, first.parameters.bias)
    better = once.judged(1.0)
    assert (better.stale, better.best_loss) == (0, 1.0)
    assert torch.equal(better.result().bias, later.parameters.bias)


def test_the_schedule_ends_the_fit(images):
    settings = DiscriminativeSettings()
    state = begin(images, settings, 1)
    assert not state.should_stop(settings)
    state = training_step(state, batch_gradient(state.parameters, *images), settings)
    assert state.should_stop(settings)
    with pytest.raises(RefusedInput, match="step must lie between 0 and 0"):
        training_step(state, batch_gradient(state.parameters, *images), settings)


def walk_until_refused(state, images, settings, steps):
    for step in range(steps):
        rows = image_minibatches(N, 48, 0, step // 5)[step % 5]
        gradient = batch_gradient(state.parameters, images[0][rows], images[1][rows])
        try:
            state = training_step(state, gradient, settings)
        except Diverged as error:
            return state, error
    return state, None


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ({"mixture_rate": 1e3}, "standard deviations of the layer"),
        ({"mixture_rate": 1e200}, "standard deviations of the layer"),
        ({"classifier_rate": 1e6}, "guessing has 1.39, and max_loss allows 20 times that"),
    ],
)
def test_a_rate_far_too_high_diverges_with_a_clear_error(images, rates, words):
    settings = DiscriminativeSettings(**rates)
    state, error = walk_until_refused(begin(images, settings), images, settings, 60)
    assert error is not None
    assert words in str(error)
    assert f"diverged in step {state.step}: " in str(error)
    assert "Lower mixture_rate or classifier_rate, or raise var_floor." in str(error)
    assert state.parameters.is_finite(), "the state before the refused step is still good"


def test_good_rates_do_not_diverge(images):
    settings = DiscriminativeSettings()
    assert walk_until_refused(begin(images, settings), images, settings, 60)[1] is None


def test_nan_is_refused_where_it_appears(images):
    settings = DiscriminativeSettings()
    state = begin(images, settings)
    gradient = batch_gradient(state.parameters, *images)
    with pytest.raises(Diverged, match=r"step 0: the loss of the minibatch is nan; guessing has 1\.39"):
        training_step(state, replace(gradient, loss=math.nan), settings)
    with pytest.raises(Diverged, match="the gradient of weight holds NaN or infinity"):
        training_step(state, replace(gradient, weight=gradient.weight / 0.0), settings)
    with pytest.raises(Diverged, match="the held-out loss is nan"):
        state.judged(math.nan)
    broken = state.parameters.moved({"bias": state.parameters.bias / 0.0})
    with pytest.raises(Diverged, match="step 3: a parameter became NaN or infinite"):
        refuse_runaway_words(broken, state.layer_scale, 3)
    wide = state.parameters.moved({"log_sd": state.parameters.log_sd + 10.0})
    with pytest.raises(Diverged, match=r"a word has a standard deviation of .* standard deviations of the layer"):
        refuse_runaway_words(wide, state.layer_scale, 3)


def test_the_error_takes_the_layer_and_crosses_processes():
    error = Diverged("the loss is nan.", 17).in_layer("layer3.2.add")
    for seen in (error, pickle.loads(pickle.dumps(error))):
        assert str(seen) == "the discriminative fit of layer layer3.2.add diverged in step 17: the loss is nan."
        assert (seen.step, seen.layer) == (17, "layer3.2.add")


def test_every_image_is_in_one_minibatch_of_an_epoch():
    for n, size, parts in ((100, 30, 3), (7, 100, 1), (250, 100, 2)):
        batches = image_minibatches(n, size, 3, 1)
        assert len(batches) == parts
        assert torch.equal(torch.cat(batches).sort().values, torch.arange(n))
    assert not torch.equal(torch.cat(image_minibatches(50, 10, 0, 0)), torch.cat(image_minibatches(50, 10, 0, 1)))


def test_means_move_in_standard_deviations_of_their_unit():
    rates, momentum = step_rates(17, 60, torch.tensor([5.0, 4e-5]).double(), DiscriminativeSettings())
    assert rates["mean"].tolist() == pytest.approx([5.0 * 1e-2, 4e-5 * 1e-2])
    assert rates["log_sd"] == rates["word_logits"] == pytest.approx(1e-2)
    assert rates["weight"] == rates["bias"] == pytest.approx(1e-1)
    assert momentum == pytest.approx(0.85)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("mixture_rate", -1.0, "0 or more"),
        ("classifier_rate", 0.0, "above 0"),
        ("minibatch", 0, "at least 1"),
        ("epochs", 0, "at least 1"),
        ("patience", 0, "at least 1"),
        ("var_floor", 0.0, "above 0"),
        ("precision", "half", "'float32' or 'float64'; got 'half'"),
        ("max_loss", 1.0, "above 1"),
    ],
)
def test_settings_refuse_by_name(field, value, rule):
    with pytest.raises(RefusedInput, match=f"{field} must be {rule}"):
        DiscriminativeSettings(**{field: value})


def test_a_start_without_steps_or_spread_is_refused(images):
    mixture = initial_mixture(images[0].reshape(-1, UNITS), WORDS, 0)
    with pytest.raises(RefusedInput, match="total_steps must be at least 1; got 0"):
        training_start(mixture, LABELS, 0, torch.ones(UNITS), DiscriminativeSettings())
    with pytest.raises(RefusedInput, match=r"layer_variance must be positive.*got 0.0. Is the layer dead"):
        training_start(mixture, LABELS, 5, torch.zeros(UNITS), DiscriminativeSettings())


def test_the_gradient_of_the_mean_does_not_grow_with_the_batch(images):
    state = begin(images, DiscriminativeSettings())
    once = batch_gradient(state.parameters, *images)
    slopes, doubled = parameter_gradient(state.parameters, once), parameter_gradient(state.parameters, once + once)
    assert all(torch.equal(slopes[name], doubled[name]) for name in TRAINED)
