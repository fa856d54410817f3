"""Columns of the study ``locate``: what votes for a part, where it was found, how far off that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflows.storage.fields import FLAG, IMAGE, INT, LONG, REAL, SINGLE, TEXT, field

if TYPE_CHECKING:
    import pyarrow as pa

_OF = [
    field("class", INT, "key", "id of the class whose objects they are"),
    field("class_name", TEXT, "", "its name"),
    field("part", TEXT, "key", "that is looked for"),
    field("learn", TEXT, "key", "photos that patterns were learned from: `all`, or every second one, `even` or `odd`"),
    field("triple", INT, "key", "set of annotated objects, from 0"),
]
_METHOD = [
    field("method", TEXT, "key", "`patterns`, `peaks`, `words`; as controls `centre` (of the object), `mean` (place of "
          "the annotated parts), `linear` (support vector regression on the strongest response of each unit of the top "
          "layer)"),
    field("voters", TEXT, "key", "which of them: of `words` scope, layer and K; of `patterns` the kind of top; the "
          "layers, where not all vote", True),
]  # fmt: skip
_OBJECT = field("object", INT, "key", "of the class, from 0; see pattern_objects")

LOCATION_COLUMNS: dict[str, list[pa.Field]] = {
    "templates": [
        *_OF,
        *_METHOD,
        _OBJECT,
        IMAGE,
        field("layer", TEXT, "key", "of the voter"),
        field("unit", INT, "key", "unit of the layer; null: a word votes", True),
        field("pattern", INT, "key", "pattern of the unit; null: no pattern votes", True),
        field("word", INT, "key", "word of the dictionary; null: no word votes", True),
        field("dy", SINGLE, "side", "from the voter down to the part, on the turned object"),
        field("dx", SINGLE, "side", "the same to the right"),
        field("weight", SINGLE, "share", "of the vote on the annotated object itself among all of its template"),
    ],
    "locations": [
        *_OF,
        *_METHOD,
        _OBJECT,
        IMAGE,
        field("y", REAL, "pixel", "row of the photo where the part was found; null: nothing votes", True),
        field("x", REAL, "pixel", "column", True),
        field("votes", REAL, "templates", "height of the vote map there: 1 for each template that agrees wholly; null: "
              "a control", True),
        field("annotated", FLAG, "", "whether the object is one of the annotated ones"),
        field("tested", FLAG, "", "whether its error counts: neither annotated nor learned from, and its part known"),
        field("true_y", REAL, "pixel", "row of the middle of the part; null: not known", True),
        field("true_x", REAL, "pixel", "column", True),
        field("error", REAL, "diagonal", "distance between the two over the diagonal of the object", True),
    ],
    "location_errors": [
        *_OF,
        *_METHOD,
        field("objects", LONG, "objects", "that are tested"),
        field("distance", REAL, "diagonal", "mean error"),
        field("near", REAL, "share", "of tested objects whose error is at most 0.1"),
    ],
}  # fmt: skip
"""Tables of the study ``locate``."""

LOCATION_KEYS: dict[str, tuple[str, ...]] = {
    "templates": ("class", "part", "learn", "triple", "method", "object"),
    "locations": ("class", "part", "learn", "object", "method", "triple"),
    "location_errors": ("class", "part", "learn", "method", "triple"),
}
