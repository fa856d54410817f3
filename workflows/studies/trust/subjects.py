"""What is known of a class before its words are taken out: its images, its graphs, scores of all words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gmm_ops.graphs.inference_graph import GraphEdge, InferenceGraph, LogRatios, edge_scores, mine
from gmm_ops.trust.word_choices import frequency_matched
from gmm_ops.trust.word_curves import explained_share
from gmm_ops.units.selections import top_units
from workflows.settings import Settings
from workflows.storage.fields import EFFECT, LIKELIHOOD
from workflows.storage.names import GraphId
from workflows.words.mining import ScopeCounts, ratios_of
from workflows.words.scope_effects import ScopeEffects

Choice = tuple[str, int]
"""What the words of a graph are chosen by, and Z."""

RANKINGS = ("score", "frequency", "log_ratio", "effect", "random")
"""Of curves."""


@dataclass(frozen=True, eq=False)
class RankedWords:
    """The words of a layer for a class, with one Z.

    Attributes:
        scores: (K,) IG Eq. 16 with the words above that the graph has; NaN where it has no pair with them in Omega.
        log_ratios: (K,) the highest with one of them; NaN as scores.
        chosen: the graph's, best first.
    """

    scores: Float[Tensor, " K"]
    log_ratios: Float[Tensor, " K"]
    chosen: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ClassSubject:
    """A class whose graph is asked.

    Attributes:
        scope: whose dictionaries explain it.
        label: its id.
        images: (n,) of Omega that are looked at, ascending ids.
        judged: (n,) which of them judge words that the others have chosen.
        counts: by layer, lowest first: (K,) columns of Omega that are each word.
        straight: by layer: (K,) IG Eq. 16 as if the layer lay right under the output; NaN of words that Omega lacks.
        ranked: by criterion and Z, then by layer.
        edges: by criterion, of its first graph, between modelled layers.
    """

    scope: str
    label: int
    images: Int[np.ndarray, " n"]
    judged: Bool[np.ndarray, " n"]
    counts: tuple[Int[Tensor, " K"], ...]
    straight: tuple[Float[Tensor, " K"], ...]
    ranked: Mapping[Choice, tuple[RankedWords, ...]]
    edges: Mapping[str, tuple[GraphEdge, ...]]

    @property
    def leading(self) -> dict[str, tuple[RankedWords, ...]]:
        """By criterion with the first Z; the first criterion first."""
        found: dict[str, tuple[RankedWords, ...]] = {}
        for (criterion, _), words in self.ranked.items():
            found.setdefault(criterion, words)
        return found

    @property
    def tested_edges(self) -> tuple[GraphEdge, ...]:
        """Of all criteria, each once."""
        return tuple(dict.fromkeys(edge for edges in self.edges.values() for edge in edges))

    @property
    def first(self) -> tuple[RankedWords, ...]:
        """By the first criterion with the first Z."""
        return next(iter(self.ranked.values()))

    def present(self, layer: int) -> Int[Tensor, " P"]:
        """Words that Omega has."""
        return self.counts[layer].nonzero()[:, 0]

    def column_share(self, layer: int, words: Sequence[int]) -> float:
        """Of the columns of Omega, those of some words."""
        counts = self.counts[layer]
        return float(counts[list(words)].sum() / counts.sum())

    def score_share(self, layer: int, choice: Choice, words: Sequence[int]) -> float | None:
        """Explained share: of the positive scores (Eq. 16), those of some words; None of other graphs."""
        if choice[0] != LIKELIHOOD:
            return None
        return explained_share(self.ranked[choice][layer].scores, torch.tensor(words, dtype=torch.int64))

    def selections(self, layer: int, choice: Choice, effects: Float[Tensor, " K"]) -> dict[str, tuple[int, ...]]:
        """By name, the words of a graph, and as many others; nothing where the graph has none.

        effects: first-order, on the half that chooses.
        """
        ranked, counts = self.ranked[choice][layer], self.counts[layer]
        if not ranked.chosen:
            return {}
        scores = {
            "frequent": _where_present(counts, counts),
            "log_ratio": ranked.log_ratios,
            "lowest": -ranked.scores,
            "straight": self.straight[layer],
            "effect": _where_present(effects, counts),
        }
        size = len(ranked.chosen)
        chosen = {name: tuple(top_units(values, size).tolist()) for name, values in scores.items()}
        return {"graph": ranked.chosen, "matched": frequency_matched(counts, ranked.chosen), **chosen}

    def orders(self, layer: int, effects: Float[Tensor, " K"], seed: int) -> dict[str, tuple[int, ...]]:
        """By ranking, all words that Omega has, best first; those without a score come last, the frequent first."""
        ranked, counts = self.first[layer], self.counts[layer]
        present = self.present(layer)
        random = np.random.default_rng([seed % 2**63, self.label, layer]).permutation(present.numpy())
        frequency = top_units(_where_present(counts, counts), len(present)).tolist()
        by = {"score": ranked.scores, "log_ratio": ranked.log_ratios, "effect": _where_present(effects, counts)}
        orders = {name: top_units(values, len(values)).tolist() for name, values in by.items()}
        orders |= {"frequency": frequency, "random": random.tolist()}
        return {name: tuple(dict.fromkeys([*orders[name], *frequency])) for name in RANKINGS}

    def single_words(self, layer: int, effects: Float[Tensor, "I K"], best: int) -> tuple[int, ...]:
        """Words that are taken out by themselves: the graphs', and the best by score and by each first-order effect."""
        scores = [self.first[layer].scores, *(_where_present(one, self.counts[layer]) for one in effects)]
        graphs = [word for words in self.leading.values() for word in words[layer].chosen]
        found = [word for values in scores for word in top_units(values, best).tolist()]
        return tuple(dict.fromkeys([*graphs, *found]))


