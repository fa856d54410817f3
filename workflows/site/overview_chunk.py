"""The first chunk that the page loads: what the run is, its classes, layers and graphs; and one for each scope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from workflows.plan.run_plan import OUTPUT
from workflows.site.chunks import significant, significant_list
from workflows.site.class_list import class_columns, confusions
from workflows.site.run_tables import RunTables
from workflows.site.word_list import WordList
from workflows.storage.log_unit import LOG_UNIT
from workflows.storage.names import GraphId

POINTS = 150
"""Points of a curve that the page draws."""

CURVES = (
    "held_out_log_likelihood",
    "train_log_likelihood",
    "loss",
    "held_out_loss",
)


def overview(
    tables: RunTables,
    words: WordList,
    graphs: Sequence[tuple[str, GraphId]],
    likeness: Mapping[str, Any],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that the page needs before it shows anything else.

    Args:
        tables: of the run.
        words: which have a page, and their numbers.
        graphs: scope and graph of those that are shown, in the order of their chunks.
        likeness: see ``class_list.likeness``; with its ``scope``.
        more: other entries.
    """
    run = tables.run
    scopes = list(run.scopes())
    return {
        "run": _about(tables),
        "layers": [
            {"name": layer.name, "title": layer.given, "words": layer.words, "units": layer.units}
            | {"size": [layer.height, layer.width]}
            for layer in run.plan.layers
        ],
        "scopes": scopes,
        "words": words.described(),
        "classes": class_columns(tables),
        "confusions": confusions(tables),
        "likeness": dict(likeness),
        "graphs": {
            "scope": [scopes.index(scope) for scope, _ in graphs],
            "kind": "".join("i" if graph.is_image else "c" for _, graph in graphs),
            "number": [graph.number for _, graph in graphs],
        },
        "names": [[scopes.index(scope), *key, name] for scope in scopes for key, name in run.word_names(scope).items()],
        "missing": [list(one) for one in tables.missing],
        **more,
    }


def _about(tables: RunTables) -> dict[str, Any]:
    run, ids = tables.run, tables.validation
    settings, plan = run.settings, run.plan
    labels = tables.images.label[ids]
    labelled = int((labels >= 0).sum())
    right = int(((labels >= 0) & (labels == tables.images.predicted[ids])).sum())
    return {
        "name": settings.name,
        "folder": run.folder.root.name,
        "network": settings.network.name,
        "source": settings.data.source,
        "images": plan.images,
        "train": plan.train_images,
        "broken": int((~tables.images.readable).sum()) if (tables.images.predicted >= 0).any() else 0,
        "input": [plan.input_height, plan.input_width],
        "predictions": len(ids),
        "labelled": labelled,
        "right": right,
        "top": settings.mine.top,
        "prior": settings.mine.prior,
        "positive": settings.mine.positive_only,
        "loss": settings.fit.loss,
        "unit": LOG_UNIT.name,
        "strong": float(np.log(2) / np.log(LOG_UNIT.base)),
        "output": OUTPUT,
        "chain": settings.hmm is not None,
        "decides": settings.network.has_outputs,
    }


def scope_chunk(tables: RunTables, scope: str) -> dict[str, Any]:
    """Figures of the layers of a scope: purity, errors of words beside the network's, curves of the fits."""
    own = [("scope", "=", scope)]
    return {
        "layers": [_plain(row) for row in tables.table("layers", own).to_pylist()],
        "errors": [_plain(row) for row in tables.table("errors", own).to_pylist()],
        "history": _curves(tables.table("history", own)),
    }


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: significant(value) if isinstance(value, float) else value for name, value in row.items()}


def _curves(history: pa.Table) -> list[dict[str, Any]]:
    """Of every layer, start and phase: its last figures, and points of its curves."""
    keys = ("layer", "restart", "phase")
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, key in enumerate(zip(*(history[name].to_pylist() for name in keys), strict=True)):
        groups.setdefault(key, []).append(place)
    return [_curve(history.take(pa.array(rows)), dict(zip(keys, key, strict=True))) for key, rows in groups.items()]


def _curve(rows: pa.Table, key: dict[str, Any]) -> dict[str, Any]:
    picked = np.unique(np.linspace(0, len(rows) - 1, min(POINTS, len(rows))).round().astype(int))
    curve: dict[str, Any] = {**key, "steps": rows["step"].take(pa.array(picked)).to_pylist()}
    for name in CURVES:
        values = rows[name].to_pylist()
        known = [value for value in values if value is not None]
        if known:
            curve[name] = significant_list(values[at] for at in picked)
            curve[f"last_{name}"] = significant(known[-1])
    return curve
