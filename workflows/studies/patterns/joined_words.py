"""The explanatory graph beside the inference graph: words at patterns, and those of linked patterns."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gmm_ops.explanatory.pattern_words import control_pairs, pair_means
from workflows.asking.pattern_files import Top, TurnedObjects
from workflows.plan.run_plan import LayerPair, LayerPlan
from workflows.storage.fields import LIKELIHOOD
from workflows.storage.names import GraphId
from workflows.storage.tables import read_table, to_table
from workflows.studies.patterns.placed_words import lacking_words, scope_of
from workflows.studies.patterns.subject import Subject
from workflows.studies.patterns.word_rows import LayerWords, WordJoin, measured
from workflows.words.mining import ScopeCounts

WORD_TABLES = ("pattern_words", "pattern_word_measures", "pattern_edge_words")


def word_tables(subject: Subject, turned: TurnedObjects) -> tuple[dict[str, pa.Table], dict[str, Any]]:
    """The tables of a class, empty where the run has no words on its photos, and what programs may want to know."""
    study, rows = subject.study, {name: [to_table([], name)] for name in WORD_TABLES}
    scope = None if lacking_words(study.run) else scope_of(study.run, subject.request.scope, subject.label)
    if scope is None:
        why = lacking_words(study.run) or f"no dictionary explains {subject.class_name!r}; --scope takes another"
        study.say(f"{subject.class_name}: no words are looked up at its patterns: {why}")
        return {name: tables[0] for name, tables in rows.items()}, {}
    joined = WordJoin(subject, turned, scope)
    if not bool(joined.judged.any()):
        study.say(f"{subject.class_name}: none of its photos has words of {scope}: no words are looked up")
    else:
        for top in subject.request.tops:
            found = [joined.layer_words(top, place) for place in range(len(subject.layers))]
            rows["pattern_words"] += [one.listed for one in found]
            rows["pattern_word_measures"].append(to_table(list(joined.measures(top, found)), "pattern_word_measures"))
            rows["pattern_edge_words"].append(to_table(list(_edges(subject, scope, top, found)), "pattern_edge_words"))
    return {name: pa.concat_tables(tables) for name, tables in rows.items()}, joined.told()


def _edges(subject: Subject, scope: str, top: Top, found: Sequence[LayerWords]) -> Iterator[dict[str, Any]]:
    """Rows of pattern_edge_words: of neighbouring layers whose words are of neighbouring modelled layers."""
    counted: ScopeCounts | None = None
    for place, (lower, upper) in enumerate(itertools.pairwise(found)):
        study = subject.study
        pair = _pair_of(study.plan.pairs(), lower.matched, upper.matched)
        if pair is None:
            study.say(f"{lower.layer.name} and {upper.layer.name}: {lower.matched.given} and {upper.matched.given} "
                      "are no neighbouring layers of the run: no edges to compare")  # fmt: skip
            continue
        counted = counted or ScopeCounts.load(study.folder, study.settings, study.plan, scope)
        ratios = counted.ratios[study.plan.pairs().index(pair)].values
        key = {"class": subject.label, "top": top, "layer": lower.layer.name, "scope": scope}
        key |= {"parent_layer": upper.layer.name, "word_layer": pair.lower, "parent_word_layer": pair.upper}
        pairs = _pairs(subject, top, place, lower, upper)
        yield from _edge_rows(key, pairs, lower, upper, {"in_graph": _graph(subject, scope, pair), "log_ratio": ratios})


def _pairs(
    subject: Subject, top: Top, place: int, lower: LayerWords, upper: LayerWords
) -> dict[str, Int[np.ndarray, "E 2"]]:
    """Edges whose ends have words on enough objects, and their controls."""
    parents = subject.files.patterns(top, lower.layer.name).parents.flatten(0, 1).numpy()
    child, slot = np.nonzero(parents >= 0)
    edges = np.stack([child, parents[child, slot]], axis=1)
    known = lower.known.numpy(), upper.known.numpy()
    edges = edges[known[0][edges[:, 0]] & known[1][edges[:, 1]]]
    seed = [subject.study.settings.seed % 2**64, place]
    return {"edges": edges} | control_pairs(edges, (lower.means.numpy(), upper.means.numpy()), known, seed)


def _graph(subject: Subject, scope: str, pair: LayerPair) -> Float[Tensor, "K_upper K_lower"] | None:
    """1 where two words are an edge of the class's inference graph; None: it has none in this scope."""
    graph = str(GraphId("class", subject.label))
    wanted = [("graph", "=", graph), ("scope", "=", scope), ("criterion", "=", LIKELIHOOD)]
    rows = read_table(subject.study.folder.table("edges"), filters=wanted)
    if not len(rows):
        return None
    edges = torch.zeros(pair.upper_words, pair.lower_words, dtype=torch.float64)
    for row in rows.to_pylist():
        if (row["upper_layer"], row["lower_layer"]) == (pair.upper, pair.lower):
            edges[row["upper_word"], row["lower_word"]] = 1.0
    return edges


def _edge_rows(
    key: Mapping[str, Any],
    pairs: Mapping[str, Int[np.ndarray, "E 2"]],
    lower: LayerWords,
    upper: LayerWords,
    values: Mapping[str, Float[Tensor, "K_upper K_lower"] | None],
) -> Iterator[dict[str, Any]]:
    """The edges, then each control with what the edges have more."""
    words = lower.tops["patterns"].words, upper.tops["patterns"].words
    own: dict[str, Tensor] = {}
    for source, some in pairs.items():
        row = {**key, "source": source, "pairs": len(some)}
        for name, table in values.items():
            if table is None or not len(some):
                continue
            mean = pair_means(*words, torch.from_numpy(some), table)
            own.setdefault(name, mean)
            row |= measured(name, mean)
            row |= {} if source == "edges" else measured(f"{name}_difference", own[name] - mean)
        yield row


def _pair_of(pairs: Sequence[LayerPair], lower: LayerPlan, upper: LayerPlan) -> LayerPair | None:
    return next((one for one in pairs if (one.lower, one.upper) == (lower.name, upper.name)), None)