def _where_present(values: Tensor, counts: Int[Tensor, " K"]) -> Float[Tensor, " K"]:
    return torch.where(counts > 0, values.double(), torch.nan)


class ScopeSubjects:
    """The classes of a scope, from its counts.

    Args:
        counted: what Algorithm 1 reads.
        settings: of the run.
        tops: Z of the graphs.
        effects: what graphs by effect are mined by, where the run has some.
    """

    def __init__(
        self, counted: ScopeCounts, settings: Settings, tops: Sequence[int], effects: ScopeEffects | None = None
    ) -> None:
        self._counted, self._options, self._tops, self._effects = counted, settings.mine, tops, effects
        self._straight = list(_straight_scores(counted, settings.mine.pseudo_count))

    def subject(self, label: int, images: Int[np.ndarray, " n"], judged: Bool[np.ndarray, " n"]) -> ClassSubject:
        """Of a class that some image is predicted as."""
        plan = self._counted.plan
        counts = self._counted.class_counts(label)
        graphs = dict(self._graphs(label, counts))
        words = {
            choice: [tuple(node.word for node in graph.nodes_of(layer)) for layer in range(len(plan.layers))]
            for choice, graph in graphs.items()
        }
        edges: dict[str, tuple[GraphEdge, ...]] = {}
        for (criterion, _), graph in graphs.items():
            modelled = (edge for edge in graph.edges if edge.upper_layer < len(plan.layers))
            edges.setdefault(criterion, tuple(modelled))
        return ClassSubject(
            self._counted.scope,
            label,
            images,
            judged,
            tuple(self._counted.words[layer.name].dense(label, layer.words) for layer in plan.layers),
            tuple(scores[label] for scores in self._straight),
            {choice: self._ranked(label, counts, chosen) for choice, chosen in words.items()},
            edges,
        )

    def _graphs(self, label: int, counts: Sequence[Tensor]) -> Iterator[tuple[Choice, InferenceGraph]]:
        """By every criterion that the run has graphs by."""
        scores = None if self._effects is None else self._effects.scores(GraphId("class", label))
        known = {EFFECT: scores} if scores is not None else {}
        for criterion in self._options.criteria:
            if criterion == LIKELIHOOD or criterion in known:
                for top in self._tops:
                    given = self._counted.ratios, top, self._options.positive_only, known.get(criterion)
                    yield (criterion, top), mine(label, counts, *given)

    def _ranked(
        self, label: int, counts: Sequence[Tensor], chosen: Sequence[tuple[int, ...]]
    ) -> tuple[RankedWords, ...]:
        """Lowest layer first; counts and ratios come from the output downwards."""
        found = []
        above: tuple[int, ...] = (label,)
        for count, ratio, words in zip(counts, self._counted.ratios, reversed(chosen), strict=True):
            found.append(_ranked_words(count, ratio, above, words))
            above = words
        return tuple(reversed(found))


def _ranked_words(
    count: Int[Tensor, "K K_lower"], ratio: LogRatios, above: tuple[int, ...], chosen: tuple[int, ...]
) -> RankedWords:
    rows = list(above)
    values, defined = ratio.values[rows], ratio.defined[rows]
    eligible = (count[rows] > 0) & defined
    any_eligible = eligible.any(dim=0)
    scores = edge_scores(count[rows], LogRatios(values, defined)).sum(dim=0)
    highest = values.masked_fill(~eligible, -torch.inf).amax(dim=0) if rows else scores
    scores, highest = (torch.where(any_eligible, one, torch.nan) for one in (scores, highest))
    return RankedWords(scores, highest, chosen)


def _straight_scores(counted: ScopeCounts, pseudo_count: float) -> Iterator[Float[Tensor, "M K"]]:
    """By layer, lowest first: the output sees every position, so a word's pairs with a class are its columns there."""
    for layer in counted.plan.layers:
        classes = range(len(counted.plan.class_names))
        totals = torch.stack([counted.words[layer.name].dense(label, layer.words) for label in classes])
        ratios = ratios_of(totals, "marginal", None, pseudo_count)
        yield torch.where((totals > 0) & ratios.defined, edge_scores(totals, ratios), torch.nan)
