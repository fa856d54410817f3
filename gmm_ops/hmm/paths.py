"""The most probable path of words, and by how much every other word of a layer lost (IG Eq. 17)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.hmm.chain import Chain, refuse_no_number, refuse_other_log_likelihoods
from gmm_ops.hmm.max_product import best_paths, max_product


@dataclass(frozen=True)
class Paths:
    """The MAP path of each sequence.

    word: (n, L) int64, lowest layer first; ties go to the lowest word, decided from the last layer down. An
    impossible sequence has word 0 everywhere and -inf. log_joint: (n,) float64, log P(path, x^1 ... x^L), natural.
    """

    word: Int[Tensor, "n L"]
    log_joint: Float[Tensor, " n"]


@dataclass(frozen=True)
class RunnersUp:
    """At each layer, the best word that is not on the path, the other layers free to follow it.

    word: (n, L) int64, ties to the lowest; -1 where no other word is possible (an observed variable, K = 1).
    log_odds: (n, L) float64, 0 or more, natural: by how much the best path through it is less probable; +inf with -1.
    """

    word: Int[Tensor, "n L"]
    log_odds: Float[Tensor, "n L"]


@torch.no_grad()
def most_probable_paths(chain: Chain, log_likelihoods: Sequence[Float[Tensor, "n K"]]) -> Paths:
    """argmax over paths of P(h^1 ... h^L | x^1 ... x^L) by Viterbi, in float64 (IG Eq. 17).

    Raises RefusedInput (another number of layers or words), NonFiniteActivations (NaN or +inf).
    """
    refuse_other_log_likelihoods(chain, log_likelihoods)
    chain = chain.to(log_likelihoods[0].device)
    first, tables = chain.logarithms()
    if chain.initial.device.type == "cpu":
        readable = [v if v.dtype == torch.float32 else v.double() for v in log_likelihoods]
        return Paths(*best_paths(first, tables, readable))
    deltas = _best_below(first, tables, log_likelihoods)
    word, log_joint = _first_best(deltas[-1])
    words = [word]
    for table, delta in zip(reversed(tables), reversed(deltas[:-1]), strict=True):
        # The same sums as in the step up, so the best of them is the value that the step kept.
        words.append(_first_best(table[words[-1]] + delta)[0])
    return Paths(torch.stack(words[::-1], dim=1), log_joint)


@torch.no_grad()
def max_marginals(chain: Chain, log_likelihoods: Sequence[Float[Tensor, "n K"]]) -> tuple[Float[Tensor, "n K"], ...]:
    """Per layer (n, K) float64: log joint of the best path through each word, natural logarithm.

    A difference of two words is the log-odds of the one over the other. Raises as `most_probable_paths`.
    """
    refuse_other_log_likelihoods(chain, log_likelihoods)
    chain = chain.to(log_likelihoods[0].device)
    first, tables = chain.logarithms()
    below = _best_below(first, tables, log_likelihoods)
    above = torch.zeros_like(below[-1])
    found = [below[-1]]
    for index in range(len(tables) - 1, -1, -1):
        above = max_product(above + log_likelihoods[index + 1], tables[index].T, None)
        found.append(below[index] + above)
    return tuple(reversed(found))


def runners_up(paths: Paths, marginals: Sequence[Float[Tensor, "n K"]]) -> RunnersUp:
    """The second choice at every layer. marginals: from `max_marginals` of the same sequences."""
    words, odds = [], []
    for chosen, values in zip(paths.word.T, marginals, strict=True):
        own = values.gather(1, chosen[:, None])[:, 0]
        others = values.scatter(1, chosen[:, None], -torch.inf)
        word, best = _first_best(others)
        impossible = best == -torch.inf
        words.append(torch.where(impossible, -1, word))
        # Two sums of the same numbers in another order may differ in the last digit the wrong way round.
        odds.append(torch.where(impossible, torch.inf, (own - best).clamp(min=0.0)))
    return RunnersUp(torch.stack(words, dim=1), torch.stack(odds, dim=1))


def _best_below(first: Tensor, tables: list[Tensor], log_likelihoods: Sequence[Tensor]) -> list[Tensor]:
    """Per layer (n, K): log joint of the best path that ends in the word, with all layers up to it."""
    for index, values in enumerate(log_likelihoods):
        refuse_no_number(index, values)
    deltas = [first + log_likelihoods[0].double()]
    for table, values in zip(tables, log_likelihoods[1:], strict=True):
        deltas.append(max_product(deltas[-1], table, values))
    return deltas


def _first_best(values: Float[Tensor, "n K"]) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """(lowest word of the largest value, that value) per row."""
    word = values.argmax(dim=1)
    return word, values.gather(1, word[:, None])[:, 0]
