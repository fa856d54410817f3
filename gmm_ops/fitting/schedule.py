"""Which columns make which minibatch: decided by seeds alone, never by who reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from gmm_ops.errors import RefusedInput


@dataclass(frozen=True)
class Buffer:
    """Chunks that are held in memory together; their rows are mixed into ``minibatches`` minibatches.

    sizes: rows of each chunk.
    """

    epoch: int
    chunks: tuple[int, ...]
    minibatches: int
    sizes: tuple[int, ...]

    def owned(self, rank: int, world: int) -> tuple[int, ...]:
        """Chunks that actor ``rank`` of ``world`` reads: every world-th, starting at its rank."""
        return self.chunks[rank::world]

    @cached_property
    def rows_before(self) -> dict[int, int]:
        """Chunk -> rows of the chunks before it."""
        return dict(zip(self.chunks, accumulate(self.sizes[:-1], initial=0), strict=True))


@dataclass(frozen=True)
class Step:
    """One global minibatch. index: its number in the whole fit. minibatch: its number in the buffer."""

    index: int
    epoch: int
    buffer: Buffer
    minibatch: int


@dataclass(frozen=True)
class MinibatchSchedule:
    """Seeded permutation of chunks, then of rows.

    chunk_sizes: rows in each chunk (the unit of reading). minibatch: rows in a global minibatch.
    buffer_minibatches: minibatches that are mixed in memory at a time. seed: of the fit.

    Per epoch the chunks are permuted and grouped into buffers; the rows of a buffer, every chunk's in its own
    permutation, are dealt to its m minibatches in turn. Minibatches of a buffer therefore differ by one row at most,
    however few rows a chunk has, and their rows do not depend on the number of actors.
    """

    chunk_sizes: tuple[int, ...]
    minibatch: int
    buffer_minibatches: int = 8
    seed: int = 0
    _first_step: list[int] = field(default_factory=lambda: [0], repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "chunk_sizes", tuple(int(n) for n in self.chunk_sizes))
        if not self.chunk_sizes or min(self.chunk_sizes) < 0 or sum(self.chunk_sizes) == 0:
            raise RefusedInput(
                f"chunk_sizes must be row counts with a positive sum; got {self.chunk_sizes[:8]}. "
                "Were any columns extracted?"
            )
        for name in ("minibatch", "buffer_minibatches"):
            if getattr(self, name) < 1:
                raise RefusedInput(f"{name} must be at least 1; got {getattr(self, name)}.")

    @cached_property
    def n_rows(self) -> int:
        """Columns of one epoch."""
        return sum(self.chunk_sizes)

    def buffers(self, epoch: int) -> tuple[Buffer, ...]:
        """The epoch's buffers in order."""
        return _buffers(self.chunk_sizes, self.minibatch, self.buffer_minibatches, self.seed, epoch)

    def steps_in(self, epoch: int) -> int:
        """Minibatches of an epoch; may differ by a few between epochs, chunks being grouped anew."""
        return sum(buffer.minibatches for buffer in self.buffers(epoch))

    def steps(self, epoch: int) -> tuple[Step, ...]:
        """The epoch's minibatches in order, numbered through from the first epoch."""
        pairs = [(buffer, j) for buffer in self.buffers(epoch) for j in range(buffer.minibatches)]
        first = self._first_of(epoch)
        return tuple(Step(first + i, epoch, buffer, j) for i, (buffer, j) in enumerate(pairs))

    def step(self, index: int) -> Step:
        """The minibatch with this number, whatever its epoch: where a resumed fit goes on."""
        if index < 0:
            raise RefusedInput(f"index must be 0 or more; got {index}.")
        epoch = 0
        while self._first_of(epoch + 1) <= index:
            epoch += 1
        place = index - self._first_of(epoch)
        for buffer in self.buffers(epoch):
            if place < buffer.minibatches:
                return Step(index, epoch, buffer, place)
            place -= buffer.minibatches
        raise AssertionError("an epoch has the minibatches of its buffers")

    def ends_epoch(self, step: Step) -> bool:
        """Whether the step is the last of its epoch."""
        return step.index + 1 == self._first_of(step.epoch + 1)

    def steps_of(self, epochs: int) -> int:
        """Minibatches of so many epochs."""
        return self._first_of(epochs)

    def walk(self, epochs: int, start: int = 0) -> Iterator[Step]:
        """All steps of ``epochs`` epochs from number ``start`` on."""
        for epoch in range(epochs):
            if self._first_of(epoch + 1) > start:
                yield from (step for step in self.steps(epoch) if step.index >= start)

    def rows(self, step: Step, chunk: int) -> Int[NDArray[np.int64], " n"]:
        """Rows of ``chunk`` that belong to the minibatch, in a seeded order."""
        minibatches = step.buffer.minibatches
        order = _row_order(self.seed, step.epoch, chunk, self.chunk_sizes[chunk])
        first = (step.minibatch - step.buffer.rows_before[chunk]) % minibatches
        return order[first::minibatches].astype(np.int64)

    def _first_of(self, epoch: int) -> int:
        while len(self._first_step) <= epoch:
            self._first_step.append(self._first_step[-1] + self.steps_in(len(self._first_step) - 1))
        return self._first_step[epoch]


@lru_cache(maxsize=256)
def _row_order(seed: int, epoch: int, chunk: int, size: int) -> Int[NDArray[np.int32], " n"]:
    """Kept between the minibatches of a buffer, each of which takes its rows of it."""
    order = np.random.default_rng([seed, epoch, 1, chunk]).permutation(size).astype(np.int32)
    order.setflags(write=False)
    return order


@lru_cache(maxsize=64)
def _buffers(
    chunk_sizes: tuple[int, ...], minibatch: int, buffer_minibatches: int, seed: int, epoch: int
) -> tuple[Buffer, ...]:
    order = np.random.default_rng([seed, epoch, 0]).permutation(len(chunk_sizes))
    wanted = minibatch * buffer_minibatches
    groups: list[list[int]] = [[]]
    held = 0
    for chunk in order.tolist():
        if held >= wanted:
            groups.append([])
            held = 0
        groups[-1].append(chunk)
        held += chunk_sizes[chunk]
    # A short last buffer would make minibatches of few images; its chunks join the buffer before.
    if len(groups) > 1 and 2 * held < wanted:
        short = groups.pop()
        groups[-1].extend(short)
    sizes = [tuple(chunk_sizes[c] for c in group) for group in groups]
    return tuple(
        Buffer(epoch, tuple(group), max(1, round(sum(each) / minibatch)), each)
        for group, each in zip(groups, sizes, strict=True)
        if sum(each)
    )
