"""Online EM over slices is online EM: warm-up, floor, re-seeds anywhere, averages, resumed fits."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.collective import LONE
from gmm_ops.mixtures.assignment import log_likelihood
from gmm_ops.mixtures.em import fit_batch_em, maximise
from gmm_ops.mixtures.estep import Engine
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.mixtures.online_step import OnlineEMSettings, OnlineEMState, advance, start
from gmm_ops.mixtures.seeding import initial_mixture, initial_slice
from gmm_ops.mixtures.slices import WordSlice, joined, slice_bounds
from gmm_ops.mixtures.splitting import split_dead
from gmm_ops.mixtures.statistics import MixtureStatistics, em_pass
from tests.gmm_ops.drawn_columns import cifar_columns, clustered, digit_patches
from tests.gmm_ops.word_slices.thread_slices import ThreadReduce, on_slices
from tests.references import online_em as online_reference

WORDS = 30
SETTINGS = OnlineEMSettings(minibatch=900, epochs=1, warmup=2, min_share=0.3, var_floor=1e-3)


@pytest.fixture(scope="module")
def columns() -> torch.Tensor:
    return digit_patches()[:9_000]


def walked(state: OnlineEMState, batches, settings, reduce: ThreadReduce, engine: Engine = "auto") -> OnlineEMState:
    for batch in batches:
        state = advance(state, em_pass(state.words, batch, reduce, engine=engine), settings, reduce)
    return state


def unsliced(state: OnlineEMState, batches, settings, engine: Engine = "auto") -> OnlineEMState:
    for batch in batches:
        state = advance(state, em_pass(state.mixture, batch, engine=engine), settings)
    return state


def fitted(columns, words, settings, world, batches) -> list[OnlineEMState]:
    def work(reduce: ThreadReduce) -> OnlineEMState:
        first = initial_slice(columns, words, 5, reduce.rank, world, settings.var_floor)
        return walked(start(first, settings, reduce), batches, settings, reduce)

    return on_slices(world, work)


def assert_close(a: Mixture, b: Mixture, relative: float) -> None:
    assert torch.equal(torch.isinf(a.log_pi), torch.isinf(b.log_pi))
    for name in ("log_pi", "mean", "variance"):
        one, two = (getattr(mixture, name).clamp(min=-1e3) for mixture in (a, b))  # an empty word's log share too
        # The norm: products of fewer words round single float32 scores differently, each processor in its own way.
        assert float((one - two).norm()) <= relative * float(two.norm()), name


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("stage", [1, 3])
def test_equals_the_unsliced_fit_on_real_columns(shared_data, stage, world):
    columns = cifar_columns(shared_data, {1: 20, 3: 200}[stage], stage)
    batches = 2 * list(columns.split(2_000))
    one = unsliced(start(initial_mixture(columns, WORDS, 5, var_floor=1e-3), SETTINGS), batches, SETTINGS)
    states = fitted(columns, WORDS, SETTINGS, world, batches)
    reseeded = torch.cat([state.reseeded for state in states])
    assert int(reseeded.sum()) > 0
    assert torch.equal(reseeded, one.reseeded)
    assert_close(joined([state.words for state in states]), one.mixture, 1e-6)
    assert {state.step for state in states} == {one.step}
    for state in states:
        torch.testing.assert_close(state.var_floor, one.var_floor, rtol=1e-12, atol=0)


@pytest.mark.parametrize("variance_of", ["word", "unit", "layer"])
def test_equals_the_loop(variance_of):
    columns = clustered(400, 5, 4)
    settings = replace(SETTINGS, warmup=2, min_share=0.0, var_floor=1e-2, variance_of=variance_of)
    first = initial_mixture(columns, 4, 5, var_floor=1e-2)
    states = fitted(columns, 4, settings, 2, columns.split(80))
    slow = online_reference.fit(
        [b.double().tolist() for b in columns.split(80)],
        *(p.tolist() for p in (first.log_pi, first.mean, first.variance, first.center)),
        exponent=settings.exponent,
        offset=1.0,
        warmup=2,
        floor=float(states[0].var_floor[0]),
        variance_of=variance_of,
    )
    found = joined([state.words for state in states])
    for got, expected in zip((found.log_pi, found.mean, found.variance), slow, strict=True):
        torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-4)


def test_warmup_only_gathers(columns):
    def work(reduce: ThreadReduce) -> None:
        settings = replace(SETTINGS, warmup=3)
        state = start(initial_slice(columns, WORDS, 5, reduce.rank, 2), settings, reduce)
        before = state.mixture
        for batch in columns[:3_600].split(900):
            assert state.mixture is before
            state = walked(state, [batch], settings, reduce)
        assert state.mixture is not before

    on_slices(2, work)


def test_shares_are_of_the_whole_dictionary(columns):
    states = fitted(columns, WORDS, SETTINGS, 3, columns.split(900))
    shares = [float(state.words.own.log_pi.exp().sum()) for state in states]
    assert sum(shares) == pytest.approx(1.0, abs=1e-12)
    assert min(shares) > 0.0
    assert max(shares) < 1.0


def test_the_floor_is_a_share_of_the_whole_mean_variance(columns):
    mixture = fit_batch_em(initial_mixture(columns, WORDS, 0), columns, 2, 1e-3)[0]
    floors = on_slices(2, lambda r: start(WordSlice.of(mixture, r.rank, 2), SETTINGS, r).var_floor / SETTINGS.var_floor)
    assert torch.equal(floors[0], floors[1])
    assert floors[0].tolist() == pytest.approx([float(mixture.variance.mean())] * 16, rel=1e-12)


@pytest.mark.parametrize("world", [1, 2])
def test_polyak_averages_equal_the_unsliced(columns, world):
    settings = replace(SETTINGS, polyak=True, average_after=4)
    batches = columns.split(900)
    # The loop adds in one order whatever the cut, so nothing but the rule itself can make a difference.
    one = unsliced(start(initial_mixture(columns, WORDS, 5, var_floor=1e-3), settings), batches, settings, "sparse")
    assert int(one.reseeded.sum()) > 0

    def work(reduce: ThreadReduce) -> tuple[WordSlice, WordSlice]:
        first = initial_slice(columns, WORDS, 5, reduce.rank, world, settings.var_floor)
        state = walked(start(first, settings, reduce), batches, settings, reduce, "sparse")
        last = state.result(replace(settings, polyak=False), reduce)
        return first.with_words(state.result(settings, reduce)), first.with_words(last)

    found = on_slices(world, work)
    assert_close(joined([average for average, _ in found]), one.result(settings), 1e-9)
    assert_close(joined([last for _, last in found]), one.mixture, 1e-9)
    assert not torch.equal(found[0][0].own.mean, found[0][1].own.mean)


def test_before_any_average_the_result_is_the_last_parameters(columns):
    settings = replace(SETTINGS, polyak=True, average_after=1_000)

    def work(reduce: ThreadReduce) -> None:
        state = start(initial_slice(columns, WORDS, 5, reduce.rank, 2), settings, reduce)
        assert state.result(settings, reduce) is state.mixture

    on_slices(2, work)


# --- re-seeding ---


def starved(columns: torch.Tensor, low: list[int]) -> Mixture:
    """A mixture of 12 words in which the words ``low`` are far from every column."""
    mixture = fit_batch_em(initial_mixture(columns, 12, 0), columns, 3, 1e-3)[0]
    mean = mixture.mean.clone()
    mean[low] += 100.0
    return Mixture(mixture.log_pi, mean, mixture.variance, mixture.center)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("low", [[3, 7, 10], [0, 1, 2, 3, 4, 5]])
def test_dead_words_of_any_slice_take_half_of_the_heaviest(columns, world, low):
    mixture = starved(columns, low)
    settings = OnlineEMSettings(warmup=0, var_floor=1e-3)

    def work(reduce: ThreadReduce) -> OnlineEMState:
        state = start(WordSlice.of(mixture, reduce.rank, world), settings, reduce)
        return advance(state, em_pass(state.words, columns, reduce), settings, reduce)

    states = on_slices(world, work)
    assert torch.cat([state.reseeded for state in states]).nonzero().flatten().tolist() == low
    one = advance(start(mixture, settings), em_pass(mixture, columns), settings)
    assert_close(joined([state.words for state in states]), one.mixture, 1e-6)


@pytest.mark.parametrize("world", [1, 2, 5])
def test_splits_are_those_of_the_whole_dictionary_bit_for_bit(columns, world):
    mixture = starved(columns, [2, 6, 11])
    mean = em_pass(mixture, columns).scaled(1 / len(columns))
    floor = 1e-3 * mixture.variance.mean(dim=0)
    one, dead, changed = split_dead(mean, 0, 12, 0.05, floor, LONE)

    def work(reduce: ThreadReduce) -> tuple[MixtureStatistics, list[int], list[int]]:
        first, last = slice_bounds(12, reduce.rank, world)
        own = MixtureStatistics(
            mean.count, mean.log_likelihood, mean.s0[first:last], mean.s1[first:last], mean.s2[first:last]
        )
        found, *words = split_dead(own, first, 12, 0.05, floor, reduce)
        return found, *([first + word for word in kind.tolist()] for kind in words)

    parts = on_slices(world, work)
    for name in ("s0", "s1", "s2"):
        assert torch.equal(torch.cat([getattr(part[0], name) for part in parts]), getattr(one, name))
    assert [word for part in parts for word in part[1]] == dead.tolist()
    assert [word for part in parts for word in part[2]] == changed.tolist()


def test_splitting_can_be_turned_off(columns):
    settings = OnlineEMSettings(warmup=0, min_share=0.0)

    def work(reduce: ThreadReduce) -> int:
        state = start(WordSlice.of(starved(columns, [1]), reduce.rank, 2), settings, reduce)
        return int(walked(state, [columns], settings, reduce).reseeded.sum())

    assert on_slices(2, work) == [0, 0]


def test_a_word_without_a_column_keeps_share_0_and_the_variance(columns):
    """Re-seeding off: the M-step of the slices is the unsliced one for empty words too."""
    mixture = starved(columns, [0, 1, 2, 3, 4, 5, 8])  # all words of the first slice, one of the second
    settings = OnlineEMSettings(warmup=0, min_share=0.0, var_floor=1e-3)

    def work(reduce: ThreadReduce) -> OnlineEMState:
        state = start(WordSlice.of(mixture, reduce.rank, 2), settings, reduce)
        return walked(state, columns.split(len(columns)), settings, reduce)

    states = on_slices(2, work)
    found = joined([state.words for state in states])
    expected = maximise(em_pass(mixture, columns), mixture.center, states[0].var_floor)
    assert found.log_pi[:6].tolist() == [-torch.inf] * 6
    torch.testing.assert_close(found.log_pi, expected.log_pi, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.variance, expected.variance, rtol=1e-6, atol=1e-6)


# --- laws ---


def test_the_likelihood_never_falls_with_step_size_one(columns):
    settings = OnlineEMSettings(exponent=0.0, min_share=0.0, var_floor=0.0, warmup=0)

    def work(reduce: ThreadReduce) -> list[float]:
        state = start(initial_slice(columns, WORDS, 1, reduce.rank, 3), settings, reduce)
        likelihoods = []
        for _ in range(8):
            found = em_pass(state.words, columns, reduce)
            likelihoods.append(found.log_likelihood / found.count)
            state = advance(state, found, settings, reduce)
        return [*likelihoods, float(log_likelihood(state.words, columns, reduce).mean())]

    curves = on_slices(3, work)
    assert curves[0] == curves[1] == curves[2]
    assert all(later > earlier for earlier, later in zip(curves[0], curves[0][1:], strict=False))
    exact, history = fit_batch_em(initial_mixture(columns, WORDS, 1), columns, 8)
    assert curves[0][:-1] == pytest.approx(history, rel=1e-6)
    assert curves[0][-1] == pytest.approx(float(log_likelihood(exact, columns).mean()), rel=1e-6)


def test_a_fit_resumed_from_its_slices_is_the_same_bit_for_bit(columns):
    settings = replace(SETTINGS, polyak=True, average_after=3)
    batches = columns.split(900)

    def work(reduce: ThreadReduce) -> tuple[OnlineEMState, OnlineEMState]:
        begun = start(initial_slice(columns, WORDS, 5, reduce.rank, 2), settings, reduce)
        stopped = walked(begun, batches[:6], settings, reduce)
        file = io.BytesIO()
        np.savez(file, **stopped.to_arrays())
        file.seek(0)
        with np.load(file) as arrays:
            back = OnlineEMState.from_arrays(arrays)
        return walked(back, batches[6:], settings, reduce), walked(begun, batches, settings, reduce)

    for resumed, undisturbed in on_slices(2, work):
        left, right = resumed.to_arrays(), undisturbed.to_arrays()
        assert left.keys() == right.keys()
        for name, array in left.items():
            assert array.tobytes() == right[name].tobytes(), name


def test_advance_is_pure(columns):
    def work(reduce: ThreadReduce) -> None:
        settings = replace(SETTINGS, warmup=0)
        state = start(initial_slice(columns, WORDS, 5, reduce.rank, 2), settings, reduce)
        found = em_pass(state.words, columns[:900], reduce)
        before = {name: array.tobytes() for name, array in state.to_arrays().items()}
        packed = found.pack()
        one = advance(state, found, settings, reduce).to_arrays()
        two = advance(state, found, settings, reduce).to_arrays()
        assert {name: array.tobytes() for name, array in state.to_arrays().items()} == before
        assert torch.equal(found.pack(), packed)
        assert all(one[name].tobytes() == two[name].tobytes() for name in one)

    on_slices(2, work)


# --- bad input ---


def test_no_columns_and_no_spread_are_refused_by_all(columns):
    def work(reduce: ThreadReduce) -> None:
        state = start(initial_slice(columns, 4, 5, reduce.rank, 2), replace(SETTINGS, var_floor=0.0), reduce)
        empty = MixtureStatistics.zero(2, 16)
        with pytest.raises(RefusedInput, match="batch must hold at least one column"):
            advance(state, empty, SETTINGS, reduce)
        # Words 0 to 2 with spread, word 3 without: only the second slice sees it, both say so.
        flat = MixtureStatistics(10.0, -1.0, empty.s0 + 5.0, empty.s1, empty.s2 + 5.0)
        if reduce.rank == 1:
            flat.s2[1, 4] = 0.0
        with pytest.raises(RefusedInput, match=r"var_floor must.*word 3 is constant in unit 4.*fewer words"):
            advance(state, flat, replace(SETTINGS, warmup=0), reduce)

    on_slices(2, work)
