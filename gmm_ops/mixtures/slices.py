"""The part of a dictionary that one actor holds: all of it, if it is alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from gmm_ops.errors import RefusedInput
from gmm_ops.fitting.collective import Collective, gathered
from gmm_ops.mixtures.mixture import Mixture
from gmm_ops.records import Record


@dataclass(frozen=True)
class WordSlice(Record):
    """Words ``first`` to ``first + own.n_words`` of a dictionary of ``n_words`` words.

    own: (K_own, D) parameters of the own words. Its shares are those of the whole dictionary: exp(log_pi) sums to one
        over all slices. The centre is the same on every slice.
    first: number of the first own word in the whole dictionary.
    n_words: K, words of the whole dictionary.
    """

    own: Mixture
    first: int
    n_words: int

    @property
    def last(self) -> int:
        """One past the last own word."""
        return self.first + self.own.n_words

    @property
    def n_units(self) -> int:
        """D."""
        return self.own.n_units

    def with_words(self, own: Mixture) -> WordSlice:
        """The same place in the dictionary, other parameters."""
        return replace(self, own=own)

    @classmethod
    def whole(cls, mixture: Mixture) -> WordSlice:
        """All words of a dictionary."""
        return cls(mixture, 0, mixture.n_words)

    @classmethod
    def of(cls, mixture: Mixture, rank: int, world: int) -> WordSlice:
        """Slice ``rank`` of ``world`` of a dictionary that one actor can hold."""
        first, last = slice_bounds(mixture.n_words, rank, world)
        log_pi, mean, variance = (part[first:last].clone() for part in (mixture.log_pi, mixture.mean, mixture.variance))
        return cls(Mixture(log_pi, mean, variance, mixture.center), first, mixture.n_words)


def as_slice(words: Mixture | WordSlice) -> WordSlice:
    """A slice as it is; a dictionary as the lone slice of itself."""
    return WordSlice.whole(words) if isinstance(words, Mixture) else words


def slice_bounds(n_words: int, rank: int, world: int) -> tuple[int, int]:
    """(first word, one past the last) of slice ``rank`` of ``world``: contiguous, sizes differ by one at most.

    Raises RefusedInput if a slice would have no word.
    """
    if not 0 <= rank < world:
        raise RefusedInput(f"rank must be from 0 to world - 1 = {world - 1}; got {rank}.")
    if world > n_words:
        raise RefusedInput(
            f"world must not be larger than the number of words; got {world} slices for {n_words} words. "
            "Use fewer actors for this dictionary."
        )
    return rank * n_words // world, (rank + 1) * n_words // world


def joined(slices: Sequence[WordSlice]) -> Mixture:
    """The whole dictionary, for one that a single actor can hold. Raises RefusedInput unless the slices tile it."""
    ordered = sorted(slices, key=lambda words: words.first)
    bounds = [(words.first, words.last) for words in ordered]
    ends = [0, *(last for _, last in bounds)]
    if not ordered or [first for first, _ in bounds] != ends[:-1] or ends[-1] != ordered[0].n_words:
        raise RefusedInput(
            f"slices must cover every word of the dictionary once; got words {bounds}. Pass the slices of all actors."
        )
    own = [words.own for words in ordered]
    return Mixture(
        torch.cat([part.log_pi for part in own]),
        torch.cat([part.mean for part in own]),
        torch.cat([part.variance for part in own]),
        own[0].center,
    )


def refuse_broken_slices(words: WordSlice, reduce: Collective) -> None:
    """Raise RefusedInput, on every slice alike, unless the slices tile one dictionary in rank order."""
    numbers = torch.tensor([words.first, words.last, words.n_words], dtype=torch.float64)
    table = gathered(numbers.to(words.own.center.device), reduce).long().tolist()
    ends = [0, *(last for _, last, _ in table)]
    tiled = [first for first, _, _ in table] == ends[:-1]
    if not tiled or any(total != ends[-1] for _, _, total in table):
        raise RefusedInput(
            "slices must cover every word of one dictionary once, in the order of their ranks; got (first, last, K) "
            f"= {[tuple(row) for row in table]}. Cut all of them with the same n_words and world."
        )
    center = words.own.center
    # Summed, not returned by each: a slice that alone found a difference would leave the others waiting for ever.
    apart = (reduce.all_reduce_max(center) + reduce.all_reduce_max(-center)).abs().max()
    if float(apart) > 0.0:
        raise RefusedInput(
            f"slices must have one centre; they differ by up to {float(apart):.3g}. Start all of them from the same "
            "sample of columns."
        )
