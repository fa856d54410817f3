"""What columns of tables are made of: a field with its unit and meaning, and those that many tables have."""

from __future__ import annotations

import pyarrow as pa


def field(name: str, kind: pa.DataType, unit: str, meaning: str, nullable: bool = False) -> pa.Field:
    """A column. unit: as in `nats/column`, or `key`, `share`, or nothing. meaning: what the documentation says."""
    return pa.field(name, kind, nullable=nullable, metadata={"unit": unit, "description": meaning})


TEXT, INT, LONG, REAL, SINGLE, FLAG = (
    pa.string(),
    pa.int32(),
    pa.int64(),
    pa.float64(),
    pa.float32(),
    pa.bool_(),
)

GRAPH = field("graph", TEXT, "key", "`class:<id>` or `image:<id>`")
CRITERION = field(
    "criterion",
    TEXT,
    "key",
    "what the words of a graph are chosen by: `likelihood`, the paper's Algorithm 1, or `effect`, what taking them out "
    "would cost the class's logit",
)
SCOPE = field("scope", TEXT, "key", "classes that one dictionary explains: `joint`, `class-<id>`, `list-<name>`")
LAYER = field("layer", TEXT, "key", "canonical layer name; `output` is the output layer, whose word is the class")
WORD = field("word", INT, "key", "word of the layer's dictionary, from 0")
IMAGE = field("image", LONG, "key", "row of the images table")
DOMINANT = field(
    "dominant_class",
    INT,
    "class",
    "most frequent true class among the word's training columns; predicted without labels",
    nullable=True,
)
DOMINANT_NAME = field("dominant_name", TEXT, "", "name of the dominant class", nullable=True)
DOMINANT_SHARE = field("dominant_share", REAL, "share", "of the dominant class among the word's columns", nullable=True)
PAIR = (
    field("upper_layer", TEXT, "key", "layer of the upper word"),
    field("upper_word", INT, "key", "upper word s"),
    field("lower_layer", TEXT, "key", "layer of the lower word"),
    field("lower_word", INT, "key", "lower word t"),
)

LIKELIHOOD = "likelihood"
"""The only criterion of runs from before the column was there."""

EFFECT = "effect"
"""The other one, see ``mine.criterion``; what has a graph's name has this before it for a graph by effect."""

NETWORK = field("network", TEXT, "key", "`name` of the run's settings", nullable=True)


def with_ends(name: str, unit: str, meaning: str, how: str, nullable: bool) -> list[pa.Field]:
    """A number and the ends of its 95 % interval. how: the interval is found."""
    return [
        field(name, REAL, unit, meaning, nullable),
        field(f"{name}_low", REAL, unit, f"lower end of its 95 % interval ({how})", True),
        field(f"{name}_high", REAL, unit, "upper end", True),
    ]


def paired(prefix: str, other: str) -> list[pa.Field]:
    """A difference of two errors on the same images, with its paired 95 % interval."""
    name = f"{prefix}difference"
    return [
        field(name, REAL, "share", f"error minus {other}", True),
        field(f"{name}_low", REAL, "share", "lower end of its paired 95 % interval", True),
        field(f"{name}_high", REAL, "share", "upper end (McNemar's pairs, Agresti and Min 2005)", True),
    ]
