"""Rows of word_effects.parquet: every word that a class has, what taking it out costs, and what is usual."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from gmm_ops.trust.paired_bootstrap import bootstrap_differences
from workflows.studies.trust.probes import BEST, own_probe
from workflows.studies.trust.request import TrustRequest
from workflows.studies.trust.rows import ClassFindings

CONTROL = 95
"""Percentile of the drops of other words."""

LEAST_CONTROLS = 20
"""Other words and classes: of fewer there is no such percentile."""


def word_effect_rows(classes: Iterable[ClassFindings], request: TrustRequest) -> list[dict[str, Any]]:
    """Rows of all classes; the controls of one layer are of all classes of its scope together."""
    rows = [
        row for found in classes for layer in range(len(found.layers)) for row in _layer_rows(found, layer, request)
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["scope"], row["layer"]), []).append(row)
    for group in groups.values():
        for intervention in request.interventions:
            own = [row for row in group if row.get(f"drop_{intervention}") is not None]
            if len(own) <= LEAST_CONTROLS:
                continue
            controls = others_percentile(np.array([row[f"drop_{intervention}"] for row in own]), CONTROL)
            for row, control in zip(own, controls.tolist(), strict=True):
                row[f"control_{intervention}"] = None if np.isnan(control) else control
    return rows


def _layer_rows(found: ClassFindings, layer: int, request: TrustRequest) -> Iterator[dict[str, Any]]:
    subject, ranked = found.subject, found.subject.first[layer]
    single = subject.single_words(layer, found.effects[layer].mean(dim=0), BEST)
    judged = float(subject.judged.mean())
    # Halves as large as they are: the mean over all of Omega.
    effects = found.effects[layer][0] * (1 - judged) + found.effects[layer][1] * judged
    drops = {one: _intervals(found, layer, one, single) for one in request.interventions}
    for word in subject.present(layer).tolist():
        score = float(ranked.scores[word])
        yield {
            **found.key(layer),
            "word": word,
            "columns": int(subject.counts[layer][word]),
            "score": None if np.isnan(score) else score,
            "in_graph": word in ranked.chosen,
            **{f"first_order_{one}": float(effects[place, word]) for place, one in enumerate(request.interventions)},
            **{name: value for one in drops.values() for name, value in one.get(word, {}).items()},
            "images": len(subject.images),
        }


def _intervals(
    found: ClassFindings, layer: int, intervention: Any, words: Sequence[int]
) -> dict[int, dict[str, float | None]]:
    """By word, columns of its drop."""
    if not words:
        return {}
    each = np.stack([found.drops(own_probe(layer, intervention, (word,))) for word in words], axis=1)
    drops = torch.from_numpy(each).double()
    values = bootstrap_differences(drops, torch.zeros_like(drops), found.seed).T.tolist()
    name = f"drop_{intervention}"
    return {
        word: {name: mean, f"{name}_low": low, f"{name}_high": high}
        for word, (mean, low, high) in zip(words, values, strict=True)
    }


def others_percentile(values: Float[np.ndarray, " n"], percentile: float) -> Float[np.ndarray, " n"]:
    """For each value, a percentile of all others; NaN where there is none."""
    if len(values) < 2:
        return np.full(len(values), np.nan)
    return np.array([np.percentile(np.delete(values, place), percentile) for place in range(len(values))])
