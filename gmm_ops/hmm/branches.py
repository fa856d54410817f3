"""Branches of paths: which steps from a lower word to an upper one a class takes, and where a path leaves them.

IG Sec. 4.1 looks at decision junctions one image at a time; here they explain errors in numbers. A path has one level
per layer of words and one more, the last, whose word is the prediction. Level l holds the branch from the word below
to the word at l; at level 1 every path comes from the same place, the start. A branch is a class's own if enough of
the class's correctly classified images take it; a path leaves its class at the first branch that is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gmm_ops.errors import RefusedInput
from gmm_ops.graphs.cooccurrence import SparseCounts
from gmm_ops.hmm.chain import Chain, refuse_no_number
from gmm_ops.hmm.max_product import max_product
from gmm_ops.records import Sums, same

NONE = -1
"""Stands for a word that there is not: below the start, or expected where no image of the class came by."""


@dataclass(frozen=True)
class BranchCounts(Sums):
    """How many counted images of each class take each branch: the cells that are not zero. Merges exactly.

    n_classes: M. n_states: words at each level, lowest first; the last level is the prediction. levels: per level the
    table of its branches; group is the class, upper the word at the level, lower the word below, where the start is
    the one lower word 0 of level 1.
    """

    n_classes: Annotated[int, same]
    n_states: Annotated[tuple[int, ...], same]
    levels: tuple[SparseCounts, ...]

    @classmethod
    def zero(cls, n_classes: int, n_states: Sequence[int]) -> BranchCounts:
        """No image: what ``merge`` leaves unchanged."""
        return cls(n_classes, tuple(n_states), tuple(SparseCounts.zero() for _ in n_states))

    @classmethod
    def from_batch(
        cls, words: Int[Tensor, "n L"], label: Int[Tensor, " n"], n_classes: int, n_states: Sequence[int]
    ) -> BranchCounts:
        """Count every given path once. words: one column per level, the prediction last. label: (n,) class.

        Raises RefusedInput for a word or a class that does not exist.
        """
        _refuse_other_words(words, label, n_classes, tuple(n_states))
        classes, places = label.cpu().long(), words.cpu().long()
        below = [torch.zeros_like(classes), *places.T[:-1]]
        pairs = zip(places.T, below, strict=True)
        levels = tuple(SparseCounts.from_rows(classes, upper, lower, torch.ones_like(lower)) for upper, lower in pairs)
        return cls(n_classes, tuple(n_states), levels)

    def total(self, level: int) -> Int[Tensor, "K_upper K_lower"]:
        """Images of all classes that take each branch of a level (from 1), dense int64."""
        lower, upper = self._sizes(level)
        return self.levels[level - 1].total(upper, lower)

    def along(self, words: Int[Tensor, "n L"], label: Int[Tensor, " n"]) -> Int[Tensor, "n L"]:
        """How many counted images of ``label[i]`` take each branch of path i."""
        _refuse_other_words(words, label, self.n_classes, self.n_states)
        classes, places = label.cpu().numpy().astype(np.int64), words.cpu().numpy().astype(np.int64).T
        below = [np.zeros_like(classes), *places[:-1]]
        tables = zip(self.levels, places, below, strict=True)
        return torch.from_numpy(np.stack([table.count_of(classes, *pair) for table, *pair in tables], axis=1))

    def at_junction(self, level: int, label: Int[Tensor, " n"], lower: Int[Tensor, " n"]) -> Int[Tensor, "n K_upper"]:
        """How many counted images of ``label[i]`` go from ``lower[i]`` to each word of a level (from 1).

        lower: ignored at level 1, which has one junction, the start.
        """
        _, upper = self._sizes(level)
        classes = label.cpu().numpy().astype(np.int64)
        came = np.zeros_like(classes) if level == 1 else lower.cpu().numpy().astype(np.int64)
        wanted = (classes.repeat(upper), np.tile(np.arange(upper), len(classes)), came.repeat(upper))
        return torch.from_numpy(self.levels[level - 1].count_of(*wanted).reshape(-1, upper))

    def _sizes(self, level: int) -> tuple[int, int]:
        """(K_lower, K_upper) of a level, from 1."""
        return (1 if level == 1 else self.n_states[level - 2]), self.n_states[level - 1]


@dataclass(frozen=True)
class Departures:
    """Where paths leave the paths of their class, (n,) each.

    level: int64 from 1, of the first branch that is not the class's own; 0 where the path never leaves, and then all
    words are NONE. lower: int64, the junction: the word below that branch, NONE
    at the start. taken: int64, the word that the path takes there. expected: int64, the best of the class's own words
    from that junction, NONE where the class has none. log_odds: float64, natural, of the taken over the expected word
    with the path below fixed; NaN where nothing is expected or the model does not cover the level.
    """

    level: Int[Tensor, " n"]
    lower: Int[Tensor, " n"]
    taken: Int[Tensor, " n"]
    expected: Int[Tensor, " n"]
    log_odds: Float[Tensor, " n"]


def departure_levels(
    counts: BranchCounts,
    words: Int[Tensor, "n L"],
    label: Int[Tensor, " n"],
    min_images: int = 1,
    counted: Bool[Tensor, " n"] | None = None,
) -> Int[Tensor, " n"]:
    """First level (from 1) at which a path takes a branch that fewer than ``min_images`` images of its class take.

    0 where it never does. words: (n, L), one column per level, the prediction last. label: (n,) true classes.
    counted: (n,) images that ``counts`` holds themselves; they are left out of their own judgement. Raises
    RefusedInput.
    """
    if min_images < 1:
        raise RefusedInput(f"min_images must be at least 1, got {min_images}; 1 takes every branch there is")
    images = counts.along(words, label)
    if counted is not None:
        images = images - counted.to(images)[:, None]
    strange = images < min_images
    return torch.where(strange.any(dim=1), strange.int().argmax(dim=1) + 1, 0)


@torch.no_grad()
def departures(
    chain: Chain,
    log_likelihoods: Sequence[Float[Tensor, "n K"]],
    words: Int[Tensor, "n L"],
    label: Int[Tensor, " n"],
    counts: BranchCounts,
    min_images: int = 1,
    counted: Bool[Tensor, " n"] | None = None,
) -> Departures:
    """Where each path leaves its class, what the class would have done there, and the log-odds between the two.

    log_likelihoods: per layer of words (n, K), without the prediction: a branch is judged by what the layers show, not
    by the prediction it led to, so log-odds below the last level may be negative. chain: with or without the
    prediction as its last variable. The rest as `departure_levels`. Raises RefusedInput, NonFiniteActivations.
    """
    level = departure_levels(counts, words, label, min_images, counted)
    above = _best_from(chain, log_likelihoods)
    none = torch.full_like(level, NONE)
    found = Departures(level, none, none.clone(), none.clone(), torch.full(level.shape, torch.nan, dtype=torch.float64))
    for at in level.unique().tolist():
        if not at:
            continue
        rows = (level == at).nonzero()[:, 0]
        taken = words[rows, at - 1].cpu().long()
        lower = words[rows, at - 2].cpu().long() if at > 1 else none[rows]
        own = counts.at_junction(at, label[rows], lower) >= min_images
        # The taken branch is not the class's own, whatever an image that left itself out was counted as.
        own.scatter_(1, taken[:, None], False)
        found.lower[rows], found.taken[rows] = lower, taken
        scores = _scores(chain, above, at, rows, lower)
        found.expected[rows], found.log_odds[rows] = _against_own(scores, own, taken)
    return found


def branch_scores(
    chain: Chain, log_likelihoods: Sequence[Float[Tensor, "n K"]], level: int, lower: Int[Tensor, " n"]
) -> Float[Tensor, "n K_upper"]:
    """log of: from the word below to each word of a level (from 1), that word's layer, and the best path above it.

    float64, natural: log T[k, k'] + log b(k) + best above, exact by max-product; what lies below is the same for every
    k. log_likelihoods, chain: as in `departures`; a prediction that is not among them is not observed and adds log T
    alone. lower: (n,), ignored at level 1. Raises RefusedInput, NonFiniteActivations.
    """
    above = _best_from(chain, log_likelihoods)
    if not 1 <= level <= len(above):
        raise RefusedInput(f"level must lie in 1 ... {len(above)}, the variables of the chain; got {level}")
    scores = _scores(chain, above, level, torch.arange(len(lower)), lower)
    assert scores is not None
    return scores


def _best_from(chain: Chain, log_likelihoods: Sequence[Tensor]) -> list[Tensor]:
    """Per variable of the chain (n, K) float64: log b(k) + the best of everything above; an unseen prediction has 0."""
    states = chain.n_states
    shapes = [tuple(values.shape) for values in log_likelihoods]
    rows = shapes[0][0] if shapes else 0
    if len(states) - len(shapes) not in (0, 1) or shapes != [(rows, k) for k in states[: len(shapes)]]:
        raise RefusedInput(
            f"log_likelihoods must hold one (n, K) tensor per layer of words of the chain with words {states}, the "
            f"prediction left out; got shapes {shapes}. Are the layers in the chain's order, and of the same images?"
        )
    for index, values in enumerate(log_likelihoods):
        refuse_no_number(index, values)
    seen = [values.double() for values in log_likelihoods]
    if len(seen) < len(states):
        seen.append(seen[0].new_zeros(rows, states[-1]))
    _, tables = chain.to(seen[0].device).logarithms()
    found = [seen[-1]]
    for table, values in zip(reversed(tables), reversed(seen[:-1]), strict=True):
        found.append(max_product(found[-1], table.T, values))
    return found[::-1]


def _scores(chain: Chain, above: list[Tensor], level: int, rows: Tensor, lower: Tensor) -> Tensor | None:
    """`branch_scores` of some rows, on the CPU; None at a prediction that is no variable of the chain."""
    if level > len(above):
        return None
    first, tables = chain.to("cpu").logarithms()
    came = first if level == 1 else tables[level - 2].T[lower.cpu()]
    return came + above[level - 1][rows.to(above[0].device)].cpu()


def _against_own(scores: Tensor | None, own: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
    """(best own word, ties to the lowest, or NONE; log-odds of the taken word over it, or NaN)."""
    has_own = own.any(dim=1)
    ranked = own.double() if scores is None else scores.masked_fill(~own, -torch.inf)
    best = ranked.argmax(dim=1)
    # Where every own word is impossible all scores are -inf, and argmax would give word 0.
    best = torch.where(ranked.amax(dim=1) == -torch.inf, own.int().argmax(dim=1), best)
    odds = torch.full(taken.shape, torch.nan, dtype=torch.float64)
    if scores is not None:
        pair = [scores.gather(1, word[:, None])[:, 0] for word in (taken, best)]
        odds = torch.where(has_own, pair[0] - pair[1], torch.nan)
    return torch.where(has_own, best, NONE), odds


def _refuse_other_words(words: Tensor, label: Tensor, n_classes: int, n_states: tuple[int, ...]) -> None:
    if words.ndim != 2 or words.shape[1] != len(n_states) or label.shape != words.shape[:1]:
        raise RefusedInput(
            f"words must have shape (n, {len(n_states)}), a column per level with the prediction last, and label (n,); "
            f"got {tuple(words.shape)} and {tuple(label.shape)}"
        )
    limits = torch.tensor(n_states, device=words.device)
    if bool(((words < 0) | (words >= limits)).any()):
        row, level = ((words < 0) | (words >= limits)).nonzero()[0].tolist()
        raise RefusedInput(
            f"words must lie in 0 ... K - 1 with K = {n_states}; row {row} has {int(words[row, level])} at level "
            f"{level + 1}. Leave images without a path (word -1) out."
        )
    if bool(((label < 0) | (label >= n_classes)).any()):
        row = int(((label < 0) | (label >= n_classes)).nonzero()[0])
        raise RefusedInput(f"label must lie in 0 ... {n_classes - 1}; row {row} is {int(label[row])}")
