"""Columns of the tables that say how far graphs are to be trusted: effects, curves, edges, completeness."""

from __future__ import annotations

import pyarrow as pa

from workflows.storage.fields import FLAG, INT, LAYER, LONG, PAIR, REAL, SCOPE, TEXT, WORD, field, with_ends

_CLASS = field("class", INT, "class", "whose logit is looked at, on the validation images predicted as it (Omega)")
_CLASS_NAME = field("class_name", TEXT, "", "its name")
_CLASS_OR_ALL = field(
    "class",
    INT,
    "class",
    "predicted class of the images (Omega), whose logit it is; null: all asked classes together",
    True,
)
_NAME_OR_ALL = field("class_name", TEXT, "", "its name", True)
_CRITERION = field("criterion", TEXT, "key", "what the words of the graph are chosen by, as in `nodes`")
_INTERVENTION = field(
    "intervention",
    TEXT,
    "key",
    "what ablated columns say: `shift` x - mu_w + centre (the word goes, the residual stays), or `mean`, the centre: "
    "the layer's mean column",
)
_TOP = field("top", INT, "words", "Z, the words that a graph has a layer")
_IS_CUT = field("is_cut", FLAG, "", "whether every path crosses the layer; else part of what it says goes around it")
_IMAGES = field("images", LONG, "images", "that it is over")


def _interval(name: str, unit: str, meaning: str, nullable: bool = False) -> list[pa.Field]:
    return with_ends(name, unit, meaning, "2,000 bootstraps over images", nullable)


def _share(name: str, meaning: str) -> list[pa.Field]:
    return with_ends(name, "share", meaning, "Wilson 1927", True)


