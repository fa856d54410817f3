"""Columns of the tables that say how far runs agree: words, graphs, nodes found again."""

from __future__ import annotations

import pyarrow as pa

from workflows.storage.fields import FLAG, INT, LAYER, LONG, REAL, SCOPE, TEXT, WORD, field

_CLASS = field("class", INT, "class", "whose graphs are compared, on images that all runs predict as it")
_CLASS_NAME = field("class_name", TEXT, "", "its name")
_RUNS = (
    field("run", TEXT, "key", "name of its folder"),
    field("other_run", TEXT, "key", "the run that it is compared with"),
)
_OTHER_LAYER = field("other_layer", TEXT, "key", "layer of the other run that it is compared with")

AGREEMENT_COLUMNS: dict[str, list[pa.Field]] = {
    "agreement": [
        SCOPE,
        _CLASS.with_nullable(True),
        _CLASS_NAME.with_nullable(True),
        LAYER,
        _OTHER_LAYER,
        *_RUNS,
        field("images", LONG, "images", "of all runs' S_V that all predict as the class; without a class: all"),
        field("words", INT, "words", "of the run's graph in the layer; without a class, of its dictionary"),
        field("other_words", INT, "words", "the same of the other run"),
        field("matched_share", REAL, "share", "of both graphs' words whose match is a word of the other's graph", True),
        field("matched_chance", REAL, "share", "the same of as many words drawn at random; exact", True),
        field("same_share", REAL, "share", "of these words whose match is such a word, with IoU above .5", True),
        field("word_iou", REAL, "IoU", "mean overlap of these words with their matches; 0 of a word without one", True),
        field("word_iou_chance", REAL, "IoU", "the same with the other run's columns shuffled in each image", True),
        field("columns_iou", REAL, "IoU", "of the columns that the two graphs cover, summed over the images", True),
        field("columns_iou_low", REAL, "IoU", "lower end of its 95 % interval, 2,000 bootstraps over images", True),
        field("columns_iou_high", REAL, "IoU", "upper end", True),
        field("columns_chance", REAL, "IoU", "the same of as many words drawn at random: mean of 20 draws", True),
        field("columns_shuffled", REAL, "IoU", "the same of as many columns anywhere in each image; exact", True),
    ],
    "word_matches": [
        SCOPE,
        LAYER,
        _OTHER_LAYER,
        *_RUNS,
        WORD,
        field("other_word", INT, "key", "its match: the one-to-one matching of the largest sum of overlaps"),
        field("iou", REAL, "IoU", "columns that are both over columns that are one of them"),
        field("columns", LONG, "columns", "that are the word, on the images that are compared"),
        field("other_columns", LONG, "columns", "that are its match"),
    ],
    "consensus": [
        SCOPE,
        _CLASS,
        _CLASS_NAME,
        field("run", TEXT, "key", "run whose graph has the node, by the name of its folder"),
        LAYER,
        WORD,
        field("rank", INT, "", "place among the chosen words of the layer, from 0, best first"),
        field("images", LONG, "images", "of all runs' S_V that all predict as the class"),
        field("columns", LONG, "columns", "of these images that are the word"),
        field("runs", INT, "runs", "other runs"),
        field("covered_runs", INT, "runs", "of them whose graphs cover more than half of these columns", True),
        field("covered_share", REAL, "share", "covered_runs / runs; null without a column", True),
        field("columns_covered", REAL, "share", "of the columns that other runs' graphs cover: mean over them", True),
        field("columns_chance", REAL, "share", "the same of as many columns anywhere in each image; exact", True),
        field("stable", FLAG, "", "whether covered_share is at least .5: the node is in the stable core", True),
    ],
}

AGREEMENT_KEYS: dict[str, tuple[str, ...]] = {
    "agreement": ("scope", "class"),
    "word_matches": ("scope",),
    "consensus": ("scope", "class"),
}
"""Sort keys; within them from the lowest layer up, of nodes in the order of nodes.parquet."""
