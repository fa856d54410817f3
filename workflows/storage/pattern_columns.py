"""Columns of the explanatory graph of a class: its patterns, their parents, where they sit, what they are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflows.storage.fields import FLAG, IMAGE, INT, LONG, REAL, SINGLE, TEXT, field

if TYPE_CHECKING:
    import pyarrow as pa

_CLASS = field("class", INT, "key", "id of the class whose objects they are")
_CLASS_NAME = field("class_name", TEXT, "", "its name")
_TOP = field(
    "top", TEXT, "key", "`anchored`: the top layer's patterns stay at their mean places (EG); `free`: one pattern a "
    "unit there, wherever it is strongest"
)  # fmt: skip
_LAYER = field("layer", TEXT, "key", "canonical name of the convolution; its normalisation is folded in")
_UNIT = field("unit", INT, "key", "unit (channel) of the layer, from 0")
_PATTERN = field("pattern", INT, "key", "pattern of the unit, from 0")
_OBJECT = field("object", INT, "key", "of the class, from 0; see pattern_objects")


def _with_interval(name: str, unit: str, meaning: str) -> list[pa.Field]:
    return [
        field(name, REAL, unit, meaning, True),
        field(f"{name}_low", REAL, unit, "lower end of its 95 % interval (jackknife over ten groups of photos)", True),
        field(f"{name}_high", REAL, unit, "upper end", True),
    ]


PATTERN_COLUMNS: dict[str, list[pa.Field]] = {
    "patterns": [
        _CLASS,
        _CLASS_NAME,
        _TOP,
        _LAYER,
        _UNIT,
        _PATTERN,
        field("y", REAL, "side", "mean place on the turned object, from its top edge"),
        field("x", REAL, "side", "from its left edge"),
        field("sd", REAL, "side", "standard deviation about the mean place, once shifted"),
        field("mass", REAL, "response", "sum of its responsibilities times the unit's responses over the objects"),
        field("score", REAL, "response", "mean over objects of the score where it sits"),
        field("objects", INT, "objects", "in which it is among the tenth of the layer's patterns of highest score"),
        field("parents", INT, "patterns", "of the layer above that shift it"),
        field("log_likelihood", REAL, "nats/response", "of the unit's responses before the last step, a response on "
              "average"),
    ],
    "pattern_edges": [
        _CLASS,
        _TOP,
        _LAYER,
        _UNIT,
        _PATTERN,
        field("parent_layer", TEXT, "key", "the layer above"),
        field("parent_unit", INT, "key", "unit of the parent"),
        field("parent_pattern", INT, "key", "pattern of that unit"),
        field("dy", SINGLE, "side", "mean over objects of the pattern's place minus the parent's, downwards", True),
        field("dx", SINGLE, "side", "the same to the right; null: never both found", True),
        field("sd", SINGLE, "side", "standard deviation of that displacement, both axes together", True),
        field("weight", SINGLE, "share", "of the parent in the mean that shifts the pattern: by 1 / variance"),
    ],
    "pattern_places": [
        _CLASS,
        _TOP,
        IMAGE,
        _OBJECT,
        _LAYER,
        _UNIT,
        _PATTERN,
        field("y", SINGLE, "side", "place on the turned object, from its top edge"),
        field("x", SINGLE, "side", "from its left edge"),
        field("score", SINGLE, "response", "F(x) exp(-|x - mean - shift|^2 / variance) there"),
        field("photo_y", SINGLE, "pixel", "the same place on the photo: row"),
        field("photo_x", SINGLE, "pixel", "column"),
    ],
    "pattern_objects": [
        _CLASS,
        _CLASS_NAME,
        _OBJECT,
        IMAGE,
        field("x0", INT, "pixel", "left edge of the object on the photo"),
        field("y0", INT, "pixel", "top edge"),
        field("x1", INT, "pixel", "right edge, exclusive"),
        field("y1", INT, "pixel", "bottom edge, exclusive"),
        field("mirrored", FLAG, "", "whether its mirror image is taken, so that all objects face one way"),
        field("margin", REAL, "", "cosine of its difference from its mirror image with that of all others; 0: cannot "
              "be told; null: mirror images were not asked for", True),
        field("learned", FLAG, "", "whether patterns were learned from it"),
    ],
    "pattern_measures": [
        _CLASS,
        field("top", TEXT, "key", "as in patterns; null: does not depend on patterns", True),
        _LAYER,
        field("source", TEXT, "key", "`patterns`; as controls `constant` (a pattern's mean place on the same objects), "
              "`centre` (of the object), `peaks` (strongest position of each unit), `maps` (of each unit)"),
        field("part", TEXT, "key", "the tenth of the patterns that sit nearest to this part, with it alone; null: all "
              "of them, with every part", True),
        field("objects", LONG, "objects", "that are looked at: those that patterns were not learned from, if any"),
        field("pairs", LONG, "pairs", "of pattern and part that are averaged"),
        *_with_interval("stability", "diagonal", "root of the mean variance of the distance to a part (EG Table 1)"),
        *_with_interval("follow", "share", "var(part - place) / var(part): 1 stands still, below 1 moves with it"),
        field("place_purity", REAL, "share", "of a pattern's best objects those where it sits in the part that it "
              "most often sits in; mean over patterns", True),
        field("purity", REAL, "share", "the same of its region, the fewest positions with 30 % of its energy", True),
    ],
    "pattern_synthesis": [
        _CLASS,
        field("top", TEXT, "key", "as in patterns; null: does not depend on patterns", True),
        _LAYER,
        field("source", TEXT, "key", "what the decoder is given: `whole` maps, responses at valid `patterns`, as many "
              "of the `strongest` or at `random`; or, instead, the `mean` picture"),
        field("objects", LONG, "objects", "on photos that the decoder has not seen"),
        field("responses", REAL, "responses", "positive ones that it is given, mean over objects"),
        field("psnr", REAL, "dB", "of the synthesis against the object, mean over objects"),
        field("psnr_low", REAL, "dB", "lower end of its 95 % interval (normal, over objects)"),
        field("psnr_high", REAL, "dB", "upper end"),
    ],
}  # fmt: skip
"""Tables of the study ``patterns``."""

PATTERN_KEYS: dict[str, tuple[str, ...]] = {
    "patterns": ("class", "top", "layer", "unit", "pattern"),
    "pattern_edges": ("class", "top", "layer", "unit", "pattern"),
    "pattern_places": ("class", "top", "object", "layer", "unit", "pattern"),
    "pattern_objects": ("class", "object"),
    "pattern_measures": ("class", "layer", "source"),
    "pattern_synthesis": ("class", "layer", "source"),
}
