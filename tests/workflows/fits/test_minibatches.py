"""The parts of a global minibatch: every row once, whoever takes it, and each chunk read once a buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from gmm_ops.fitting.schedule import MinibatchSchedule
from workflows.fits.minibatches import (
    BUFFER_BYTES,
    BUFFER_CHUNKS,
    PARTS,
    OwnParts,
    mixed_minibatches,
)

SIZES = (7, 0, 12, 12, 3, 12, 9, 12, 1, 12, 12, 5, 12, 12, 12, 12, 12)


@dataclass(frozen=True)
class Numbers:
    """Rows that are their own names."""

    rows: np.ndarray

    @classmethod
    def joined(cls, blocks: Sequence[Numbers]) -> Numbers:
        return cls(np.concatenate([block.rows for block in blocks]))

    def take(self, rows: np.ndarray) -> Numbers:
        return Numbers(self.rows[rows])


def schedule() -> MinibatchSchedule:
    return MinibatchSchedule(SIZES, minibatch=20, buffer_minibatches=3, seed=11)


def read(chunk: int) -> Numbers:
    return Numbers(100 * chunk + np.arange(SIZES[chunk]))


@pytest.mark.parametrize("world", [1, 2, 3, 5, PARTS + 1])
def test_the_ranks_together_take_every_row_of_an_epoch_once(world: int) -> None:
    own = [OwnParts(schedule(), read, rank, world) for rank in range(world)]
    alone = OwnParts(schedule(), read, 0, 1)
    seen: list[int] = []
    for step in schedule().steps(1):
        rows = [number for parts in own for block in parts.of(step) for number in block.rows.tolist()]
        assert sorted(rows) == sorted(number for block in alone.of(step) for number in block.rows.tolist())
        seen += rows
    assert sorted(seen) == sorted(number for chunk in range(len(SIZES)) for number in read(chunk).rows.tolist())


def test_a_part_has_the_same_rows_for_any_number_of_ranks() -> None:
    step = schedule().steps(0)[2]
    alone = [block.rows.tolist() for block in OwnParts(schedule(), read, 0, 1).of(step)]
    ranks = [[block.rows.tolist() for block in OwnParts(schedule(), read, rank, 3).of(step)] for rank in range(3)]
    assert sorted(alone) == sorted(block for blocks in ranks for block in blocks)
    assert len(alone) <= PARTS


def test_each_chunk_is_read_once_a_buffer_and_given_back_with_it() -> None:
    reads: list[int] = []

    def counted(chunk: int) -> Numbers:
        reads.append(chunk)
        return read(chunk)

    own = OwnParts(schedule(), counted, 0, 1)
    for step in schedule().steps(0):
        list(own.of(step))
        assert set(own._blocks) == set(step.buffer.chunks)
    assert sorted(reads) == list(range(len(SIZES)))


def test_epochs_end_where_their_steps_do() -> None:
    plan = schedule()
    steps = [*plan.steps(0), *plan.steps(1)]
    assert [step.index for step in steps if plan.ends_epoch(step)] == [plan.steps_in(0) - 1, len(steps) - 1]
    assert plan.steps_of(2) == len(steps)
    assert plan.steps_of(0) == 0


def test_the_buffer_holds_its_bytes_or_its_chunks() -> None:
    least, most = BUFFER_CHUNKS
    assert mixed_minibatches(1_000, 1_024, 500) == round(BUFFER_BYTES / 1_024_000)
    assert mixed_minibatches(1_000, 1_024, 4_000) == least * 4
    # Of small chunks, rows of each of which a minibatch would take, so many and no more.
    assert mixed_minibatches(1_000, 1_024, 50) == round(most * 50 / 1_000)
    assert mixed_minibatches(10**9, 1_024, 50) == 1
