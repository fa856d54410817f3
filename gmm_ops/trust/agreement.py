"""Do runs agree: how far the words of their dictionaries, and the columns that their graphs cover, are the same.

Ours: the papers fit one dictionary. Runs are fits with other seeds, epochs or networks, seen on the same images. Words
overlap by the columns that they share (intersection over union). A graph covers the columns of its words; a node of one
run is found again in another where more than half of its columns are covered there, by whatever words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gmm_ops.axes import WordMaps
from gmm_ops.errors import RefusedInput
from gmm_ops.records import Sums, joined

HALF = 0.5
"""Above it a word is the same as its match, and the columns of a node are covered."""


def nearest_maps(maps: WordMaps, height: int, width: int) -> WordMaps:
    """Word maps at the nearest positions of another size; a finer grid repeats words, a coarser one leaves some out."""
    rows, columns = (
        (2 * torch.arange(new) + 1) * old // (2 * new) for new, old in zip((height, width), maps.shape[1:], strict=True)
    )
    return maps[:, rows[:, None], columns[None, :]]


def shared_columns(first: WordMaps, second: WordMaps, n_first: int, n_second: int) -> Int[Tensor, "K K_other"]:
    """How many columns are word k of one run and word k' of the other, int64; words below 0 take no part."""
    known = (first >= 0) & (second >= 0)
    cells = first[known].long() * n_second + second[known].long()
    return torch.bincount(cells, minlength=n_first * n_second).view(n_first, n_second)


def word_overlaps(both: Int[Tensor, "K K_other"]) -> Float[Tensor, "K K_other"]:
    """Intersection over union of every two words, float64, from the columns that they share; 0 of absent words."""
    union = both.sum(dim=1)[:, None] + both.sum(dim=0)[None, :] - both
    return both.double() / union.clamp(min=1)


@dataclass(frozen=True)
class GraphChoices:
    """The words of the graphs of M classes in one layer, and as many words drawn at random, of R runs.

    Attributes:
        chosen: (M, R, 1 + draws, Z) the graph's words, then those of every draw; -1 where a graph has fewer.
        sizes: (R,) K of every dictionary.
    """

    chosen: Int[Tensor, "M R draws_and_one Z"]
    sizes: tuple[int, ...]

    def covers(self, group: int, words: Sequence[WordMaps]) -> Bool[Tensor, "draws_and_one N R n"]:
        """Which columns of images of a class are words of its graph, or of a draw. words: of every run."""
        found = []
        for own, maps, size in zip(self.chosen[group], words, self.sizes, strict=True):
            table = torch.zeros(len(own), size + 1, dtype=torch.bool)
            table.scatter_(1, torch.where(own < 0, size, own), True)
            table[:, size] = False
            flat = maps.flatten(1)
            found.append(table[:, torch.where(flat < 0, size, flat).long()])
        return torch.stack(found, dim=2)


@dataclass(frozen=True)
class LayerOverlaps(Sums):
    """What R runs share in one layer: sums over images, and of ``covered`` a row an image, in the order they came.

    Columns are counted on one grid for all runs, see ``nearest_maps``. Pairs are (0, 1), (0, 2), ..., (1, 2), ...

    Attributes:
        words: of every pair of runs, (K, K') columns that are word k in the first and k' in the second.
        shuffled: the same with the second's columns shuffled within each image: chance.
        covered: (n, R, R) columns that two runs' graphs of the image's class both cover; on the diagonal, one.
        drawn: (M, draws, R, R) the same of as many words drawn at random, summed over the images of each class.
        columns: (M, R, Z) columns of each node, on the images of its class.
        again: (M, R, Z, R) of them those that the graph of each run covers.
        product: (M, R, Z, R) columns of the node times columns that the graph of a run covers, image by image: over the
            positions of an image these are the columns expected by chance.
    """

    words: tuple[Int[Tensor, "K K_other"], ...]
    shuffled: tuple[Int[Tensor, "K K_other"], ...]
    covered: Annotated[Int[Tensor, "n R R"], joined]
    drawn: Int[Tensor, "M draws R R"]
    columns: Int[Tensor, "M R Z"]
    again: Int[Tensor, "M R Z R"]
    product: Int[Tensor, "M R Z R"]

    @classmethod
    def zero(cls, choices: GraphChoices) -> Self:
        """Of no image."""
        classes, runs, rows, top = choices.chosen.shape
        words, shuffled = (
            tuple(torch.zeros(*sizes, dtype=torch.int64) for sizes in combinations(choices.sizes, 2)) for _ in range(2)
        )
        nodes = classes, runs, top
        shapes = [(0, runs, runs), (classes, rows - 1, runs, runs), nodes, (*nodes, runs), (*nodes, runs)]
        return cls(words, shuffled, *(torch.zeros(shape, dtype=torch.int64) for shape in shapes))

    @classmethod
    def from_batch(
        cls,
        words: Sequence[WordMaps],
        groups: Int[Tensor, " N"],
        choices: GraphChoices,
        keys: Float[Tensor, "N n"],
    ) -> Self:
        """Of some images.

        Args:
            words: (N, H, W) of every run, on one grid; -1 takes no part.
            groups: (N,) class of every image, from 0 to M - 1; -1: one whose graph is not looked at.
            choices: the graphs.
            keys: uniform, of the shuffle of every image's n = H x W columns.

        Raises:
            RefusedInput: maps of other shapes, words or groups beyond the choices.
        """
        _check(words, groups, choices)
        order = keys.argsort(dim=1)
        found = cls.zero(choices)
        for place, (one, other) in enumerate(combinations(range(len(words)), 2)):
            sizes = choices.sizes[one], choices.sizes[other]
            found.words[place].add_(shared_columns(words[one], words[other], *sizes))
            shuffled = words[other].flatten(1).gather(1, order).view_as(words[other])
            found.shuffled[place].add_(shared_columns(words[one], shuffled, *sizes))
        covered = torch.zeros(len(groups), len(words), len(words), dtype=torch.int64)
        for group in groups[groups >= 0].unique().tolist():
            rows = groups == group
            own = [maps[rows] for maps in words]
            covers = choices.covers(group, own).float()
            shared = (covers @ covers.transpose(2, 3)).long()
            covered[rows] = shared[0]
            found.drawn[group].add_(shared[1:].sum(dim=1))
            found._add_nodes(group, own, choices, covers[0])
        return cls(found.words, found.shuffled, covered, found.drawn, found.columns, found.again, found.product)

    def _add_nodes(
        self, group: int, words: Sequence[WordMaps], choices: GraphChoices, covers: Float[Tensor, "N R n"]
    ) -> None:
        sizes = covers.sum(dim=2)
        for run, maps in enumerate(words):
            nodes = choices.chosen[group, run, 0]
            own = (maps.flatten(1)[:, None] == torch.where(nodes < 0, -2, nodes)[None, :, None]).float()
            columns = own.sum(dim=2)
            self.columns[group, run].add_(columns.sum(dim=0).long())
            self.again[group, run].add_((own @ covers.transpose(1, 2)).sum(dim=0).long())
            self.product[group, run].add_((columns.T.double() @ sizes.double()).long())


