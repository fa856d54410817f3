"""Columns of the tables that say which units matter: relevance, ablation."""

from __future__ import annotations

import pyarrow as pa

from workflows.storage.fields import FLAG, INT, LAYER, LONG, REAL, TEXT, field

UNIT = field("unit", INT, "key", "unit (channel) of the layer, from 0")
CLASS = field("class", INT, "class", "class that is explained")
CLASS_NAME = field("class_name", TEXT, "", "its name")
DEPTH = field("depth", INT, "", "place of the layer among the network's operations, in execution order")


def _accuracy(prefix: str, whose: str) -> list[pa.Field]:
    """Accuracy on some images under an intervention, and how far it falls; null where there is no image."""
    return [
        field(f"{prefix}_images", LONG, "images", f"tested images of {whose}"),
        field(f"{prefix}_before", REAL, "share", "of them that the plain network classifies right", True),
        field(f"{prefix}_accuracy", REAL, "share", "of them that it classifies right with the units silenced", True),
        field(f"{prefix}_accuracy_low", REAL, "share", "lower end of its 95 % interval (Wilson 1927)", True),
        field(f"{prefix}_accuracy_high", REAL, "share", "upper end", True),
        field(f"{prefix}_fall", REAL, "share", "before minus accuracy, on the same images", True),
        field(f"{prefix}_fall_low", REAL, "share", "lower end of its paired 95 % interval", True),
        field(f"{prefix}_fall_high", REAL, "share", "upper end (McNemar's pairs, Agresti and Min 2005)", True),
    ]


def _agreement(prefix: str, whose: str) -> list[pa.Field]:
    return [
        field(f"{prefix}overlap", REAL, "share", f"of the k best units by {whose} that are detectors", True),
        field(f"{prefix}correlation", REAL, "", f"Spearman's rho of {whose} and stored IoU (else 0)", True),
    ]


RELEVANCE_COLUMNS: dict[str, list[pa.Field]] = {
    "relevance": [
        CLASS,
        CLASS_NAME,
        LAYER,
        DEPTH,
        UNIT,
        field("signed", REAL, "output", "ICQ Eq. 2: conductance summed over positions, mean over the class's images"),
        field("absolute", REAL, "output", "the same of its absolute value"),
        field(
            "masked",
            REAL,
            "output",
            "ICQ Eq. 3: absolute value within the class's mask, mean over images with one; null without masks",
            nullable=True,
        ),
        field("measure", TEXT, "", "what share and specific are made of: `absolute`, or `masked` with masks"),
        field("share", REAL, "share", "of the layer's relevance for the class that is this unit's"),
        field(
            "specific",
            REAL,
            "share",
            "share minus the mean share for the other classes of the table; null where it has one class",
            nullable=True,
        ),
        field("activation", REAL, "activation", "mean of max(a, 0) over positions and the class's images: a control"),
        field("split", TEXT, "", "whose images: `train` (S_T), `validation` (S_V) or `all`"),
        field("images", LONG, "images", "of the class that it is a mean over"),
        field("masked_images", LONG, "images", "of them with a mask"),
    ],
    "relevance_completeness": [
        LAYER,
        DEPTH,
        field("kind", TEXT, "", "`convolution`, or `join`: an addition or concatenation that is a cut"),
        field("is_cut", FLAG, "", "whether every path crosses the layer; only there the error should be near 0"),
        field("units", INT, "units", "of the layer"),
        field("images", LONG, "images", "that the quartiles are over"),
        field("error_lower", REAL, "share", "first quartile of |sum of conductance - change| / |change of the output|"),
        field("error_median", REAL, "share", "median"),
        field("error_upper", REAL, "share", "third quartile"),
    ],
    "relevance_agreement": [
        CLASS,
        CLASS_NAME,
        LAYER,
        DEPTH,
        field(
            "concept",
            TEXT,
            "key",
            "that dissect compares the units with: the one whose mask showed the class, else the "
            "first it knows of the class's name, its short name and `object`",
        ),
        field("quantile", REAL, "share", "q of dissect's thresholds: .005 is the paper's, and finds nothing large"),
        field("units", INT, "units", "of the layer"),
        field("detectors", INT, "units", "k: units of the layer that dissect calls detectors of the concept"),
        *_agreement("", "relevance"),
        *_agreement("activation_", "mean activation"),
        field("chance", REAL, "share", "overlap of k units drawn by chance: k / units"),
    ],
    "ablations": [
        CLASS,
        CLASS_NAME,
        field(
            "layers",
            TEXT,
            "key",
            "where units are silenced: a canonical name; `all` convolutions but the first and the last; `scored`, "
            "those of them that the ranking has scores for",
        ),
        field(
            "ranking",
            TEXT,
            "key",
            "`relevance`, `specific`, `dissect`, `activation`, `word:<layer>:<word>`, or `random`",
        ),
        field("selection", TEXT, "key", "`top`, `bottom` or `random` units of the ranking"),
        field("draw", INT, "", "of random units, from 0; 0 for the others"),
        field("replaced_by", TEXT, "key", "what silenced units say: their `mean` over images, or `zero`"),
        field("share", REAL, "share", "of each layer's units that was asked for"),
        field("silenced", INT, "units", "how many that is: max(1, round(share x units)) in every layer"),
        field("units", INT, "units", "of all these layers together"),
        field("silenced_share", REAL, "share", "silenced / units"),
        *_accuracy("own", "the class"),
        *_accuracy("others", "all other classes"),
    ],
    "unit_classes": [
        LAYER,
        DEPTH,
        UNIT,
        CLASS,
        CLASS_NAME,
        field("rank", INT, "", "place of the unit in its layer by relevance for the class, from 0"),
        field("share", REAL, "share", "of the layer's relevance for the class that is this unit's"),
        field(
            "signed", REAL, "output", "signed conductance: above 0 the unit speaks for the class, below 0 against it"
        ),
        field("effect", TEXT, "", "`helps` or `hurts`, by the sign"),
        field("classes", INT, "classes", "asked classes to which the unit matters: it is among the best 10 % there"),
        field("helped", INT, "classes", "of them that it speaks for"),
        field("hurt", INT, "classes", "of them that it speaks against"),
    ],
}

RELEVANCE_KEYS: dict[str, tuple[str, ...]] = {
    "relevance": ("class", "depth", "unit"),
    "relevance_completeness": ("depth",),
    "relevance_agreement": ("class", "depth", "quantile"),
    "ablations": ("layers", "ranking", "selection", "draw", "replaced_by", "class", "share"),
    "unit_classes": ("depth", "unit", "class"),
}
"""Sort keys."""
