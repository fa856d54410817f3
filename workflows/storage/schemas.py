"""Schema and sort key of every table. ``schema_markdown`` prints them for the documentation."""

from __future__ import annotations

import pyarrow as pa

from workflows.storage.dissect_columns import DISSECT_COLUMNS
from workflows.storage.fields import LIKELIHOOD, NETWORK
from workflows.storage.fit_columns import CHAIN_COLUMNS, FIT_COLUMNS
from workflows.storage.graph_columns import GRAPH_COLUMNS
from workflows.storage.location_columns import LOCATION_COLUMNS, LOCATION_KEYS
from workflows.storage.pattern_columns import PATTERN_COLUMNS, PATTERN_KEYS
from workflows.storage.relevance_columns import RELEVANCE_COLUMNS, RELEVANCE_KEYS
from workflows.storage.selection_columns import SELECTION_COLUMNS, SELECTION_KEYS
from workflows.storage.trust_columns import TRUST_COLUMNS, TRUST_KEYS

_COLUMNS = GRAPH_COLUMNS | CHAIN_COLUMNS | FIT_COLUMNS | DISSECT_COLUMNS | RELEVANCE_COLUMNS | SELECTION_COLUMNS
_COLUMNS |= PATTERN_COLUMNS | LOCATION_COLUMNS | TRUST_COLUMNS

SCHEMAS: dict[str, pa.Schema] = {name: pa.schema([*columns, NETWORK]) for name, columns in _COLUMNS.items()}

SORT_KEYS: dict[str, tuple[str, ...]] = {
    "images": ("image",),
    "nodes": ("graph",),
    "edges": ("graph",),
    "pairs": ("scope",),
    "words": ("scope", "layer", "word"),
    "exemplars": ("scope", "layer", "word", "rank"),
    "heatmaps": ("graph",),
    "history": ("scope", "layer", "restart", "step"),
    "errors": ("scope", "layer", "words"),
    "decisions": ("image", "scope", "layer", "words"),
    "layers": ("scope",),
    "paths": ("image", "scope", "level"),
    "transitions": ("scope", "lower_layer", "upper_layer", "lower_word", "upper_word"),
    "triage": ("image",),
    "junctions": ("scope", "rank"),
    "sweep": ("scope",),
    "boxes": ("graph",),
    "units": ("layer", "unit", "quantile"),
    "unit_concepts": ("layer", "unit", "quantile", "rank"),
    "word_concepts": ("scope", "layer", "word", "rank"),
    "word_units": ("scope", "layer", "word", "rank"),
    "unions": ("layer", "masks"),
    **RELEVANCE_KEYS,
    **SELECTION_KEYS,
    **PATTERN_KEYS,
    **LOCATION_KEYS,
    **TRUST_KEYS,
}
"""Sort key of each table: what people filter on. Rows with equal keys keep the order they were written in."""


RENAMED: dict[str, dict[str, str]] = {"layers": {"within": "distance_within", "between": "distance_between"}}
"""Columns of tables of version 0 by the names that they have now."""

RECODED: dict[str, dict[str, dict[str, str]]] = {"edges": {"drawn": {"black": "weak", "green": "strong"}}}
"""Values of columns that version 0 wrote otherwise: by table and column, what it wrote -> what it is now."""

ADDED: dict[str, dict[str, str]] = {name: {"criterion": LIKELIHOOD} for name in ("nodes", "edges", "heatmaps")}
"""Columns that version 0 did not have, and what they would have said."""


def schema_markdown() -> str:
    """Every table as a Markdown section with a row per column: name, type, unit, meaning."""
    sections = []
    for name, schema in SCHEMAS.items():
        lines = [f"### {name}.parquet", "", "| column | type | unit | meaning |", "|---|---|---|---|"]
        for field in schema:
            kind = f"{field.type}{' or null' if field.nullable else ''}"
            unit, meaning = (field.metadata[key].decode() for key in (b"unit", b"description"))
            lines.append(f"| `{field.name}` | {kind} | {unit} | {meaning.replace('|', chr(92) + '|')} |")
        lines += ["", f"Sorted by {', '.join(SORT_KEYS[name])}.", ""]
        sections.append("\n".join(lines))
    return "\n".join(sections)