def _check(words: Sequence[WordMaps], groups: Int[Tensor, " N"], choices: GraphChoices) -> None:
    classes, runs = choices.chosen.shape[:2]
    shapes = {(len(groups), *maps.shape[1:]) for maps in words} | {tuple(maps.shape) for maps in words}
    if len(words) != runs or len(shapes) != 1:
        raise RefusedInput(
            f"words: must be maps of {runs} runs on one grid, a group for each image, got {len(words)} with shapes "
            f"{sorted(shapes)}; read them of the same images with nearest_maps"
        )
    beyond = [run for run, (maps, size) in enumerate(zip(words, choices.sizes, strict=True)) if (maps >= size).any()]
    if beyond or (groups >= classes).any():
        raise RefusedInput(
            f"words, groups: must be below {choices.sizes} and {classes}, got more in "
            f"{'the groups' if not beyond else f'the words of run {beyond[0]}'}; give the choices of these runs"
        )


def covered_ratios(
    covered: Int[Tensor, "n R R"], first: int, second: int, positions: int
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2"]]:
    """Intersections and unions of the columns that two runs' graphs cover in every image: as they are, and by chance.

    By chance: as many columns, a and b, anywhere in the image, of which a b / n are the same. Their sums over images,
    divided, are the two values of IoU; see ``gmm_ops.trust.paired_bootstrap.bootstrap_ratios``.
    """
    shared = covered.double()
    one, other = shared[:, first, first], shared[:, second, second]
    both = torch.stack([shared[:, first, second], one * other / positions], dim=1)
    return both, (one + other)[:, None] - both


def drawn_overlap(drawn: Int[Tensor, "draws R R"], first: int, second: int) -> float:
    """Mean IoU over the draws of words at random; NaN where no draw covers a column."""
    shared = drawn.double()
    both = shared[:, first, second]
    return float((both / (shared[:, first, first] + shared[:, second, second] - both)).nanmean())


def covered_shares(again: Int[Tensor, "*nodes R"], columns: Int[Tensor, "*nodes"]) -> Float[Tensor, "*nodes R"]:
    """Share of the columns of each node that the graph of each run covers; NaN where the node has no column."""
    return torch.where(columns[..., None] > 0, again.double() / columns[..., None].clamp(min=1), torch.nan)


def consensus_shares(covered: Float[Tensor, "M R Z R"]) -> Float[Tensor, "M R Z"]:
    """Share of the other runs in which more than half of a node's columns are covered; NaN without a column.

    covered: of ``covered_shares``. The node's own run, which covers all of them, does not count. Nodes of at least one
    half are the stable core.
    """
    runs = covered.shape[1]
    others = ~torch.eye(runs, dtype=torch.bool)[None, :, None, :].expand_as(covered)
    found = ((covered > HALF) & others).sum(dim=3).double() / max(runs - 1, 1)
    return torch.where(covered.isnan().all(dim=3), torch.nan, found)
