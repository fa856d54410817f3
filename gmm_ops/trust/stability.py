"""How stable the chosen words are: Algorithm 1 again on resampled images, from counts by folds, without another pass.

The images of every class are dealt into folds, and pairs are counted by class and fold. A resampling draws, class by
class, as many folds as the class has, with replacement: whole numbers that say how often each group of images counts.
N and Q of a resampling are sums of the groups' counts with these weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numba import njit
from torch import Tensor

from gmm_ops.axes import PairCounts
from gmm_ops.errors import RefusedInput
from gmm_ops.graphs.cooccurrence import SparseCounts
from gmm_ops.graphs.inference_graph import log_of_ratios
from gmm_ops.records import Record

FOLDS = 20
"""Folds of a class."""

RESAMPLINGS = 200

HELD_BYTES = 1 << 28
"""Of log ratios that one pair of layers keeps for the next graph."""


def deal_folds(
    images: Int[np.ndarray, " n"], classes: Int[np.ndarray, " n"], folds: int = FOLDS, seed: int = 0
) -> Int[np.ndarray, " n"]:
    """The fold of every image, from 0: images of a class in the order of a hash of their ids, dealt one after another.

    ``images`` are their ids, each once, ``classes`` what the network predicts. Neither the order of the images nor how
    they are stored changes anything; folds of a class differ by one image at most.
    Raises ``RefusedInput`` for fewer than two folds.
    """
    if folds < 2:
        raise RefusedInput(f"folds: must be at least 2, got {folds}; with one fold every resampling is the same")
    order = np.lexsort((_hashed(images, seed), classes))
    starts = np.flatnonzero(np.diff(classes[order], prepend=classes[order][:1] - 1))
    place = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    dealt = np.empty(len(order), np.int64)
    dealt[order] = place % folds
    return dealt


def _hashed(numbers: Int[np.ndarray, " n"], seed: int) -> np.ndarray:
    """A different number for every one: splitmix64 (Steele, Lea and Flood 2014), a stream for each seed."""
    start = np.uint64(seed * 0xD1342543DE82EF95 % (1 << 64))
    mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


@dataclass(frozen=True)
class Resamplings(Record):
    """How often each group of images is drawn.

    Attributes:
        folds: of a class; group = class * folds + fold.
        groups: (G,) int64, groups that have images, ascending.
        drawn: (G, B) int64, how often in each resampling; a class has as many draws as it has groups.
    """

    folds: int
    groups: Int[np.ndarray, " G"]
    drawn: Int[np.ndarray, "G B"]

    @classmethod
    def draw(
        cls, groups: Int[np.ndarray, " G"], folds: int = FOLDS, resamplings: int = RESAMPLINGS, seed: int = 0
    ) -> Resamplings:
        """Stratified resamplings: folds of each class with replacement, by a generator of its own.

        A class of fewer images than folds has a group for each image, and its images are drawn.
        """
        groups = np.unique(groups)
        drawn = np.empty((len(groups), resamplings), np.int64)
        for label in np.unique(groups // folds).tolist():
            own = np.flatnonzero(groups // folds == label)
            random = np.random.default_rng([seed, label])
            drawn[own] = random.multinomial(len(own), np.full(len(own), 1 / len(own)), size=resamplings).T
        return cls(folds, groups, drawn)

    def folds_of(self, label: int) -> int:
        """Folds of a class that have images."""
        first, stop = np.searchsorted(self.groups, [label * self.folds, (label + 1) * self.folds])
        return int(stop - first)


class ResampledPairs:
    """N of one pair of layers in every resampling, an upper word at a time: of all images, or of those of one class.

    Holds the counts once more in the order of their upper words, and log ratios of some words.

    Args:
        counts: by group.
        resamplings: of these groups.
        n_upper, n_lower: words of the two dictionaries.
        prior: P(t), (n_lower,), where it does not vary (``mine.prior = "frequency"``); None: the marginal of N.
        pseudo_count, base: as ``log_ratios`` takes them.

    Raises:
        RefusedInput: there are counts of a group that is not drawn.
    """

    def __init__(
        self,
        counts: SparseCounts,
        resamplings: Resamplings,
        n_upper: int,
        n_lower: int,
        prior: Float[Tensor, " K_lower"] | None = None,
        pseudo_count: float = 1.0,
        base: float = 2,
    ) -> None:
        group, upper, lower, count = counts.columns()
        if not np.isin(group, resamplings.groups).all():
            raise RefusedInput("counts: must be of groups that are drawn, got others; draw from the groups counted")
        self.n_lower, self._pseudo_count, self._base = n_lower, float(pseudo_count), float(base)
        self._folds, self._groups, self._drawn = resamplings.folds, resamplings.groups, resamplings.drawn
        order = np.argsort(upper, kind="stable")
        place = np.searchsorted(resamplings.groups, group[order])
        self._rows = place, lower[order], count[order]
        self._starts = np.searchsorted(upper[order], np.arange(n_upper + 1))
        everything = self._sum(slice(0, len(order)))
        marginal = everything / everything.sum(axis=0).clip(min=1)
        self._prior = marginal if prior is None else np.broadcast_to(prior.numpy()[:, None], marginal.shape)
        self._held: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def resamplings(self) -> int:
        """B."""
        return int(self._drawn.shape[1])

    def counts(self, upper: int, label: int | None = None) -> Int[np.ndarray, "K_lower B"]:
        """N[upper, :] in every resampling, of all images or of one class."""
        start, stop = self._starts[upper : upper + 2]
        if label is not None:
            ends = np.searchsorted(self._groups, [label * self._folds, (label + 1) * self._folds])
            start, stop = start + np.searchsorted(self._rows[0][start:stop], ends)
        return self._sum(slice(int(start), int(stop)))

    def log_ratios(self, upper: int) -> tuple[Float[np.ndarray, "K_lower B"], Bool[np.ndarray, "K_lower B"]]:
        """LR[upper, :] in every resampling, and where it is defined (see ``LogRatios``)."""
        if upper not in self._held:
            pairs = torch.from_numpy(self.counts(upper))
            whole = pairs.sum(0, keepdim=True)
            defined = (whole.numpy() > 0) & (self._prior > 0)
            prior = torch.from_numpy(np.where(defined, self._prior, 1.0))
            values = log_of_ratios(pairs, whole, prior, self._pseudo_count, self._base)
            if sum(one.nbytes for one, _ in self._held.values()) > HELD_BYTES:
                self._held.clear()
            self._held[upper] = values.numpy(), defined
        return self._held[upper]

    def _sum(self, rows: slice) -> Int[np.ndarray, "K_lower B"]:
        total = np.zeros((self.n_lower, self.resamplings), np.int64)
        _add_drawn(*(column[rows] for column in self._rows), self._drawn, total)
        return total


@njit(cache=True, nogil=True)
def _add_drawn(place, lower, count, drawn, total):  # type: ignore[no-untyped-def]
    """total[t, b] += every row's count as often as its group is drawn in b."""
    for i in range(count.shape[0]):
        row, weights = total[lower[i]], drawn[place[i]]
        for b in range(row.shape[0]):
            row[b] += count[i] * weights[b]


