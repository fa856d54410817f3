"""Log ratios of word pairs, and Algorithm 1: the words that best explain a class, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gmm_ops.axes import PairCounts
from gmm_ops.errors import RefusedInput
from gmm_ops.inputs import as_count, as_tensor
from gmm_ops.records import Record


@dataclass(frozen=True)
class LogRatios(Record):
    """LR[s, t] = log P(t|s) / P(t) of one pair of layers, in the base that ``log_ratios`` was given.

    ``values`` (K, K_lower) float64, NaN where not defined: a word that the counts never saw has no edges
    (``defined`` False). A pair that was never seen, of two words that were, is finite and negative with
    smoothing and minus infinity without.
    Source: IG Eq. 14 and 16, from the probabilities of Eq. 5 and 6.
    """

    values: Float[Tensor, "K K_lower"]
    defined: Bool[Tensor, "K K_lower"]


def log_ratios(
    total: PairCounts,
    prior: Literal["marginal", "frequency"] = "marginal",
    lower_frequency: Tensor | None = None,
    pseudo_count: float = 1.0,
    base: float = 2,
) -> LogRatios:
    """The log ratios of the counts N over all validation images, (K, K_lower) int64.

    P(t|s) = (N[s, t] + m P(t)) / (N[s, :].sum() + m) with m = ``pseudo_count``; m = 0 is the paper's Eq. 6.
    ``prior="marginal"``: P(t) = N[:, t].sum() / N.sum(). ``prior="frequency"``: P(t) is proportional to
    ``lower_frequency`` (K_lower,), the columns that carry each lower word. ``base`` of the logarithms: 2 for bits.
    Raises ``RefusedInput`` for counts that are not int64 or negative, a negative or infinite m, a base of 1 or less, a
    missing or superfluous ``lower_frequency``, or one that is zero for a word that was counted.
    """
    total = as_tensor("total", total)
    _require_counts("total", total)
    lower_frequency = None if lower_frequency is None else as_tensor("lower_frequency", lower_frequency)
    if not 0.0 <= pseudo_count < float("inf"):
        raise RefusedInput(f"pseudo_count: must be a number from 0 up, got {pseudo_count}; use 1, or 0 as the paper")
    if not 1.0 < base < float("inf"):
        raise RefusedInput(f"base: must be a number above 1, got {base}; use 2 for bits, math.e for nats")
    weight = prior_weight(total, prior, lower_frequency)
    lower_prior = weight / weight.sum().clamp(min=1e-300)
    seen_upper, seen_lower = total.sum(1) > 0, weight > 0
    defined = seen_upper[:, None] & seen_lower[None, :]
    values = log_of_ratios(total, total.sum(1, keepdim=True), lower_prior, float(pseudo_count), float(base))
    values[~defined] = torch.nan
    return LogRatios(values=values, defined=defined)


def log_of_ratios(
    pairs: Tensor, of_upper: Tensor, lower_prior: Tensor, pseudo_count: float, base: float
) -> Float[Tensor, "..."]:
    """log P(t|s) / P(t) from counts N[s, t], N[s, :] and P(t) of shapes that fit together; see ``log_ratios``."""
    smoothed = pairs.to(torch.float64) + pseudo_count * lower_prior
    ratios = smoothed / (of_upper.to(torch.float64) + pseudo_count) / lower_prior
    # log2 is exact at powers of 2, a quotient of logarithms is not.
    return torch.log2(ratios) if base == 2 else torch.log(ratios) / math.log(base)


def prior_weight(total: Tensor, prior: str, lower_frequency: Tensor | None) -> Tensor:
    """What P(t) is proportional to, (K_lower,) float64."""
    if prior == "marginal":
        if lower_frequency is not None:
            raise RefusedInput(
                "lower_frequency: is only read with prior='frequency', got it with prior='marginal'; leave it out"
            )
        return total.sum(0).to(torch.float64)
    if prior != "frequency":
        raise RefusedInput(f"prior: must be 'marginal' or 'frequency', got {prior!r}; choose one of them")
    if lower_frequency is None or lower_frequency.shape != total.shape[1:]:
        got = "nothing" if lower_frequency is None else f"shape {tuple(lower_frequency.shape)}"
        raise RefusedInput(
            f"lower_frequency: must hold one number for each of the {total.shape[1]} lower words with "
            f"prior='frequency', got {got}; pass count_words(...).total({total.shape[1]})"
        )
    weight = lower_frequency.to(torch.float64)
    if not bool((torch.isfinite(weight) & (weight >= 0)).all()) or bool(((weight == 0) & (total.sum(0) > 0)).any()):
        raise RefusedInput(
            "lower_frequency: must be finite, not negative, and positive for every lower word that was counted, "
            "got a number that is not; count the words on the same images as the pairs"
        )
    return weight


@dataclass(frozen=True)
class GraphNode:
    """A chosen word. ``layer`` counts up from 0, the lowest; ``rank`` from 0, the best of its layer.

    ``score`` is Eq. 16 of IG, log ratio times pairs, or what ``mine`` was given in its place; 0 for the root, which is
    given and not chosen.
    """

    layer: int
    word: int
    rank: int
    score: float


@dataclass(frozen=True)
class GraphEdge:
    """Two chosen words of neighbouring layers that co-occur in Omega.

    ``count`` is Q[s, t]; ``relative_frequency`` = Q[s, t] / sum over all lower words of Q[s, :];
    ``log_ratio`` is LR[s, t]; ``score`` = Q[s, t] LR[s, t], its part of the sum in Eq. 16 of IG.
    """

    upper_layer: int
    upper_word: int
    lower_layer: int
    lower_word: int
    count: int
    relative_frequency: float
    log_ratio: float
    score: float


@dataclass(frozen=True)
class InferenceGraph:
    """The chosen words from the root down, in order of layer and rank, and the edges between them."""

    root: int
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]

    def nodes_of(self, layer: int) -> tuple[GraphNode, ...]:
        """The chosen words of one layer, best first."""
        return tuple(node for node in self.nodes if node.layer == layer)

    def relabelled(self, new_words: Sequence[Sequence[int]]) -> InferenceGraph:
        """The same graph under other word numbers: word w of layer l becomes ``new_words[l][w]``."""
        return InferenceGraph(
            root=int(new_words[self.nodes[0].layer][self.root]),
            nodes=tuple(replace(node, word=int(new_words[node.layer][node.word])) for node in self.nodes),
            edges=tuple(
                replace(
                    edge,
                    upper_word=int(new_words[edge.upper_layer][edge.upper_word]),
                    lower_word=int(new_words[edge.lower_layer][edge.lower_word]),
                )
                for edge in self.edges
            ),
        )


def mine(
    root: int,
    counts: Sequence[Int[Tensor, "_ _"]],
    ratios: Sequence[LogRatios],
    top: int = 3,
    positive_only: bool = False,
    scores: Sequence[Float[Tensor, " _"]] | None = None,
) -> InferenceGraph:
    """Algorithm 1 of IG: from the root word, keep the ``top`` lower words of the highest score, layer by layer.

    ``counts`` are Q, the co-occurrence counts of Omega alone, one (K_l, K_(l-1)) int64 for each pair of layers
    from the output pair downwards; ``ratios`` those of all validation images, in the same order. Layers are
    numbered len(counts) (the root's) down to 0. A lower word that does not occur in Omega with a chosen word, Q > 0 and
    a defined log ratio, is never chosen: its score of 0 must not beat a present word's negative one. Ties go to the
    lower word number. ``positive_only`` keeps words with a score above 0 only, and the
    graph ends where there are none. The chosen words maximise Eq. 14, layer by layer. ``scores`` of the lower words
    of each pair, such as their effects on the class's logit, are taken in the place of Eq. 16's sum: a word with a
    score is chosen whether or not it lies below a chosen one, a word without (NaN) never is; edges are as before.
    Raises ``RefusedInput`` when the shapes do not chain, ``top`` is below 1, the root is no word of the first
    layer, Omega holds no pair of the root, or scores are infinite.
    """
    (chosen,) = rank_words(root, counts, ratios, (top,), positive_only=positive_only, scores=scores)
    layer = len(counts)
    nodes = [GraphNode(layer=layer, word=int(root), rank=0, score=0.0)]
    edges: list[GraphEdge] = []
    upper_words = [int(root)]
    for count, ratio, words in zip(counts, ratios, chosen, strict=False):
        layer -= 1
        nodes += [GraphNode(layer, word, rank, score) for rank, (word, score) in enumerate(words)]
        lower_words = [word for word, _ in words]
        edges += _edges_between(layer, upper_words, lower_words, as_tensor("counts", count), ratio)
        upper_words = lower_words
    return InferenceGraph(root=int(root), nodes=tuple(nodes), edges=tuple(edges))


def rank_words(
    root: int,
    counts: Sequence[Int[Tensor, "_ _"]],
    ratios: Sequence[LogRatios],
    tops: Sequence[int],
    spare: int = 0,
    positive_only: bool = False,
    scores: Sequence[Float[Tensor, " _"]] | None = None,
) -> list[list[list[tuple[int, float]]]]:
    """The words that ``mine`` chooses for each of some ``tops``, and which would have come next.

    For each top, for each pair of layers from the output's downwards: (word, score) of up to ``top + spare`` lower
    words, best first; the first ``top`` of them are chosen, and only these are followed. A list ends early where no
    word is left to follow. Raises ``RefusedInput`` as ``mine`` does.
    """
    root, spare = as_count("root", root, 0), as_count("spare", spare, 0)
    tops = [as_count("top", top) for top in tops]
    counts = [as_tensor(f"counts[{place}]", count) for place, count in enumerate(counts)]
    _require_chain(root, counts, ratios)
    given = _checked_scores(scores, counts)
    return [_ranked_below(root, counts, ratios, given, top, spare, positive_only) for top in tops]


def _ranked_below(
    root: int,
    counts: Sequence[Tensor],
    ratios: Sequence[LogRatios],
    given: Sequence[Tensor | None],
    top: int,
    spare: int,
    positive_only: bool,
) -> list[list[tuple[int, float]]]:
    layers: list[list[tuple[int, float]]] = []
    upper_words = [root]
    for count, ratio, scores in zip(counts, ratios, given, strict=True):
        found = pair_scores(upper_words, count, ratio) if scores is None else scores
        layers.append(_choose(found, top + spare, positive_only))
        upper_words = [word for word, _ in layers[-1][:top]]
        if not upper_words:
            break
    return layers


def edge_drawn(log_ratio: float, base: float = 2) -> Literal["hidden", "weak", "strong"]:
    """How an edge is drawn (IG Fig. 5): strong where P(t|s) is above 2 P(t), weak above P(t), else hidden."""
    if log_ratio > math.log(2) / math.log(base):
        return "strong"
    return "weak" if log_ratio > 0 else "hidden"


def edge_scores(count: PairCounts, ratio: LogRatios) -> Float[Tensor, "K K_lower"]:
    """Q[s, t] LR[s, t], float64; 0 where the pair is not in Omega or has no log ratio."""
    # Zero times minus infinity is not a number, and such a pair adds nothing to the sum.
    present = (count > 0) & ratio.defined
    return torch.where(present, count.to(torch.float64) * ratio.values, 0.0)


def pair_scores(upper_words: Sequence[int], count: PairCounts, ratio: LogRatios) -> Float[Tensor, " K_lower"]:
    """Eq. 16's sum of every lower word under the upper ones; NaN where it occurs with none of them."""
    rows = list(upper_words)
    parts = edge_scores(count[rows], LogRatios(ratio.values[rows], ratio.defined[rows]))
    score = torch.zeros_like(parts[0])
    for part in parts:  # in order of rank: one order of summation, so the same sum on every machine
        score = score + part
    return torch.where(((count[rows] > 0) & ratio.defined[rows]).any(0), score, torch.nan)


def _choose(score: Float[Tensor, " K_lower"], top: int, positive_only: bool) -> list[tuple[int, float]]:
    """(word, score) of the best lower words of one layer, best first; none without a score."""
    eligible = ~torch.isnan(score)
    if positive_only:
        eligible = eligible & (score > 0)
    # A stable sort leaves the lower word number first among equals.
    order = torch.sort(score.masked_fill(~eligible, -torch.inf), descending=True, stable=True).indices
    best = order[eligible[order]][:top].tolist()
    return [(word, float(score[word])) for word in best]


def _edges_between(
    lower_layer: int, upper_words: list[int], lower_words: list[int], count: Tensor, ratio: LogRatios
) -> list[GraphEdge]:
    edges = []
    for upper in upper_words:
        row_sum = int(count[upper].sum())
        for lower in lower_words:
            pairs = int(count[upper, lower])
            if pairs == 0 or not bool(ratio.defined[upper, lower]):
                continue
            log_ratio = float(ratio.values[upper, lower])
            edges.append(
                GraphEdge(
                    upper_layer=lower_layer + 1,
                    upper_word=upper,
                    lower_layer=lower_layer,
                    lower_word=lower,
                    count=pairs,
                    relative_frequency=pairs / row_sum,
                    log_ratio=log_ratio,
                    score=pairs * log_ratio,
                )
            )
    return edges


def _require_counts(name: str, counts: Int[Tensor, "K K_lower"]) -> None:
    if counts.ndim != 2 or counts.dtype != torch.int64 or bool((counts < 0).any()):
        raise RefusedInput(
            f"{name}: must be (upper words, lower words) int64 and not negative, got shape {tuple(counts.shape)} "
            f"{counts.dtype}; pass what count_pairs returned"
        )


def _checked_scores(
    scores: Sequence[Tensor] | None, counts: Sequence[Tensor]
) -> Sequence[Float[Tensor, " K_lower"] | None]:
    """Of each pair; None: Eq. 16."""
    if scores is None:
        return [None] * len(counts)
    found = [as_tensor(f"scores[{place}]", one).to(torch.float64) for place, one in enumerate(scores)]
    wanted = [(count.shape[1],) for count in counts]
    if [tuple(one.shape) for one in found] != wanted or any(bool(torch.isinf(one).any()) for one in found):
        raise RefusedInput(
            f"scores: must be one number or NaN for each lower word of each pair of layers, {wanted} of them, got "
            f"shapes {[tuple(one.shape) for one in found]} or infinite ones; order them from the output pair downwards"
        )
    return found


def _require_chain(root: int, counts: Sequence[Tensor], ratios: Sequence[LogRatios]) -> None:
    if not counts or len(counts) != len(ratios):
        raise RefusedInput(
            f"counts, ratios: must have one entry for each pair of layers, got {len(counts)} and {len(ratios)}; "
            "pass both from the output pair downwards"
        )
    for place, (count, ratio) in enumerate(zip(counts, ratios, strict=True)):
        _require_counts(f"counts[{place}]", count)
        n_upper = counts[place - 1].shape[1] if place else count.shape[0]
        if count.shape[0] != n_upper or ratio.values.shape != count.shape or ratio.defined.shape != count.shape:
            raise RefusedInput(
                f"counts[{place}], ratios[{place}]: must be of one shape that starts with the {n_upper} lower words "
                f"of the pair above, got {tuple(count.shape)} and {tuple(ratio.values.shape)}; "
                "order both from the output pair downwards"
            )
    if not 0 <= root < counts[0].shape[0]:
        raise RefusedInput(f"root: must be a word from 0 to {counts[0].shape[0] - 1}, got {root}; pass a class number")
    if int(counts[0][root].sum()) == 0:
        raise RefusedInput(
            f"root: Omega must hold pairs of the root word, got none for word {root}; "
            "choose a class that some validation image is predicted as"
        )
