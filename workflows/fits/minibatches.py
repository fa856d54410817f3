"""How the actors of a fit share its global minibatches: fixed parts of every one, read buffer by buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from jaxtyping import Int

from gmm_ops.fitting.schedule import Buffer, MinibatchSchedule, Step

PARTS = 12
"""Parts of a global minibatch at most, each the work of one rank; divisible by most numbers of ranks."""

PART_ROWS = 512
"""Rows of a part at least: with fewer, preparing the words costs more than the rows."""

BUFFER_BYTES = 32 * 2**20
BUFFER_CHUNKS = 32, 128
"""A fit group mixes stored columns of so many bytes, but so many chunks at least (images lie in class order, so a few
chunks would be a few classes) and at most (every minibatch takes rows of each, so a step of many small chunks would
cost what they cost). None grows with the number of images."""


class RowBlock(Protocol):
    """Stored rows that are held in memory."""

    @classmethod
    def joined(cls, blocks: Sequence[Any]) -> Self:
        """All rows of some blocks, in order."""

    def take(self, rows: Int[np.ndarray, "m"]) -> Self:
        """Some of the rows, ready for the fit."""


Block = TypeVar("Block", bound=RowBlock)
Rows = TypeVar("Rows", bound=Sized)


class OwnParts(Generic[Block]):
    """The parts that one rank has of every global minibatch; holds its chunks of one buffer at a time.

    Args:
        schedule: of the fit.
        read: a chunk's rows that take part in the fit.
        rank, world: place in the fit group.
        parts: of a global minibatch, whatever the number of ranks.
    """

    def __init__(
        self, schedule: MinibatchSchedule, read: Callable[[int], Block], rank: int, world: int, parts: int = PARTS
    ) -> None:
        self._schedule, self._read, self._parts = schedule, read, parts
        self._numbers = range(rank, parts, world)
        self._buffer: Buffer | None = None
        self._blocks: dict[int, Block] = {}

    def of(self, step: Step) -> Iterator[Block]:
        """The rank's parts of a global minibatch, one after the other; none for a rank without parts."""
        self._hold(step.buffer)
        for number in self._numbers:
            chunks = step.buffer.chunks[number :: self._parts]
            if chunks:
                taken = [self._blocks[chunk].take(self._schedule.rows(step, chunk)) for chunk in chunks]
                yield type(taken[0]).joined(taken)

    def release(self) -> None:
        """Free the rows that are held; the next step reads them again."""
        self._blocks, self._buffer = {}, None

    def _hold(self, buffer: Buffer) -> None:
        if buffer != self._buffer:
            self._blocks = {}  # free the old rows before the new ones come
            chunks = [chunk for number in self._numbers for chunk in buffer.chunks[number :: self._parts]]
            self._blocks = {chunk: self._read(chunk) for chunk in chunks}
            self._buffer = buffer


def parts_of(minibatch: int) -> int:
    """Parts of a global minibatch; by its size alone, so that sums over a part do not depend on the number of ranks."""
    return min(PARTS, max(1, minibatch // PART_ROWS))


def mixed_minibatches(minibatch: int, row_bytes: int, chunk_rows: int) -> int:
    """Minibatches of ``minibatch`` rows that are mixed at a time."""
    least, most = (chunks * chunk_rows * row_bytes for chunks in BUFFER_CHUNKS)
    held = min(max(BUFFER_BYTES, least), most)
    return max(1, round(held / (minibatch * row_bytes)))


def in_groups(blocks: Iterable[Rows], rows: int) -> Iterator[list[Rows]]:
    """The same blocks in lists that have at least so many rows, but for the last."""
    held: list[Rows] = []
    for block in blocks:
        held.append(block)
        if sum(len(one) for one in held) >= rows:
            yield held
            held = []
    if held:
        yield held