TRUST_COLUMNS: dict[str, list[pa.Field]] = {
    "effects": [
        SCOPE,
        _CLASS_OR_ALL,
        _NAME_OR_ALL,
        LAYER,
        _IS_CUT,
        _CRITERION,
        _INTERVENTION,
        _TOP,
        field(
            "selection",
            TEXT,
            "key",
            "which columns: those of the `graph`'s words; as many `random` ones outside of them in the same images; of "
            "as many words, the most `frequent`, those `matched` in frequency, of the highest `log_ratio`, of the "
            "`lowest` score, of the highest score `straight` to the class (IG Eq. 16), of the highest first-order "
            "`effect` on the choosing half; a `word` of the graph by itself",
        ),
        field("words", pa.list_(pa.int32()), "words", "whose columns they are; null: random, or all classes", True),
        field("half", TEXT, "key", "images: `all` of Omega, or the `judged` half, on which no word was chosen"),
        field("column_share", REAL, "share", "of the layer's columns on Omega that are ablated"),
        field(
            "score_share",
            REAL,
            "share",
            "explained share: the words' scores (Eq. 16) over the sum of positive ones; null of graphs by effect",
            True,
        ),
        *_interval("drop", "logit", "mean over images: how much the ablation lowers the class's logit"),
        *_interval("excess", "logit", "of `graph` and `word`: drop minus that of as many random columns, paired", True),
        *_interval("behind", "logit", "of the others: the graph's drop minus this one's, paired", True),
        field("draws", INT, "", "of random columns, over which their drop is a mean"),
        _IMAGES,
    ],
    "effect_curves": [
        SCOPE,
        _CLASS,
        _CLASS_NAME,
        LAYER,
        _INTERVENTION,
        field(
            "ranking",
            TEXT,
            "key",
            "order of the words that Omega has: by `score` (IG Eq. 16), `frequency`, `log_ratio`, first-order `effect` "
            "on the choosing half, or `random`",
        ),
        field("direction", TEXT, "key", "`deletion`: the first k words are taken out; `insertion`: all others are"),
        field("k", INT, "words", "how many"),
        field(
            "kept", REAL, "share", "f(k) = (logit after k words - logit after all) / (logit - logit after all)", True
        ),
        field("area", REAL, "", "under f over k/K; of a good ranking small for deletion, large for insertion", True),
        field("words", INT, "words", "K: words of the layer that Omega has"),
        _IMAGES,
    ],
    "edge_effects": [
        SCOPE,
        _CLASS_OR_ALL,
        _NAME_OR_ALL,
        *(one.with_nullable(one.type == INT) for one in PAIR),
        _CRITERION,
        _INTERVENTION,
        field("lost", REAL, "share", "of positions of s that lose s when t is ablated inside their windows", True),
        field("control", REAL, "share", "the same for as many other columns there, mean over draws", True),
        *_interval("excess", "share", "lost minus control, paired", True),
        field("positions", LONG, "columns", "of s in Omega; where words are null, of all edges between the layers"),
        _IMAGES,
    ],
    "completeness": [
        SCOPE,
        _CLASS_OR_ALL,
        _NAME_OR_ALL,
        LAYER,
        _IS_CUT,
        field(
            "kind",
            TEXT,
            "key",
            "`words`: every column says its word's mean; `error`: what is left, x - mu_w + centre (the error node); "
            "`components`: the word's mean, and the column's part about it along the 4 first principal axes of the "
            "layer's words; `axes`: the same part about the centre, without any word",
        ),
        *_share("accuracy", "of images with a label that are classified right so; null without labels"),
        field("network_accuracy", REAL, "share", "of them that the network itself classifies right", True),
        *_share("same_decision", "of images that are decided as the network decides"),
        *_interval("recovered", "share", "(f(changed) - f(centre)) / (f(x) - f(centre)), f the class's logit", True),
        _IMAGES,
    ],
    "word_effects": [
        SCOPE,
        _CLASS,
        _CLASS_NAME,
        LAYER,
        _IS_CUT,
        WORD,
        field("columns", LONG, "columns", "of Omega that are the word"),
        field(
            "score", REAL, "", "IG Eq. 16 with the graph's words above; null where it is in none of their windows", True
        ),
        field("in_graph", FLAG, "", "whether it is a word of the class's graph with the first of `--top`"),
        field("first_order_shift", REAL, "logit", "g.(x - x') of its columns, mean over Omega; x' as of `shift`", True),
        field("first_order_mean", REAL, "logit", "the same with x' as of `mean`", True),
        *_interval(
            "drop_shift",
            "logit",
            "mean drop without the word; known of the graph's words and the 20 best by score or first-order effect",
            True,
        ),
        *_interval("drop_mean", "logit", "the same, its columns saying the centre", True),
        field(
            "control_shift", REAL, "logit", "95th percentile of known drops of other (class, word) of the layer", True
        ),
        field("control_mean", REAL, "logit", "the same", True),
        _IMAGES,
    ],
    "shortcuts": [
        SCOPE,
        _CLASS,
        _CLASS_NAME,
        field("rank", INT, "", "among the class's words of all layers with a known drop, from 0: by looks * weight"),
        LAYER,
        _IS_CUT,
        WORD,
        field("in_graph", FLAG, "", "as in `word_effects`"),
        _INTERVENTION,
        field("used", FLAG, "", "whether drop is above control, and above 0; null where nothing is usual", True),
        field("looks", REAL, "bits", "max(log_ratio, 0) * (2 - positional_entropy) * (2 - share_on_object, if known)"),
        field("weight", REAL, "share", "1 of a used word, else the part of control that its drop reaches"),
        field("image_share", REAL, "share", "of the images of Omega that have the word"),
        field("other_share", REAL, "share", "of the scope's other validation images; null where there are none", True),
        field("log_ratio", REAL, "bits", "log2 of both, half an image that has it and half one without added to each"),
        field(
            "positional_entropy",
            REAL,
            "",
            "of the position of its columns in Omega: 0 always the same, 1 anywhere, or nothing known (Miller-Madow, "
            "over the logarithm of the smaller of positions and columns)",
        ),
        field(
            "share_on_object",
            REAL,
            "share",
            "of its columns in Omega in boxes of the object (`boxes`), else of its pixels in masks of the class "
            "(`word_concepts`); null where neither knows the word",
            True,
        ),
        *_interval("drop", "logit", "of the class without the word, as in `word_effects`, by the intervention"),
        field("control", REAL, "logit", "95th percentile of others, as there", True),
        field("columns", LONG, "columns", "of Omega that are the word"),
        _IMAGES,
    ],
}

TRUST_KEYS: dict[str, tuple[str, ...]] = {
    "effects": ("scope",),
    "effect_curves": ("scope", "class"),
    "edge_effects": ("scope",),
    "completeness": ("scope",),
    "word_effects": ("scope", "class"),
    "shortcuts": ("scope", "class", "rank"),
}
"""Sort keys."""
