"""The loop of every fit: one actor or many, rows shared or words shared, from the start or from any step."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from gmm_ops.fitting.collective import LONE, Collective
from gmm_ops.fitting.loop import FitLoop, LogLikelihood, Source, fit_likelihood, in_memory, summed
from gmm_ops.fitting.schedule import MinibatchSchedule, Step
from gmm_ops.mixtures.assignment import log_likelihood
from gmm_ops.mixtures.online_step import OnlineEM, OnlineEMSettings, OnlineEMState, start
from gmm_ops.mixtures.seeding import initial_mixture
from gmm_ops.mixtures.slices import WordSlice, joined
from tests.gmm_ops.drawn_columns import digit_patches
from tests.gmm_ops.word_slices.thread_slices import on_slices

WORDS, EPOCHS = 6, 2
SETTINGS = OnlineEMSettings(minibatch=400, warmup=1, min_share=0.3)
COLUMNS = digit_patches()[:2_400]
FITTED, JUDGED = COLUMNS[:2_000], COLUMNS[2_000:]
SCHEDULE = MinibatchSchedule((100,) * 20, SETTINGS.minibatch, seed=3)


def source(rank: int = 0, world: int = 1) -> Source[torch.Tensor]:
    """Every chunk is a part; held-out columns in blocks of 50."""

    def parts(step: Step) -> Iterator[torch.Tensor]:
        for chunk in step.buffer.owned(rank, world):
            yield FITTED[100 * chunk + torch.from_numpy(SCHEDULE.rows(step, chunk))]

    return Source(SCHEDULE, parts, lambda: JUDGED.split(50)[rank::world], [JUDGED[:100][rank::world]])


def begun(rank: int = 0, world: int = 1, words: Collective = LONE) -> OnlineEMState:
    return start(WordSlice.of(initial_mixture(FITTED, WORDS, 1), rank, world), SETTINGS, words)


def walked(rows: Collective = LONE, words: Collective = LONE) -> tuple[OnlineEMState, list[tuple[float, float]]]:
    """The last state, and what was seen of held-out columns after every step."""
    loop = FitLoop(source(rows.rank, rows.world), OnlineEM(SETTINGS, words), rows)
    state, seen = begun(words.rank, words.world, words), []
    for taken in loop.walk(state, EPOCHS):
        state = taken.after
        seen.append((taken.glimpse.mean, math.nan if taken.held_out is None else taken.held_out.mean))
    return state, seen


@pytest.fixture(scope="module")
def alone() -> tuple[OnlineEMState, list[tuple[float, float]]]:
    return walked()


def test_held_out_columns_are_judged_by_the_words_after_a_step(alone):
    state, seen = alone
    judged = log_likelihood(state.mixture, JUDGED)
    assert seen[-1] == pytest.approx((float(judged[:100].mean()), float(judged.mean())), rel=1e-6)
    full = [value for _, value in seen]
    assert [not math.isnan(value) for value in full] == 2 * [False, False, False, False, True]
    assert seen[-1][0] > seen[0][0]


@pytest.mark.parametrize("world", [2, 3, 21])
def test_actors_that_share_the_rows_come_to_the_same_words(alone, world):
    """21 actors: some have no part of a minibatch, or none of the held-out columns."""
    found = on_slices(world, lambda reduce: walked(rows=reduce))
    for state, seen in found:
        assert torch.equal(state.mixture.mean, found[0][0].mixture.mean), "all actors hold the same bits"
        torch.testing.assert_close(state.mixture.mean, alone[0].mixture.mean, rtol=1e-6, atol=0)
        torch.testing.assert_close(torch.tensor(seen), torch.tensor(alone[1]), rtol=1e-6, atol=0, equal_nan=True)


def test_actors_that_share_the_words_come_to_the_same_words(alone):
    found = on_slices(2, lambda reduce: walked(words=reduce))
    assert {state.mixture.n_words for state, _ in found} == {3}
    whole = joined([state.words for state, _ in found])
    torch.testing.assert_close(whole.mean, alone[0].mixture.mean, rtol=1e-5, atol=1e-5)
    for _, seen in found:
        torch.testing.assert_close(torch.tensor(seen), torch.tensor(alone[1]), rtol=1e-5, atol=0, equal_nan=True)


@pytest.mark.parametrize("taken", [1, 5, 9])
def test_a_loop_that_goes_on_from_a_step_ends_bit_for_bit(alone, taken):
    loop = FitLoop(source(), OnlineEM(SETTINGS))
    steps = loop.walk(begun(), EPOCHS)
    state = [next(steps).after for _ in range(taken)][-1]
    again = OnlineEMState.from_arrays(state.to_arrays())
    *_, last = loop.walk(again, EPOCHS, taken)
    assert last.after == alone[0]


def test_a_fit_ends_with_an_epoch_that_gains_too_little():
    def fit(tolerance: float) -> tuple[int, bool, list[int]]:
        told: list[int] = []
        rows = in_memory(torch.arange(2_000), 400, 3, FITTED.__getitem__, JUDGED)
        found = fit_likelihood(
            FitLoop(rows, OnlineEM(SETTINGS)), begun(), 6, tolerance, lambda taken: told.append(taken.step.index)
        )
        return len(found.held_out), found.converged, told

    assert fit(0.5) == (3, True, list(range(10)))
    assert fit(-1.0) == (7, False, list(range(30)))


def test_no_part_at_all_is_the_empty_sum():
    assert summed([], LogLikelihood.zero) == LogLikelihood(0.0, 0.0)
    assert math.isnan(LogLikelihood.zero().mean)
    assert summed([LogLikelihood(-3.0, 1.0), LogLikelihood(-1.0, 3.0)], LogLikelihood.zero).mean == -1.0
