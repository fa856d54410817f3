"""Online EM equals its loop, does not depend on who computes, resumes bit for bit, and learns."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from gmm_ops.errors import NonFiniteActivations, RefusedInput
from gmm_ops.fitting.schedule import MinibatchSchedule
from gmm_ops.mixtures.em import fit_batch_em
from gmm_ops.mixtures.mixture import Mixture, log_likelihood
from gmm_ops.mixtures.online_em import (
    OnlineEMSettings,
    OnlineEMState,
    advance,
    fit_online,
    has_converged,
    reseed,
    start,
    step_size,
)
from gmm_ops.mixtures.seeding import initial_mixture
from gmm_ops.mixtures.statistics import MixtureStatistics, WorstColumns, sweep
from tests.gmm_ops.drawn_columns import cifar_columns, clustered, digit_patches
from tests.references import online_em as reference

QUIET = OnlineEMSettings(min_share=0.0, var_floor=0.0, warmup=0)
"""No re-seeding, no floor, no warm-up: the laws hold exactly."""


@pytest.fixture(scope="module")
def columns() -> torch.Tensor:
    return digit_patches()[:9_000]


def run(columns, state, settings, schedule, epochs, world=1, stop=None) -> OnlineEMState:
    """Online EM by hand: each rank sweeps its chunks, then one merge and the same update for all."""
    first = np.cumsum([0, *schedule.chunk_sizes])
    for step in schedule.walk(epochs, start=state.step):
        if step.index == stop:
            break
        batch = MixtureStatistics.zero(state.mixture.n_words, state.mixture.n_units)
        worst = WorstColumns.none(settings.max_reseeds, state.mixture.n_units)
        for rank in range(world):
            rows = [first[chunk] + schedule.rows(step, chunk) for chunk in step.buffer.owned(rank, world)]
            row = torch.from_numpy(np.concatenate(rows))
            part = sweep(state.mixture, columns[row], n_worst=settings.max_reseeds, image=row)
            batch, worst = batch + part[0], worst.merge(part[1])
        state = advance(state, batch, worst, settings)
    return state


def assert_close(a: Mixture, b: Mixture, relative: float) -> None:
    for name in ("log_pi", "mean", "variance"):
        one, two = getattr(a, name), getattr(b, name)
        assert float((one - two).abs().max()) <= relative * float(two.abs().max()), name


def test_step_sizes_start_at_one_and_fall():
    sizes = [step_size(n, OnlineEMSettings()) for n in range(4)]
    assert sizes == pytest.approx([1.0, 2**-0.6, 3**-0.6, 4**-0.6])
    assert step_size(100, replace(QUIET, exponent=0.0)) == 1.0


@pytest.mark.parametrize("warmup", [0, 2])
def test_equals_the_loop(warmup):
    columns = clustered(400, 5, 4)
    settings = replace(QUIET, warmup=warmup, var_floor=1e-2)
    state = start(initial_mixture(columns, 4, 0), settings)
    floor, first = state.var_floor, state.mixture
    batches = columns.split(80)
    for batch in batches:
        state = advance(state, *sweep(state.mixture, batch), settings)
    slow = reference.fit(
        [b.double().tolist() for b in batches],
        *(p.tolist() for p in (first.log_pi, first.mean, first.variance, first.center)),
        exponent=0.6,
        offset=1.0,
        warmup=warmup,
        floor=floor,
    )
    for got, expected in zip((state.mixture.log_pi, state.mixture.mean, state.mixture.variance), slow, strict=True):
        torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-4)


def test_step_size_one_on_everything_is_batch_em(columns):
    settings = replace(QUIET, exponent=0.0)
    mixture = initial_mixture(columns, 20, 1)
    state = start(mixture, settings)
    likelihoods = []
    for _ in range(10):
        batch, worst = sweep(state.mixture, columns)
        likelihoods.append(batch.log_likelihood / batch.count)
        state = advance(state, batch, worst, settings)
    exact, history = fit_batch_em(mixture, columns, 10)
    assert likelihoods == pytest.approx(history, rel=1e-12)
    assert_close(state.mixture, exact, 1e-12)


def test_warmup_only_gathers(columns):
    settings = OnlineEMSettings(warmup=3)
    state = start(initial_mixture(columns, 10, 1), settings)
    before = state.mixture
    for batch in columns[:4000].split(1000):
        assert state.mixture is before
        state = advance(state, *sweep(state.mixture, batch, n_worst=8), settings)
    assert state.mixture is not before
    assert state.step == 4


@pytest.mark.parametrize("stage", [1, 3])
def test_one_two_and_three_parts_give_the_same_parameters(shared_data, stage):
    columns = cifar_columns(shared_data, {1: 20, 3: 200}[stage], stage)
    settings = OnlineEMSettings(minibatch=2000, warmup=2, min_share=0.3)
    schedule = MinibatchSchedule(tuple(len(c) for c in columns.split(450)), settings.minibatch, seed=8)
    first = start(initial_mixture(columns, 30, 5), settings)
    one, two, three = (run(columns, first, settings, schedule, 2, world) for world in (1, 2, 3))
    assert int(one.reseeded.sum()) > 0
    for other in (two, three):
        assert torch.equal(other.reseeded, one.reseeded)
        assert_close(other.mixture, one.mixture, 1e-6)


@pytest.mark.parametrize("polyak", [False, True])
def test_a_resumed_fit_is_the_uninterrupted_one_bit_for_bit(columns, polyak):
    settings = OnlineEMSettings(minibatch=600, warmup=3, min_share=0.3, polyak=polyak)
    schedule = MinibatchSchedule((300,) * 30, settings.minibatch, seed=2)
    first = start(initial_mixture(columns, 25, 7), settings)
    whole = run(columns, first, settings, schedule, 2)
    stopped = run(columns, first, settings, schedule, 2, stop=17)
    file = io.BytesIO()
    np.savez(file, **stopped.to_arrays())
    file.seek(0)
    with np.load(file) as arrays:
        back = OnlineEMState.from_arrays(arrays)
    assert back.step == 17
    resumed = run(columns, back, settings, schedule, 2)
    left, right = resumed.to_arrays(), whole.to_arrays()
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert array.tobytes() == right[name].tobytes(), name
    assert torch.equal(resumed.result(settings).mean, whole.result(settings).mean)


def test_advance_is_pure(columns):
    settings = OnlineEMSettings(warmup=0, min_share=0.5)
    state = start(initial_mixture(columns, 25, 7), settings)
    batch, worst = sweep(state.mixture, columns[:2000], n_worst=8)
    packed, before = batch.pack(), {k: v.tobytes() for k, v in state.to_arrays().items()}
    one, two = advance(state, batch, worst, settings), advance(state, batch, worst, settings)
    assert {k: v.tobytes() for k, v in state.to_arrays().items()} == before
    assert torch.equal(batch.pack(), packed)
    for name, array in one.to_arrays().items():
        assert array.tobytes() == two.to_arrays()[name].tobytes()


def test_relabelling_the_start_relabels_the_fit(columns):
    settings = OnlineEMSettings(minibatch=1500, warmup=1, min_share=0.0)
    schedule = MinibatchSchedule((300,) * 30, settings.minibatch, seed=2)
    mixture = initial_mixture(columns, 12, 7)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    plain = run(columns, start(mixture, settings), settings, schedule, 1)
    renamed = run(columns, start(mixture.relabelled(order), settings), settings, schedule, 1)
    assert_close(renamed.mixture, plain.mixture.relabelled(order), 1e-5)


# --- re-seeding ---


def starved(columns: torch.Tensor, words: int, low: list[int]) -> Mixture:
    """A mixture in which the words ``low`` are far from every column."""
    mixture = fit_batch_em(initial_mixture(columns, words, 0), columns, 3, 1e-3)[0]
    mean = mixture.mean.clone()
    mean[low] += 100.0
    return Mixture(mixture.log_pi, mean, mixture.variance, mixture.center)


def test_a_starved_word_moves_to_the_worst_column_and_stays(columns):
    mixture = starved(columns, 12, [3, 7])
    settings = OnlineEMSettings(warmup=0, var_floor=1e-3)
    state = start(mixture, settings)
    batch, worst = sweep(mixture, columns, n_worst=8)
    moved = advance(state, batch, worst, settings)
    assert moved.reseeded.nonzero().flatten().tolist() == [3, 7]
    torch.testing.assert_close(moved.mixture.mean[3], worst.column[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(moved.mixture.mean[7], worst.column[1], rtol=0, atol=1e-9)
    assert moved.mixture.log_pi.exp()[[3, 7]].tolist() == pytest.approx([1 / 12] * 2)
    assert moved.mixture.log_pi.exp().sum().item() == pytest.approx(1.0)
    spread = columns.double().var(dim=0, unbiased=False).clamp(min=moved.var_floor)
    torch.testing.assert_close(moved.mixture.variance[3], spread, rtol=1e-4, atol=1e-6)
    kept = advance(moved, *sweep(moved.mixture, columns, n_worst=8), settings)
    assert int(kept.reseeded[3]) == 1
    assert float(kept.mixture.log_pi[3].exp()) > 0.05 / 12


def test_re_seeding_leaves_the_other_words_where_they_are(columns):
    mixture = starved(columns, 12, [5])
    batch, worst = sweep(mixture, columns, n_worst=8)
    mean = batch.scaled(1 / batch.count)
    changed, words = reseed(mean, worst, mixture.center, 0.0, OnlineEMSettings())
    assert words.tolist() == [5]
    others = torch.arange(12) != 5
    torch.testing.assert_close((changed.s1 / changed.s0[:, None])[others], (mean.s1 / mean.s0[:, None])[others])
    torch.testing.assert_close((changed.s2 / changed.s0[:, None])[others], (mean.s2 / mean.s0[:, None])[others])
    assert float(changed.s0.sum()) == pytest.approx(float(mean.s0.sum()))


def test_no_more_words_move_than_allowed_and_the_emptiest_go_first(columns):
    mixture = starved(columns, 12, [1, 4, 9])
    batch, worst = sweep(mixture, columns, n_worst=8)
    _, words = reseed(batch.scaled(1 / batch.count), worst, mixture.center, 0.0, OnlineEMSettings(max_reseeds=2))
    assert words.tolist() == [1, 4]
    _, none = reseed(batch, WorstColumns.none(8, 16), mixture.center, 0.0, OnlineEMSettings())
    assert none.tolist() == []


def test_min_share_zero_turns_re_seeding_off(columns):
    mixture = starved(columns, 12, [1])
    settings = OnlineEMSettings(warmup=0, min_share=0.0)
    moved = advance(start(mixture, settings), *sweep(mixture, columns, n_worst=8), settings)
    assert int(moved.reseeded.sum()) == 0


# --- whole fits ---


def test_fit_learns_and_says_how(columns):
    images = torch.arange(len(columns)) // 16
    found = fit_online(columns, 20, seed=3, images=images)
    assert [r.step for r in found.history] == list(range(len(found.history)))
    assert found.epoch_held_out[-1] > found.epoch_held_out[0] + 1.0
    assert found.history[-1].held_out > found.history[0].held_out + 1.0
    assert found.history[-1].held_out == pytest.approx(found.epoch_held_out[-1], abs=1.0)
    assert sum(r.reseeded for r in found.history) == int(found.reseeded.sum())
    exact = fit_batch_em(initial_mixture(columns, 20, 3), columns, 40, 1e-4)[0]
    gap = float(log_likelihood(exact, columns).mean() - log_likelihood(found.mixture, columns).mean())
    assert gap < 0.05 * abs(float(log_likelihood(exact, columns).mean()))


def test_a_fit_is_its_seed(columns):
    settings = OnlineEMSettings(minibatch=1000, epochs=1, warmup=1)
    one, two, other = (fit_online(columns[:4000], 8, seed, settings) for seed in (1, 1, 2))
    assert torch.equal(one.mixture.mean, two.mixture.mean)
    assert one.history == two.history
    assert not torch.equal(one.mixture.mean, other.mixture.mean)


def test_held_out_images_are_never_fitted(columns):
    """A unit that is 1000 in one image only: the fit knows of it exactly when that image is not held out."""
    images = torch.arange(4000) // 400
    settings = OnlineEMSettings(minibatch=500, epochs=1, warmup=0, min_share=0.0)
    seen = 0
    for image in range(10):
        marked = columns[:4000].clone()
        marked[images == image, 0] = 1000.0
        found = fit_online(marked, 4, 0, settings, images=images)
        seen += int(float(found.mixture.center[0]) > 50.0)
    assert seen == 9


def test_given_held_out_columns_are_the_judge(columns):
    settings = OnlineEMSettings(minibatch=1000, epochs=2, warmup=1, tolerance=0.0)
    judge = columns[8000:]
    found = fit_online(columns[:8000], 8, 0, settings, held_out=judge, init="kmeans++")
    expected = float(log_likelihood(found.mixture, judge).mean())
    assert found.epoch_held_out[-1] == pytest.approx(expected, rel=1e-12)


def test_polyak_gives_the_average_of_the_last_parameters(columns):
    settings = OnlineEMSettings(minibatch=500, epochs=1, warmup=0, min_share=0.0, polyak=True, average_after=7)
    schedule = MinibatchSchedule((250,) * 36, settings.minibatch, seed=2)
    state, seen = start(initial_mixture(columns, 6, 7), settings), []
    for stop in range(1, 12):
        state = run(columns, state, settings, schedule, 1, stop=stop)
        seen.append(state.mixture)
    mean = torch.stack([m.mean for m in seen[7:]]).mean(dim=0)
    torch.testing.assert_close(state.result(settings).mean, mean)
    assert state.result(settings).log_pi.exp().sum().item() == pytest.approx(1.0)
    assert torch.equal(state.result(replace(settings, polyak=False)).mean, seen[-1].mean)


def test_polyak_averages_the_last_half_of_a_fit(columns):
    settings = OnlineEMSettings(polyak=True, epochs=3).for_columns(1_280_000, 100)
    assert settings.average_after == 300
    short = OnlineEMSettings(minibatch=500, warmup=0, polyak=True, average_after=10**6)
    state = run(columns, start(initial_mixture(columns, 6, 7), short), short, MinibatchSchedule((250,) * 36, 500), 1)
    assert torch.equal(state.result(short).mean, state.mixture.mean)  # nothing averaged yet: the last parameters


def test_a_fit_stops_when_an_epoch_gains_too_little(columns):
    settings = OnlineEMSettings(minibatch=2000, epochs=6, warmup=0, tolerance=0.5)
    found = fit_online(columns, 5, 0, settings)
    assert len(found.epoch_held_out) == 3
    assert has_converged([-10.0, -9.9995], 1e-4)
    assert not has_converged([-10.0, -9.0], 1e-4)
    assert not has_converged([-10.0], 1e-4)
    assert has_converged([-10.0, -11.0], 1e-4)


@pytest.mark.parametrize(
    ("columns", "words", "minibatch", "warmup"),
    [
        (20_000_000, 100, 50_000, 20),  # the settings are the upper limit
        (1_280_000, 100, 6_400, 12),  # 200 steps an epoch
        (100_000, 100, 2_500, 2),  # 25 columns per word
        (60, 50, 60, 1),  # all there is, three times
    ],
)
def test_a_layer_gets_the_steps_it_needs(columns, words, minibatch, warmup):
    settings = OnlineEMSettings().for_columns(columns, words)
    assert (settings.minibatch, settings.warmup) == (minibatch, warmup)


def test_one_step_in_all_has_no_warmup():
    assert OnlineEMSettings(epochs=1).for_columns(60, 50).warmup == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exponent": 1.5}, "exponent must be between 0 and 1; got 1.5"),
        ({"offset": 0.5}, "offset must be at least 1"),
        ({"minibatch": 0}, "minibatch must be at least 1; got 0"),
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"warmup": -1}, "warmup must be 0 or more; got -1"),
        ({"min_share": 1.0}, "min_share must be at least 0 and below 1"),
        ({"var_floor": -1.0}, "var_floor must be 0 or more"),
        ({"max_reseeds": -1}, "max_reseeds must be 0 or more"),
    ],
)
def test_settings_name_their_rules(change, message):
    with pytest.raises(RefusedInput, match=message):
        OnlineEMSettings(**change)


def test_bad_columns_are_refused(columns):
    with pytest.raises(
        RefusedInput, match="n_words must not be larger than the number of columns; got 51 words for 50"
    ):
        fit_online(columns[:50], 51, 0)
    broken = columns[:100].clone()
    broken[9, 0] = float("nan")
    with pytest.raises(NonFiniteActivations, match="row 9"):
        fit_online(broken, 5, 0)
    with pytest.raises(RefusedInput, match=r"images must give one image per column, shape \(100,\); got \(7,\)"):
        fit_online(columns[:100], 5, 0, images=torch.zeros(7))
    with pytest.raises(RefusedInput, match="columns must come from at least 2 images"):
        fit_online(columns[:100], 5, 0, images=torch.zeros(100))
    state = start(initial_mixture(columns, 3, 0), QUIET)
    with pytest.raises(RefusedInput, match="the global minibatch is empty"):
        advance(state, MixtureStatistics.zero(3, 16), WorstColumns.none(8, 16), QUIET)
