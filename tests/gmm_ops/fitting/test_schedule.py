"""Every row once an epoch, the same minibatches for any number of readers, and random access for a resume."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.schedule import MinibatchSchedule, Step


def rows_of(schedule: MinibatchSchedule, step: Step, chunks: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(c, row) for c in chunks for row in schedule.rows(step, c).tolist()]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 200), min_size=1, max_size=30).filter(sum),
    minibatch=st.integers(1, 300),
    buffered=st.integers(1, 9),
    epoch=st.integers(0, 3),
)
def test_an_epoch_takes_every_row_once(sizes, minibatch, buffered, epoch):
    schedule = MinibatchSchedule(tuple(sizes), minibatch, buffered, seed=5)
    taken = Counter(pair for step in schedule.steps(epoch) for pair in rows_of(schedule, step, step.buffer.chunks))
    assert set(taken.values()) == {1}
    assert len(taken) == sum(sizes)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=60).filter(sum),
    minibatch=st.integers(1, 40),
    buffered=st.integers(1, 30),
)
def test_minibatches_of_a_buffer_differ_by_one_row_at_most(sizes, minibatch, buffered):
    schedule = MinibatchSchedule(tuple(sizes), minibatch, buffered, seed=5)
    counts: dict[tuple[int, ...], list[int]] = {}
    for step in schedule.steps(0):
        counts.setdefault(step.buffer.chunks, []).append(len(rows_of(schedule, step, step.buffer.chunks)))
    for of_buffer in counts.values():
        assert min(of_buffer) >= 1
        assert max(of_buffer) - min(of_buffer) <= 1


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_minibatches_do_not_depend_on_the_number_of_readers(world):
    schedule = MinibatchSchedule((100,) * 23, 250, 4, seed=1)
    for step in schedule.steps(1):
        together = rows_of(schedule, step, step.buffer.chunks)
        shared = [pair for rank in range(world) for pair in rows_of(schedule, step, step.buffer.owned(rank, world))]
        assert sorted(shared) == sorted(together)


def test_minibatches_are_of_the_asked_size_and_mix_chunks():
    schedule = MinibatchSchedule((1000,) * 40, 2000, 8, seed=2)
    steps = schedule.steps(0)
    assert len(steps) == 20
    for step in steps:
        taken = rows_of(schedule, step, step.buffer.chunks)
        assert 1900 <= len(taken) <= 2100
        assert len({chunk for chunk, _ in taken}) >= 8


def test_seeds_and_epochs_change_the_order_and_nothing_else_does():
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        schedule = MinibatchSchedule((50,) * 10, 60, 3, seed=seed)
        return [pair for s in schedule.steps(epoch) for pair in rows_of(schedule, s, s.buffer.chunks)]

    assert order(3, 0) == order(3, 0)
    assert order(3, 0) != order(4, 0)
    assert order(3, 0) != order(3, 1)


def test_steps_are_numbered_through_and_found_by_number():
    schedule = MinibatchSchedule((37, 120, 5, 64, 90, 11, 77), 50, 2, seed=9)
    steps = [step for epoch in range(4) for step in schedule.steps(epoch)]
    assert [step.index for step in steps] == list(range(len(steps)))
    fresh = MinibatchSchedule((37, 120, 5, 64, 90, 11, 77), 50, 2, seed=9)
    assert [fresh.step(i) for i in reversed(range(len(steps)))] == steps[::-1]
    assert list(fresh.walk(4)) == steps
    assert list(fresh.walk(4, start=5)) == steps[5:]


def test_a_layer_smaller_than_a_minibatch_is_one_minibatch():
    schedule = MinibatchSchedule((10, 20), 50_000)
    assert schedule.steps_in(0) == 1
    assert schedule.n_rows == 30


def test_a_buffer_holds_no_more_than_asked_and_half():
    schedule = MinibatchSchedule((100,) * 57, 100, 8, seed=3)
    assert max(buffer.minibatches for buffer in schedule.buffers(0)) <= 12
    assert sum(buffer.minibatches for buffer in schedule.buffers(0)) == 57


def test_refusals_name_the_rule():
    with pytest.raises(RefusedInput, match="chunk_sizes must be row counts with a positive sum"):
        MinibatchSchedule((), 10)
    with pytest.raises(RefusedInput, match="chunk_sizes must be row counts"):
        MinibatchSchedule((0, 0), 10)
    with pytest.raises(RefusedInput, match="minibatch must be at least 1; got 0"):
        MinibatchSchedule((5,), 0)
    with pytest.raises(RefusedInput, match="buffer_minibatches must be at least 1; got 0"):
        MinibatchSchedule((5,), 1, 0)
    with pytest.raises(RefusedInput, match="index must be 0 or more; got -1"):
        MinibatchSchedule((5,), 1).step(-1)