def times_chosen(
    root: int,
    layers: Sequence[ResampledPairs],
    counts: Sequence[PairCounts] | None = None,
    top: int = 3,
    positive_only: bool = False,
) -> list[Int[np.ndarray, " K_lower"]]:
    """In how many resamplings Algorithm 1 chooses each word, for each pair of layers from the output's downwards.

    ``layers`` are the pairs of layers, in that order. Without ``counts``, Q is that of the images predicted as ``root``
    and varies with them; else these are Q, as ``mine`` takes them, and stay (an image by itself). ``top`` and
    ``positive_only`` as ``mine``; with weights of 1 it chooses what ``mine`` does.
    """
    chosen = np.full((1, layers[0].resamplings), root, np.int64)
    times = []
    for level, pairs in enumerate(layers):
        fixed = None if counts is None else counts[level].numpy()

        def own(upper: int, pairs: ResampledPairs = pairs, fixed: np.ndarray | None = fixed) -> np.ndarray:
            return (
                pairs.counts(upper, root)
                if fixed is None
                else np.repeat(fixed[upper][:, None], pairs.resamplings, axis=1)
            )

        chosen = _choose(*_scores(chosen, pairs, own), top, positive_only)
        times.append(np.bincount(chosen[chosen >= 0], minlength=pairs.n_lower))
    return times


def _scores(
    uppers: Int[np.ndarray, "top B"], pairs: ResampledPairs, own: Callable[[int], np.ndarray]
) -> tuple[Float[np.ndarray, "K_lower B"], Bool[np.ndarray, "K_lower B"]]:
    """Eq. 16 for every lower word, and which may be chosen; ``uppers`` by rank, -1: none."""
    score = np.zeros((pairs.n_lower, pairs.resamplings))
    eligible = np.zeros(score.shape, bool)
    counts = {upper: own(upper) for upper in np.unique(uppers[uppers >= 0]).tolist()}
    for rank in uppers:  # in order of rank, as ``mine`` adds
        for upper in np.unique(rank[rank >= 0]).tolist():
            at = rank == upper
            count, (values, defined) = counts[upper][:, at], pairs.log_ratios(upper)
            present = (count > 0) & defined[:, at]
            with np.errstate(invalid="ignore"):  # zero times minus infinity, which is not taken
                score[:, at] += np.where(present, count * values[:, at], 0.0)
            eligible[:, at] |= present
    return score, eligible


def _choose(
    score: Float[np.ndarray, "K_lower B"], eligible: Bool[np.ndarray, "K_lower B"], top: int, positive_only: bool
) -> Int[np.ndarray, "top B"]:
    """The best lower words of every resampling by rank, ties to the lower number; -1 where there is none."""
    if positive_only:
        eligible = eligible & (score > 0)
    order = np.argsort(-score, axis=0, kind="stable")
    kept = np.take_along_axis(eligible, order, axis=0)
    rank = np.cumsum(kept, axis=0) - 1
    place, resampling = np.nonzero(kept & (rank < top))
    chosen = np.full((top, score.shape[1]), -1, np.int64)
    chosen[rank[place, resampling], resampling] = order[place, resampling]
    return chosen
