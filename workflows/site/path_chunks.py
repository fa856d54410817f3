"""Chunks of a run with a hidden Markov model: decision junctions, triage of errors, and the paths of wrong images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workflows.plan.run_plan import OUTPUT
from workflows.site.chunks import significant
from workflows.site.run_tables import RunTables
from workflows.storage.names import JOINT

BLOCK = 200
"""Images whose paths lie in one chunk."""

PATHS = 5_000
"""Wrong images whose paths the page has."""

_JUNCTION = (
    "junction",
    "level",
    "lower_layer",
    "lower_word",
    "upper_layer",
    "errors",
    "share",
    "cumulative_share",
    "train_errors",
    "correct_leaving",
    "images",
    "mean_log_odds",
    "label_name",
    "predicted_name",
    "confusions",
)
_TRIAGE = ("image", "label", "predicted", "junction", "level", "upper_word", "expected_word", "log_odds")
_STEP = ("layer", "word", "log_probability", "runner_up", "runner_up_log_odds")


def junctions_chunk(tables: RunTables) -> dict[str, Any]:
    """Junctions, those that explain most errors first, and where each wrong validation image leaves its class."""
    own = [("scope", "=", JOINT)]
    triage = _wrong(tables)
    return {
        "levels": [*(layer.name for layer in tables.run.plan.layers), OUTPUT],
        "junctions": [_picked(row, _JUNCTION) for row in tables.table("junctions", own).sort_by("rank").to_pylist()],
        "triage": {name: [_number(value) for value in triage[name].to_pylist()] for name in _TRIAGE},
        "blocks": [triage["image"][first].as_py() for first in range(0, len(triage), BLOCK)],
    }


def path_blocks(tables: RunTables) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of every chunk of paths."""
    triage = _wrong(tables)
    images = triage["image"].to_numpy()
    every = tables.table("paths", [("scope", "=", JOINT)]).sort_by([("image", "ascending"), ("level", "ascending")])
    owners = every["image"].to_numpy()
    for block, first in enumerate(range(0, len(images), BLOCK)):
        part = images[first : first + BLOCK]
        rows = every.filter(pa.array(np.isin(owners, part)))
        paths: dict[str, dict[str, Any]] = {}
        for row in rows.to_pylist():
            known: dict[str, Any] = {"log_probability": significant(row["path_log_probability"]), "steps": []}
            paths.setdefault(str(row["image"]), known)["steps"].append(_picked(row, _STEP))
        yield block, paths


def wrong_paths(tables: RunTables) -> list[int]:
    """Images whose paths the page has; none of a run without a hidden Markov model."""
    return [] if tables.run.settings.hmm is None else _wrong(tables)["image"].to_pylist()


def _wrong(tables: RunTables) -> pa.Table:
    rows = tables.table("triage", [("scope", "=", JOINT), ("split", "=", "validation")])
    return rows.take(pc.sort_indices(rows["image"])).slice(0, PATHS)


def _picked(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: _number(row[name]) for name in names}


def _number(value: Any) -> Any:
    return significant(value) if isinstance(value, float) else value
