"""Columns of the explanatory graph of a class: its patterns, their parents, where they sit, what they are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflows.storage.fields import FLAG, IMAGE, INT, LONG, REAL, SCOPE, SINGLE, TEXT, WORD, field, with_ends
from workflows.storage.log_unit import LOG_UNIT

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
_WORD_LAYER = field("word_layer", TEXT, "key", "modelled layer of the word, `layer` of words: its stride is nearest")


def _with_interval(name: str, unit: str, meaning: str) -> list[pa.Field]:
    return with_ends(name, unit, meaning, "jackknife over ten groups of photos", True)


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
    "pattern_words": [
        _CLASS,
        _TOP,
        _LAYER,
        _UNIT,
        _PATTERN,
        SCOPE,
        _WORD_LAYER,
        WORD,
        field("rank", INT, "", "among the words of the pattern, from 0, most frequent first; words on less than a "
              "tenth of its objects have no row, but for the first"),
        field("objects", INT, "objects", "in which the pattern is valid and has a word at its place; of those that "
              "patterns were not learned from, if any"),
        field("share", REAL, "share", "of these objects whose photo has the word where the pattern sits"),
        field("constant_share", REAL, "share", "the same at the pattern's mean place, as a control; null: nowhere in "
              "the photos' crop", True),
        field("object_share", REAL, "share", "of the area of these objects that has the word: what a place anywhere on "
              "them would have"),
        field("log_ratio", REAL, LOG_UNIT.name, f"{LOG_UNIT.logarithm} share/object_share, smoothed as edges are "
              "(mine.pseudo_count)"),
    ],
    "pattern_word_measures": [
        _CLASS,
        _TOP,
        _LAYER,
        SCOPE,
        _WORD_LAYER,
        field("part", TEXT, "key", "the tenth of the patterns whose mean places lie nearest to this part; null: all",
              True),
        field("source", TEXT, "key", "`patterns`; as controls `constant` (mean place) and `random` (a place anywhere), "
              "on the same objects"),
        field("patterns", LONG, "patterns", "with a word on ten objects or more"),
        *_with_interval("share", "share", "of a pattern's objects with its most frequent word; mean over patterns"),
        *_with_interval("log_ratio", LOG_UNIT.name, "of that word, as in pattern_words; mean over patterns"),
        *_with_interval("part_log_ratio", LOG_UNIT.name, f"{LOG_UNIT.logarithm} of the share of the part's box that "
                        "has the word at the place over that of the whole object; mean over objects, then patterns"),
    ],
    "pattern_edge_words": [
        _CLASS,
        _TOP,
        _LAYER,
        field("parent_layer", TEXT, "key", "the layer above"),
        SCOPE,
        _WORD_LAYER,
        field("parent_word_layer", TEXT, "key", "that of the parent"),
        field("source", TEXT, "key", "`edges` of patterns; as controls as many pairs of patterns of the two layers: "
              "`shuffled` (same patterns, same parents), `near` (parents as far away), `random`"),
        field("pairs", LONG, "pairs", "both of whose patterns have words on ten objects or more"),
        *_with_interval("in_graph", "share", "whose most frequent words are an edge of the class's inference graph"),
        *_with_interval("in_graph_difference", "share", "edges minus this control; null: the edges themselves"),
        *_with_interval("log_ratio", LOG_UNIT.name, "mean log ratio of these words in the run's counts (IG Eq. 16)"),
        *_with_interval("log_ratio_difference", LOG_UNIT.name, "edges minus this control"),
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
    "pattern_words": ("class", "top", "layer", "unit", "pattern", "rank"),
    "pattern_word_measures": ("class", "top", "layer"),
    "pattern_edge_words": ("class", "top", "layer"),
    "pattern_synthesis": ("class", "layer", "source"),
}
