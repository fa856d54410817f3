"""Which visual words lie where patterns sit, and whether linked patterns carry linked words.

A word map is of a whole image, a pattern's place on an object in it: both are in shares of the image's sides here. A
place has the word of the position whose receptive field has the nearest middle. How often a word lies at a pattern says
nothing without how much of the same objects it covers (``area_shares``): what any place on them would have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.explanatory.responses import PositionGrid
from gmm_ops.records import Record, Sums


def nearest_grid(grid: PositionGrid, others: Sequence[PositionGrid]) -> int:
    """Which of some layers, lowest first, has the stride that is nearest by its ratio; of equals the uppermost.

    Raises RefusedInput without a layer to choose from.
    """
    if not others:
        raise RefusedInput("others: must be at least 1 layer, got none; give the layers that have words")

    def away(other: PositionGrid) -> float:
        pairs = zip(grid.stride, other.stride, strict=True)
        return round(sum(abs(math.log(one / two)) for one, two in pairs), 9)

    return min(range(len(others)), key=lambda place: (away(others[place]), -place))


def words_at(maps: Int[Tensor, "n H W"], grid: PositionGrid, places: Float[Tensor, "n V 2"]) -> Int[Tensor, "n V"]:
    """The word at each place; -1 outside the image, without a place (NaN), and where the map has none.

    Args:
        maps: words of n images, -1 for none.
        grid: of the map's positions on the image.
        places: row and column in shares of the image's sides.

    Raises:
        RefusedInput: shapes that do not fit.
    """
    _check(maps, grid, places, 2)
    sides = torch.tensor([grid.height, grid.width])
    inside = ((places >= 0) & (places <= 1)).all(dim=2)
    first, stride = (torch.tensor(one, dtype=torch.float64) for one in (grid.first, grid.stride))
    cells = ((places.double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) - first) / stride + 0.5).floor().long()
    cells = torch.minimum(cells.clamp(min=0), sides - 1)
    found = maps.flatten(1).long().gather(1, cells[..., 0] * grid.width + cells[..., 1])
    return torch.where(inside, found, -1)


def area_shares(
    maps: Int[Tensor, "n H W"], grid: PositionGrid, boxes: Float[Tensor, "n 4"], n_words: int
) -> Float[Tensor, "n K"]:
    """How likely each word is at a place drawn evenly from a box, float64; all 0 where the box shows no word.

    The share of the box that lies nearest to positions with the word, of what lies inside the image and has a word.

    Args:
        maps, grid: see ``words_at``.
        boxes: top, left, bottom, right in shares of the image's sides; NaN: no box.
        n_words: K.

    Raises:
        RefusedInput: shapes that do not fit, or a word beyond K.
    """
    _check(maps, grid, boxes[:, None], 4)
    if int(maps.max()) >= n_words:
        raise RefusedInput(f"maps: must hold words below {n_words}, got {int(maps.max())}; give their dictionary's K")
    exact = boxes.double().nan_to_num(nan=0.0).clamp(0, 1)
    lengths = []
    for axis, count in enumerate((grid.height, grid.width)):
        edges = grid.first[axis] + grid.stride[axis] * (torch.arange(1, count, dtype=torch.float64) - 0.5)
        edges = torch.cat([torch.zeros(1), edges.clamp(0, 1), torch.ones(1)]).double()
        low, high = exact[:, axis, None], exact[:, axis + 2, None]
        lengths.append((torch.minimum(edges[1:], high) - torch.maximum(edges[:-1], low)).clamp(min=0))
    weights = torch.where(maps >= 0, lengths[0][:, :, None] * lengths[1][:, None], 0.0).flatten(1)
    found = torch.zeros(len(maps), n_words, dtype=torch.float64)
    found.scatter_add_(1, maps.flatten(1).long().clamp(min=0), weights)
    return found / found.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def _check(maps: Tensor, grid: PositionGrid, places: Tensor, numbers: int) -> None:
    if maps.ndim != 3 or tuple(maps.shape[1:]) != (grid.height, grid.width):
        raise RefusedInput(
            f"maps: must have shape (n, {grid.height}, {grid.width}), got {tuple(maps.shape)}; give its grid"
        )
    if places.ndim != 3 or len(places) != len(maps) or places.shape[2] != numbers:
        raise RefusedInput(
            f"places: must be of the {len(maps)} images of the maps and have {numbers} numbers each, got shape "
            f"{tuple(places.shape)}; give a row an image"
        )


@dataclass(frozen=True)
class WordTally(Sums):
    """How often each word lies at each pattern, by group of images, and how often it would anywhere on these objects.

    Attributes:
        counts: (G, V, K) objects, int64.
        chance: (G, V, K) sum over the same objects of ``area_shares``, float64.
    """

    counts: Int[Tensor, "G V K"]
    chance: Float[Tensor, "G V K"]

    @classmethod
    def zero(cls, groups: int, patterns: int, n_words: int) -> WordTally:
        """Of no object."""
        shape = groups, patterns, n_words
        return cls(torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.float64))

    @classmethod
    def from_batch(
        cls, words: Int[Tensor, "n V"], shares: Float[Tensor, "n K"], groups: Int[Tensor, " n"], n_groups: int
    ) -> WordTally:
        """Of some objects.

        Args:
            words: at the patterns, -1: none.
            shares: see ``area_shares``; a word at an object without shares is not counted.
            groups: of each object.
            n_groups: G.
        """
        patterns, n_words = words.shape[1], shares.shape[1]
        known = (words >= 0) & (shares.sum(dim=1) > 0)[:, None]
        cells = (groups[:, None] * patterns + torch.arange(patterns)) * n_words + words
        counts = torch.bincount(cells[known], minlength=n_groups * patterns * n_words)
        chance = [known[groups == group].double().T @ shares[groups == group] for group in range(n_groups)]
        return cls(counts.reshape(n_groups, patterns, n_words), torch.stack(chance))

    def left_out(self) -> WordTally:
        """(G + 1, V, K): of all objects, then without each group in turn."""
        return WordTally(
            *(torch.cat([one.sum(0, keepdim=True), one.sum(0) - one]) for one in (self.counts, self.chance))
        )


def smoothed_ratios(
    counts: Float[Tensor, "*shape K"] | Int[Tensor, "*shape K"],
    prior: Float[Tensor, "*shape K"],
    pseudo_count: float = 1.0,
    base: float = 2,
) -> Float[Tensor, "*shape K"]:
    """log (n_w + m P_w) / (n + m) / P_w, as ``log_ratios`` has it; NaN where P is 0.

    Args:
        counts: n_w, whose sum is n.
        prior: P_w.
        pseudo_count: m; 0: the plain ratio.
        base: of the logarithm.
    """
    whole = counts.sum(dim=-1, keepdim=True).double() + pseudo_count
    ratio = (counts.double() + pseudo_count * prior) / whole / prior
    return torch.where(prior > 0, torch.log(ratio) / math.log(base), torch.nan)


@dataclass(frozen=True)
class TopWords(Record):
    """The most frequent word at each pattern; row 0 of all objects, row 1 + g without group g.

    Attributes:
        words: (G + 1, V) int64, of equals the lowest; -1: no object has one.
        objects: (G + 1, V) that have one.
        shares: (G + 1, V) of these objects that have this one; NaN without any.
        ratios: (G + 1, V) smoothed log ratio of that to its chance on the same objects; NaN without any.
    """

    words: Int[Tensor, "R V"]
    objects: Int[Tensor, "R V"]
    shares: Float[Tensor, "R V"]
    ratios: Float[Tensor, "R V"]

    @classmethod
    def of(cls, left_out: WordTally, pseudo_count: float = 1.0, base: float = 2) -> TopWords:
        """From ``WordTally.left_out``; other arguments: see ``smoothed_ratios``."""
        counts, objects = left_out.counts, left_out.counts.sum(dim=2)
        best = torch.from_numpy(counts.numpy().argmax(axis=2))  # the first of equals, which torch does not promise
        ratios = smoothed_ratios(counts, left_out.chance / objects[..., None], pseudo_count, base)
        own = counts.gather(2, best[..., None])[..., 0] / objects
        ratios = ratios.gather(2, best[..., None])[..., 0]
        return cls(torch.where(objects > 0, best, -1), objects, own, torch.where(objects > 0, ratios, torch.nan))


def pair_means(
    lower: Int[Tensor, "R V_lower"],
    upper: Int[Tensor, "R V_upper"],
    pairs: Int[Tensor, "E 2"],
    values: Float[Tensor, "K_upper K_lower"],
) -> Float[Tensor, " R"]:
    """Mean over pairs of patterns (lower, upper) of the value of their words, a number a row of ``TopWords.words``.

    Pairs without a word on either side, or whose words have no value (NaN), take no part; NaN where all are so.
    """
    low, high = lower[:, pairs[:, 0]], upper[:, pairs[:, 1]]
    found = values.double()[high.clamp(min=0), low.clamp(min=0)]
    mean: Tensor = torch.where((low >= 0) & (high >= 0), found, torch.nan).nanmean(dim=1)
    return mean


CONTROLS = ("shuffled", "near", "random")
"""Of pairs of patterns, see ``control_pairs``."""

_DRAWN = 50


def control_pairs(
    pairs: Int[np.ndarray, "E 2"],
    means: tuple[Float[np.ndarray, "V_lower 2"], Float[np.ndarray, "V_upper 2"]],
    known: tuple[Bool[np.ndarray, " V_lower"], Bool[np.ndarray, " V_upper"]],
    seed: Sequence[int],
) -> dict[str, Int[np.ndarray, "E 2"]]:
    """As many pairs of patterns of the same two layers, seeded, by what they keep of the edges.

    ``shuffled``: the same patterns and parents, put together at random. ``near``: to each pattern, of 50 of the parents
    the one whose mean place is as far from its own as its parent's is. ``random``: any pattern with any.

    Args:
        pairs: pattern and parent.
        means: mean places of all patterns of the layers.
        known: which of them may be drawn.
        seed: of the draws.
    """
    generator = np.random.default_rng(list(seed))
    child, parent = pairs.T
    found = {"shuffled": np.stack([child, generator.permutation(parent)], axis=1)}
    drawn = generator.choice(np.unique(parent), (len(pairs), _DRAWN)) if len(pairs) else np.zeros((0, _DRAWN), np.int64)
    wanted = np.linalg.norm(means[0][child] - means[1][parent], axis=1)
    away = np.abs(np.linalg.norm(means[0][child][:, None] - means[1][drawn], axis=2) - wanted[:, None])
    chosen = np.where(drawn == parent[:, None], np.inf, away).argmin(axis=1)
    found["near"] = np.stack([child, drawn[np.arange(len(pairs)), chosen]], axis=1)
    pools = [np.flatnonzero(one) for one in known]
    ends = [generator.choice(pool, len(pairs)) if len(pairs) else np.zeros(0, np.int64) for pool in pools]
    found["random"] = np.stack(ends, axis=1)
    return found
